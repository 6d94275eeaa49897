//! Times a whole network: forward pass, sampling step, update with and without the frozen teacher; also op by op.
//! Called by `cli::bench`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::measure::{Effort, Stats, repeat};
use super::model::Model;
use super::results::{DEFAULT, Row};
use crate::deme::consistency;
use crate::diffusion::denoising::{coefficient_words, embedding_words};
use crate::diffusion::sampler;
use crate::diffusion::schedule::Prediction;
use crate::diffusion::spacing::Step;
use crate::error::Result;
use crate::gpu::{Externals, Gpu, Plan, PlanOptions};
use crate::kernels::{ddim, noise, optim};
use crate::nn::{Net, Role, Slabs};
use crate::recording::cost::Cost;
use crate::recording::{Recording, Tensor};
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;
use crate::train::feed::Feed;
use crate::train::objective::{Loss, Objective, Pass};
use crate::train::settings::{AdamW, EmaSchedule, Settings};
use crate::train::state::TrainingState;
use crate::train::step::{self, LOSS_SUMS, STATUS};

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Forward,
    /// Forward pass and DDIM update.
    Sample,
    /// Noising, forward, mean squared error, backward, clipping, AdamW, moving average.
    Train,
    /// The same with the frozen start model's forward pass and the consistency loss, as `deme finetune` has it.
    TrainWithTeacher,
}

impl What {
    pub const ALL: [Self; 4] = [Self::Forward, Self::Sample, Self::Train, Self::TrainWithTeacher];

    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Sample => "sample_step",
            Self::Train => "train_step",
            Self::TrainWithTeacher => "train_step+teacher",
        }
    }

    fn note(self) -> &'static str {
        match self {
            Self::Forward => "",
            Self::Sample => "forward, DDIM update",
            Self::Train => "noising, forward, MSE, backward, clipping, AdamW, EMA",
            Self::TrainWithTeacher => "as train_step, and the frozen teacher's forward with the loss of DeMe's eq. 5",
        }
    }
}

/// The mean squared error, with or without the distance to the teacher.
struct MeanSquared {
    lambda: f64,
    timesteps: Vec<usize>,
}

impl Objective for MeanSquared {
    fn timesteps(&self, _: u64, _: usize) -> Vec<usize> {
        self.timesteps.clone()
    }

    fn needs_teacher(&self) -> bool {
        self.lambda != 0.0
    }

    fn record(&self, pass: &mut Pass) -> Result<Loss> {
        consistency::record(pass, self.lambda)
    }
}

/// A plan and the words of its inputs.
type Planned = (Plan, Vec<(Tensor, Vec<u32>)>);

/// Plans that are one step together.
struct Stepper {
    plans: Vec<Planned>,
}

fn bound(inputs: &[(Tensor, Vec<u32>)]) -> Vec<(Tensor, &[u32])> {
    inputs.iter().map(|(tensor, words)| (*tensor, words.as_slice())).collect()
}

impl Stepper {
    fn new(gpu: &Gpu, model: &Model, batch: u32, what: What) -> Result<Self> {
        let plans = match what {
            What::Forward | What::Sample => vec![inference(gpu, model, batch, what == What::Sample)?],
            What::Train => training(gpu, model, batch, 0.0)?,
            What::TrainWithTeacher => training(gpu, model, batch, 1.0)?,
        };
        Ok(Self { plans })
    }

    /// Seconds a step of `steps` steps that are submitted one after another and waited for at the end.
    fn steps(&mut self, steps: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..steps {
            for (plan, inputs) in &mut self.plans {
                plan.run(&bound(inputs))?;
            }
        }
        for (plan, _) in &mut self.plans {
            plan.wait()?;
        }
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    }

    /// Seconds of the host in a step: each plan's submission, with nothing before it that it might have to wait for.
    fn host(&mut self) -> Result<f64> {
        let mut seconds = 0.0;
        for (plan, inputs) in &mut self.plans {
            let start = Instant::now();
            plan.run(&bound(inputs))?;
            seconds += start.elapsed().as_secs_f64();
            plan.wait()?;
        }
        Ok(seconds)
    }

    /// Seconds of each op of a step.
    fn profile(&mut self) -> Result<Vec<f64>> {
        let mut seconds = Vec::new();
        for (plan, inputs) in &mut self.plans {
            seconds.extend(plan.profile(&bound(inputs))?);
        }
        Ok(seconds)
    }

    fn cost(&self) -> Cost {
        self.plans.iter().map(|(plan, _)| plan.recording().cost()).sum()
    }
}

fn inference(gpu: &Gpu, model: &Model, batch: u32, sample: bool) -> Result<Planned> {
    let Model { config, layout, sides: [h, w], .. } = model;
    let mut tape = Tape::new(Recording::new(if sample { "sampling step" } else { "forward" }));
    let shape = Shape::new([batch, *h, *w, padded_channels(config.in_channels)]);
    let x = Tensor { buffer: tape.rec.external("x", shape.elements()), offset: 0, shape };
    let embedding = tape.rec.input("embedding", Shape::new([batch, config.block_out_channels[0]]), DType::F32);
    let mut net = Net { tape: &mut tape, layout, role: Role::Theta, trained: false };
    let output = config.forward(&mut net, &x, &embedding, model.projections, &mut |_, _| ())?;
    let mut rec = tape.rec;
    let total = model.schedule.alpha_bar.len();
    let step = Step { t: total / 2, t_prev: Some(total / 2 - total / 50) };
    let mut inputs = vec![(embedding, embedding_words(config, &vec![step.t; batch as usize])?)];
    if sample {
        let coefficients = rec.input("ddim coefficients", Shape::new([ddim::COEFFICIENTS]), DType::F32);
        let predicts = match model.schedule.prediction {
            Prediction::Epsilon => ddim::Predicts::Epsilon,
            Prediction::V => ddim::Predicts::V,
        };
        ddim::ddim_step(&mut rec, &x, &output, None, &coefficients, config.in_channels, predicts)?;
        inputs.push((coefficients, sampler::coefficient_words(&model.schedule.ddim_step(step, 0.0)?).to_vec()));
    }
    let theta = Slabs::new(gpu, layout, Role::Theta)?;
    theta.fill(gpu, layout, |name| model.read(name))?;
    let mut externals = Externals::new();
    theta.bind(&mut externals);
    let storage = gpu.storage("x", shape.elements())?;
    gpu.write(&storage, 0, &images(shape.elements()))?;
    externals.insert("x".into(), storage);
    Ok((Plan::new(gpu, rec, &externals, &PlanOptions::default())?, inputs))
}

/// Values between -1 and 1.
fn images(elements: u64) -> Vec<f32> {
    (0..elements).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 0.999).collect()
}

fn training(gpu: &Gpu, model: &Model, batch: u32, lambda: f64) -> Result<Vec<Planned>> {
    let settings = Settings {
        seed: 0,
        steps: 0,
        batch,
        accumulate: 1,
        // Small, so that the weights stay where they are however often a step is repeated.
        adamw: AdamW { lr: 1e-6, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
        clip: 1.0,
        ema: EmaSchedule { max_decay: 0.9999, inv_gamma: 1.0, power: 0.75 },
        flip: false,
        log_every: 0,
        eval_every: 0,
        sample_every: 0,
        save_every: 0,
        keep: 0,
    };
    let network = step::Network {
        config: &model.config,
        layout: &model.layout,
        size: model.sides,
        student_projections: model.projections,
        teacher_projections: model.projections,
    };
    let objective = MeanSquared { lambda, timesteps: model.timesteps(batch) };
    let micro = step::micro(network, &settings, &objective)?;
    let update = step::update(&model.layout, &settings)?;
    let mut externals = Externals::new();
    let state = TrainingState::start(gpu, &model.layout, objective.needs_teacher(), |name| model.read(name))?;
    state.bind(&mut externals);
    externals.insert(LOSS_SUMS.to_owned(), gpu.storage(LOSS_SUMS, 2 * u64::from(batch))?);
    externals.insert(STATUS.to_owned(), gpu.storage(STATUS, u64::from(optim::STATUS))?);
    let feed = Feed {
        x_0: images(model.image_elements(batch)),
        noise_key: noise::key(0, 0, 0).to_vec(),
        coefficients: coefficient_words(&model.schedule, &objective.timesteps),
        embedding: embedding_words(&model.config, &objective.timesteps)?,
    };
    let mut inputs: Vec<_> = feed.bind(&micro.inputs).map(|(tensor, words)| (tensor, words.to_vec())).to_vec();
    inputs.push((micro.weights, vec![1f32.to_bits(); batch as usize]));
    let scalars = vec![(update.scalars, step::scalars(&settings, 100).to_vec())];
    let options = PlanOptions::default();
    Ok(vec![
        (Plan::new(gpu, micro.recording, &externals, &options)?, inputs),
        (Plan::new(gpu, update.recording, &externals, &options)?, scalars),
    ])
}

/// One kernel variant's part of a step.
#[derive(Debug, Clone, Default)]
pub struct Share {
    pub stem: &'static str,
    pub count: usize,
    pub seconds: f64,
    pub cost: Cost,
}

/// A step op by op.
pub struct Profile {
    /// The largest share first.
    pub shares: Vec<Share>,
    /// Sum over all ops, and an unprofiled step's wall time: the best of each.
    pub sum: f64,
    pub wall: f64,
}

/// Samples of several steps at once last about this long: long beside a wait's own time.
const SAMPLE: f64 = 0.05;

/// Times one step; with its profile where that is asked for.
pub fn run(
    gpu: &Gpu,
    model: &Model,
    batch: u32,
    what: What,
    effort: Effort,
    profile: bool,
) -> Result<(Row, Option<Profile>)> {
    let mut stepper = Stepper::new(gpu, model, batch, what)?;
    stepper.steps(1)?;
    let once = stepper.steps(1)?;
    let steps = if effort.smoke { 1 } else { (SAMPLE / once).clamp(1.0, 64.0) as usize };
    let stats = Stats::of(&repeat(effort, || stepper.steps(steps))?);
    let hosts = repeat(Effort { smoke: effort.smoke, seconds: 0.0 }, || stepper.host())?;
    let case = format!("unet/{}/b{batch}", model.name);
    let weights = if model.is_random() { "random weights" } else { "" };
    let notes = [what.note(), weights].into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>().join("; ");
    let row = Row {
        images_s: Some(f64::from(batch) / stats.median),
        memory_bytes: Some(gpu.counters().buffer_bytes.try_into().unwrap_or(0)),
        dispatches: Some(stepper.plans.iter().map(|(plan, _)| plan.recording().ops.len()).sum()),
        host_s: Some(Stats::of(&hosts).median),
        note: Some(notes),
        ..Row::new(&case, what.name(), DEFAULT, stats, stepper.cost())
    };
    let profile = if profile { Some(profiled(&mut stepper, steps, effort)?) } else { None };
    Ok((row, profile))
}

/// Profiled and unprofiled steps in turn, so that both see the same machine; of each the fastest, which others disturbed
/// least.
fn profiled(stepper: &mut Stepper, steps: usize, effort: Effort) -> Result<Profile> {
    let both = repeat(effort, || Ok((stepper.profile()?, stepper.steps(steps)?)))?;
    let wall = both.iter().map(|(_, wall)| *wall).fold(f64::INFINITY, f64::min);
    let sum = |seconds: &[f64]| seconds.iter().sum::<f64>();
    let fastest = both.into_iter().map(|(seconds, _)| seconds).min_by(|a, b| sum(a).total_cmp(&sum(b)));
    let fastest = fastest.unwrap_or_default();
    let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
    let ops = stepper.plans.iter().flat_map(|(plan, _)| plan.stems().zip(&plan.recording().ops));
    for ((stem, op), seconds) in ops.zip(&fastest) {
        let share = shares.entry(stem).or_default();
        let cost = share.cost + op.cost();
        *share = Share { stem, count: share.count + 1, seconds: share.seconds + seconds, cost };
    }
    let mut shares: Vec<_> = shares.into_values().collect();
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(Profile { shares, sum: sum(&fastest), wall })
}
