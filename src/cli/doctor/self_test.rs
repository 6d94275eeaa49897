//! Runs every kernel in every variant that fits this adapter, on the kernels' examples, and compares with the f64 twins.
//! Called by `doctor`. Each op starts from the CPU's values, so a wrong kernel does not spoil those after it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::terminal::say;
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions};
use crate::kernels::EXAMPLES;
use crate::recording::{Op, Recording, Role, Tensor};
use crate::reference::interpret::{Rounding, State};
use crate::reference::{Call, as_f16, find};
use crate::rng::{self, Purpose};
use crate::shader::{Card, Limits, Variant, cards};
use crate::shape::DType;

/// Errors are relative to an element and its tensor's root mean square. Sums in f32 stay below 1e-5 in the examples'
/// shapes; a wrong index or a missing term is of the order of 1.
const LIMIT: f64 = 1e-4;
const SEED: u64 = 20_240_601;

/// What one variant did.
#[derive(Default, Clone)]
struct Outcome {
    calls: u64,
    /// The largest relative error; infinite where an output was not written or not finite.
    worst: f64,
    /// Why it could not run at all.
    failure: Option<String>,
}

impl Outcome {
    fn passes(&self) -> bool {
        self.failure.is_none() && self.worst <= LIMIT
    }
}

/// The outcomes by variant.
pub struct Report {
    outcomes: BTreeMap<&'static str, Outcome>,
    seconds: f64,
}

impl Report {
    pub fn wrong(&self) -> Vec<&'static str> {
        self.outcomes.iter().filter(|(_, o)| !o.passes()).map(|(stem, _)| *stem).collect()
    }

    pub fn json(&self) -> Value {
        let each = |(stem, o): (&&str, &Outcome)| {
            let worst = if o.worst.is_finite() { json!(o.worst) } else { Value::Null };
            (stem.to_string(), json!({"calls": o.calls, "worst": worst, "passes": o.passes(), "failure": o.failure}))
        };
        Value::Object(self.outcomes.iter().map(each).collect())
    }

    /// The wrong kernels, the count, and with --verbose every kernel.
    pub fn print(&self, global: &Global) -> Result<()> {
        for (stem, o) in self.outcomes.iter().filter(|(_, o)| global.verbose || !o.passes()) {
            let verdict = if o.passes() { "ok" } else { "WRONG" };
            say!("   {verdict:5} {stem}: worst error {:.1e} in {} calls", o.worst, o.calls)?;
            if let Some(failure) = &o.failure {
                say!("         {failure}")?;
            }
        }
        let (wrong, all) = (self.wrong().len(), self.outcomes.len());
        let worst = self.outcomes.values().map(|o| o.worst).fold(0.0, f64::max);
        let calls: u64 = self.outcomes.values().map(|o| o.calls).sum();
        let took = format!("{calls} calls in {:.1} s, worst relative error {worst:.1e}", self.seconds);
        say!("self-test: {} of {all} kernel variants agree with their f64 twins ({took})", all - wrong)?;
        let left = cards::all().flat_map(|card| card.variants).filter(|v| !self.outcomes.contains_key(v.stem));
        for variant in left {
            global.detail(format_args!("{} does not fit this adapter's limits", variant.stem));
        }
        Ok(())
    }
}

/// What a tensor holds, before or after an op.
type Contents<V> = Vec<(Tensor, Vec<V>)>;

/// Tests all kernels. A driver that refuses a kernel is that kernel's failure; a lost device ends the test.
pub fn run(gpu: &Gpu, global: &Global) -> Result<Report> {
    let recordings = EXAMPLES.iter().map(|example| example()).collect::<Result<Vec<_>>>()?;
    let limits = gpu.limits();
    let calls = recordings.iter().flat_map(|r| &r.ops).map(|op| fitting(op, &limits).count()).sum::<usize>();
    let bar = global.progress(calls as u64, "self-test", "calls");
    let report = examine(&recordings, &limits, |recording, op, variant, before| {
        bar.inc(1);
        on_gpu(gpu, recording, op, variant, before)
    });
    bar.finish_and_clear();
    report
}

/// The variants of an op's kernel that may run within these limits.
fn fitting(op: &Op, limits: &Limits) -> impl Iterator<Item = &'static Variant> {
    let card: &'static Card = op.card;
    card.variants.iter().filter(|v| (v.fits)(&op.params, limits))
}

/// Holds every op of the recordings, in every variant within the limits, to its twin. `execute` gives the op's outputs
/// from what its inputs hold before it.
fn examine(
    recordings: &[Recording],
    limits: &Limits,
    mut execute: impl FnMut(&Recording, &Op, &Variant, &Contents<f64>) -> Result<Contents<f32>>,
) -> Result<Report> {
    let start = Instant::now();
    let mut outcomes = BTreeMap::<&'static str, Outcome>::new();
    for recording in recordings {
        let mut state = initial(recording)?;
        for (k, op) in recording.ops.iter().enumerate() {
            let before = advance(recording, k, &mut state)?;
            for variant in fitting(op, limits) {
                let outcome = outcomes.entry(variant.stem).or_default();
                outcome.calls += 1;
                match execute(recording, op, variant, &before) {
                    Ok(outputs) => {
                        let halved = variant.cooperative().then(|| in_f16(op, &before));
                        let expected = |i: usize, t: &Tensor| match &halved {
                            Some(outputs) => outputs[i].clone(),
                            None => state.get(t),
                        };
                        let errors = outputs.iter().enumerate();
                        let errors = errors.map(|(i, (t, got))| worst_error(got, &expected(i, t)));
                        outcome.worst = errors.fold(outcome.worst, f64::max);
                    }
                    Err(e @ Error::DeviceLost { .. }) => return Err(e),
                    Err(e) => outcome.failure = Some(e.to_string()),
                }
            }
        }
    }
    Ok(Report { outcomes, seconds: start.elapsed().as_secs_f64() })
}

/// The recording's externals and inputs: standard normals, and any words where whole numbers are wanted.
fn initial(recording: &Recording) -> Result<State> {
    let content = |b: usize, elements: u64, dtype: DType| -> Vec<f64> {
        let stream = rng::stream(Purpose::Weights, b as u32);
        let value = |i: u64| match dtype {
            DType::F32 | DType::F16 => f64::from(rng::normal4(SEED, stream, i)[0] as f32),
            DType::U32 => f64::from(rng::philox(SEED, stream, i)[0]),
        };
        (0..elements).map(value).collect()
    };
    let mut externals = HashMap::new();
    for (b, buffer) in recording.buffers.iter().enumerate() {
        if let Role::External(key) = &buffer.role {
            externals.insert(key.clone(), content(b, buffer.elements, buffer.dtype));
        }
    }
    let mut state = State::new(recording, &externals, Rounding::Stored)?;
    for op in &recording.ops {
        for (_, t) in op.tensors() {
            let buffer = &recording.buffers[t.buffer.0 as usize];
            if buffer.role == Role::Input {
                state.set(t, &content(t.buffer.0 as usize, t.elements(), buffer.dtype));
            }
        }
    }
    Ok(state)
}

/// Runs op k on its twin; returns what it found in the tensors that it reads or updates.
fn advance(recording: &Recording, k: usize, state: &mut State) -> Result<Contents<f64>> {
    let op = &recording.ops[k];
    let found = |state: &State| op.reads.iter().chain(&op.updates).map(|t| (*t, state.get(t))).collect::<Vec<_>>();
    let before = found(state);
    state.run(recording, k..k + 1)?;
    let finite =
        |state: &State| op.writes.iter().chain(&op.updates).all(|t| state.get(t).iter().all(|v| v.is_finite()));
    if finite(state) {
        return Ok(before);
    }
    // A root or a logarithm of something that is never negative in use, such as a second moment.
    for (t, values) in &before {
        state.set(t, &values.iter().map(|v| v.abs()).collect::<Vec<_>>());
    }
    let before = found(state);
    state.run(recording, k..k + 1)?;
    Ok(before)
}

/// What the op writes with both factors, its first two reads, rounded to f16.
fn in_f16(op: &Op, before: &Contents<f64>) -> Vec<Vec<f64>> {
    let mut values: Vec<_> = before.iter().map(|(_, v)| v.clone()).collect();
    let mut updates = values.split_off(op.reads.len());
    values.iter_mut().take(2).flatten().for_each(|x| *x = as_f16(*x));
    let mut writes: Vec<_> = op.writes.iter().map(|t| vec![f64::NAN; t.elements() as usize]).collect();
    if let Some(twin) = find(op.card.word) {
        twin(&mut Call { params: &op.params, reads: &values, writes: &mut writes, updates: &mut updates });
    }
    writes.append(&mut updates);
    writes
}

/// Runs the op alone in this variant; its outputs, which held NaN before if they are only written.
fn on_gpu(
    gpu: &Gpu,
    recording: &Recording,
    op: &Op,
    variant: &Variant,
    before: &Contents<f64>,
) -> Result<Contents<f32>> {
    let mut alone = Recording::new(op.label());
    let mut externals = Externals::new();
    let mut moved = HashMap::new();
    for (_, t) in op.tensors() {
        let buffer = &recording.buffers[t.buffer.0 as usize];
        let key = format!("b{}", t.buffer.0);
        let id = alone.external(&key, buffer.elements);
        alone.buffers[id.0 as usize].dtype = buffer.dtype;
        moved.insert(t.buffer, id);
        if let Entry::Vacant(place) = externals.entry(key) {
            let storage = gpu.storage_as(place.key(), buffer.elements, buffer.dtype)?;
            gpu.write(&storage, 0, &vec![f32::NAN; buffer.elements as usize])?;
            place.insert(storage);
        }
    }
    for (t, values) in before {
        let whole = recording.buffers[t.buffer.0 as usize].dtype == DType::U32;
        let word = |v: &f64| if whole { f32::from_bits(*v as u32) } else { *v as f32 };
        if let Some(storage) = externals.get(&format!("b{}", t.buffer.0)) {
            gpu.write(storage, t.offset, &values.iter().map(word).collect::<Vec<_>>())?;
        }
    }
    let place = |ts: &[Tensor]| ts.iter().map(|t| Tensor { buffer: moved[&t.buffer], ..*t }).collect::<Vec<_>>();
    alone.ops.push(Op {
        card: op.card,
        params: op.params.clone(),
        reads: place(&op.reads),
        writes: place(&op.writes),
        updates: place(&op.updates),
        half: op.half,
    });
    let suffix = variant.stem.strip_prefix(op.card.word).and_then(|s| s.strip_prefix('_')).map(String::from);
    let mut plan = Plan::new(gpu, alone, &externals, &PlanOptions { variant: suffix, ..PlanOptions::default() })?;
    if plan.variants() != [(variant.stem, 1)] {
        return Err(Error::shape(op.card.word, format!("the plan took {:?}, not {}", plan.variants(), variant.stem)));
    }
    plan.run(&[])?;
    plan.wait()?;
    let outputs = op.writes.iter().chain(&op.updates);
    let read = |t: &Tensor| Ok((*t, plan.read(&Tensor { buffer: moved[&t.buffer], ..*t })?));
    outputs.map(read).collect()
}

/// max |got - expected| / (|expected| + RMS of expected); infinite for a NaN.
fn worst_error(got: &[f32], expected: &[f64]) -> f64 {
    let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    let error = |(&g, e): (&f32, &f64)| {
        let distance = (f64::from(g) - e).abs();
        match distance / (e.abs() + rms) {
            _ if distance == 0.0 => 0.0,
            relative if relative.is_finite() => relative,
            _ => f64::INFINITY,
        }
    };
    got.iter().zip(expected).map(error).fold(0.0, f64::max)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::shader::card::DEFAULT_LIMITS;

    /// A perfect adapter: the twin, rounded to f32.
    fn twin(op: &Op, before: &Contents<f64>) -> Contents<f32> {
        let (reads, updates) = before.split_at(op.reads.len());
        let values = |side: &[(Tensor, Vec<f64>)]| side.iter().map(|(_, v)| v.clone()).collect::<Vec<_>>();
        let mut writes: Vec<_> = op.writes.iter().map(|t| vec![f64::NAN; t.elements() as usize]).collect();
        let (reads, mut updates) = (values(reads), values(updates));
        find(op.card.word).unwrap()(&mut Call {
            params: &op.params,
            reads: &reads,
            writes: &mut writes,
            updates: &mut updates,
        });
        let outputs = writes.into_iter().chain(updates);
        let rounded = outputs.map(|v| v.into_iter().map(|x| x as f32).collect());
        op.writes.iter().chain(&op.updates).copied().zip(rounded).collect()
    }

    fn outcome(tamper: impl Fn(&str, &mut Contents<f32>) -> Result<()>) -> Report {
        let recordings = [crate::kernels::pointwise::examples().unwrap()];
        let report = examine(&recordings, &DEFAULT_LIMITS, |_, op, variant, before| {
            let mut outputs = twin(op, before);
            tamper(variant.stem, &mut outputs).map(|()| outputs)
        });
        report.unwrap()
    }

    #[test]
    fn a_perfect_adapter_passes_and_each_fault_is_blamed_on_its_kernel() {
        let sound = outcome(|_, _| Ok(()));
        assert!(sound.wrong().is_empty() && sound.outcomes.len() >= 5);
        let faults: [fn(&mut f32); 3] = [|x| *x += 0.01, |x| *x = f32::NAN, |x| *x = -*x];
        for fault in faults {
            let report = outcome(|stem, outputs| {
                if stem == "silu_forward" {
                    fault(&mut outputs[0].1[149]);
                }
                Ok(())
            });
            assert_eq!(report.wrong(), ["silu_forward"]);
        }
        let refused = |stem: &str, _: &mut Contents<f32>| {
            if stem == "scale" { Err(Error::shape("scale", "refused")) } else { Ok(()) }
        };
        assert_eq!(outcome(refused).wrong(), ["scale"]);
    }

    #[test]
    fn errors_are_relative_and_a_nan_is_the_worst() {
        assert_eq!(worst_error(&[3.0, -4.0], &[3.0, -4.0]), 0.0);
        assert_eq!(worst_error(&[0.0], &[0.0]), 0.0);
        assert!((worst_error(&[1.5], &[1.0]) - 0.25).abs() < 1e-12);
        assert_eq!(worst_error(&[1.0, f32::NAN], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(worst_error(&[1.0], &[f64::NAN]), f64::INFINITY);
        assert_eq!(worst_error(&[1.0], &[0.0]), f64::INFINITY);
    }
}
