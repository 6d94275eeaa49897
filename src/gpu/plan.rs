//! Recording -> dispatches for this adapter: variants chosen, storage shared by lifetime, pipelines and bind groups made
//! once; `run` replays them without creating anything.
//! Called by `train`, `deme`, `eval`, `cli` and the tests.

use super::device::Gpu;
use super::memory::{self, Memory, PARAMS_STRIDE};
use super::pipeline::{self, Pipeline};
use super::profile::{Clock, Marks};
use super::staging::Staging;
use super::storage::{self, Storage};
use super::tuning::Tuning;
use crate::error::{Error, Result};
use crate::recording::{BufferId, Op, Recording, Role, Tensor, ZERO_ELEMENTS, ZERO_KEY, cost::Cost};
use crate::shader::{Candidate, Class, Tiling, Variant, Windows};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Storage of external buffers, by key.
pub type Externals = HashMap<String, Storage>;

/// How to lower a recording.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Keep the run-time checks in the shaders: tests do, release does not.
    pub checked: bool,
    /// Take the variants called so after their word (`v1`, `tiled`, `subgroup`) where there is one that fits.
    pub variant: Option<String>,
    /// With `variant`: in the tiling of this name, where there is one.
    pub tiling: Option<String>,
}

/// A submission on a GPU stays near this much work: 0.5 s at 200 GFLOP/s (the Windows watchdog resets at 2 s).
const SUBMISSION_FLOPS: u64 = 100_000_000_000;

pub(super) struct Dispatch {
    pipeline: Arc<Pipeline>,
    /// One a pass: more than one where a binding is taken in windows.
    bind_groups: Vec<wgpu::BindGroup>,
    grid: [u32; 3],
    stem: &'static str,
}

impl Dispatch {
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline.pipeline);
        for bind_group in &self.bind_groups {
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
        }
    }
}

/// A recording made ready for one adapter.
pub struct Plan {
    pub(super) gpu: Gpu,
    recording: Recording,
    memory: Memory,
    slots: Vec<Storage>,
    externals: Externals,
    /// All inputs, packed; `input_at` is in words.
    step: Storage,
    input_at: HashMap<BufferId, u64>,
    words: Vec<u32>,
    staging: Staging,
    pub(super) dispatches: Vec<Dispatch>,
    submissions: Vec<Range<usize>>,
    pub(super) seconds: f64,
    last: Option<wgpu::SubmissionIndex>,
    pub(super) clock: Option<Clock>,
}

/// How long this work may take before a wait gives up: far above any adapter that is worth using. CPU rasterisers compile a
/// kernel at its first dispatch, some for half a minute where other programs have the cores.
fn deadline(class: Class, cost: Cost) -> f64 {
    let (least, flops, bytes) = match class {
        Class::Cpu => (150.0, 0.1e9, 0.1e9),
        Class::Gpu | Class::Any => (30.0, 10e9, 1e9),
    };
    least + cost.flops as f64 / flops + cost.bytes as f64 / bytes
}

/// Folds a number of workgroups into a grid within `most` a dimension.
fn fold(groups: u64, most: u32) -> Option<[u32; 3]> {
    let x = groups.min(u64::from(most));
    let y = groups.div_ceil(x.max(1));
    (y <= u64::from(most)).then_some([x as u32, y as u32, 1])
}

/// The variant and tiling of an op: those that the options name, else the tuned, else the default.
fn choose(gpu: &Gpu, op: &Op, options: &PlanOptions, tuned: &Tuning) -> Result<Candidate> {
    let (card, params, limits) = (op.card, &op.params, gpu.limits());
    let forced = options.variant.as_deref().and_then(|suffix| {
        let named = |v: &&Variant| v.stem.strip_prefix(card.word).and_then(|s| s.strip_prefix('_')) == Some(suffix);
        card.variants.iter().filter(named).find(|v| (v.fits)(params, &limits))
    });
    if let Some(variant) = forced {
        let tilings = card.tilings(variant, params, op.half);
        let named = tilings.iter().position(|tiling| options.tiling.as_ref() == Some(&tiling.name));
        if let Some(tiling) = tilings.into_iter().nth(named.unwrap_or(0)) {
            return Ok((variant, tiling));
        }
    }
    tuned
        .find(gpu, op)
        .or_else(|| gpu.default(op))
        .ok_or_else(|| Error::shape(card.word, "no variant fits this adapter's limits"))
}

/// Cuts the ops into submissions that a GPU's watchdog tolerates; a CPU has none.
fn split(recording: &Recording, class: Class) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut flops) = (0, 0);
    for (i, op) in recording.ops.iter().enumerate() {
        let cost = op.cost().flops;
        if class != Class::Cpu && i > start && flops + cost > SUBMISSION_FLOPS {
            ranges.push(start..i);
            (start, flops) = (i, 0);
        }
        flops += cost;
    }
    ranges.push(start..recording.ops.len());
    ranges
}

/// The params of every pass of every op, each in its slot; after those of a pass over a window, the window's number.
fn arena<'a>(recording: &Recording, windows: impl Iterator<Item = &'a Option<Windows>>) -> Vec<u32> {
    let mut words = Vec::new();
    for (op, windows) in recording.ops.iter().zip(windows) {
        for number in 0..windows.as_ref().map_or(1, |w| w.starts.len() as u32) {
            let end = words.len() + PARAMS_STRIDE as usize / 4;
            words.extend(&op.params);
            words.push(number);
            words.resize(end, 0);
        }
    }
    words
}

/// Moves a bound range `by` bytes on, and gives it another size.
fn shift(entry: &mut wgpu::BindGroupEntry, by: u64, size: Option<u64>) {
    if let wgpu::BindingResource::Buffer(range) = &mut entry.resource {
        range.offset += by;
        range.size = size.and_then(std::num::NonZero::new).or(range.size);
    }
}

impl Plan {
    /// Lowers a recording. Every external key must be in `externals`, large enough.
    pub fn new(gpu: &Gpu, recording: Recording, externals: &Externals, options: &PlanOptions) -> Result<Self> {
        gpu.check_elements(&recording)?;
        // First, so that its scratch storage is gone before the plan's own is made.
        let tuned = if options.variant.is_some() { Tuning::default() } else { gpu.tuned(&recording)? };
        let memory = memory::assign(&recording)?;
        let slots = (0..)
            .zip(&memory.slots)
            .map(|(i, &bytes)| gpu.storage(&format!("{}: activations {i}", recording.name), bytes / 4))
            .collect::<Result<Vec<_>>>()?;
        let (input_at, words) = memory::inputs(&recording);
        let mut externals = externals.clone();
        externals.insert(ZERO_KEY.to_string(), gpu.storage(ZERO_KEY, ZERO_ELEMENTS)?);
        let mut plan = Self {
            gpu: gpu.clone(),
            step: gpu.storage(&format!("{}: step", recording.name), words)?,
            staging: Staging::new(gpu, 4 * words)?,
            words: vec![0; words as usize],
            submissions: split(&recording, gpu.class()),
            seconds: deadline(gpu.class(), recording.cost()),
            memory,
            slots,
            externals,
            input_at,
            dispatches: Vec::new(),
            last: None,
            clock: None,
            recording,
        };
        plan.lower(options, &tuned)?;
        Ok(plan)
    }

    /// The storage behind a tensor and the tensor's place in it, in bytes.
    fn place(&self, tensor: &Tensor) -> Result<(&Storage, u64)> {
        let id = tensor.buffer.0 as usize;
        let b = &self.recording.buffers[id];
        let (storage, base) = match &b.role {
            Role::Input => (Some(&self.step), self.input_at.get(&tensor.buffer).copied().unwrap_or(0)),
            Role::Transient => (self.memory.slot_of[id].map(|slot| &self.slots[slot]), 0),
            Role::External(key) => (self.externals.get(key).filter(|s| s.holds(b)), 0),
        };
        match storage {
            Some(s) => Ok((s, b.dtype.bytes() * (base + tensor.offset))),
            None => {
                let what = format!("{} has no storage of {} elements of {:?}", b.label, b.elements, b.dtype);
                Err(Error::shape("plan", what))
            }
        }
    }

    fn lower(&mut self, options: &PlanOptions, tuned: &Tuning) -> Result<()> {
        let gpu = self.gpu.clone();
        let chosen = self.recording.ops.iter().map(|op| choose(&gpu, op, options, tuned));
        let chosen = chosen.collect::<Result<Vec<_>>>()?;
        let arena = arena(&self.recording, chosen.iter().map(|(_, tiling)| &tiling.windows));
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let arena_bytes = (4 * arena.len() as u64).max(PARAMS_STRIDE);
        let arena_buffer = gpu.create_buffer("params", arena_bytes, usage)?;
        gpu.queue().write_buffer(&arena_buffer, 0, bytemuck::cast_slice(&arena));
        let mut slot = 0;
        for (op, (variant, Tiling { constants, groups, windows, .. })) in self.recording.ops.iter().zip(chosen) {
            let constants = variant.text(constants, &gpu.limits());
            let windowed = windows.as_ref().map(|w| w.binding);
            let made = pipeline::pipeline(&gpu, op.card, variant, (constants, op.half), windowed, options.checked)?;
            let grid = fold(groups, gpu.wgpu_limits().max_compute_workgroups_per_dimension)
                .filter(|_| groups > 0)
                .ok_or_else(|| Error::shape(op.card.word, format!("{groups} workgroups in {}", op.label())))?;
            let mut entries = vec![wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &arena_buffer,
                    offset: 0,
                    size: std::num::NonZero::new(4 * (op.params.len() + usize::from(windows.is_some())) as u64),
                }),
            }];
            for (binding, (_, tensor)) in (1..).zip(op.tensors()) {
                let (storage, offset) = self.place(tensor)?;
                let bytes = self.recording.dtype(tensor).size(tensor.elements());
                let most = gpu.wgpu_limits().max_storage_buffer_binding_size;
                if bytes > most {
                    let what = format!("{}, above this adapter's largest binding of {most}", op.label());
                    let adapter = gpu.summary().name.clone();
                    return Err(Error::OutOfMemory { adapter, what, needed: bytes });
                }
                entries.push(wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &storage.buffer,
                        offset,
                        size: std::num::NonZero::new(bytes),
                    }),
                });
            }
            let label = op.label();
            let starts = windows.as_ref().map_or(vec![0], |w| w.starts.clone());
            let mut bind_groups = Vec::new();
            for start in starts {
                let mut entries = entries.clone();
                shift(&mut entries[0], slot * PARAMS_STRIDE, None);
                if let Some(w) = &windows {
                    shift(&mut entries[1 + w.binding], 4 * start, Some(4 * w.elements));
                }
                let layout = &made.layout;
                let descriptor = wgpu::BindGroupDescriptor { label: Some(&label), layout, entries: &entries };
                bind_groups.push(gpu.scoped(&label, 0, || gpu.device().create_bind_group(&descriptor))?);
                slot += 1;
            }
            self.dispatches.push(Dispatch { pipeline: made, bind_groups, grid, stem: variant.stem });
        }
        Ok(())
    }

    /// Bytes of activations, inputs with their staging, and params of ops; external storage is counted by its owner.
    pub fn own_bytes(&self) -> Result<u64> {
        memory::plan_bytes(&self.recording)
    }

    /// (kernel variant, number of dispatches), in the order of first use: what the tuning chose.
    pub fn variants(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for stem in self.stems() {
            match counts.iter_mut().find(|(known, _)| *known == stem) {
                Some((_, n)) => *n += 1,
                None => counts.push((stem, 1)),
            }
        }
        counts
    }

    /// Dispatches of a replay.
    pub fn dispatches(&self) -> usize {
        self.dispatches.iter().map(|d| d.bind_groups.len()).sum()
    }

    /// The kernel variant of each op, in order.
    pub fn stems(&self) -> impl Iterator<Item = &'static str> {
        self.dispatches.iter().map(|d| d.stem)
    }

    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Replays the recording with these inputs (words of u32, or bits of f32). Inputs not given keep their last value.
    /// Returns once the work is submitted.
    pub fn run(&mut self, inputs: &[(Tensor, &[u32])]) -> Result<()> {
        self.take(inputs)?;
        self.submit(0..self.dispatches.len(), Marks::None)
    }

    /// Keeps the words of inputs for the next submission.
    pub(super) fn take(&mut self, inputs: &[(Tensor, &[u32])]) -> Result<()> {
        for (tensor, values) in inputs {
            let known = self.input_at.get(&tensor.buffer).filter(|_| values.len() as u64 == tensor.elements());
            let Some(&at) = known else {
                let label = &self.recording.buffers[tensor.buffer.0 as usize].label;
                return Err(Error::shape("run", format!("{label}: {} words for {}", values.len(), tensor.shape)));
            };
            let at = (at + tensor.offset) as usize;
            self.words[at..at + values.len()].copy_from_slice(values);
        }
        Ok(())
    }

    /// Submits these ops, the inputs before them.
    pub(super) fn submit(&mut self, ops: Range<usize>, marks: Marks) -> Result<()> {
        let staged = self.staging.fill(&self.gpu, &self.words, self.seconds)?.clone();
        let mut first = true;
        let mut index = None;
        for range in &self.submissions {
            let part = range.start.max(ops.start)..range.end.min(ops.end);
            let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            if std::mem::take(&mut first) {
                encoder.copy_buffer_to_buffer(&staged, 0, &self.step.buffer, 0, None);
            } else if part.is_empty() {
                continue;
            }
            self.encode(&mut encoder, part, marks);
            index = Some(self.gpu.queue().submit([encoder.finish()]));
        }
        if let Some(index) = index {
            self.gpu.submitted(self.seconds);
            self.staging.submitted(index.clone());
            self.last = Some(index);
        }
        self.gpu.check(&self.recording.name)
    }

    /// Waits for the last replay.
    pub fn wait(&mut self) -> Result<()> {
        match self.last.take() {
            Some(index) => self.gpu.wait_for(&index, self.seconds, &self.recording.name),
            None => Ok(()),
        }
    }

    /// A kept tensor, or external storage, after the last replay.
    pub fn read(&mut self, tensor: &Tensor) -> Result<Vec<f32>> {
        let b = &self.recording.buffers[tensor.buffer.0 as usize];
        if b.role == Role::Transient && !b.keep {
            return Err(Error::shape("read", format!("{} is not kept: others may have used its storage", b.label)));
        }
        let dtype = b.dtype;
        let (storage, at) = self.place(tensor)?;
        let bytes = self.gpu.read_bytes(&storage.buffer, at, dtype.size(tensor.elements()), self.seconds)?;
        Ok(storage::values(&bytes, dtype, tensor.elements()))
    }

    /// Bisecting: puts the CPU's values of everything alive at op `k` on the GPU and runs the ops from k on.
    pub fn run_from(
        &mut self,
        k: usize,
        inputs: &[(Tensor, &[u32])],
        value: impl Fn(BufferId) -> Vec<f32>,
    ) -> Result<()> {
        self.take(inputs)?;
        for (i, lifetime) in self.memory.lifetime.iter().enumerate() {
            if let (Some((first, last)), Some(slot)) = (lifetime, self.memory.slot_of[i])
                && *first < k
                && k <= *last
            {
                let b = &self.recording.buffers[i];
                let shared = Storage { elements: b.elements, dtype: b.dtype, ..self.slots[slot].clone() };
                self.gpu.write(&shared, 0, &value(BufferId(i as u32)))?;
            }
        }
        for (i, b) in (0..).zip(&self.recording.buffers) {
            if let Role::External(key) = &b.role
                && let Some(storage) = self.externals.get(key)
            {
                self.gpu.write(storage, 0, &value(BufferId(i)))?;
            }
        }
        self.submit(k..self.dispatches.len(), Marks::None)
    }
}
