//! The denoising loss of given weights on given (image, timestep) pairs, per pair, with noise that is a function of the
//! pair's number; and its gradient by the weights. Called by `train` (held-out loss), `eval`, `deme::judge` and
//! `deme::analyze` (common random numbers).

use super::embedding::timestep_embedding;
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions};
use crate::kernels::{loss, noise};
use crate::model::config::UNetConfig;
use crate::model::unet::Projections;
use crate::nn::{Net, ParamLayout, Role, Slabs};
use crate::recording::{Recording, Tensor};
use crate::rng::{self, Purpose};
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;
use std::ops::Range;

/// Writes image `index` into [H, W, padded C], values in [-1, 1].
pub type ReadImage<'a> = &'a dyn Fn(usize, &mut [f32]);

/// An image seen at a timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    pub image: usize,
    pub t: usize,
}

/// What models are compared on: pair k has the noise of image number k of (seed, stream), whoever is judged.
#[derive(Clone, Copy)]
pub struct Trial<'a> {
    pub pairs: &'a [Pair],
    pub image: ReadImage<'a>,
    pub seed: u64,
    pub stream: u64,
}

/// Every image `repeats` times in each of the timestep ranges `buckets`, range by range; timesteps are uniform within the
/// range, a function of (seed, range, pair).
pub fn stratified_pairs(images: &[usize], buckets: &[Range<usize>], repeats: usize, seed: u64) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(images.len() * buckets.len() * repeats);
    for (b, bucket) in (0..).zip(buckets) {
        let draws = images.iter().copied().cycle().take(images.len() * repeats);
        pairs.extend((0..).zip(draws).map(|(k, image)| {
            let draw = rng::below(seed, rng::stream(Purpose::EvalTimestep, b), k, bucket.len() as u64);
            Pair { image, t: bucket.start + draw as usize }
        }));
    }
    pairs
}

/// x_0, noise and coefficients of a batch of a denoising problem, as a recording reads them. Shared with training.
pub struct NoisingInputs {
    /// [N, H, W, padded C]
    pub x_0: Tensor,
    pub noise_key: Tensor,
    /// [N, 4]: x_t = a x_0 + b noise, target = c x_0 + d noise.
    pub coefficients: Tensor,
    /// [N, block_out_channels[0]]
    pub embedding: Tensor,
}

/// What noising gives.
pub struct Noised {
    pub x_t: Tensor,
    pub target: Tensor,
}

impl NoisingInputs {
    pub fn new(rec: &mut Recording, config: &UNetConfig, batch: u32, [h, w]: [u32; 2]) -> Self {
        let stored = padded_channels(config.in_channels);
        Self {
            x_0: rec.input("x_0", Shape::new([batch, h, w, stored]), DType::F32),
            noise_key: rec.input("noise key", Shape::new([noise::KEY_WORDS]), DType::U32),
            coefficients: rec.input("noising coefficients", Shape::new([batch, 4]), DType::F32),
            embedding: rec.input("embedding", Shape::new([batch, config.block_out_channels[0]]), DType::F32),
        }
    }

    /// Records noise and q(x_t | x_0).
    pub fn noised(&self, rec: &mut Recording, config: &UNetConfig) -> Result<Noised> {
        let noise = noise::noise(rec, &self.noise_key, self.x_0.shape, config.in_channels)?;
        let (x_t, target) = noise::q_sample(rec, &self.x_0, &noise, &self.coefficients, config.in_channels)?;
        Ok(Noised { x_t, target })
    }
}

/// The words of `coefficients` for these timesteps.
pub fn coefficient_words(schedule: &Schedule, timesteps: &[usize]) -> Vec<u32> {
    let row = |&t: &usize| {
        let ((a, b), (noise, x_0)) = (schedule.noising(t), schedule.target(t));
        [a, b, x_0, noise].map(|v| (v as f32).to_bits())
    };
    timesteps.iter().flat_map(row).collect()
}

/// The words of `embedding` for these timesteps.
pub fn embedding_words(config: &UNetConfig, timesteps: &[usize]) -> Result<Vec<u32>> {
    let width = config.block_out_channels[0] as usize;
    let mut words = Vec::with_capacity(timesteps.len() * width);
    for &t in timesteps {
        let row = timestep_embedding(t, width, config.flip_sin_to_cos, config.freq_shift)?;
        words.extend(row.into_iter().map(f32::to_bits));
    }
    Ok(words)
}

/// The shape of what is judged.
#[derive(Debug, Clone, Copy)]
pub struct LossSpec {
    pub batch: u32,
    /// Height and width.
    pub sides: [u32; 2],
    pub projections: Projections,
}

/// A UNet made ready to be judged, batch by batch.
pub struct DenoisingLoss {
    config: UNetConfig,
    schedule: Schedule,
    plan: Plan,
    inputs: NoisingInputs,
    losses: Tensor,
    seeds: Option<Seeds>,
    /// Outputs of the network's parts, where they are kept, by name: [N, H, W, C].
    parts: Vec<(String, Tensor)>,
    batch: usize,
}

/// What the backward pass starts from, [N] each.
struct Seeds {
    /// Of the pairs in the losses: all 1.
    weights: Tensor,
    /// dL/d losses: 1 / pairs, L being the mean over all pairs, or 0.
    dlosses: Tensor,
}

impl DenoisingLoss {
    /// `theta` is judged as it is when `losses` runs: a search overwrites it between calls.
    pub fn new(
        gpu: &Gpu,
        config: &UNetConfig,
        schedule: &Schedule,
        layout: &ParamLayout,
        theta: &Slabs,
        spec: LossSpec,
    ) -> Result<Self> {
        let tape = Tape::new(Recording::new("denoising loss").at(gpu.precision()));
        Self::of(gpu, config, schedule, layout, (theta, None), spec, (tape, false))
    }

    /// The same, and the outputs of the network's parts can be read after each batch.
    pub fn with_parts(
        gpu: &Gpu,
        config: &UNetConfig,
        schedule: &Schedule,
        layout: &ParamLayout,
        theta: &Slabs,
        spec: LossSpec,
    ) -> Result<Self> {
        let tape = Tape::new(Recording::new("denoising loss with parts").at(gpu.precision()));
        Self::of(gpu, config, schedule, layout, (theta, None), spec, (tape, true))
    }

    /// The same with gradients, always in f32: each call of `losses` adds those of the mean over its pairs to `gradient`.
    pub fn with_gradient(
        gpu: &Gpu,
        config: &UNetConfig,
        schedule: &Schedule,
        layout: &ParamLayout,
        (theta, gradient): (&Slabs, &Slabs),
        spec: LossSpec,
    ) -> Result<Self> {
        let tape = Tape::new(Recording::new("denoising gradient"));
        Self::of(gpu, config, schedule, layout, (theta, Some(gradient)), spec, (tape, false))
    }

    fn of(
        gpu: &Gpu,
        config: &UNetConfig,
        schedule: &Schedule,
        layout: &ParamLayout,
        (theta, gradient): (&Slabs, Option<&Slabs>),
        spec: LossSpec,
        (mut tape, keep_parts): (Tape, bool),
    ) -> Result<Self> {
        let inputs = NoisingInputs::new(&mut tape.rec, config, spec.batch, spec.sides);
        let noised = inputs.noised(&mut tape.rec, config)?;
        let mut net =
            Net { tape: &mut tape, layout, role: Role::Theta, stored: theta.stored, trained: gradient.is_some() };
        let mut parts = Vec::new();
        let mut trace = |name: &str, x: &Tensor| {
            if keep_parts {
                parts.push((name.to_owned(), *x));
            }
        };
        let output = config.forward(&mut net, &noised.x_t, &inputs.embedding, spec.projections, &mut trace)?;
        let mut externals = Externals::new();
        theta.bind_as(Role::Theta, &mut externals);
        let (mut rec, losses, seeds) = match gradient {
            None => {
                let mut rec = tape.rec;
                let losses = loss::squared_error(&mut rec, &output, &noised.target, config.out_channels)?;
                (rec, losses, None)
            }
            Some(gradient) => {
                gradient.bind_as(Role::Gradient, &mut externals);
                let mut input = |label: &str| tape.rec.input(label, Shape::new([spec.batch]), DType::F32);
                let seeds = Seeds { weights: input("weights of the pairs"), dlosses: input("d losses") };
                let channels = config.out_channels;
                let losses = loss::weighted_mse(&mut tape, &output, &noised.target, &seeds.weights, channels)?;
                (tape.backward(&[(losses, seeds.dlosses)])?.0, losses, Some(seeds))
            }
        };
        rec.keep(&losses);
        parts.iter().for_each(|(_, x)| rec.keep(x));
        Ok(Self {
            plan: Plan::new(gpu, rec.fused(), &externals, &PlanOptions::default())?,
            config: config.clone(),
            schedule: schedule.clone(),
            inputs,
            losses,
            seeds,
            parts,
            batch: spec.batch as usize,
        })
    }

    /// Names and shapes [N, H, W, C] of the parts that are kept, in the order of the network.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.parts.iter().map(|(name, x)| (name.as_str(), x.shape))
    }

    /// The output of part number `i` in the last batch that `losses` ran, [N, H, W, C].
    pub fn part(&mut self, i: usize) -> Result<Vec<f32>> {
        self.plan.read(&self.parts[i].1)
    }

    /// Bytes of the plan's own buffers.
    pub fn own_bytes(&self) -> Result<u64> {
        self.plan.own_bytes()
    }

    /// Mean squared error of each pair of `range`. `on_batch` hears how many are done; its error stops the work.
    pub fn losses(
        &mut self,
        trial: &Trial,
        range: Range<usize>,
        on_batch: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let [_, h, w, stored] = self.inputs.x_0.shape.nhwc("denoising loss")?;
        let per_image = (h * w * stored) as usize;
        let blocks = noise::blocks_per_image(h, w, self.config.in_channels);
        let mut x_0 = vec![0f32; per_image * self.batch];
        let ones = vec![1f32.to_bits(); self.batch];
        let mut out = Vec::with_capacity(range.len());
        for first in range.clone().step_by(self.batch) {
            // The last batch is filled up with the last pair; those results are dropped.
            let at = |j: usize| trial.pairs[(first + j).min(range.end - 1)];
            for (j, pixels) in x_0.chunks_mut(per_image).enumerate() {
                (trial.image)(at(j).image, pixels);
            }
            let timesteps: Vec<usize> = (0..self.batch).map(|j| at(j).t).collect();
            let key = noise::key(trial.seed, trial.stream, first as u64 * blocks);
            let coefficients = coefficient_words(&self.schedule, &timesteps);
            let embedding = embedding_words(&self.config, &timesteps)?;
            let wanted = self.batch.min(range.end - first);
            let part = (1.0 / range.len() as f32).to_bits();
            let dlosses: Vec<u32> = (0..self.batch).map(|j| if j < wanted { part } else { 0 }).collect();
            let mut inputs: Vec<(Tensor, &[u32])> = vec![
                (self.inputs.x_0, bytemuck::cast_slice(&x_0)),
                (self.inputs.noise_key, &key),
                (self.inputs.coefficients, &coefficients),
                (self.inputs.embedding, &embedding),
            ];
            if let Some(seeds) = &self.seeds {
                inputs.extend([(seeds.weights, ones.as_slice()), (seeds.dlosses, dlosses.as_slice())]);
            }
            self.plan.run(&inputs)?;
            let losses = self.plan.read(&self.losses)?;
            out.extend(losses[..wanted].iter().map(|&l| f64::from(l)));
            on_batch(out.len())?;
        }
        match out.iter().position(|l| !l.is_finite()) {
            None => Ok(out),
            Some(k) => {
                let what = format!("the loss at t = {}", trial.pairs[range.start + k].t);
                Err(Error::NonFinite { what, step: 0 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_stratified_and_repeatable() {
        let pairs = stratified_pairs(&[9, 19, 29], &[0..250, 250..1000], 2, 7);
        assert_eq!(pairs.len(), 12);
        assert!(pairs[..6].iter().all(|p| p.t < 250) && pairs[6..].iter().all(|p| (250..1000).contains(&p.t)));
        assert_eq!(pairs[3].image, 9);
        assert_eq!(pairs, stratified_pairs(&[9, 19, 29], &[0..250, 250..1000], 2, 7));
        assert_ne!(pairs, stratified_pairs(&[9, 19, 29], &[0..250, 250..1000], 2, 8));
    }
}
