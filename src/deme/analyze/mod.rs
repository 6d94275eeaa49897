//! What the paper's figures show, measured on a base and its experts: gradients by timestep (fig. 1a, proposition 1), activations
//! (fig. 3), the loss around the base (fig. 4) and between the experts (fig. 7a), and the task vectors (fig. 7b, fig. 8).
//! Called by `deme analyze`.

pub mod activations;
pub mod directions;
pub mod gradients;
pub mod landscape;
pub mod store;
pub mod vectors;

use std::ops::Range;

use super::ranges::Ranges;
use crate::diffusion::denoising::{LossSpec, ReadImage};
use crate::diffusion::pretrained::Pretrained;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::projections::Placement;
use crate::model::unet::Projections;
use crate::nn::{Role, Slabs};

/// Hears of each batch that is done, how many images it had; its error stops the work.
pub type OnBatch<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// A base with its experts, and the images that they are judged on.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub gpu: &'a Gpu,
    pub base: &'a Pretrained,
    pub experts: &'a [Pretrained],
    /// Whose timesteps are whose.
    pub ranges: &'a Ranges,
    pub images: &'a [usize],
    pub image: ReadImage<'a>,
    pub side: u32,
    /// Images at once.
    pub batch: u32,
    pub seed: u64,
}

impl Subject<'_> {
    /// A tensor of model `i` in the file's layout: 0 is the base, then the experts.
    fn read(&self, i: usize, name: &str) -> Result<Vec<f32>> {
        if i == 0 { self.base.read(name) } else { self.experts[i - 1].read(name) }
    }

    /// What is judged in batches, of which no part has more than `most` images.
    fn spec(&self, most: usize) -> LossSpec {
        let projections = if self.base.placement == Placement::None { Projections::Skip } else { Projections::Run };
        LossSpec { batch: self.batch.min(most as u32), sides: [self.side; 2], projections }
    }

    /// The weights of model `i` in f32.
    fn load(&self, i: usize) -> Result<Slabs> {
        let slabs = Slabs::new(self.gpu, &self.base.layout, Role::Theta)?;
        slabs.fill(self.gpu, &self.base.layout, |name| self.read(i, name))?;
        Ok(slabs)
    }

    /// The ranges as a loss's pairs take them.
    fn buckets(&self) -> Vec<Range<usize>> {
        self.ranges.iter().map(|r| r.start as usize..r.end as usize).collect()
    }
}
