//! One update as two recordings, replayed: *micro* (noising, frozen teacher, student, loss, backward; gradients add up), of a
//! micro-batch or of a part that fits, and
//! *update* (gradient norm, clipping, AdamW, EMA). Called by `run`, `--dry-run` and the training tests.

use std::path::Path;

use super::feed::Feed;
use super::objective::{Objective, Pass};
use super::settings::{LossScaling, Settings};
use super::state::TrainingState;
use crate::diffusion::denoising::{Noised, NoisingInputs};
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions, Storage};
use crate::kernels::{loss, optim, pointwise};
use crate::model::config::UNetConfig;
use crate::model::unet::Projections;
use crate::nn::{ParamLayout, Role};
use crate::recording::{Recording, Tensor};
use crate::shader::Precision;
use crate::shape::{DType, Shape};
use crate::tape::Tape;

/// What is trained.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    pub config: &'a UNetConfig,
    pub layout: &'a ParamLayout,
    /// Height and width of the images.
    pub size: [u32; 2],
    pub student_projections: Projections,
    pub teacher_projections: Projections,
    /// What the weights and activations of student and teacher are stored in, and what their products, and the gradient's, round
    /// factors to.
    pub precision: Precision,
    /// Whether the backward pass makes activations again: less memory, the same gradients, most of a forward
    /// pass more.
    pub recompute: bool,
}

/// Key of the losses [N, 2] summed since the last line of the log.
pub const LOSS_SUMS: &str = "loss_sums";
/// Key of the weighted losses to the target [N] summed since then, where the objective has weights.
pub const WEIGHTED_SUMS: &str = "weighted_loss_sums";
/// Key of the optimizer's report.
pub const STATUS: &str = "optimizer_status";

/// The recording of a micro-batch, and its inputs.
pub struct Micro {
    pub recording: Recording,
    pub inputs: NoisingInputs,
    /// Of the samples in the gradient, [N].
    pub weights: Tensor,
}

/// The recording of an update, and its input.
pub struct Update {
    pub recording: Recording,
    pub scalars: Tensor,
}

/// Records a micro-batch, or as much of it as is on the GPU at once. Needs no GPU.
pub fn micro(network: Network, settings: &Settings, objective: &dyn Objective) -> Result<Micro> {
    let config = network.config;
    if config.in_channels != config.out_channels {
        let message = format!("the model gives {} channels for {}", config.out_channels, config.in_channels);
        return Err(Error::shape("training", message));
    }
    let mut tape = Tape::new(Recording::new("micro-batch").at(network.precision));
    let inputs = NoisingInputs::new(&mut tape.rec, config, settings.at_once, network.size);
    let noised = inputs.noised(&mut tape.rec, config)?;
    let (recording, weights) = learn(tape, network, objective, &noised, &inputs.embedding)?;
    Ok(Micro { recording, inputs, weights })
}

/// Records forward, loss and backward of noised images; gives the input of the samples' weights [N] too.
pub fn learn(
    mut tape: Tape,
    network: Network,
    objective: &dyn Objective,
    noised: &Noised,
    embedding: &Tensor,
) -> Result<(Recording, Tensor)> {
    let Network { config, layout, student_projections, teacher_projections, recompute, .. } = network;
    let [batch, ..] = noised.x_t.shape.nhwc("training")?;
    let weights = tape.rec.input("sample weights", Shape::new([batch]), DType::F32);
    let status = external(&mut tape.rec, STATUS, Shape::new([optim::STATUS]));
    let loss = objective.record(&mut Pass {
        tape: &mut tape,
        config,
        layout,
        x_t: noised.x_t,
        target: noised.target,
        weights,
        status,
        embedding: *embedding,
        student_projections,
        teacher_projections,
    })?;
    let sums = external(&mut tape.rec, LOSS_SUMS, loss.per_sample.shape);
    pointwise::accumulate(&mut tape.rec, &loss.per_sample, &sums)?;
    if objective.weights().is_some() {
        let rec = &mut tape.rec;
        let losses = loss::weighted_error(rec, &loss.output, &noised.target, &weights, config.out_channels)?;
        let sums = external(rec, WEIGHTED_SUMS, losses.shape);
        pointwise::accumulate(rec, &losses, &sums)?;
    }
    let (recording, _) = tape.backward(&[(loss.output, loss.gradient)])?;
    let recording = recording.fused();
    Ok((if recompute { recording.recomputed() } else { recording }, weights))
}

/// Records an update, and what then runs in this precision. Needs no GPU.
pub fn update(layout: &ParamLayout, settings: &Settings, precision: Precision) -> Result<Update> {
    let mut rec = Recording::new("update");
    let scalars = rec.input("optimizer scalars", Shape::new([optim::SCALARS]), DType::F32);
    let status = external(&mut rec, STATUS, Shape::new([optim::STATUS]));
    let slabs = 0..layout.slabs.len();
    let gradients: Vec<_> = slabs.clone().map(|i| layout.slab(&mut rec, Role::Gradient, i)).collect();
    // The kernel's word for no clipping is zero.
    let clip = if settings.clip.is_finite() { settings.clip as f32 } else { 0.0 };
    let LossScaling { interval, .. } = settings.scaling.at(precision);
    optim::gradient_norm(&mut rec, &gradients, clip, interval, &status)?;
    for (i, gradient) in slabs.zip(&gradients) {
        let [theta, first, second, ema] =
            [Role::Theta, Role::FirstMoment, Role::SecondMoment, Role::Ema].map(|role| layout.slab(&mut rec, role, i));
        optim::adamw(&mut rec, &scalars, &status, &theta, gradient, &first, &second)?;
        optim::ema(&mut rec, &scalars, &status, &theta, &ema)?;
    }
    refresh(&mut rec, layout, precision)?;
    Ok(Update { recording: rec, scalars })
}

/// Records theta in f16, where that is what runs.
fn refresh(rec: &mut Recording, layout: &ParamLayout, precision: Precision) -> Result<()> {
    let slabs = if precision == Precision::F16 { 0..layout.slabs.len() } else { 0..0 };
    for i in slabs {
        let theta = layout.slab(rec, Role::Theta, i);
        let half = layout.slab_as(rec, (Role::Half, DType::F16), i);
        pointwise::convert(rec, &theta, &half)?;
    }
    Ok(())
}

/// Storage of the optimizer's report, as it is before the first update.
pub fn status(gpu: &Gpu, scaling: LossScaling) -> Result<Storage> {
    let status = gpu.storage(STATUS, u64::from(optim::STATUS))?;
    gpu.write(&status, 0, &optim::initial(scaling.start))?;
    Ok(status)
}

fn external(rec: &mut Recording, key: &str, shape: Shape) -> Tensor {
    Tensor { buffer: rec.external(key, shape.elements()), offset: 0, shape }
}

/// The words of the scalars of update number `update` (from 0).
pub fn scalars(settings: &Settings, update: u64) -> Vec<u32> {
    let Settings { adamw, ema, .. } = settings;
    optim::scalars(settings.learning_rate(update), adamw.betas, adamw.eps, adamw.weight_decay, update + 1, |made| {
        ema.decay(made)
    })
}

/// The optimizer's report on the last update.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Before clipping.
    pub gradient_norm: f64,
    /// Where the loss is scaled.
    pub scaled: Option<Scaled>,
}

/// How the scaling of the loss goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaled {
    /// Updates left out so far because their gradient was beyond f16.
    pub skipped: u64,
    /// What the next loss is multiplied by.
    pub scale: f64,
}

/// Means over the samples since the last line of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Losses {
    /// Squared distance to the target, unweighted.
    pub noise: f64,
    /// Squared distance to the teacher, unweighted.
    pub consistency: f64,
    /// The first by its samples' weights, where the objective has some.
    pub weighted: Option<f64>,
}

/// The samples' weights by timestep, and the sums of the losses that they weigh.
struct Weighted {
    table: Vec<f64>,
    sums: Storage,
}

/// Both plans and all state on the GPU.
pub struct Trainer {
    gpu: Gpu,
    layout: ParamLayout,
    precision: Precision,
    settings: Settings,
    pub state: TrainingState,
    micro: Plan,
    inputs: NoisingInputs,
    weights: Tensor,
    weighted: Option<Weighted>,
    update: Plan,
    scalars: Tensor,
    loss_sums: Storage,
    status: Storage,
}

impl Trainer {
    pub fn new(
        gpu: &Gpu,
        network: Network,
        settings: &Settings,
        objective: &dyn Objective,
        state: TrainingState,
    ) -> Result<Self> {
        let micro = micro(network, settings, objective)?;
        let update = update(network.layout, settings, network.precision)?;
        let mut externals = Externals::new();
        state.bind(&mut externals);
        // As long as the micro-batch, however much of it is on the GPU at once: checkpoints know one length.
        let loss_sums = gpu.storage(LOSS_SUMS, 2 * u64::from(settings.batch))?;
        let status = status(gpu, settings.scaling.at(network.precision))?;
        externals.insert(LOSS_SUMS.to_owned(), loss_sums.clone());
        externals.insert(STATUS.to_owned(), status.clone());
        let weighted = match objective.weights() {
            None => None,
            Some(table) => {
                let sums = gpu.storage(WEIGHTED_SUMS, u64::from(settings.batch))?;
                externals.insert(WEIGHTED_SUMS.to_owned(), sums.clone());
                Some(Weighted { table: table.to_vec(), sums })
            }
        };
        let options = PlanOptions::default();
        Ok(Self {
            micro: Plan::new(gpu, micro.recording, &externals, &options)?,
            inputs: micro.inputs,
            weights: micro.weights,
            weighted,
            update: Plan::new(gpu, update.recording, &externals, &options)?,
            scalars: update.scalars,
            gpu: gpu.clone(),
            layout: network.layout.clone(),
            precision: network.precision,
            settings: settings.clone(),
            state,
            loss_sums,
            status,
        })
    }

    /// Submits a micro-batch, or the part of it that is on the GPU at once: its gradient is added up, its losses too.
    pub fn micro_batch(&mut self, feed: &Feed) -> Result<()> {
        // The gradient of an update is the mean over its replays of their means over samples.
        let share = 1.0 / self.settings.replays_per_update() as f64;
        let weight = |&t: &usize| self.weighted.as_ref().map_or(1.0, |w| w.table[t]);
        let weights: Vec<u32> = feed.timesteps.iter().map(|t| ((share * weight(t)) as f32).to_bits()).collect();
        let mut inputs = feed.bind(&self.inputs).to_vec();
        inputs.push((self.weights, &weights));
        self.micro.run(&inputs)
    }

    /// Submits update number `update` (from 0) of what the micro-batches added up.
    pub fn update(&mut self, update: u64) -> Result<()> {
        let scalars = scalars(&self.settings, update);
        self.update.run(&[(self.scalars, &scalars)])
    }

    /// Images of a replay.
    pub fn batch(&self) -> usize {
        self.settings.at_once as usize
    }

    /// The gradient that the micro-batches since the last update added up, slab by slab, which starts again from zero.
    pub fn take_gradient(&mut self) -> Result<Vec<f32>> {
        let scale = optim::scale(&self.gpu.read(&self.status, 0, self.status.elements)?);
        let mut gradient = Vec::new();
        for storage in self.state.gradient() {
            let values = self.gpu.read(storage, 0, storage.elements)?;
            self.gpu.write(storage, 0, &vec![0.0; values.len()])?;
            gradient.extend(values.into_iter().map(|g| g / scale));
        }
        Ok(gradient)
    }

    /// The optimizer's report. An update that was left out because its gradient was not finite is an error; where the loss is
    /// scaled, one is only when it happened at a scale of 1.
    pub fn check(&mut self, step: u64) -> Result<Status> {
        let status = self.gpu.read(&self.status, 0, self.status.elements)?;
        let (skipped, scale) = (optim::skipped(&status), optim::scale(&status));
        let dynamic = self.settings.scaling.at(self.precision).interval > 0;
        let lost = match dynamic {
            true => (scale < 1.0).then_some("the gradient itself, whatever the loss is multiplied by,"),
            false => (skipped > 0).then_some("the gradient"),
        };
        if let Some(what) = lost {
            return Err(Error::NonFinite { what: what.into(), step });
        }
        let scaled = dynamic.then_some(Scaled { skipped, scale: f64::from(scale) });
        Ok(Status { gradient_norm: f64::from(optim::norm(&status)), scaled })
    }

    /// Means over `images` of the losses, whose sums start again from zero.
    pub fn take_losses(&mut self, images: u64, step: u64) -> Result<Losses> {
        let mut means = Vec::new();
        for (sums, of_each) in self.sums() {
            let values = self.gpu.read(sums, 0, sums.elements)?;
            self.gpu.write(sums, 0, &vec![0.0; values.len()])?;
            let total = |k: usize| values.iter().skip(k).step_by(of_each).map(|&v| f64::from(v)).sum::<f64>();
            means.extend((0..of_each).map(|k| total(k) / images as f64));
        }
        // Sample weights are divided by the replays of an update, and summed over them.
        let weighted = means.get(2).map(|mean| mean * self.settings.replays_per_update() as f64);
        match means.iter().all(|m| m.is_finite()) {
            true => Ok(Losses { noise: means[0], consistency: means[1], weighted }),
            false => Err(Error::NonFinite { what: "the loss".into(), step }),
        }
    }

    /// Sums of losses on the GPU, and how many numbers each sample has there.
    fn sums(&self) -> Vec<(&Storage, usize)> {
        let weighted = self.weighted.iter().map(|w| (&w.sums, 1));
        std::iter::once((&self.loss_sums, 2)).chain(weighted).collect()
    }

    /// The bits of the losses summed so far, the weighted ones last: a part of a checkpoint.
    pub fn loss_sums(&self) -> Result<Vec<u32>> {
        let mut bits = Vec::new();
        for (sums, _) in self.sums() {
            bits.extend(self.gpu.read(sums, 0, sums.elements)?.into_iter().map(f32::to_bits));
        }
        Ok(bits)
    }

    /// The bits of the optimizer's report: a part of a checkpoint, for the scale of the loss.
    pub fn status(&self) -> Result<Vec<u32>> {
        let status = self.gpu.read(&self.status, 0, self.status.elements)?;
        Ok(status.into_iter().map(f32::to_bits).collect())
    }

    /// Writes the tensors of a checkpoint after `step` updates.
    pub fn save(&self, folder: &Path, step: u64) -> Result<()> {
        self.state.save(&self.gpu, &self.layout, folder, step)
    }

    /// Goes on from a checkpoint's tensors, loss sums and report; without a report from the one before the first update.
    pub fn load(&mut self, folder: &Path, loss_sums: &[u32], status: &[u32]) -> Result<()> {
        let values = |bits: &[u32]| bits.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<_>>();
        let mut left = loss_sums;
        for (sums, _) in self.sums() {
            let (here, rest) = left.split_at_checked(sums.elements as usize).unwrap_or((left, &[]));
            self.gpu.write(sums, 0, &values(here))?;
            left = rest;
        }
        self.gpu.write(&self.status, 0, &values(status))?;
        self.state.load(&self.gpu, &self.layout, folder)?;
        if self.precision == Precision::F32 {
            return Ok(());
        }
        // On the GPU, as after an update: a resumed run has the same bits.
        let mut rec = Recording::new("weights in f16");
        refresh(&mut rec, &self.layout, self.precision)?;
        let mut externals = Externals::new();
        self.state.bind(&mut externals);
        let mut plan = Plan::new(&self.gpu, rec, &externals, &PlanOptions::default())?;
        plan.run(&[])?;
        plan.wait()
    }
}
