//! The UNet, its blocks, its gradients and DDIM trajectories against tensors recorded from diffusers in f64.
//! See kernels-test/golden/README.md for what the files hold.

use super::harness::device::gpu;
use crate::support::fixtures::{Golden, fixture_tensor};
use deme::diffusion::denoising::embedding_words;
use deme::diffusion::pretrained::Pretrained;
use deme::diffusion::sampler::{SampleSpec, Sampler, StepNoise, Trajectory};
use deme::diffusion::{Schedule, Spacing};
use deme::gpu::{Externals, Gpu, Plan, PlanOptions};
use deme::io::layout::{nchw_to_nhwc, nhwc_to_nchw};
use deme::kernels::loss;
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors;
use deme::model::unet::Projections;
use deme::nn::{Net, ParamLayout, Role, Slabs};
use deme::recording::{Recording, Tensor};
use deme::shader::Precision;
use deme::shape::{DType, Shape, padded_channels};
use deme::tape::Tape;
use std::path::Path;

/// A recorded model: its configuration, weight places and weights.
struct Model {
    config: UNetConfig,
    layout: ParamLayout,
    golden: Golden,
    seed: u64,
}

/// Largest error as a fraction of the largest expected value; NaN and length mismatches fail.
fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
    let errors = got.iter().zip(expected).map(|(&g, &e)| (f64::from(g) - f64::from(e)).abs());
    // max() would drop a NaN.
    errors.fold(0.0, |worst, e| if e <= worst { worst } else { e }) / scale
}

fn check(what: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_error(got, expected);
    assert!(error <= tolerance, "{what}: relative error {error:e} above {tolerance:e}");
}

impl Model {
    fn open(name: &str) -> Self {
        let golden = Golden::open(name);
        let facts = golden.facts.clone();
        let json = match (facts.get("config"), facts.get("weights"), facts.get("config_of")) {
            (Some(config), ..) => config.clone(),
            (_, Some(folder), _) => read_json(&Path::new(folder.as_str().unwrap()).join("config.json")),
            (.., Some(other)) => {
                let other = other.as_str().unwrap().trim_end_matches(".json");
                crate::support::fixtures::json(other)["config"].clone()
            }
            _ => panic!("{name} names no configuration"),
        };
        let config = UNetConfig::from_json(Path::new(name), json.as_object().unwrap()).unwrap();
        let expected = tensors::expected(&config, Placement::None);
        let layout = ParamLayout::new(expected.iter().map(|t| (t.name.as_str(), t.shape.as_slice()))).unwrap();
        Self { config, layout, seed: facts["seed"].as_u64().unwrap(), golden }
    }

    fn weights(&self, gpu: &Gpu, role: Role) -> Slabs {
        if let Some(folder) = self.golden.facts.get("weights") {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder.as_str().unwrap());
            return Pretrained::open(folder.parent().unwrap()).unwrap().load(gpu, role).unwrap();
        }
        let slabs = Slabs::of(gpu, &self.layout, role, gpu.precision().stored()).unwrap();
        let read = |name: &str| {
            let shape = self.layout.find(name).unwrap().layout.file_shape();
            Ok(fixture_tensor(self.seed, name, &shape))
        };
        slabs.fill(gpu, &self.layout, read).unwrap();
        slabs
    }

    /// A named input in the engine's layout, with its shape there.
    fn input(&self, key: &str) -> (Shape, Vec<f32>) {
        let about = &self.golden.facts[key];
        self.named(about["name"].as_str().unwrap(), &shape_of(&about["shape"]))
    }

    fn named(&self, name: &str, [n, c, h, w]: &[u32; 4]) -> (Shape, Vec<f32>) {
        let extents = [*n, *c, *h, *w].map(u64::from);
        let values = nchw_to_nhwc(&fixture_tensor(self.seed, name, &extents), *c, h * w);
        (Shape::new([*n, *h, *w, padded_channels(*c)]), values)
    }
}

fn read_json(path: &Path) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn shape_of(value: &serde_json::Value) -> [u32; 4] {
    let extents: Vec<u32> = value.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as u32).collect();
    extents.try_into().unwrap()
}

fn timesteps(facts: &serde_json::Value, call: usize) -> Vec<usize> {
    facts["timesteps"][call].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as usize).collect()
}

fn bits(values: &[f32]) -> &[u32] {
    bytemuck::cast_slice(values)
}

/// Runs a recorded forward pass; `blocks` are compared too where the file has them.
fn forward(gpu: &Gpu, name: &str, tolerance: f64) {
    let model = Model::open(name);
    let theta = model.weights(gpu, Role::Theta);
    let (shape, x) = model.input("input");
    let mut tape = Tape::new(Recording::new(name).at(gpu.precision()));
    let input = tape.rec.input("x", shape, DType::F32);
    let width = model.config.block_out_channels[0];
    let embedding = tape.rec.input("embedding", Shape::new([shape.dims()[0], width]), DType::F32);
    let mut net =
        Net { tape: &mut tape, layout: &model.layout, role: Role::Theta, stored: theta.stored, trained: false };
    let mut blocks: Vec<(String, Tensor)> = Vec::new();
    let mut trace = |block: &str, t: &Tensor| blocks.push((block.to_string(), *t));
    model.config.forward(&mut net, &input, &embedding, Projections::Skip, &mut trace).unwrap();
    let mut rec = tape.rec;
    blocks.iter().for_each(|(_, t)| rec.keep(t));
    let mut externals = Externals::new();
    theta.bind(&mut externals);
    let mut plan = Plan::new(gpu, rec, &externals, &PlanOptions::default()).unwrap();
    let mut compared = 0;
    for call in 0..model.golden.facts["timesteps"].as_array().unwrap().len() {
        let t = timesteps(&model.golden.facts, call);
        let words = embedding_words(&model.config, &t).unwrap();
        plan.run(&[(input, bits(&x)), (embedding, &words)]).unwrap();
        for (block, tensor) in &blocks {
            let recorded = match block.as_str() {
                "conv_out" if model.golden.has("block.conv_out") => "block.conv_out".to_string(),
                "conv_out" => format!("out.{call}"),
                other => format!("block.{other}"),
            };
            if !model.golden.has(&recorded) {
                continue;
            }
            let [_, c, h, w] = *model.golden.shape(&recorded) else { panic!("{recorded} is not NCHW") };
            let got = nhwc_to_nchw(&plan.read(tensor).unwrap(), c as u32, (h * w) as u32);
            check(&format!("{name} {recorded}"), &got, model.golden.values(&recorded), tolerance);
            compared += 1;
        }
    }
    assert!(compared >= 1, "{name}: nothing was compared");
}

/// f32 rounding through some tens of layers, as a fraction of the output's range.
const FORWARD: f64 = 2e-5;

#[test]
fn unet_forward_agrees_with_diffusers() {
    for name in [
        "unet_emoji32",
        "unet_lsun_small",
        "unet_modern",
        "unet_scale_shift",
        "unet_gray28",
        "unet_centred",
        "unet_heads",
        "unet_narrow",
        "unet_single",
    ] {
        forward(gpu(), name, FORWARD);
    }
}

#[test]
fn unet_forward_agrees_with_diffusers_at_cifar10_widths() {
    forward(gpu(), "unet_cifar10", FORWARD);
}

#[test]
fn every_block_agrees_with_diffusers() {
    for name in ["blocks_modern", "blocks_scale_shift"] {
        forward(gpu(), name, FORWARD);
    }
}

/// Weights and activations stored in f16, rounded by up to 2^-11 of each, through as many layers.
const FORWARD_F16: f64 = 4e-3;

#[test]
fn unet_forward_in_f16_stays_near_diffusers() {
    if !gpu().has_f16() {
        return refused_in_f16();
    }
    for name in ["unet_emoji32", "unet_lsun_small", "unet_cifar10"] {
        forward(&gpu().at(Precision::F16), name, FORWARD_F16);
    }
}

/// Where the adapter has no f16, a recording of it is refused with a hint.
fn refused_in_f16() {
    let mut rec = Recording::new("f16").at(Precision::F16);
    rec.activation("x", Shape::new([4]));
    let refused = Plan::new(gpu(), rec, &Externals::new(), &PlanOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("offers no f16") && refused.hint().contains("--precision f32"), "{refused}");
}

/// Gradients of mean((out - target)^2) for every weight.
fn gradients(name: &str) {
    let model = Model::open(name);
    let theta = model.weights(gpu(), Role::Theta);
    let gradient = Slabs::new(gpu(), &model.layout, Role::Gradient).unwrap();
    let (shape, x) = model.input("input");
    let mut tape = Tape::new(Recording::new(name));
    let input = tape.rec.input("x", shape, DType::F32);
    let width = model.config.block_out_channels[0];
    let n = shape.dims()[0];
    let embedding = tape.rec.input("embedding", Shape::new([n, width]), DType::F32);
    let mut net = Net { tape: &mut tape, layout: &model.layout, role: Role::Theta, stored: DType::F32, trained: true };
    let out = model.config.forward(&mut net, &input, &embedding, Projections::Skip, &mut |_, _| ()).unwrap();
    let target = tape.rec.input("target", out.shape, DType::F32);
    let weights = tape.rec.input("w", Shape::new([n]), DType::F32);
    let channels = model.config.out_channels;
    let losses = loss::weighted_mse(&mut tape, &out, &target, &weights, channels).unwrap();
    // The recorded loss is the mean over the images.
    let share = tape.rec.input("1 / n", Shape::new([n]), DType::F32);
    let (rec, _) = tape.backward(&[(losses, share)]).unwrap();
    let mut externals = Externals::new();
    theta.bind(&mut externals);
    gradient.bind(&mut externals);
    let mut plan = Plan::new(gpu(), rec, &externals, &PlanOptions::default()).unwrap();
    let [_, h, w, _] = out.shape.nhwc("test").unwrap();
    let (_, target_values) = model.named(model.golden.facts["target"].as_str().unwrap(), &[n, channels, h, w]);
    let words = embedding_words(&model.config, &timesteps(&model.golden.facts, 0)).unwrap();
    let (ones, shares) = (vec![1.0; n as usize], vec![1.0 / n as f32; n as usize]);
    let inputs = [
        (input, bits(&x)),
        (embedding, words.as_slice()),
        (target, bits(&target_values)),
        (weights, bits(&ones)),
        (share, bits(&shares)),
    ];
    // Twice: gradients accumulate over micro-batches.
    plan.run(&inputs).unwrap();
    plan.run(&inputs).unwrap();
    plan.wait().unwrap();
    let mut compared = 0;
    gradient
        .for_each(gpu(), &model.layout, |parameter, values| {
            let half: Vec<f32> = values.iter().map(|v| 0.5 * v).collect();
            let expected = model.golden.values(&format!("grad.{parameter}"));
            if parameter.ends_with("to_k.bias") {
                // Softmax does not see a shift of all keys: the true gradient is zero.
                assert!(half.iter().all(|v| v.abs() <= 1e-6), "{parameter}");
            } else {
                check(parameter, &half, expected, 1e-4);
            }
            compared += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(compared, model.layout.params.len());
}

#[test]
fn gradients_of_every_weight_agree_with_pytorch() {
    for name in ["grads_modern", "grads_scale_shift"] {
        gradients(name);
    }
}

/// Every recorded trajectory: `sample.<spacing>.<steps>.eta<eta>`.
fn trajectories(name: &str, tolerance: f64) {
    let model = Model::open(name);
    let theta = model.weights(gpu(), Role::Theta);
    let scheduler = model.golden.facts["scheduler"].as_object().unwrap();
    let schedule = Schedule::from_json(Path::new(name), scheduler).unwrap();
    let start = shape_of(&model.golden.facts["start"]["shape"]);
    let [batch, _, height, width] = start;
    let (_, x_t) = model.input("start");
    let names: Vec<String> = model.golden.names().map(str::to_string).collect();
    assert!(!names.is_empty());
    for recorded in names {
        let parts: Vec<&str> = recorded.split('.').collect();
        let ["sample", spacing, steps, eta] = parts[..] else { panic!("{recorded}") };
        let eta: f64 = eta.trim_start_matches("eta").parse().unwrap();
        let step_noise = if eta > 0.0 { StepNoise::Given } else { StepNoise::None };
        let spec = SampleSpec { batch, height, width, step_noise, projections: Projections::Skip };
        let sets = [theta.clone()];
        let mut sampler = Sampler::new(gpu(), &model.config, &schedule, &model.layout, &sets, spec).unwrap();
        let steps = schedule.steps(spacing.parse::<Spacing>().unwrap(), steps.parse().unwrap()).unwrap();
        let given = |k: usize| Ok(model.named(&format!("input.step_noise.{k}"), &start).1);
        let trajectory =
            Trajectory { steps: &steps, eta, seed: 0, first_image: 0, noise: Some(&x_t), given: Some(&given) };
        let x_0 = sampler.sample(&trajectory, &|_| 0, &mut |_| Ok(())).unwrap();
        let got = nhwc_to_nchw(&x_0, start[1], height * width);
        check(&format!("{name} {recorded}"), &got, model.golden.values(&recorded), tolerance);
    }
}

#[test]
fn ddim_trajectories_agree_with_diffusers() {
    for name in ["ddim_emoji32", "ddim_linear_v", "ddim_scaled_linear", "ddim_cosine", "ddim_sigmoid", "ddim_zero_snr"]
    {
        trajectories(name, 5e-4);
    }
}
