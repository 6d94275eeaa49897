//! Judges merge weights on the GPU: base and experts stay there, each candidate is merged into theta in one pass and
//! run on the same pairs; and the derivative of its loss by each weight, of which only the sums leave the GPU.
//! Called by `cli::search` and the demo.

use super::blocks::Per;
use super::search::Objective;
use crate::diffusion::denoising::{DenoisingLoss, Trial};
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions, Storage};
use crate::kernels::{merge, pointwise};
use crate::nn::params::{ParamLayout, SLAB_ELEMENTS};
use crate::nn::slabs::host_slab;
use crate::nn::{Role, Slabs};
use crate::recording::{ALIGN, Recording, Tensor};
use crate::shape::{DType, Shape};

/// Reads a tensor of model `i` in the file's layout; model 0 is the base, then the experts.
pub type ReadTensor<'a> = &'a dyn Fn(usize, &str) -> Result<Vec<f32>>;

/// Base and experts of a part of a block that can be bound at once, interleaved.
struct Piece {
    storage: Storage,
    key: String,
    slab: usize,
    first: u64,
    elements: u64,
    block: usize,
}

impl Piece {
    /// The interleaved models, in a recording.
    fn models(&self, rec: &mut Recording) -> Tensor {
        let shape = Shape::new([self.storage.elements as u32]);
        Tensor { buffer: rec.external(&self.key, shape.elements()), offset: 0, shape }
    }

    /// Its elements in a role's slabs.
    fn of(&self, rec: &mut Recording, layout: &ParamLayout, role: Role) -> Tensor {
        let slab = layout.slab(rec, role, self.slab);
        Tensor { offset: self.first, shape: Shape::new([self.elements as u32]), ..slab }
    }
}

/// Weights by block and expert, each block's at an aligned place.
#[derive(Clone, Copy)]
struct Matrix {
    blocks: usize,
    experts: usize,
}

impl Matrix {
    fn stride(self) -> usize {
        self.experts.next_multiple_of(ALIGN as usize)
    }

    fn shape(self) -> Shape {
        Shape::new([(self.blocks * self.stride()) as u32])
    }

    /// The weights of one block [experts].
    fn row(self, all: &Tensor, block: usize) -> Tensor {
        Tensor { offset: (block * self.stride()) as u64, shape: Shape::new([self.experts as u32]), ..*all }
    }
}

/// Base and experts on the GPU, ready to be merged into theta.
pub struct Merger {
    layout: ParamLayout,
    pieces: Vec<Piece>,
    matrix: Matrix,
    plan: Plan,
    weights: Tensor,
}

impl Merger {
    /// Uploads the base and `experts` models, interleaved piece by piece; `theta` is where merged models go.
    pub fn new(
        gpu: &Gpu,
        layout: &ParamLayout,
        experts: u32,
        per: Per,
        read: ReadTensor,
        theta: &Slabs,
    ) -> Result<Self> {
        // All models of a piece are bound at once, so a piece is a slab's size in all.
        let most = merge::piece(u64::from(experts) + 1, SLAB_ELEMENTS);
        let segments = per.segments(layout);
        let mut pieces = Vec::new();
        for slab in 0..layout.slabs.len() {
            let host: Vec<Vec<f32>> = (0..=experts as usize)
                .map(|model| host_slab(layout, slab, &|name: &str| read(model, name)))
                .collect::<Result<_>>()?;
            for segment in segments.iter().filter(|s| s.slab == slab) {
                for first in segment.elements.clone().step_by(most as usize) {
                    let last = (first + most).min(segment.elements.end);
                    let parts = host.iter().map(|model| model[first as usize..last as usize].to_vec());
                    let interleaved = merge::interleave(&parts.collect::<Vec<_>>())?;
                    let key = format!("interleaved.{slab}.{first}");
                    let storage = gpu.storage(&key, interleaved.len() as u64)?;
                    gpu.write(&storage, 0, &interleaved)?;
                    pieces.push(Piece { storage, key, slab, first, elements: last - first, block: segment.block });
                }
            }
        }
        let blocks = per.blocks(layout.params.iter().map(|p| p.name.as_str())).len();
        let matrix = Matrix { blocks, experts: experts as usize };
        let mut rec = Recording::new("merge");
        let weights = rec.input("w", matrix.shape(), DType::F32);
        let mut externals = Externals::new();
        theta.bind_as(Role::Theta, &mut externals);
        for piece in &pieces {
            externals.insert(piece.key.clone(), piece.storage.clone());
            let (models, theta) = (piece.models(&mut rec), piece.of(&mut rec, layout, Role::Theta));
            merge::merge_task_vectors(&mut rec, &models, &matrix.row(&weights, piece.block), &theta)?;
        }
        let plan = Plan::new(gpu, rec, &externals, &PlanOptions::default())?;
        Ok(Self { layout: layout.clone(), pieces, matrix, plan, weights })
    }

    /// theta = theta_0 + sum w_i (theta_i - theta_0), in each block with its own w: block by block, in each the experts'.
    pub fn merge(&mut self, w: &[f64]) -> Result<()> {
        let Matrix { blocks, experts } = self.matrix;
        if w.len() != blocks * experts {
            let message = format!("{} weights for {experts} experts and {blocks} blocks", w.len());
            return Err(Error::shape("merge", message));
        }
        let mut words = vec![0u32; blocks * self.matrix.stride()];
        for (row, w) in words.chunks_mut(self.matrix.stride()).zip(w.chunks(experts)) {
            row.iter_mut().zip(w).for_each(|(word, &w)| *word = (w as f32).to_bits());
        }
        self.plan.run(&[(self.weights, &words)])
    }

    /// The derivative by w of what has the gradient in `gradient`, ready to be taken again and again.
    pub fn derivative(&self, gpu: &Gpu, gradient: &Slabs) -> Result<Derivative> {
        let mut rec = Recording::new("derivative by the weights");
        let dots = rec.transient("dots", self.matrix.shape());
        pointwise::fill_zero(&mut rec, &dots)?;
        let mut externals = Externals::new();
        gradient.bind_as(Role::Gradient, &mut externals);
        for piece in &self.pieces {
            externals.insert(piece.key.clone(), piece.storage.clone());
            let (models, gradient) = (piece.models(&mut rec), piece.of(&mut rec, &self.layout, Role::Gradient));
            merge::task_vector_dots(&mut rec, &gradient, &models, &self.matrix.row(&dots, piece.block))?;
        }
        for i in 0..self.layout.slabs.len() {
            let slab = self.layout.slab(&mut rec, Role::Gradient, i);
            pointwise::fill_zero(&mut rec, &slab)?;
        }
        rec.keep(&dots);
        let plan = Plan::new(gpu, rec, &externals, &PlanOptions::default())?;
        Ok(Derivative { plan, dots, matrix: self.matrix })
    }
}

/// dL/dw_i = <dL/dtheta, theta_i - theta_0>, block by block.
pub struct Derivative {
    plan: Plan,
    dots: Tensor,
    matrix: Matrix,
}

impl Derivative {
    /// From the gradient that backward passes have added up, which then starts from zero again.
    fn take(&mut self) -> Result<Vec<f64>> {
        self.plan.run(&[])?;
        let dots = self.plan.read(&self.dots)?;
        let rows = dots.chunks(self.matrix.stride()).flat_map(|row| &row[..self.matrix.experts]);
        Ok(rows.map(|&dot| f64::from(dot)).collect())
    }
}

/// The denoising loss of merged models on the pairs of a trial.
pub struct MergedLoss<'a> {
    pub merger: &'a mut Merger,
    pub loss: &'a mut DenoisingLoss,
    /// Where `loss` makes gradients.
    pub derivative: Option<&'a mut Derivative>,
    pub trial: Trial<'a>,
}

impl Objective for MergedLoss<'_> {
    fn losses(&mut self, w: &[f64]) -> Result<Vec<f64>> {
        self.merger.merge(w)?;
        self.loss.losses(&self.trial, 0..self.trial.pairs.len(), &mut |_| Ok(()))
    }

    fn losses_and_gradient(&mut self, w: &[f64]) -> Result<(Vec<f64>, Vec<f64>)> {
        let losses = self.losses(w)?;
        let missing = || Error::shape("search", "the derivative by the weights was not planned".to_string());
        let gradient = self.derivative.as_mut().ok_or_else(missing)?.take()?;
        match gradient.iter().all(|g| g.is_finite()) {
            true => Ok((losses, gradient)),
            false => Err(Error::NonFinite { what: "the derivative of the loss by the weights".into(), step: 0 }),
        }
    }
}
