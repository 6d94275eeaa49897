//! The denoising loss by timestep bucket and in total, of a model or an ensemble, on images that training has not seen.
//! Called by `cli::eval` and the demo.

use crate::diffusion::denoising::{DenoisingLoss, Pair, Trial};
use crate::diffusion::summary::{StandardError, Summary};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::Slabs;
use serde::Serialize;
use std::ops::Range;

/// The pairs of a trial by timestep bucket: bucket b holds the pairs `pairs`.
#[derive(Debug, Clone)]
pub struct Buckets {
    pub timesteps: Vec<Range<usize>>,
    pub pairs: Vec<Range<usize>>,
}

impl Buckets {
    /// Of `stratified_pairs`: every bucket has as many pairs.
    pub fn even(timesteps: &[Range<usize>], pairs: usize) -> Self {
        let each = pairs / timesteps.len().max(1);
        Self { timesteps: timesteps.to_vec(), pairs: (0..timesteps.len()).map(|b| b * each..(b + 1) * each).collect() }
    }
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// First timestep, and one past the last.
    pub from: usize,
    pub to: usize,
    pub n: usize,
    pub loss: f64,
    pub standard_error: StandardError,
}

/// A line per bucket, and the total.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub buckets: Vec<Line>,
    pub total: Line,
}

fn line(timesteps: Range<usize>, values: &[f64], images: &[usize]) -> Line {
    let s = Summary::of(values, images);
    Line { from: timesteps.start, to: timesteps.end, n: s.n, loss: s.mean, standard_error: s.standard_error }
}

/// Sums up losses in the order of the trial's pairs. Buckets of equal width weigh equally in the total, as timesteps do
/// in training.
pub fn report(buckets: &Buckets, losses: &[f64], pairs: &[Pair]) -> Report {
    let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
    let lines = buckets.timesteps.iter().zip(&buckets.pairs);
    let lines = lines.map(|(t, pairs)| line(t.clone(), &losses[pairs.clone()], &images[pairs.clone()])).collect();
    let all = buckets.timesteps.first().map_or(0, |t| t.start)..buckets.timesteps.last().map_or(0, |t| t.end);
    Report { buckets: lines, total: line(all, losses, &images) }
}

/// Losses of a model or, with several sets, of an ensemble: consecutive pairs that share a set run together. `theta` is
/// what `loss` judges; sets are copied into it.
pub fn losses(
    gpu: &Gpu,
    loss: &mut DenoisingLoss,
    theta: &Slabs,
    sets: &[Slabs],
    choose: &dyn Fn(usize) -> usize,
    trial: &Trial,
    on_batch: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut out = Vec::with_capacity(trial.pairs.len());
    while out.len() < trial.pairs.len() {
        let first = out.len();
        let set = choose(trial.pairs[first].t);
        let same = trial.pairs[first..].iter().take_while(|p| choose(p.t) == set).count();
        sets[set].copy_to(gpu, theta)?;
        let part = loss.losses(trial, first..first + same, &mut |done| on_batch(first + done))?;
        out.extend(part);
    }
    Ok(out)
}
