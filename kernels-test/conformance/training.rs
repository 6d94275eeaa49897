//! Training against PyTorch: ten updates of the whole DeMe objective recorded in f64 (see golden/README.md); and that a
//! replayed step creates nothing.

use std::path::Path;

use super::harness::device::gpu;
use crate::support::fixtures::{Golden, fixture_tensor};
use deme::data::dataset::Dataset;
use deme::deme::expert::Expert;
use deme::deme::timesteps::{Coin, TimestepDraw};
use deme::diffusion::denoising::{Noised, embedding_words};
use deme::diffusion::schedule::Schedule;
use deme::error::Result;
use deme::gpu::{AdapterChoice, Externals, Gpu, Plan, PlanOptions, Storage, memory};
use deme::io::layout::nchw_to_nhwc;
use deme::kernels::optim;
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors;
use deme::model::unet::Projections;
use deme::nn::{ParamLayout, Slabs};
use deme::recording::{Recording, Tensor};
use deme::rng;
use deme::shader::Precision;
use deme::shape::{DType, Shape};
use deme::tape::Tape;
use deme::train::feed::{Augment, Feed, Feeder};
use deme::train::objective::Objective;
use deme::train::rate::RateSchedule;
use deme::train::settings::{AdamW, EmaSchedule, LossScaling, Settings};
use deme::train::state::{self, TrainingState};
use deme::train::step::{self, Network, Trainer};
use serde_json::Value;

fn number(facts: &Value, key: &str) -> f64 {
    facts[key].as_f64().unwrap_or_else(|| panic!("{key} of deme_updates.json is {}", facts[key]))
}

fn settings(facts: &Value, batch: u32) -> Settings {
    let betas = &facts["betas"];
    Settings {
        seed: 0,
        steps: 10,
        batch,
        at_once: batch,
        accumulate: number(facts, "accumulate") as u32,
        adamw: AdamW {
            lr: number(facts, "lr"),
            betas: [betas[0].as_f64().unwrap(), betas[1].as_f64().unwrap()],
            eps: number(facts, "eps"),
            weight_decay: number(facts, "weight_decay"),
        },
        rate: RateSchedule::CONSTANT,
        clip: number(facts, "clip_norm"),
        scaling: LossScaling::DYNAMIC,
        ema: EmaSchedule { max_decay: 0.9999, inv_gamma: 1.0, power: 0.75 },
        augment: Augment::default(),
        log_every: 0,
        eval_every: 0,
        sample_every: 0,
        export_every: 0,
        save_every: 0,
        keep: 1,
    }
}

fn expert(total: usize, consistency: f64) -> Expert {
    let timesteps =
        TimestepDraw { seed: 3, expert: 0, own: 0..total / 2, total, p: 0.4, coin: Coin::MicroBatch, antithetic: true };
    Expert { timesteps, consistency, weights: None }
}

/// A network and everything that its training changes, from weights by name.
pub(super) struct Setup {
    pub config: UNetConfig,
    pub layout: ParamLayout,
    size: [u32; 2],
    pub precision: Precision,
    pub recompute: bool,
}

impl Setup {
    fn new(config: &Value) -> Self {
        let config = UNetConfig::from_json(Path::new("config.json"), config.as_object().unwrap()).unwrap();
        let expected = tensors::expected(&config, Placement::None);
        let layout = ParamLayout::new(expected.iter().map(|t| (t.name.as_str(), t.shape.as_slice()))).unwrap();
        let size = config.sample_size.unwrap();
        Self { config, layout, size, precision: Precision::F32, recompute: false }
    }

    pub fn network(&self) -> Network<'_> {
        Network {
            config: &self.config,
            layout: &self.layout,
            size: self.size,
            student_projections: Projections::Skip,
            teacher_projections: Projections::Skip,
            precision: self.precision,
            recompute: self.recompute,
        }
    }

    pub fn state(&self, gpu: &Gpu, seed: u64) -> TrainingState {
        let read = |name: &str| {
            let shape = self.layout.find(name).unwrap().layout.file_shape();
            Ok(fixture_tensor(seed, name, &shape))
        };
        TrainingState::start(gpu, &self.layout, true, self.precision, read).unwrap()
    }
}

fn external(rec: &mut Recording, key: &str, shape: Shape) -> Tensor {
    Tensor { buffer: rec.external(key, shape.elements()), offset: 0, shape }
}

/// Errors relative to `expected`'s size; NaN fails.
fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    let error = (got - expected).abs() / expected.abs();
    assert!(error <= tolerance, "{what}: {got} for {expected}, relative error {error:e} above {tolerance:e}");
}

/// Element by element, absolute; NaN fails.
fn worst(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let errors = got.iter().zip(expected).map(|(&g, &e)| (f64::from(g) - f64::from(e)).abs());
    errors.fold(0.0, |worst, e| if e <= worst { worst } else { e })
}

#[test]
fn ten_updates_agree_with_pytorch() {
    let golden = Golden::open("deme_updates");
    let facts = &golden.facts;
    let setup = Setup::new(&facts["config"]);
    let seed = facts["seed"].as_u64().unwrap();
    let schedule = Schedule::from_json(Path::new("scheduler.json"), facts["scheduler"].as_object().unwrap()).unwrap();
    let extents: Vec<u64> = facts["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| extents[i] as u32);
    let settings = settings(facts, n);
    let objective = expert(1000, number(facts, "consistency_weight"));

    // The recorded noise comes from outside, so the noised images do too; everything after them is the product's.
    let shape = Shape::new([n, h, w, 4]);
    let mut tape = Tape::new(Recording::new("golden micro-batch"));
    let noised =
        Noised { x_t: external(&mut tape.rec, "x_t", shape), target: external(&mut tape.rec, "target", shape) };
    let width = setup.config.block_out_channels[0];
    let embedding = tape.rec.input("embedding", Shape::new([n, width]), DType::F32);
    let (micro, weights) = step::learn(tape, setup.network(), &objective, &noised, &embedding).unwrap();
    let update = step::update(&setup.layout, &settings, setup.precision).unwrap();
    let state = setup.state(gpu(), seed);
    let mut externals = Externals::new();
    state.bind(&mut externals);
    let storage = |key: &str, elements: u64| gpu().storage(key, elements).unwrap();
    let (x_t, target) = (storage("x_t", shape.elements()), storage("target", shape.elements()));
    let sums = storage(step::LOSS_SUMS, 2 * u64::from(n));
    let status = storage(step::STATUS, u64::from(optim::STATUS));
    gpu().write(&status, 0, &optim::initial(1.0)).unwrap();
    for (key, storage) in [("x_t", &x_t), ("target", &target), (step::LOSS_SUMS, &sums), (step::STATUS, &status)] {
        externals.insert(key.to_owned(), storage.clone());
    }
    let mut micro = Plan::new(gpu(), micro, &externals, &PlanOptions::default()).unwrap();
    let scalars = update.scalars;
    let mut update = Plan::new(gpu(), update.recording, &externals, &PlanOptions::default()).unwrap();
    let sample_weights = vec![(1.0 / settings.accumulate as f32).to_bits(); n as usize];

    let recorded = |name: &str, i: usize| f64::from(golden.values(&format!("f64.{name}"))[i]);
    let read = |storage: &Storage| gpu().read(storage, 0, storage.elements).unwrap();
    for u in 0..settings.steps as usize {
        for m in 2 * u..2 * u + 2 {
            let t: Vec<usize> =
                facts["timesteps"][m].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as usize).collect();
            let image =
                |name: &str| nchw_to_nhwc(&fixture_tensor(seed, &format!("input.{name}.{m}"), &extents), c, h * w);
            let (x_0, noise) = (image("x_0"), image("noise"));
            let mixed: Vec<f32> = x_0
                .iter()
                .zip(&noise)
                .enumerate()
                .map(|(i, (&x, &e))| {
                    let (a, b) = schedule.noising(t[i / (h * w * 4) as usize]);
                    (a * f64::from(x) + b * f64::from(e)) as f32
                })
                .collect();
            gpu().write(&x_t, 0, &mixed).unwrap();
            gpu().write(&target, 0, &noise).unwrap();
            gpu().write(&sums, 0, &vec![0.0; 2 * n as usize]).unwrap();
            let words = embedding_words(&setup.config, &t).unwrap();
            micro.run(&[(embedding, &words), (weights, &sample_weights)]).unwrap();
            let losses = read(&sums);
            let mean = |k: usize| losses.iter().skip(k).step_by(2).map(|&v| f64::from(v)).sum::<f64>() / f64::from(n);
            let (noise_loss, consistency) = (mean(0), mean(1));
            close(&format!("noise loss {m}"), noise_loss, recorded("noise_loss", m), 1e-5);
            let total = noise_loss + objective.consistency * consistency;
            close(&format!("loss {m}"), total, recorded("loss", m), 1e-5);
            // Student and teacher are the same until the first update.
            match u {
                0 => assert!(consistency < 1e-12, "consistency loss {m} is {consistency}"),
                // A difference of two nearly equal outputs has fewer digits than they have.
                _ => close(&format!("consistency loss {m}"), consistency, recorded("consistency_loss", m), 5e-5),
            }
        }
        update.run(&[(scalars, &step::scalars(&settings, u as u64))]).unwrap();
        close(&format!("gradient norm {u}"), f64::from(optim::norm(&read(&status))), recorded("grad_norm", u), 1e-5);
    }
    weights_agree(&golden, &setup, &state.theta, "weight", &settings);
    weights_agree(&golden, &setup, &state.ema, "ema", &settings);
}

/// 1e-6 where every update's gradient was above rounding noise; elsewhere what the optimizer can move at most.
fn weights_agree(golden: &Golden, setup: &Setup, slabs: &Slabs, kind: &str, settings: &Settings) {
    let columns: Vec<&str> =
        golden.facts["grad_rms_columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let rms = golden.values("f64.grad_rms");
    let (mut strict, mut bounded) = (0, Vec::new());
    slabs
        .for_each(gpu(), &setup.layout, |name, values| {
            let column = columns.iter().position(|c| *c == name).unwrap_or_else(|| panic!("{name} was not recorded"));
            let smallest = (0..10).map(|u| rms[u * columns.len() + column]).fold(f32::MAX, f32::min);
            let error = worst(&values, golden.values(&format!("f64.{kind}.{name}")));
            if smallest > 1e-6 {
                assert!(error <= 1e-6, "{kind} {name}: off by {error:e}, gradient RMS {smallest:e}");
                strict += 1;
            } else {
                assert!(error <= 10.0 * settings.adamw.lr, "{kind} {name}: off by {error:e}");
                bounded.push(name.to_owned());
            }
            Ok(())
        })
        .unwrap();
    assert!(bounded.iter().all(|name| name.ends_with("to_k.bias")), "without a gradient: {bounded:?}");
    assert_eq!(strict + bounded.len(), columns.len());
}

/// A device of its own, because other tests of this binary create things meanwhile, and this one may be destroyed.
pub(super) struct Alone {
    pub gpu: Gpu,
    pub setup: Setup,
    pub settings: Settings,
    schedule: Schedule,
    dataset: Dataset,
    pub objective: Expert,
}

impl Alone {
    fn new() -> Self {
        Self::at(Precision::F32)
    }

    pub fn at(precision: Precision) -> Self {
        let golden = Golden::open("deme_updates");
        let setup = Setup { precision, ..Setup::new(&golden.facts["config"]) };
        let [side, _] = setup.size;
        let pixels = (0..6 * u64::from(side * side * 3)).map(|i| rng::below(1, 1, i, 256) as u8).collect();
        Self {
            gpu: Gpu::open(&AdapterChoice::default()).unwrap().at(precision),
            setup,
            settings: settings(&golden.facts, 2),
            schedule: Schedule::from_json(Path::new("scheduler.json"), &serde_json::Map::new()).unwrap(),
            dataset: Dataset::from_pixels(side, 3, pixels, None).unwrap(),
            objective: expert(1000, 1.0),
        }
    }

    pub fn trainer(&self) -> Trainer {
        let state = self.setup.state(&self.gpu, 2);
        Trainer::new(&self.gpu, self.setup.network(), &self.settings, &self.objective, state).unwrap()
    }

    pub fn feeder(&self) -> Feeder<'_> {
        let Self { setup, schedule, dataset, .. } = self;
        Feeder::new(&setup.config, schedule, dataset, [1, 0], Augment { flip: true, crop: false }).unwrap()
    }

    pub fn feed(&self, micro: u64) -> Feed {
        let batch = self.settings.batch;
        self.feeder().feed(micro * u64::from(batch), &self.objective.timesteps(micro, batch as usize)).unwrap()
    }

    pub fn update(&self, trainer: &mut Trainer, update: u64) -> Result<()> {
        (2 * update..2 * update + 2).try_for_each(|micro| trainer.micro_batch(&self.feed(micro)))?;
        trainer.update(update)
    }
}

/// A micro-batch and an update replay what was made once: wgpu's own counters stand still.
#[test]
fn a_step_creates_no_buffer_no_bind_group_and_no_pipeline() {
    let alone = Alone::new();
    let mut trainer = alone.trainer();
    let mut before = None;
    for update in 0..50 {
        alone.update(&mut trainer, update).unwrap();
        if update == 1 {
            trainer.check(update).unwrap();
            before = Some(alone.gpu.counters());
        }
    }
    trainer.check(50).unwrap();
    assert_eq!(Some(alone.gpu.counters()), before);
}

/// What `--dry-run` adds up is what wgpu counts once everything exists, but for drivers' rounding of small buffers.
#[test]
fn the_memory_of_a_run_is_known_before_it_starts() {
    let full = counted(&Alone::new());
    if gpu().has_f16() {
        let half = counted(&Alone::at(Precision::F16));
        assert!(half < full, "{half} bytes in f16, {full} in f32");
    }
}

/// Bytes that are known before, held to those that are counted after.
fn counted(alone: &Alone) -> u64 {
    let layout = &alone.setup.layout;
    let micro = step::micro(alone.setup.network(), &alone.settings, &alone.objective).unwrap();
    let update = step::update(layout, &alone.settings, alone.setup.precision).unwrap();
    let plans = memory::plan_bytes(&micro.recording).unwrap() + memory::plan_bytes(&update.recording).unwrap();
    let largest = 4 * layout.slabs.iter().max().unwrap();
    let slabs = state::bytes(layout, true, alone.setup.precision);
    let known = slabs + plans + memory::readback_bytes(largest);
    let before = alone.gpu.counters();
    let trainer = alone.trainer();
    trainer.state.ema.for_each(&alone.gpu, layout, |_, _| Ok(())).unwrap();
    let after = alone.gpu.counters();
    let (counted, buffers) = (after.buffer_bytes - before.buffer_bytes, after.buffers - before.buffers);
    let slack = buffers * 1024;
    let difference = counted - known as isize;
    assert!((0..slack).contains(&difference), "known {known}, counted {counted} in {buffers} buffers");
    known
}

/// Whatever is not finite is found in the same update, which changes nothing: image, weight, teacher; NaN, both infinities.
#[test]
fn a_value_that_is_not_finite_stops_the_update_before_it_does_harm() {
    let alone = Alone::new();
    let values = |slabs: &Slabs| {
        let mut bits = Vec::new();
        let each = |_: &str, v: Vec<f32>| {
            bits.extend(v.into_iter().map(f32::to_bits));
            Ok(())
        };
        slabs.for_each(&alone.gpu, &alone.setup.layout, each).unwrap();
        bits
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in ["image", "weight", "teacher"] {
            let mut trainer = alone.trainer();
            alone.update(&mut trainer, 0).unwrap();
            trainer.check(1).unwrap();
            let mut feed = alone.feed(2);
            match place {
                "image" => feed.x_0[5] = bad,
                "weight" => alone.gpu.write(&trainer.state.theta.storages[0], 3, &[bad]).unwrap(),
                _ => alone.gpu.write(&trainer.state.teacher().unwrap().storages[0], 3, &[bad]).unwrap(),
            }
            let before = [values(&trainer.state.theta), values(&trainer.state.ema)];
            trainer.micro_batch(&feed).unwrap();
            trainer.micro_batch(&alone.feed(3)).unwrap();
            trainer.update(1).unwrap();
            let error = trainer.check(2).unwrap_err();
            assert_eq!(error.to_string(), "the gradient is not finite at step 2", "{bad} in {place}");
            assert_eq!(error.exit_code(), 7);
            assert!([values(&trainer.state.theta), values(&trainer.state.ema)] == before, "{bad} in {place} did harm");
        }
    }
}

/// A driver reset at any submission is a typed error with a hint, at once.
#[test]
fn a_lost_device_is_an_error_not_a_hang() {
    for after in 0..4 {
        let alone = Alone::new();
        let mut trainer = alone.trainer();
        let lose = |number: u64| {
            if number == after {
                alone.gpu.destroy();
            }
        };
        let start = std::time::Instant::now();
        let run = (0..3).try_for_each(|micro| {
            lose(micro);
            trainer.micro_batch(&alone.feed(micro))
        });
        lose(3);
        let error = run.and_then(|()| trainer.check(1).map(drop)).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.hint().contains("--resume"), "{error}: {}", error.hint());
        assert!(start.elapsed().as_secs() < 30);
    }
}
