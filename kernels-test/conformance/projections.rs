//! Channel projections, run and folded, against diffusers with projections in hooks (see kernels-test/golden/README.md). Biases
//! and projections are far from zero and the identity, and convolutions before them pad with zeros.
//! Called by `conformance.rs`.

use std::path::Path;

use super::harness::device::gpu;
use crate::support::fixtures::{Golden, fixture_tensor};
use deme::deme::fold::Plain;
use deme::diffusion::denoising::embedding_words;
use deme::error::Result;
use deme::gpu::{Externals, Plan, PlanOptions};
use deme::io::layout::{nchw_to_nhwc, nhwc_to_nchw};
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors;
use deme::model::unet::Projections;
use deme::nn::{Net, ParamLayout, Role, Slabs};
use deme::recording::Recording;
use deme::shape::{DType, Shape, padded_channels};
use deme::tape::Tape;

/// f32 rounding through some tens of layers, as a fraction of the output's range; as for networks without projections.
const FORWARD: f64 = 2e-5;

struct Case {
    golden: Golden,
    config: UNetConfig,
    seed: u64,
}

impl Case {
    fn open() -> Self {
        let golden = Golden::open("projections");
        let config = UNetConfig::from_json(Path::new("config"), golden.facts["config"].as_object().unwrap()).unwrap();
        Self { config, seed: golden.facts["seed"].as_u64().unwrap(), golden }
    }

    fn tensor(&self, name: &str) -> Result<Vec<f32>> {
        let all = tensors::expected(&self.config, Placement::All);
        let spec = all.iter().find(|t| t.name == name).unwrap();
        Ok(fixture_tensor(self.seed, name, &spec.shape))
    }

    /// Outputs [N, C, H, W] of all calls, of a network with `placement` and these weights.
    fn run(&self, placement: Placement, read: impl Fn(&str) -> Result<Vec<f32>>) -> Vec<Vec<f32>> {
        let specs = tensors::expected(&self.config, placement);
        let layout = ParamLayout::new(specs.iter().map(|t| (t.name.as_str(), t.shape.as_slice()))).unwrap();
        let theta = Slabs::new(gpu(), &layout, Role::Theta).unwrap();
        theta.fill(gpu(), &layout, read).unwrap();
        let [n, c, h, w] = [0, 1, 2, 3].map(|i| self.golden.facts["input"]["shape"][i].as_u64().unwrap() as u32);
        let extents = [n, c, h, w].map(u64::from);
        let x = nchw_to_nhwc(&fixture_tensor(self.seed, "input.sample", &extents), c, h * w);
        let mut tape = Tape::new(Recording::new("projections"));
        let input = tape.rec.input("x", Shape::new([n, h, w, padded_channels(c)]), DType::F32);
        let embedding = tape.rec.input("embedding", Shape::new([n, self.config.block_out_channels[0]]), DType::F32);
        let stored = DType::F32;
        let mut net = Net { tape: &mut tape, layout: &layout, role: Role::Theta, stored, trained: false };
        let out = self.config.forward(&mut net, &input, &embedding, Projections::Run, &mut |_, _| ()).unwrap();
        let mut rec = tape.rec;
        rec.keep(&out);
        let mut externals = Externals::new();
        theta.bind(&mut externals);
        let mut plan = Plan::new(gpu(), rec, &externals, &PlanOptions::default()).unwrap();
        let calls = self.golden.facts["timesteps"].as_array().unwrap().iter();
        let call = |timesteps: &serde_json::Value| {
            let t: Vec<usize> = timesteps.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as usize).collect();
            let words = embedding_words(&self.config, &t).unwrap();
            plan.run(&[(input, bytemuck::cast_slice(&x)), (embedding, &words)]).unwrap();
            nhwc_to_nchw(&plan.read(&out).unwrap(), self.config.out_channels, h * w)
        };
        calls.map(call).collect()
    }

    /// Largest error over the calls as a fraction of the largest recorded value.
    fn error(&self, recorded: &str, got: &[Vec<f32>]) -> f64 {
        let of_call = |(call, got): (usize, &Vec<f32>)| {
            let expected = self.golden.values(&format!("{recorded}.out.{call}"));
            assert_eq!(got.len(), expected.len());
            let scale = expected.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
            let off = got.iter().zip(expected).map(|(&g, &e)| (f64::from(g) - f64::from(e)).abs() / scale);
            off.fold(0.0, |worst, e| if e <= worst { worst } else { e })
        };
        assert!(got.len() > 1);
        got.iter().enumerate().map(of_call).fold(0.0, |worst, e| if e <= worst { worst } else { e })
    }
}

#[test]
fn projections_agree_with_diffusers_run_and_folded() {
    let case = Case::open();
    let numbers: Vec<usize> = Placement::Foldable.places(&case.config).iter().map(|p| p.number).collect();
    assert_eq!(serde_json::json!(numbers), case.golden.facts["foldable"]);
    let full = case.run(Placement::All, |name| case.tensor(name));
    let foldable = case.run(Placement::Foldable, |name| case.tensor(name));
    let plain = |placement| Plain::new(&case.config, placement, &mut |name| case.tensor(name)).unwrap();
    let folding = plain(Placement::Foldable);
    let folded = case.run(Placement::None, |name| folding.tensor(name, case.tensor(name)?));
    for (what, recorded, got) in
        [("all", "all", &full), ("foldable", "foldable", &foldable), ("folded", "foldable", &folded)]
    {
        let error = case.error(recorded, got);
        println!("{what}: relative error {error:.1e}");
        assert!(error <= FORWARD, "{what}: relative error {error:e}");
    }
    // What does not fold is lost, and is said to be.
    let dropping = plain(Placement::All);
    assert_eq!((dropping.folded().count(), dropping.lost().count()), (numbers.len(), 7 - numbers.len()));
    let dropped = case.run(Placement::None, |name| dropping.tensor(name, case.tensor(name)?));
    assert!(case.error("all", &dropped) > 1e-2);
    assert_eq!(dropped, folded);
}
