//! What a run takes, from its recordings alone: memory on the GPU by what it is for, the largest binding, arithmetic; and how many
//! images of a micro-batch may therefore be on the GPU at once. Called by `training::run`, also for `--dry-run`.

use super::options::AtOnce;
use super::{GRID, Plan, Request};
use crate::cli::terminal::{grouped, say};
use crate::error::{Error, Result};
use crate::gpu::memory;
use crate::nn::{Net, Role};
use crate::recording::Recording;
use crate::shader::Precision;
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;
use crate::train::objective::Objective;
use crate::train::step::{self, Network};

const MIB: f64 = 1024.0 * 1024.0;

/// What a run has on the GPU, and what an update computes.
pub(super) struct Footprint {
    /// What, and its bytes.
    rows: Vec<(&'static str, u64)>,
    /// Bytes of the largest binding of a kernel.
    binding: u64,
    /// FLOPs of an update, and those of them that make activations again.
    flops: [u64; 2],
}

impl Footprint {
    pub fn total(&self) -> u64 {
        self.rows.iter().map(|(_, bytes)| bytes).sum()
    }

    /// One line for each kind of memory.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.rows.iter().map(|(what, bytes)| format!("  {what:<24} {:>10.1} MiB", *bytes as f64 / MIB))
    }
}

/// Images at once of held-out losses and sample grids, which are made beside the training: `most`, but of large images few, which
/// keep a GPU as busy.
pub(super) fn beside(most: u32, side: u32) -> u32 {
    const PIXELS: u32 = 16 * 64 * 64;
    if side <= 64 { most } else { most.min((PIXELS / (side * side)).max(1)) }
}

/// Bytes of the largest binding.
fn largest_binding(recording: &Recording) -> u64 {
    let tensors = recording.ops.iter().flat_map(|op| op.tensors());
    tensors.map(|(_, t)| recording.dtype(t).size(t.elements())).max().unwrap_or(0)
}

impl Plan<'_> {
    /// Settles how many images of a micro-batch are on the GPU at once: as asked, or as many as the bindings (if an adapter's
    /// limit is known) and `--memory` allow.
    ///
    /// # Errors
    /// `Usage` where what was asked for does not fit, or not even one image.
    pub(super) fn settle(&mut self, precision: Precision, binding: Option<u64>) -> Result<Footprint> {
        let (training, batch) = (self.request.training, self.settings.batch);
        let memory = training.memory.map(|gib| (gib * 1024.0 * MIB) as u64);
        let candidates: Vec<u32> = match training.at_once {
            AtOnce::Auto => (1..=batch).rev().filter(|n| batch.is_multiple_of(*n)).collect(),
            AtOnce::Images(n) => vec![n],
        };
        let mut refusal = None;
        for at_once in candidates {
            self.settings.at_once = at_once;
            let footprint = self.footprint(precision)?;
            let total = footprint.total();
            refusal = match (binding.filter(|most| footprint.binding > *most), memory.filter(|most| total > *most)) {
                (None, None) => return Ok(footprint),
                (Some(most), _) => Some(format!(
                    "bind {:.1} MiB in one kernel, and this adapter binds {:.1} MiB",
                    footprint.binding as f64 / MIB,
                    most as f64 / MIB
                )),
                (None, Some(most)) => Some(format!(
                    "take {:.0} MiB, and --memory allows {:.0} MiB",
                    total as f64 / MIB,
                    most as f64 / MIB
                )),
            };
        }
        let (n, side, why) = (self.settings.at_once, self.dataset.size(), refusal.unwrap_or_default());
        let message = format!("images of {side}x{side}, {n} at once, {why}");
        let hint = match training.at_once {
            AtOnce::Images(n) if n > 1 => "leave --at-once away: what fits is taken",
            _ if !training.recompute => "make activations again with --recompute, or halve them with --precision f16",
            _ => "halve activations with --precision f16, or take a GPU with more memory",
        };
        Err(Error::usage(message, hint))
    }

    /// With the settings as they are.
    fn footprint(&self, precision: Precision) -> Result<Footprint> {
        let Request { start, parts, .. } = &self.request;
        let (settings, layout, objective) = (&self.settings, &start.layout, &parts[0].1);
        let network = self.network(precision);
        let micro = step::micro(network, settings, objective)?.recording;
        let update = step::update(layout, settings, precision)?.recording;
        let kept = step::micro(Network { recompute: false, ..network }, settings, objective)?.recording;
        let slabs = layout.bytes(DType::F32);
        let mut rows = vec![("weights", slabs)];
        if precision == Precision::F16 {
            rows.push(("weights in f16", layout.bytes(DType::F16)));
        }
        rows.extend([("moving average", slabs), ("gradients", slabs), ("moments", 2 * slabs)]);
        if objective.needs_teacher() {
            rows.push(("teacher", layout.bytes(precision.stored())));
        }
        rows.push(("activations", memory::transient_bytes(&micro)? + memory::transient_bytes(&update)?));
        rows.push(("inputs and parameters", memory::host_bytes(&micro) + memory::host_bytes(&update)));
        // Held-out losses and sample grids have plans of their own.
        let others =
            [("held-out losses", settings.eval_every, settings.at_once), ("sample grids", settings.sample_every, GRID)];
        let mut binding = largest_binding(&micro);
        for (what, _, most) in others.into_iter().filter(|(_, every, _)| *every != 0) {
            let forward = self.forward(beside(most, self.dataset.size()), precision)?;
            rows.push((what, memory::plan_bytes(&forward)?));
            binding = binding.max(largest_binding(&forward));
        }
        // Checkpoints and models are read back slab by slab.
        rows.push(("reading back", memory::readback_bytes(4 * layout.slabs.iter().copied().max().unwrap_or(0))));
        let replays = settings.replays_per_update();
        let flops = micro.cost().flops * replays + update.cost().flops;
        let again = (micro.cost().flops - kept.cost().flops) * replays;
        Ok(Footprint { rows, binding, flops: [flops, again] })
    }

    /// `--dry-run`
    pub(super) fn estimate(&mut self) -> Result<()> {
        let footprint = self.settle(self.asked(), None)?;
        let Request { start, ranges, parts, .. } = &self.request;
        let (train, held_out) = (self.dataset.train_indices().len(), self.dataset.holdout_indices().len());
        let trained: Vec<String> = parts.iter().map(|(part, _)| part.to_string()).collect();
        say!("to train: {}; timestep ranges: {}", trained.join(", "), ranges.len())?;
        say!("images: {train} to train on, {held_out} held out")?;
        say!("parameters: {}", grouped(start.layout.count()))?;
        say!("memory on the GPU, {}:", self.at_once())?;
        footprint.lines().try_for_each(|line| say!("{line}"))?;
        say!("peak memory on the GPU: {:.1} MiB", footprint.total() as f64 / MIB)?;
        say!("largest binding: {:.1} MiB (every adapter has 128)", footprint.binding as f64 / MIB)?;
        let [flops, again] = footprint.flops.map(|flops| flops as f64 / 1e9);
        let note =
            if again > 0.0 { format!(", {again:.1} of them for making activations again") } else { String::new() };
        say!("arithmetic of an update: {flops:.1} GFLOP{note}")
    }

    /// The same in one line as a run starts, with --verbose in full.
    pub(super) fn announce(&self, footprint: &Footprint) {
        let global = self.request.global;
        let total = footprint.total() as f64 / MIB;
        global.note(format_args!("{total:.0} MiB of memory on the GPU, {}", self.at_once()));
        footprint.lines().for_each(|line| global.detail(format_args!("{line}")));
    }

    fn at_once(&self) -> String {
        let (batch, at_once) = (self.settings.batch, self.settings.at_once);
        let of = if at_once == batch { String::new() } else { format!(" of a micro-batch of {batch}") };
        let again = if self.request.training.recompute { ", activations made again" } else { "" };
        let images = if at_once == 1 { "image" } else { "images" };
        format!("{at_once} {images}{of} at once{again}")
    }

    /// What the plans will be in; auto counts as f32, which takes more memory.
    fn asked(&self) -> Precision {
        self.request.global.choice().precision.unwrap_or_default()
    }

    /// The student without a gradient.
    fn forward(&self, batch: u32, precision: Precision) -> Result<Recording> {
        let Network { config, layout, size: [h, w], student_projections, .. } = self.network(precision);
        let mut tape = Tape::new(Recording::new("forward").at(precision));
        let x = Shape::new([batch, h, w, padded_channels(config.in_channels)]);
        let x = tape.rec.input("x", x, DType::F32);
        let embedding = tape.rec.input("embedding", Shape::new([batch, config.block_out_channels[0]]), DType::F32);
        // The average runs here, which is f32.
        let mut net = Net { tape: &mut tape, layout, role: Role::Theta, stored: DType::F32, trained: false };
        config.forward(&mut net, &x, &embedding, student_projections, &mut |_, _| ())?;
        Ok(tape.rec.fused())
    }
}
