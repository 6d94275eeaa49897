//! Times every kernel in every variant that fits, at the cases' shapes: whole passes as deme runs them, and each op alone.
//! Called by `cli::bench`.

use std::collections::{HashMap, HashSet};

use super::cases::{self, Case, Kind};
use super::ceilings::Ceilings;
use super::measure::{Effort, Stats, repeat};
use super::model::Model;
use super::results::{DEFAULT, Row};
use super::steps;
use super::subject::{Pass, Subject, suffix};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::EXAMPLES;
use crate::kernels::conv2d::Route;
use crate::recording::cost::Cost;
use crate::recording::{BufferId, Op, Recording, Tensor};
use crate::shader::cards::winograd::Tile;
use crate::shader::{Candidate, Class, Precision, Tiling, Variant};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only rows whose `case pass variant` contains this.
    pub filter: Option<String>,
    /// Also variants made for other adapters, and the naive ones on a CPU.
    pub all_variants: bool,
    /// Also every tiling of each variant.
    pub tilings: bool,
    /// Also the cases that take a CPU long.
    pub heavy: bool,
    pub effort: Effort,
}

/// Whose calls stand for kernels that no case calls.
const NETWORK: &str = "ddpm-cifar10";
const IMAGES: u32 = 16;

/// Something whose passes and ops are timed.
struct Job {
    case: String,
    /// None: the examples, of which only the ops are timed.
    kind: Option<Kind>,
    whole: Subject,
}

impl Job {
    fn of(case: &Case) -> Result<Self> {
        let pass = if Pass::of(&case.kind) == [Pass::Run] { Pass::Run } else { Pass::Both };
        Ok(Self { case: case.id.clone(), kind: Some(case.kind.clone()), whole: Subject::new(&case.kind, pass)? })
    }
}

fn work(cost: Cost) -> u64 {
    cost.flops + cost.bytes
}

/// Kernels that no case calls, each at its largest call in a network's sampling step and update.
fn others(jobs: &[Job]) -> Result<Job> {
    let called: HashSet<_> = jobs.iter().flat_map(|j| &j.whole.recording.ops).map(|op| op.card.word).collect();
    let mut ops = Vec::new();
    let model = Model::named(NETWORK)?;
    let [micro, update] = steps::training(&model, IMAGES, 1.0, Precision::F32, false)?;
    let mut all = Recording::new(NETWORK);
    for recorded in [steps::inference(&model, IMAGES, true, Precision::F32)?, micro, update] {
        let moved = |t: &Tensor| Tensor { buffer: BufferId(t.buffer.0 + all.buffers.len() as u32), ..*t };
        let moved = |side: &[Tensor]| side.iter().map(moved).collect::<Vec<_>>();
        let shifted = |op: &Op| {
            let (reads, writes, updates) = (moved(&op.reads), moved(&op.writes), moved(&op.updates));
            Op { reads, writes, updates, ..op.clone() }
        };
        ops.extend(recorded.recording.ops.iter().filter(|op| !called.contains(op.card.word)).map(shifted));
        all.buffers.extend(recorded.recording.buffers);
    }
    let largest = |op: &&Op| ops.iter().all(|o| o.card.word != op.card.word || work(o.cost()) <= work(op.cost()));
    all.ops = ops.iter().filter(largest).cloned().collect();
    let mut words = HashSet::new();
    all.ops.retain(|op| words.insert(op.card.word));
    Ok(Job { case: format!("unet/{NETWORK}/b{IMAGES}"), kind: None, whole: Subject::of(all) })
}

/// The cases, and what they leave out; for a smoke run the least case of each kind, and the examples, which call every kernel.
fn jobs(gpu: &Gpu, options: &Options) -> Result<Vec<Job>> {
    let heavy = options.heavy || gpu.class() != Class::Cpu;
    let all = cases::all()?;
    let single = all.iter().filter(|c| !Pass::of(&c.kind).is_empty() && (heavy || !c.heavy));
    let mut jobs = single.map(Job::of).collect::<Result<Vec<_>>>()?;
    if !options.effort.smoke {
        jobs.push(others(&jobs)?);
        return Ok(jobs);
    }
    let mut least: HashMap<_, Job> = HashMap::new();
    for job in jobs {
        let kind = job.kind.as_ref().map(std::mem::discriminant);
        let known =
            least.get(&kind).is_some_and(|j| work(j.whole.recording.cost()) <= work(job.whole.recording.cost()));
        if !known {
            least.insert(kind, job);
        }
    }
    let mut jobs: Vec<_> = least.into_values().collect();
    jobs.sort_by(|a, b| a.case.cmp(&b.case));
    for example in EXAMPLES {
        let recording = example()?;
        jobs.push(Job { case: format!("example/{}", recording.name), kind: None, whole: Subject::of(recording) });
    }
    Ok(jobs)
}

/// One run over the adapter.
struct Bench<'a> {
    gpu: &'a Gpu,
    options: &'a Options,
    ceilings: &'a Ceilings,
    /// Kernels at these parameters are done.
    seen: HashSet<(&'static str, Vec<u32>)>,
    rows: Vec<Row>,
    on_row: &'a mut dyn FnMut(&Row) -> Result<()>,
}

/// Measures; `on_row` hears of each row as it is there.
///
/// # Errors
/// `Usage` where nothing matches the filter.
pub fn run(
    gpu: &Gpu,
    options: &Options,
    ceilings: &Ceilings,
    on_row: &mut dyn FnMut(&Row) -> Result<()>,
) -> Result<Vec<Row>> {
    let mut bench = Bench { gpu, options, ceilings, seen: HashSet::new(), rows: Vec::new(), on_row };
    for job in jobs(gpu, options)? {
        bench.passes(&job)?;
        bench.ops(&job)?;
    }
    if bench.rows.is_empty() {
        let filter = options.filter.as_deref().unwrap_or_default();
        let hint = "rows are called like `conv2d/8x32x32x128-128-3x3s1 forward default`; benches/cases.json lists the \
                    cases, and --heavy adds the large ones on a CPU";
        return Err(Error::usage(format!("no row matches --filter {filter}"), hint));
    }
    Ok(bench.rows)
}

impl Bench<'_> {
    fn wanted(&self, case: &str, pass: &str, variant: &str) -> bool {
        let name = format!("{case} {pass} {variant}");
        self.options.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    fn push(&mut self, row: Row) -> Result<()> {
        let row = row.against(self.ceilings);
        (self.on_row)(&row)?;
        self.rows.push(row);
        Ok(())
    }

    /// A layer's passes, each kernel in the variant that deme chooses; a convolution's also by its other route.
    fn passes(&mut self, job: &Job) -> Result<()> {
        let Some(kind) = &job.kind else { return Ok(()) };
        let others: Vec<_> = Subject::other_routes(kind)?.into_iter().map(Some).collect();
        for &pass in Pass::of(kind) {
            for route in [None].iter().chain(&others) {
                self.pass(&job.case, kind, pass, *route)?;
            }
        }
        Ok(())
    }

    /// One pass. A convolution's rate counts the sum's products, whatever its route.
    fn pass(&mut self, case: &str, kind: &Kind, pass: Pass, route: Option<Route>) -> Result<()> {
        let variant = match route {
            None => DEFAULT,
            Some(Route::Direct) => "direct",
            Some(Route::Winograd(Tile::Two)) => "winograd_2x2",
            Some(Route::Winograd(Tile::Four)) => "winograd_4x4",
        };
        if !self.wanted(case, pass.name(), variant) {
            return Ok(());
        }
        let subject = Subject::by(kind, pass, route)?;
        let mut plan = subject.plan(self.gpu, None)?;
        let stats = Stats::of(&repeat(self.options.effort, || plan.timed(&[]))?);
        let stems: Vec<_> = plan.variants().into_iter().map(|(stem, _)| stem).collect();
        let mut cost = subject.recording.cost();
        if !Subject::other_routes(kind)?.is_empty() {
            cost.flops = Subject::by(kind, pass, Some(Route::Direct))?.recording.cost().flops;
        }
        let row = Row { note: Some(stems.join(" + ")), ..Row::new(case, pass.name(), variant, stats, cost) };
        self.push(row)
    }

    /// Each kernel alone, in each variant that fits, once for equal parameters.
    fn ops(&mut self, job: &Job) -> Result<()> {
        let mut calls: HashMap<_, usize> = HashMap::new();
        for (i, op) in job.whole.recording.ops.iter().enumerate() {
            if self.seen.insert((op.card.word, op.params.clone())) {
                let call = calls.entry(op.card.word).and_modify(|n| *n += 1).or_insert(1);
                let pass = if *call == 1 { op.card.word.to_owned() } else { format!("{} #{call}", op.card.word) };
                for candidate in self.candidates(op) {
                    self.op(job, i, &pass, &candidate)?;
                }
            }
        }
        Ok(())
    }

    /// Op `i` in one variant and tiling; `pass` is its word, numbered where a case calls it at several shapes. A row is
    /// called as its variant, with the tiling where that is not the one taken without tuning.
    fn op(&mut self, job: &Job, i: usize, pass: &str, candidate: &Candidate) -> Result<()> {
        let op = &job.whole.recording.ops[i];
        let (variant, tiling) = candidate;
        let tilings = op.card.tilings(variant, &op.params, op.half);
        let usual = tilings.first().is_some_and(|first| first.name == tiling.name);
        let name = if usual { variant.stem.to_owned() } else { format!("{} {}", variant.stem, tiling.name) };
        if !self.wanted(&job.case, pass, &name) {
            return Ok(());
        }
        let way = (suffix(op.card.word, variant), tiling.name.as_str());
        let mut plan = job.whole.op(i).plan(self.gpu, Some(way))?;
        let stats = Stats::of(&repeat(self.options.effort, || plan.timed(&[]))?);
        let row = Row::new(&job.case, pass, &name, stats, op.cost());
        let chosen = self.gpu.chosen(op).is_some_and(|(v, t)| (v.stem, &t.name) == (variant.stem, &tiling.name));
        let note = format!("{} {}", op.label(), tiling.name).trim_end().to_owned();
        self.push(Row { chosen, note: Some(note), ..row })
    }

    /// The variants that fit, each in its usual tiling, the one that deme chooses, and, where they are asked for, all others.
    fn candidates(&self, op: &Op) -> Vec<Candidate> {
        let chosen = self.gpu.chosen(op).map(|(v, t)| (v.stem, t.name));
        let ways = |v: &Variant| op.card.tilings(v, &op.params, op.half).into_iter().enumerate();
        let all = |v: &'static Variant| ways(v).map(move |(i, t)| (i, v, t));
        let kept = |(i, v, t): (usize, &'static Variant, Tiling)| {
            let taken = self.options.tilings || i == 0 || chosen.as_ref() == Some(&(v.stem, t.name.clone()));
            taken.then_some((v, t))
        };
        self.variants(op).into_iter().flat_map(all).filter_map(kept).collect()
    }

    /// The variants that fit; those made for other adapters, and the naive ones on a CPU, only where they are asked for.
    fn variants(&self, op: &Op) -> Vec<&'static Variant> {
        let (class, limits) = (self.gpu.class(), self.gpu.limits());
        let usual = self.gpu.chosen(op).map(|(v, _)| v.stem);
        let all = self.options.all_variants || self.options.effort.smoke;
        let fits = |v: &&Variant| (v.fits)(&op.params, &limits);
        let apt = |v: &&Variant| {
            let foreign = v.class != Class::Any && v.class != class;
            let naive = class == Class::Cpu && suffix(op.card.word, v) == "v1";
            all || Some(v.stem) == usual || !(foreign || naive)
        };
        op.card.variants.iter().filter(fits).filter(apt).collect()
    }
}
