//! One op in all its candidates, on scratch storage: which is fastest among those that compute the same.
//! Called by `autotune`.

use std::time::Instant;

use super::device::Gpu;
use super::plan::{Externals, Plan, PlanOptions};
use super::storage::Storage;
use crate::error::{Error, Result};
use crate::recording::{Op, Recording, Tensor};
use crate::shader::Candidate;
use crate::shape::DType;

/// Scratch storage, which grows to what the largest op needs: one for each read, one for each output.
pub(super) struct Scratch {
    gpu: Gpu,
    reads: Vec<Storage>,
    outputs: Vec<Storage>,
}

/// What a contest found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// Index of the fastest that agrees with the default; 0 where none is faster beyond the noise.
    pub winner: usize,
    /// Those that do not agree.
    pub wrong: Vec<usize>,
}

/// A winner takes at most this part of the default's time: what lies between may be noise.
const MARGIN: f64 = 0.95;
/// One that takes this much longer than the fastest so far has lost.
const LOSING: f64 = 1.25;
/// Other tilings of a variant whose first takes this much longer than the fastest are not tried.
const HOPELESS: f64 = 2.0;
/// Rounds in which each candidate left runs once; then as many more for the default and the fastest alone.
const ROUNDS: usize = 3;
/// A run repeats the op until it is about this much arithmetic, at most so often.
const FLOPS: u64 = 200_000_000;
const REPEATS: u64 = 16;

/// The i-th value of scratch: multiples of 1/8 in [-1, 1]. Sums of products of such values are exact in f32, whatever
/// their order, so that a candidate that leaves out a term or takes another cannot hide behind roundings.
fn value(i: u32) -> f32 {
    let mixed = (i ^ 0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    ((mixed >> 16) % 17) as f32 / 8.0 - 1.0
}

/// Elements that are written or read at once: the buffer for reading back stays small.
const PIECE: u64 = 1 << 20;

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// Equal but for the rounding of a few additions and factors.
fn agree(expected: &[f32], got: &[f32]) -> bool {
    let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
    let bound = 64.0 * f32::EPSILON * largest;
    largest.is_finite() && expected.iter().zip(got).all(|(a, b)| (a - b).abs() <= bound)
}

impl Scratch {
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), reads: Vec::new(), outputs: Vec::new() }
    }

    /// Storage of at least so many elements at place `i`; a read's is filled.
    fn grow(&mut self, read: bool, i: usize, elements: u64, dtype: DType) -> Result<Storage> {
        let side = if read { &mut self.reads } else { &mut self.outputs };
        if let Some(known) = side.get(i).filter(|s| s.elements >= elements && s.dtype == dtype) {
            return Ok(known.clone());
        }
        // The one that does not do goes first.
        side.truncate(i);
        let storage = self.gpu.storage_as("tuning", elements, dtype)?;
        if read {
            for at in (0..elements).step_by(PIECE as usize) {
                let piece: Vec<f32> =
                    (at..(at + PIECE).min(elements)).map(|k| value((k as u32) ^ (i as u32) << 28)).collect();
                self.gpu.write(&storage, at, &piece)?;
            }
        }
        side.push(storage.clone());
        Ok(storage)
    }

    /// The op `times` times, in this candidate. What it reads is in f16 where the op's is; outputs are in f32, so that no
    /// rounding hides a difference.
    fn plan(&mut self, op: &Op, (variant, tiling): &Candidate, times: u64) -> Result<Plan> {
        let mut recording = Recording::new("tuning");
        let mut externals = Externals::new();
        let half = op.half & ((1 << op.reads.len()) - 1);
        let mut side = |tensors: &[Tensor], read: bool, first: usize| -> Result<Vec<Tensor>> {
            let place = |(i, t): (usize, &Tensor)| {
                let key = format!("{read}{}", first + i);
                let elements = t.elements();
                let dtype = if read && half >> i & 1 == 1 { DType::F16 } else { DType::F32 };
                let buffer = recording.external_as(&key, elements, dtype);
                externals.insert(key, self.grow(read, first + i, elements, dtype)?);
                Ok(Tensor { buffer, offset: 0, shape: t.shape })
            };
            tensors.iter().enumerate().map(place).collect()
        };
        let (reads, writes) = (side(&op.reads, true, 0)?, side(&op.writes, false, 0)?);
        let updates = side(&op.updates, false, op.writes.len())?;
        let alone = Op { reads, writes, updates, half, ..op.clone() };
        recording.ops = vec![alone; times as usize];
        let options = PlanOptions {
            checked: false,
            variant: Some(
                variant.stem.strip_prefix(op.card.word).unwrap_or_default().trim_start_matches('_').to_owned(),
            ),
            tiling: Some(tiling.name.clone()),
        };
        Plan::new(&self.gpu, recording, &externals, &options)
    }

    /// What the op's outputs hold.
    fn outputs(&self, op: &Op) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for (storage, t) in self.outputs.iter().zip(op.writes.iter().chain(&op.updates)) {
            for at in (0..t.elements()).step_by(PIECE as usize) {
                values.extend(self.gpu.read(storage, at, PIECE.min(t.elements() - at))?);
            }
        }
        Ok(values)
    }

    /// Makes the candidate ready and runs it from outputs of zero, which warms it up, and once more for its time. Gives what
    /// the first run left too.
    fn enter(&mut self, op: &Op, index: usize, candidate: &Candidate, times: u64) -> Result<(Entry, Vec<f32>)> {
        let mut plan = self.plan(op, candidate, times)?;
        for (storage, t) in self.outputs.iter().zip(op.writes.iter().chain(&op.updates)) {
            self.gpu.clear(storage, t.elements())?;
        }
        plan.timed(&[])?;
        let left = self.outputs(op)?;
        let seconds = vec![plan.timed(&[])?];
        Ok((Entry { index, plan, seconds }, left))
    }

    /// Times the candidates in turn; None where the time is up before there is a verdict.
    pub fn judge(&mut self, op: &Op, candidates: &[Candidate], end: Option<Instant>) -> Result<Option<Verdict>> {
        let late = || end.is_some_and(|end| Instant::now() >= end);
        let times = (FLOPS / op.cost().flops.max(1)).clamp(1, REPEATS);
        let mut entries: Vec<Entry> = Vec::new();
        let (mut expected, mut wrong) = (Vec::new(), Vec::new());
        // The first of each variant, then the others of those that are near.
        for first in [true, false] {
            for (index, candidate) in candidates.iter().enumerate() {
                let leads = index == 0 || candidates[index - 1].0.stem != candidate.0.stem;
                let of_variant = |e: &&Entry| candidates[e.index].0.stem == candidate.0.stem;
                let best = entries.iter().map(Entry::median).fold(f64::INFINITY, f64::min);
                let hopeless = entries.iter().find(of_variant).is_some_and(|e| e.median() > HOPELESS * best);
                if leads != first || hopeless {
                    continue;
                }
                match self.enter(op, index, candidate, times) {
                    Ok((entry, left)) if index == 0 => {
                        entries.push(entry);
                        expected = left;
                    }
                    // A wrong one is out before anything is compared with its time.
                    Ok((entry, left)) if agree(&expected, &left) => entries.push(entry),
                    Ok(_) => wrong.push(index),
                    Err(e @ (Error::DeviceLost { .. } | Error::Timeout { .. })) => return Err(e),
                    // One that cannot run here has lost.
                    Err(_) => {}
                }
                if late() || entries.first().is_none_or(|e| e.index != 0) {
                    return Ok(None);
                }
            }
        }
        entries.sort_by_key(|e| e.index);
        for _ in 1..ROUNDS {
            let best = entries.iter().map(Entry::median).fold(f64::INFINITY, f64::min);
            entries.retain(|e| e.index == 0 || e.median() <= LOSING * best);
            if entries.len() > 1 {
                entries.iter_mut().try_for_each(Entry::run)?;
            }
            if late() {
                return Ok(None);
            }
        }
        let winner = decide(&mut entries)?;
        Ok(Some(Verdict { winner, wrong }))
    }
}

/// The fastest against the default, which comes first, once more: its index, or 0.
fn decide(entries: &mut [Entry]) -> Result<usize> {
    let Some((default, others)) = entries.split_first_mut() else { return Ok(0) };
    let Some(fastest) = others.iter_mut().min_by(|a, b| a.median().total_cmp(&b.median())) else { return Ok(0) };
    if fastest.median() <= MARGIN * default.median() {
        for _ in 0..ROUNDS {
            default.run()?;
            fastest.run()?;
        }
    }
    Ok(if fastest.median() <= MARGIN * default.median() { fastest.index } else { 0 })
}

/// A candidate that has not lost yet.
struct Entry {
    index: usize,
    plan: Plan,
    seconds: Vec<f64>,
}

impl Entry {
    fn median(&self) -> f64 {
        median(&self.seconds)
    }

    fn run(&mut self) -> Result<()> {
        self.seconds.push(self.plan.timed(&[])?);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn scratch_values_make_exact_sums_and_do_not_repeat() {
        let values: Vec<f32> = (0..4096).map(value).collect();
        assert!(values.iter().all(|v| v.abs() <= 1.0 && (8.0 * v).fract() == 0.0));
        for shift in [1, 2, 3, 4, 8, 16, 17, 32, 64, 128, 256, 512, 1024] {
            let same = values.iter().zip(&values[shift..]).filter(|(a, b)| a == b).count();
            assert!(same < values.len() / 8, "{same} values are those {shift} further on");
        }
        let mean = values.iter().sum::<f32>() / 4096.0;
        assert!(mean.abs() < 0.05, "{mean}");
    }

    #[test]
    fn agreement_allows_roundings_only() {
        let expected = [1.0, -200.0, 0.0];
        assert!(agree(&expected, &expected));
        assert!(agree(&expected, &[1.0, -200.000_02, 1e-6]));
        assert!(!agree(&expected, &[1.015_625, -200.0, 0.0]), "one term of 1/64");
        assert!(!agree(&expected, &[1.0, f32::NAN, 0.0]));
        assert!(!agree(&[f32::NAN], &[f32::NAN]));
    }
}
