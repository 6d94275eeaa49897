//! Times a whole network: forward pass, sampling step, update with and without the frozen teacher; also op by op.
//! Called by `cli::bench`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::measure::{Effort, Stats, repeat};
use super::model::Model;
use super::results::{DEFAULT, Row};
use super::steps::{self, Recorded, X_KEY};
use crate::error::Result;
use crate::gpu::{Externals, Gpu, Plan, PlanOptions};
use crate::nn::{Role, Slabs};
use crate::recording::Tensor;
use crate::recording::cost::Cost;
use crate::train::settings::LossScaling;
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
    fn new(gpu: &Gpu, model: &Model, batch: u32, what: What, recompute: bool) -> Result<Self> {
        let plans = match what {
            What::Forward | What::Sample => vec![inference(gpu, model, batch, what == What::Sample)?],
            What::Train => training(gpu, model, batch, 0.0, recompute)?,
            What::TrainWithTeacher => training(gpu, model, batch, 1.0, recompute)?,
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
    let Recorded { recording, inputs } = steps::inference(model, batch, sample, gpu.precision())?;
    let theta = Slabs::of(gpu, &model.layout, Role::Theta, gpu.precision().stored())?;
    theta.fill(gpu, &model.layout, |name| model.read(name))?;
    let mut externals = Externals::new();
    theta.bind(&mut externals);
    let x = gpu.storage(X_KEY, model.image_elements(batch))?;
    gpu.write(&x, 0, &steps::images(x.elements))?;
    externals.insert(X_KEY.into(), x);
    Ok((Plan::new(gpu, recording, &externals, &PlanOptions::default())?, inputs))
}

fn training(gpu: &Gpu, model: &Model, batch: u32, lambda: f64, recompute: bool) -> Result<Vec<Planned>> {
    let recorded = steps::training(model, batch, lambda, gpu.precision(), recompute)?;
    let mut externals = Externals::new();
    let state = TrainingState::start(gpu, &model.layout, lambda != 0.0, gpu.precision(), |name| model.read(name))?;
    state.bind(&mut externals);
    externals.insert(LOSS_SUMS.to_owned(), gpu.storage(LOSS_SUMS, 2 * u64::from(batch))?);
    externals.insert(STATUS.to_owned(), step::status(gpu, LossScaling::DYNAMIC.at(gpu.precision()))?);
    let plan = |r: Recorded| Ok((Plan::new(gpu, r.recording, &externals, &PlanOptions::default())?, r.inputs));
    recorded.into_iter().map(plan).collect()
}

/// What a profile adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Every op of a kernel variant.
    Kernel,
    /// Every op of a kernel variant on tensors of the same shapes.
    Shape,
}

/// One kernel variant's part of a step.
#[derive(Debug, Clone, Default)]
pub struct Share {
    /// The variant, and the shapes that it reads and writes where the profile tells them apart.
    pub name: String,
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

/// Profiled and unprofiled steps that are wanted of each, and seconds that they may take.
const PAIRS: f64 = 10.0;
const MINUTE: f64 = 60.0;

/// Times one step; with its profile where that is asked for. `recompute`: updates make activations again in the backward pass.
pub fn run(
    gpu: &Gpu,
    model: &Model,
    batch: u32,
    (what, recompute): (What, bool),
    effort: Effort,
    profile: Option<By>,
) -> Result<(Row, Option<Profile>)> {
    let mut stepper = Stepper::new(gpu, model, batch, what, recompute)?;
    stepper.steps(1)?;
    let once = stepper.steps(1)?;
    let steps = if effort.smoke { 1 } else { (SAMPLE / once).clamp(1.0, 64.0) as usize };
    let stats = Stats::of(&repeat(effort, || stepper.steps(steps))?);
    let hosts = repeat(Effort { smoke: effort.smoke, seconds: 0.0 }, || stepper.host())?;
    let case = format!("unet/{}/b{batch}", model.name);
    let weights = if model.is_random() { "random weights" } else { "" };
    let again = matches!(what, What::Train | What::TrainWithTeacher) && recompute;
    let again = if again { "activations made again" } else { "" };
    let notes = [what.note(), weights, again].into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>().join("; ");
    let row = Row {
        images_s: Some(f64::from(batch) / stats.median),
        memory_bytes: Some(gpu.counters().buffer_bytes.try_into().unwrap_or(0)),
        dispatches: Some(stepper.plans.iter().map(|(plan, _)| plan.dispatches()).sum()),
        host_s: Some(Stats::of(&hosts).median),
        note: Some(notes),
        ..Row::new(&case, what.name(), DEFAULT, stats, stepper.cost())
    };
    // Enough of both kinds that the fastest of each was hardly disturbed.
    let pairs = Effort { seconds: effort.seconds.max((PAIRS * 2.0 * once).min(MINUTE)), ..effort };
    let profile = profile.map(|by| profiled(&mut stepper, steps, pairs, by)).transpose()?;
    Ok((row, profile))
}

/// Profiled and unprofiled steps in turn, so that both see the same machine; of each the fastest, which others disturbed
/// least.
fn profiled(stepper: &mut Stepper, steps: usize, effort: Effort, by: By) -> Result<Profile> {
    let both = repeat(effort, || Ok((stepper.profile()?, stepper.steps(steps)?)))?;
    let wall = both.iter().map(|(_, wall)| *wall).fold(f64::INFINITY, f64::min);
    let sum = |seconds: &[f64]| seconds.iter().sum::<f64>();
    let fastest = both.into_iter().map(|(seconds, _)| seconds).min_by(|a, b| sum(a).total_cmp(&sum(b)));
    let fastest = fastest.unwrap_or_default();
    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    let ops = stepper.plans.iter().flat_map(|(plan, _)| plan.stems().zip(&plan.recording().ops));
    for ((stem, op), seconds) in ops.zip(&fastest) {
        let name = match by {
            By::Kernel => stem.to_owned(),
            By::Shape => {
                let shapes: Vec<_> = op.tensors().map(|(_, t)| t.shape.to_string()).collect();
                format!("{stem} {}", shapes.join(" "))
            }
        };
        let share = shares.entry(name.clone()).or_default();
        let cost = share.cost + op.cost();
        *share = Share { name, count: share.count + 1, seconds: share.seconds + seconds, cost };
    }
    let mut shares: Vec<_> = shares.into_values().collect();
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(Profile { shares, sum: sum(&fastest), wall })
}
