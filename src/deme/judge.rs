//! Judges merge weights on the GPU: base and experts stay there, each candidate is merged into theta in one pass and
//! run on the same pairs. Called by `cli::search` and the demo.

use crate::diffusion::denoising::{DenoisingLoss, Trial};
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions};
use crate::kernels::merge;
use crate::nn::params::{ParamLayout, SLAB_ELEMENTS};
use crate::nn::slabs::host_slab;
use crate::nn::{Role, Slabs};
use crate::recording::{Recording, Tensor};
use crate::shape::{DType, Shape};

/// Reads a tensor of model `i` in the file's layout; model 0 is the base, then the experts.
pub type ReadTensor<'a> = &'a dyn Fn(usize, &str) -> Result<Vec<f32>>;

/// Base and experts on the GPU, ready to be merged into theta.
pub struct Merger {
    plan: Plan,
    weights: Tensor,
}

impl Merger {
    /// Uploads the base and `experts` models, interleaved slab by slab; `theta` is where merged models go.
    pub fn new(gpu: &Gpu, layout: &ParamLayout, experts: u32, read: ReadTensor, theta: &Slabs) -> Result<Self> {
        let mut rec = Recording::new("merge");
        let weights = rec.input("w", Shape::new([experts]), DType::F32);
        let mut externals = Externals::new();
        theta.bind_as(Role::Theta, &mut externals);
        // All models of a piece are bound at once, so a piece is a slab's size in all.
        let piece = merge::piece(u64::from(experts) + 1, SLAB_ELEMENTS) as usize;
        for i in 0..layout.slabs.len() {
            let host: Vec<Vec<f32>> = (0..=experts as usize)
                .map(|model| host_slab(layout, i, &|name: &str| read(model, name)))
                .collect::<Result<_>>()?;
            let slab = layout.slab(&mut rec, Role::Theta, i);
            for first in (0..host[0].len()).step_by(piece) {
                let last = (first + piece).min(host[0].len());
                let parts: Vec<Vec<f32>> = host.iter().map(|model| model[first..last].to_vec()).collect();
                let interleaved = merge::interleave(&parts)?;
                let key = format!("interleaved.{i}.{first}");
                let storage = gpu.storage(&key, interleaved.len() as u64)?;
                gpu.write(&storage, 0, &interleaved)?;
                externals.insert(key.clone(), storage);
                let shape = Shape::new([interleaved.len() as u32]);
                let models = Tensor { buffer: rec.external(&key, shape.elements()), offset: 0, shape };
                let theta = Tensor { offset: first as u64, shape: Shape::new([(last - first) as u32]), ..slab };
                merge::merge_task_vectors(&mut rec, &models, &weights, &theta)?;
            }
        }
        Ok(Self { plan: Plan::new(gpu, rec, &externals, &PlanOptions::default())?, weights })
    }

    /// theta = theta_0 + sum w_i (theta_i - theta_0)
    pub fn merge(&mut self, w: &[f64]) -> Result<()> {
        if w.len() as u64 != self.weights.elements() {
            return Err(Error::shape("merge", format!("{} weights for {} experts", w.len(), self.weights.shape)));
        }
        let words: Vec<u32> = w.iter().map(|&w| (w as f32).to_bits()).collect();
        self.plan.run(&[(self.weights, &words)])
    }
}

/// Losses of the merged model with weights w, pair by pair.
pub fn judge(
    merger: &mut Merger,
    loss: &mut DenoisingLoss,
    trial: &Trial,
    w: &[f64],
    on_batch: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    merger.merge(w)?;
    loss.losses(trial, 0..trial.pairs.len(), on_batch)
}
