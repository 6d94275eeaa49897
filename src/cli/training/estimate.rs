//! `--dry-run`: parameters, memory and arithmetic of the run, from the recordings alone; no GPU is opened.
//! Called by `training::run`.

use super::{GRID, Plan, Request};
use crate::cli::terminal::{bytes, grouped, say};
use crate::error::Result;
use crate::gpu::memory;
use crate::nn::{Net, Role};
use crate::recording::Recording;
use crate::shader::Precision;
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;
use crate::train::objective::Objective;
use crate::train::state;
use crate::train::step::{self, Network};

impl Plan<'_> {
    pub fn estimate(&self) -> Result<()> {
        let Request { start, ranges, parts, .. } = &self.request;
        let objective = &parts[0].1;
        let micro = step::micro(self.network(self.asked()), &self.settings, objective)?.recording;
        let update = step::update(&start.layout, &self.settings, self.asked())?.recording;
        let teacher = objective.needs_teacher();
        let slabs = state::bytes(&start.layout, teacher, self.asked());
        let mut run = memory::plan_bytes(&micro)? + memory::plan_bytes(&update)?;
        // Held-out losses and sample grids have plans of their own.
        for (every, batch) in [(self.settings.eval_every, self.settings.batch), (self.settings.sample_every, GRID)] {
            if every != 0 {
                run += memory::plan_bytes(&self.forward(batch)?)?;
            }
        }
        // Checkpoints and experts are read back slab by slab.
        let readback = memory::readback_bytes(4 * start.layout.slabs.iter().copied().max().unwrap_or(0));
        let flops = micro.cost().flops * u64::from(self.settings.accumulate) + update.cost().flops;
        let (train, held_out) = (self.dataset.train_indices().len(), self.dataset.holdout_indices().len());
        let trained: Vec<String> = parts.iter().map(|(part, _)| part.to_string()).collect();
        say!("to train: {}; timestep ranges: {}", trained.join(", "), ranges.len())?;
        say!("images: {train} to train on, {held_out} held out")?;
        say!("parameters: {}", grouped(start.layout.count()))?;
        let copy = if self.asked() == Precision::F16 { ", weights in f16" } else { "" };
        let teacher = if teacher { ", teacher" } else { "" };
        say!("weights, average, gradients, moments{copy}{teacher}: {}", bytes(slabs))?;
        say!("activations and inputs, micro-batches of {}: {}", self.settings.batch, bytes(run))?;
        say!("reading back: {}", bytes(readback))?;
        say!("peak memory on the GPU: {}", bytes(slabs + run + readback))?;
        say!("arithmetic of an update: {:.1} GFLOP", flops as f64 / 1e9)
    }

    /// What the plans will be in; auto counts as f32, which takes more memory.
    fn asked(&self) -> Precision {
        self.request.global.choice().precision.unwrap_or_default()
    }

    /// The student without a gradient.
    fn forward(&self, batch: u32) -> Result<Recording> {
        let Network { config, layout, size: [h, w], student_projections, precision, .. } = self.network(self.asked());
        let mut tape = Tape::new(Recording::new("forward").at(precision));
        let x = Shape::new([batch, h, w, padded_channels(config.in_channels)]);
        let x = tape.rec.input("x", x, DType::F32);
        let embedding = tape.rec.input("embedding", Shape::new([batch, config.block_out_channels[0]]), DType::F32);
        // The average runs here, which is f32.
        let mut net = Net { tape: &mut tape, layout, role: Role::Theta, stored: DType::F32, trained: false };
        config.forward(&mut net, &x, &embedding, student_projections, &mut |_, _| ())?;
        Ok(tape.rec)
    }
}
