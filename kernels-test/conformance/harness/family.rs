//! Runs the cases of a family, counts them by kernel variant, and fails on too few.
//! Called by `conformance.rs`; family files call `case`, `gradient`, `rejects`, `catches` and `floor`.

use super::case::Bench;
use super::compare::{Tolerance, Twinned};
use super::device::{self, Words};
use super::fault::Fault;
use super::gradient;
use deme::error::Result;
use deme::recording::{Op, Tensor, ZERO_ELEMENTS};
use deme::reference::as_f16;
use deme::shader::card::{Class, Variant};
use deme::shape::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// A family file: its tolerances by kernel word, its cases, and its report once they have run.
pub struct Entry {
    pub name: &'static str,
    pub tolerances: &'static [(&'static str, Tolerance)],
    pub cases: fn(&mut Family),
    report: OnceLock<Report>,
}

/// What a family did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub failures: Vec<String>,
    /// Cases by variant stem: one op, in one variant, checked and unchecked, rerun.
    pub counts: BTreeMap<&'static str, usize>,
    /// Of these, cases that ran with elements in f16 too.
    pub halves: BTreeMap<&'static str, usize>,
    /// By variant stem and tiling: cases that offered it, and cases that took it.
    pub tilings: BTreeMap<(&'static str, String), [usize; 2]>,
    /// By variant stem: cases with an addend as large as y, and with one whose rows several of y share.
    pub addends: BTreeMap<&'static str, [usize; 2]>,
    /// Kernel words with their floors.
    pub floors: BTreeMap<&'static str, usize>,
    pub gradients: usize,
    pub rejections: usize,
    /// Planted and caught.
    pub faults: usize,
    /// Faults of variants that this adapter cannot run.
    pub elsewhere: usize,
}

impl Entry {
    pub const fn new(
        name: &'static str,
        tolerances: &'static [(&'static str, Tolerance)],
        cases: fn(&mut Family),
    ) -> Self {
        Self { name, tolerances, cases, report: OnceLock::new() }
    }

    /// The report; the cases run when it is first asked for.
    pub fn report(&self, all: &'static [Self]) -> &Report {
        self.report.get_or_init(|| {
            let mut family = Family { all, seed: 0, report: Report::default() };
            (self.cases)(&mut family);
            let report = family.finish();
            let mut text = format!("{}: ", self.name);
            for (stem, n) in &report.counts {
                let halves = report.halves.get(stem).map(|n| format!(" (f16 {n})")).unwrap_or_default();
                text += &format!("{stem} {n}{halves}, ");
            }
            for ((stem, tiling), [_, n]) in &report.tilings {
                text += &format!("{stem} {tiling} {n}, ");
            }
            text += &format!(
                "gradients {}, rejections {}, faults {}\n",
                report.gradients, report.rejections, report.faults
            );
            super::note(&text);
            report
        })
    }

    /// Fails the test if any case failed.
    pub fn pass(&self, all: &'static [Self]) {
        let failures = &self.report(all).failures;
        let shown = failures.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
        assert!(failures.is_empty(), "{}: {} failures\n{shown}", self.name, failures.len());
    }
}

/// Once a tiling has had enough cases, one in so many of those that offer it: its shader differs from the others of its
/// variant in constants alone.
const TILING_STEP: usize = 4;
const ENOUGH_TILING: usize = 5;
/// Cases that every tiling has at least.
const FLOOR_TILING: usize = 3;

pub struct Family {
    all: &'static [Entry],
    seed: u64,
    report: Report,
}

fn bits_as_f64(words: &[u32], dtype: DType) -> Vec<f64> {
    let value = |&w: &u32| match dtype {
        DType::F32 | DType::F16 => f64::from(f32::from_bits(w)),
        DType::U32 => f64::from(w),
    };
    words.iter().map(value).collect()
}

fn slice(words: &[u32], t: &Tensor) -> Vec<u32> {
    words[t.offset as usize..(t.offset + t.elements()) as usize].to_vec()
}

/// Rows of y that share one of the addend's, 0 where it is absent; None of kernels that take none.
pub fn addend_rows(op: &Op) -> Option<u32> {
    let takes = op.card.bindings.iter().any(|b| b.name == "addend");
    op.card.params.iter().position(|p| takes && p.name == "addend").map(|i| op.params[i])
}

/// The op's outputs in `words`, writes then updates.
fn outputs(op: &Op, words: &Words) -> Vec<Vec<u32>> {
    op.writes.iter().chain(&op.updates).map(|t| slice(&words[&(t.buffer.0 as usize)], t)).collect()
}

/// The op's twin on the contents `before`. Of a variant with cooperative matrices it is given both factors as f16, and its
/// sums have the tolerance of every other.
fn twinned(op: &Op, dtypes: &[DType], before: &[Vec<u32>]) -> Twinned {
    let get = |t: &Tensor| bits_as_f64(&slice(&before[t.buffer.0 as usize], t), dtypes[t.buffer.0 as usize]);
    let mut reads: Vec<_> = op.reads.iter().map(get).collect();
    if matches!(op.card.variants, [only] if only.cooperative()) {
        reads[..2].iter_mut().flatten().for_each(|x| *x = as_f16(*x));
    }
    Twinned::new(op, reads, op.updates.iter().map(get).collect())
}

/// Holds what a GPU left behind to the twin: guards, untouched inputs, outputs.
pub fn judge(t: &Twinned, tolerance: &Tolerance, before: &Words, after: &Words) -> std::result::Result<Words, String> {
    let inner = device::untouched(&t.op, before, after)?;
    for (j, words) in outputs(&t.op, &inner).iter().enumerate() {
        let got: Vec<_> = words.iter().map(|&w| f32::from_bits(w)).collect();
        tolerance.check(t, j, &got).map_err(|e| format!("output {j}: {e}"))?;
    }
    Ok(inner)
}

/// Why an op did not conform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It did not run at all.
    Device(String),
    /// It ran, and what it left behind is wrong.
    Wrong(String),
}

/// One op before it runs: what the GPU is given, and the twin's answer to what it should have been given.
pub struct Trial<'a> {
    pub op: &'a Op,
    pub dtypes: &'a [DType],
    pub twinned: Twinned,
    /// Contents, poisoned.
    pub words: Words,
    /// The tiling's name, where it is not the first.
    pub tiling: Option<String>,
}

impl<'a> Trial<'a> {
    pub fn new(op: &'a Op, dtypes: &'a [DType], before: &[Vec<u32>]) -> Self {
        Self { op, dtypes, twinned: twinned(op, dtypes, before), words: device::poisoned(op, before), tiling: None }
    }

    /// Checked once, unchecked twice: each held to the twin, reruns equal bit for bit, and on a CPU rasteriser (where no
    /// driver contracts differently) checked and unchecked too. `tamper` sees each result first: planted faults.
    /// Returns the buffers after the op.
    pub fn conform(
        &self,
        tolerance: &Tolerance,
        tamper: impl Fn(usize, &mut Words),
    ) -> std::result::Result<Words, Failure> {
        let tiling = self.tiling.as_deref();
        let run = |checked, runs| device::run_in(tiling, self.op, self.dtypes, &self.words, checked, runs);
        let run = |checked, runs| run(checked, runs).map_err(Failure::Device);
        let mut results = run(true, 1)?;
        results.extend(run(false, 2)?);
        let mut inner = Vec::new();
        for ((i, after), mode) in results.iter_mut().enumerate().zip(["checked", "unchecked", "unchecked again"]) {
            tamper(i, after);
            let judged = judge(&self.twinned, tolerance, &self.words, after);
            inner.push(judged.map_err(|e| Failure::Wrong(format!("{mode}: {e}")))?);
        }
        if inner[1] != inner[2] {
            return Err(Failure::Wrong("a rerun differs in its bits".into()));
        }
        if device::gpu().class() == Class::Cpu && inner[0] != inner[1] {
            return Err(Failure::Wrong("checked and unchecked differ in their bits".into()));
        }
        Ok(inner.swap_remove(0))
    }
}

/// An op with every binding in f16 that may be, and its buffers' contents rounded to it.
pub struct Half {
    op: Op,
    dtypes: Vec<DType>,
    before: Vec<Vec<u32>>,
}

impl Half {
    /// None where the adapter has no f16, the op has no such binding, or its contents are beyond the range of f16. A buffer that is
    /// also bound where it must be f32 stays so, and so does the one of zeros, as in recordings.
    pub fn of(op: &Op, dtypes: &[DType], before: &[Vec<u32>]) -> Option<Self> {
        let (mut dtypes, mut before) = (dtypes.to_vec(), before.to_vec());
        let index = |t: &Tensor| t.buffer.0 as usize;
        let bindings = || op.tensors().zip(op.card.bindings).map(|((_, t), binding)| (index(t), binding.half));
        let may = |b: usize| bindings().all(|(other, half)| other != b || half);
        let zeros = |b: usize| before[b].len() == ZERO_ELEMENTS as usize && before[b].iter().all(|w| *w == 0);
        let chosen: BTreeSet<_> = bindings().map(|(b, _)| b).filter(|&b| may(b) && !zeros(b)).collect();
        if chosen.is_empty() || !device::gpu().has_f16() {
            return None;
        }
        for &b in &chosen {
            dtypes[b] = DType::F16;
            before[b].iter_mut().for_each(|w| *w = device::through_f16(*w));
        }
        let read = op.reads.iter().chain(&op.updates).flat_map(|t| slice(&before[index(t)], t));
        let finite = read.into_iter().all(|w| f32::from_bits(w).is_finite());
        let half = (0..).zip(bindings()).map(|(i, (b, _))| u32::from(chosen.contains(&b)) << i).sum();
        finite.then(|| Self { op: Op { half, ..op.clone() }, dtypes, before })
    }

    pub fn trial(&self) -> Trial<'_> {
        Trial::new(&self.op, &self.dtypes, &self.before)
    }
}

impl Family {
    fn tolerance(&self, word: &str) -> &'static Tolerance {
        let known = self.all.iter().flat_map(|e| e.tolerances).find(|(w, _)| *w == word);
        &known.unwrap_or_else(|| panic!("no family has a tolerance for {word}")).1
    }

    fn bench(&mut self) -> Bench {
        self.seed += 1;
        Bench::new(self.seed)
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        self.report.failures.push(what.into());
    }

    /// Records through `build`, then checks every op in every variant that fits it. One case an op and variant.
    pub fn case(&mut self, name: &str, build: impl FnOnce(&mut Bench) -> Result<()>) {
        let mut bench = self.bench();
        if let Err(e) = build(&mut bench) {
            return self.fail(format!("{name}: {e}"));
        }
        let rec = &bench.tape.rec;
        let dtypes: Vec<_> = rec.buffers.iter().map(|b| b.dtype).collect();
        let mut state = bench.snapshot();
        for (k, op) in rec.ops.iter().enumerate() {
            let tolerance = self.tolerance(op.card.word);
            let mut kept = None;
            for variant in device::fitting(op) {
                let forced = Op { card: device::forced(op.card, variant), ..op.clone() };
                let cases = self.report.counts.entry(variant.stem).or_default();
                *cases += 1;
                if let Some(rows) = addend_rows(op).filter(|rows| *rows > 0) {
                    self.report.addends.entry(variant.stem).or_default()[usize::from(rows > 1)] += 1;
                }
                // Every second one in f16 too: each takes the driver another pipeline to compile.
                let owed = 2 * self.report.halves.get(variant.stem).copied().unwrap_or(0) < *cases;
                let mut trial = Trial::new(&forced, &dtypes, &state);
                match trial.conform(tolerance, |_, _| ()) {
                    Ok(words) => kept = kept.or(Some(words)),
                    Err(e) => {
                        let params = &op.params;
                        self.fail(format!("{name}: op {k} {} as {} {params:?}: {e:?}", op.label(), variant.stem));
                    }
                }
                if let Some(half) = Half::of(&forced, &dtypes, &state).filter(|_| owed) {
                    *self.report.halves.entry(variant.stem).or_default() += 1;
                    if let Err(e) = half.trial().conform(tolerance, |_, _| ()) {
                        let (params, stem) = (&op.params, variant.stem);
                        self.fail(format!("{name}: op {k} {} as {stem} in f16 {params:?}: {e:?}", op.label()));
                    }
                }
                for tiling in self.others(variant, &op.params) {
                    trial.tiling = Some(tiling);
                    if let Err(e) = trial.conform(tolerance, |_, _| ()) {
                        let (params, tiling) = (&op.params, &trial.tiling);
                        let stem = variant.stem;
                        self.fail(format!("{name}: op {k} {} as {stem} {tiling:?} {params:?}: {e:?}", op.label()));
                    }
                }
            }
            // What follows a wrong op is meaningless.
            let Some(words) = kept else { return };
            for (b, words) in words {
                state[b] = words;
            }
        }
    }

    /// The tilings beside the first that this case runs: until each has enough cases, then every fourth time it is offered.
    fn others(&mut self, variant: &'static Variant, params: &[u32]) -> Vec<String> {
        let mut taken = Vec::new();
        for (i, tiling) in variant.tilings(params).into_iter().enumerate().filter(|(_, t)| !t.name.is_empty()) {
            let [offered, ran] = self.report.tilings.entry((variant.stem, tiling.name.clone())).or_default();
            let due = i == 0 || *ran < ENOUGH_TILING || offered.is_multiple_of(TILING_STEP);
            *offered += 1;
            *ran += usize::from(due);
            if due && i > 0 {
                taken.push(tiling.name);
            }
        }
        taken
    }

    /// Compares the tape's gradients with central differences of the twins, in f64.
    pub fn gradient(&mut self, name: &str, build: impl FnOnce(&mut Bench) -> Result<Tensor>) {
        let mut bench = self.bench();
        let checked = build(&mut bench).map_err(|e| e.to_string()).and_then(|y| gradient::check(bench, &y));
        match checked {
            Ok(count) => self.report.gradients += count,
            Err(e) => self.fail(format!("{name}: {e}")),
        }
    }

    /// The builder refuses, in words that contain each of `needles` (the op and the shapes).
    pub fn rejects<T>(&mut self, needles: &[&str], build: impl FnOnce(&mut Bench) -> Result<T>) {
        let mut bench = self.bench();
        self.report.rejections += 1;
        match build(&mut bench) {
            Ok(_) => self.fail(format!("accepted what it should refuse: {needles:?}")),
            Err(e) => {
                let text = e.to_string();
                if let Some(missing) = needles.iter().find(|n| !text.contains(**n)) {
                    self.fail(format!("refused without naming {missing}: {text}"));
                }
            }
        }
    }

    /// The harness reports a failure when the fault is planted in what `build` records.
    pub fn catches(&mut self, fault: &Fault, build: impl FnOnce(&mut Bench) -> Result<()>) {
        let mut bench = self.bench();
        let caught = build(&mut bench).map_err(|e| e.to_string()).and_then(|()| {
            let tolerance = self.tolerance(fault.word);
            fault.caught(&bench, tolerance)
        });
        match caught {
            Ok(true) => self.report.faults += 1,
            Ok(false) => self.report.elsewhere += 1,
            Err(e) => self.fail(format!("planted fault {:?}: {e}", fault.name)),
        }
    }

    /// Every variant of the kernel needs this many cases.
    pub fn floor(&mut self, word: &'static str, cases: usize) {
        self.report.floors.insert(word, cases);
    }

    fn finish(mut self) -> Report {
        for (word, floor) in self.report.floors.clone() {
            let Some(card) = deme::shader::cards::find(word) else {
                self.fail(format!("{word} has no card"));
                continue;
            };
            for variant in card.variants {
                let n = self.report.counts.get(variant.stem).copied().unwrap_or(0);
                if n < floor && (n > 0 || device::runs_here(word, variant)) {
                    self.fail(format!("{}: {n} cases, at least {floor} are wanted", variant.stem));
                }
                let addends = self.report.addends.get(variant.stem).copied().unwrap_or_default();
                if card.bindings.iter().any(|b| b.name == "addend") && n > 0 && addends.contains(&0) {
                    self.fail(format!("{}: {addends:?} cases with addends as large as y and shared", variant.stem));
                }
                let halves = self.report.halves.get(variant.stem).copied().unwrap_or(0);
                if card.halves() != 0 && n > 0 && device::gpu().has_f16() && 2 * halves < floor {
                    self.fail(format!("{}: {halves} cases in f16, at least half of {floor} are wanted", variant.stem));
                }
            }
        }
        for ((stem, tiling), [_, ran]) in self.report.tilings.clone() {
            // Of kernels that this family has a floor for; others are called by the way.
            let own = |(word, _): (&&str, &usize)| stem.strip_prefix(word).is_some_and(|rest| rest.starts_with('_'));
            if ran < FLOOR_TILING && self.report.floors.iter().any(own) {
                self.fail(format!("{stem} {tiling}: {ran} cases, at least {FLOOR_TILING} are wanted"));
            }
        }
        self.report
    }
}
