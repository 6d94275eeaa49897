//! A replay that is timed, as a whole or op by op: with the adapter's timestamps, or else by waiting for each.
//! Called by `bench`.

use super::device::Gpu;
use super::plan::Plan;
use crate::error::Result;
use crate::recording::Tensor;
use std::ops::Range;
use std::time::Instant;

/// Which timestamps a replay writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    None,
    /// Before the first and after the last op.
    Whole,
    /// Before and after each op, which then has a pass of its own.
    Each,
}

/// Ops that one query set holds (two timestamps an op).
const OPS_PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
/// Bytes of an op's two timestamps.
const PAIR: u64 = 16;

/// The timestamps of a plan's ops.
pub(super) struct Clock {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    /// Seconds of a tick.
    tick: f64,
}

impl Clock {
    fn new(gpu: &Gpu, ops: usize) -> Result<Self> {
        let sets = ops.div_ceil(OPS_PER_SET).max(1);
        let descriptor = wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * OPS_PER_SET.min(ops.max(1)) as u32,
        };
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self {
            sets: gpu
                .scoped("timestamps", 0, || (0..sets).map(|_| gpu.device().create_query_set(&descriptor)).collect())?,
            resolved: gpu.create_buffer("timestamps", PAIR * (sets * OPS_PER_SET) as u64, usage)?,
            tick: f64::from(gpu.queue().get_timestamp_period()) * 1e-9,
        })
    }

    /// A pass that writes the first timestamp of op `begin` and the second of op `end`.
    fn pass(&self, begin: Option<usize>, end: Option<usize>) -> wgpu::ComputePassDescriptor<'_> {
        let set = begin.or(end).map(|op| &self.sets[op / OPS_PER_SET]);
        let index = |op: usize| 2 * (op % OPS_PER_SET) as u32;
        let timestamp_writes = set.map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: begin.map(index),
            end_of_pass_write_index: end.map(|op| index(op) + 1),
        });
        wgpu::ComputePassDescriptor { label: None, timestamp_writes }
    }

    /// Seconds of the first `ops` ops, waiting for everything submitted.
    fn read(&self, gpu: &Gpu, ops: usize, seconds: f64) -> Result<Vec<f64>> {
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (i, set) in self.sets.iter().enumerate() {
            let first = i * OPS_PER_SET;
            let queries = 2 * ops.saturating_sub(first).min(OPS_PER_SET) as u32;
            if queries > 0 {
                encoder.resolve_query_set(set, 0..queries, &self.resolved, PAIR * first as u64);
            }
        }
        gpu.queue().submit([encoder.finish()]);
        let bytes = gpu.read_bytes(&self.resolved, 0, PAIR * ops as u64, seconds)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        Ok(ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * self.tick).collect())
    }
}

impl Plan {
    /// Puts these ops into one pass, or into one each.
    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder, ops: Range<usize>, marks: Marks) {
        let last = self.dispatches.len();
        let mut into = |descriptor: &wgpu::ComputePassDescriptor, ops: Range<usize>| {
            let mut pass = encoder.begin_compute_pass(descriptor);
            self.dispatches[ops].iter().for_each(|d| d.encode(&mut pass));
        };
        match (&self.clock, marks) {
            (Some(clock), Marks::Each) => ops.for_each(|i| into(&clock.pass(Some(i), Some(i)), i..i + 1)),
            (Some(clock), Marks::Whole) => {
                let (begin, end) = ((ops.start == 0).then_some(0), (ops.end == last).then_some(0));
                into(&clock.pass(begin, end), ops);
            }
            _ => into(&wgpu::ComputePassDescriptor::default(), ops),
        }
    }

    fn with_clock(&mut self, marks: Marks, ops: usize) -> Result<Vec<f64>> {
        if self.clock.is_none() {
            self.clock = Some(Clock::new(&self.gpu, self.dispatches.len())?);
        }
        self.submit(0..self.dispatches.len(), marks)?;
        self.wait()?;
        match &self.clock {
            Some(clock) => clock.read(&self.gpu, ops, self.seconds),
            None => Ok(Vec::new()),
        }
    }

    /// Replays the recording; seconds from its first op's start to its last one's end by the adapter's clock, or, where
    /// it has none, from the submission to the end of the wait.
    pub fn timed(&mut self, inputs: &[(Tensor, &[u32])]) -> Result<f64> {
        self.take(inputs)?;
        if self.gpu.has_timestamps() {
            return Ok(self.with_clock(Marks::Whole, 1)?.iter().sum());
        }
        self.waited(0..self.dispatches.len())
    }

    /// Replays the recording; seconds of each op, in order. Without timestamps each op is submitted alone and waited for,
    /// which adds the submission's own time.
    pub fn profile(&mut self, inputs: &[(Tensor, &[u32])]) -> Result<Vec<f64>> {
        self.take(inputs)?;
        let ops = self.dispatches.len();
        if self.gpu.has_timestamps() {
            return self.with_clock(Marks::Each, ops);
        }
        (0..ops).map(|i| self.waited(i..i + 1)).collect()
    }

    fn waited(&mut self, ops: Range<usize>) -> Result<f64> {
        let start = Instant::now();
        self.submit(ops, Marks::None)?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }
}
