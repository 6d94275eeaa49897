//! Measures, before a plan is made, which variants and tilings its costliest kernels should take on this adapter.
//! Called by `plan`; what is known and how long it may take comes from `cli`.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::contest::Scratch;
use super::device::{Gpu, lock};
use super::pipeline_cache;
use super::tuning::{Tuning, TuningFile, choice, key};
use crate::error::{Error, Result};
use crate::io::{hash, lock as folder_lock};
use crate::recording::{Op, Recording};
use crate::shader::{Candidate, template};

/// What the user sees of tuning.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// So many kernels at so many parameters are about to be measured.
    Begin { shapes: usize, seconds: f64 },
    /// The next one, by its label.
    Shape { label: &'a str },
    /// A candidate does not compute what the default does.
    Wrong { label: &'a str, choice: &'a str },
    /// How many were measured, how many of those leave the default, how many keep it because the time was up.
    End { measured: usize, changed: usize, left: usize, seconds: f64 },
    /// The results could not be kept.
    Unkept { problem: &'a str },
}

/// Hears of the work; its error ends it.
pub type OnEvent = Box<dyn FnMut(Event) -> Result<()> + Send>;

/// What tuning starts from.
pub struct Autotune {
    /// Choices that are taken as they are.
    pub known: Tuning,
    /// Seconds of measuring in all; None: nothing is measured.
    pub seconds: Option<f64>,
    /// Where results are kept.
    pub cache: Option<TuningFile>,
    pub on_event: OnEvent,
}

/// Tuning under way on one device.
pub(super) struct Tuner {
    settings: Autotune,
    /// Choices that plans were made with.
    used: Tuning,
    /// Choices that were measured since the device was opened.
    measured: Tuning,
}

/// Kernels at parameters that take less than this part of a recording's tunable arithmetic together stay as they are.
const REST: f64 = 0.03;
/// An op that binds more is not tuned: scratch is to stay small beside a model.
const LARGEST: u64 = 1 << 30;
/// How long another process may take to write the same file.
const PATIENCE: Duration = Duration::from_secs(2);

/// One kernel at its parameters, with its arithmetic in the whole recording.
struct Shape<'a> {
    op: &'a Op,
    key: String,
    candidates: Vec<Candidate>,
    flops: u64,
}

impl Gpu {
    /// What bits may depend on beside settings and tuning: adapter, driver, precision and shaders.
    pub fn identity(&self) -> String {
        format!("{}, {}, shaders {}", self.summary(), self.precision(), template::shader_hash())
    }

    /// A file of tunings, as far as it is about this device.
    pub fn tuning_file(&self, path: &Path) -> TuningFile {
        TuningFile { path: path.to_path_buf(), device: self.identity() }
    }

    /// `<cache>/tuning/<adapter>-<driver and shaders>.json`; None where the user has no folder for caches.
    pub fn tuning_cache(&self) -> Option<TuningFile> {
        let summary = self.summary();
        let readable = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let adapter: String = format!("{}-{}", summary.backend, summary.name).chars().map(readable).collect();
        let hash = hash::of_bytes(self.identity().as_bytes());
        let name = format!("{}-{}.json", adapter.trim_end_matches('-'), &hash[..16]);
        Some(self.tuning_file(&pipeline_cache::folder()?.join("tuning").join(name)))
    }

    /// From here on plans take what is known, and measure what is not.
    pub fn autotune(&self, settings: Autotune) {
        let measured = self.measured();
        *lock(self.tuner()) = Some(Tuner { settings, used: Tuning::default(), measured });
    }

    /// The choices that were measured since the device was opened.
    pub fn measured(&self) -> Tuning {
        lock(self.tuner()).as_ref().map(|tuner| tuner.measured.clone()).unwrap_or_default()
    }

    /// The choices that plans were made with since `autotune`: what a record of the run needs.
    pub fn tuning(&self) -> Tuning {
        lock(self.tuner()).as_ref().map(|tuner| tuner.used.clone()).unwrap_or_default()
    }

    /// What a plan would take for this op by what is known now; None where nothing fits the adapter.
    pub fn chosen(&self, op: &Op) -> Option<Candidate> {
        let tuned = lock(self.tuner()).as_ref().and_then(|tuner| tuner.settings.known.find(self, op));
        tuned.or_else(|| self.default(op))
    }

    /// What is taken for an op without tuning.
    pub(super) fn default(&self, op: &Op) -> Option<Candidate> {
        op.card.choose(&op.params, self.class(), &self.usual_limits(), op.half)
    }

    /// What tuning may take for an op.
    pub(super) fn candidates(&self, op: &Op) -> Vec<Candidate> {
        op.card.candidates(&op.params, self.class(), &self.usual_limits(), op.half)
    }

    /// The choices for a recording, measured where they are not known.
    pub(super) fn tuned(&self, recording: &Recording) -> Result<Tuning> {
        let mut tuner = lock(self.tuner());
        let Some(tuner) = tuner.as_mut() else { return Ok(Tuning::default()) };
        let shapes = self.shapes(recording);
        tuner.measure(self, &shapes)?;
        let mut chosen = Tuning::default();
        for shape in shapes {
            if let Some(known) = tuner.settings.known.get(&shape.key) {
                chosen.set(shape.key, known.to_owned());
            }
        }
        tuner.used.extend(&chosen);
        Ok(chosen)
    }

    /// The kernels of a recording that have a choice, costliest first.
    fn shapes<'a>(&self, recording: &'a Recording) -> Vec<Shape<'a>> {
        let mut found: HashMap<String, Option<Shape>> = HashMap::new();
        for op in &recording.ops {
            let key = key(op);
            let known = found.entry(key.clone()).or_insert_with(|| {
                let candidates = self.candidates(op);
                (candidates.len() > 1).then_some(Shape { op, key, candidates, flops: 0 })
            });
            if let Some(shape) = known {
                shape.flops += op.cost().flops;
            }
        }
        let mut shapes: Vec<_> = found.into_values().flatten().collect();
        shapes.sort_by(|a, b| b.flops.cmp(&a.flops).then_with(|| a.key.cmp(&b.key)));
        shapes
    }
}

impl Tuner {
    /// Those that are not known and matter.
    fn open<'a, 'b>(&self, gpu: &Gpu, shapes: &'b [Shape<'a>]) -> Vec<&'b Shape<'a>> {
        let total: f64 = shapes.iter().map(|s| s.flops as f64).sum();
        let mut before = 0.0;
        let matters = |shape: &&Shape| {
            let rest = total - before;
            before += shape.flops as f64;
            rest > REST * total
        };
        let fits = |op: &Op| {
            let all: Vec<u64> = op.tensors().enumerate().map(|(i, (_, t))| op.width(i) * t.elements()).collect();
            all.iter().sum::<u64>() <= LARGEST && all.iter().all(|&b| b <= gpu.largest_binding())
        };
        let unknown = |s: &&Shape| self.settings.known.get(&s.key).is_none();
        shapes.iter().filter(matters).filter(|s| fits(s.op)).filter(unknown).collect()
    }

    fn measure(&mut self, gpu: &Gpu, shapes: &[Shape]) -> Result<()> {
        let Some(limit) = self.settings.seconds else { return Ok(()) };
        let open = self.open(gpu, shapes);
        if open.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let end = Duration::try_from_secs_f64(limit).ok().and_then(|left| start.checked_add(left));
        (self.settings.on_event)(Event::Begin { shapes: open.len(), seconds: limit })?;
        let mut scratch = Scratch::new(gpu);
        let mut found = Tuning::default();
        let (mut measured, mut changed) = (0, 0);
        for shape in &open {
            let label = shape.op.label();
            (self.settings.on_event)(Event::Shape { label: &label })?;
            let late = end.is_some_and(|end| Instant::now() >= end);
            let verdict = if late { None } else { scratch.judge(shape.op, &shape.candidates, end)? };
            let name = |index: usize| shape.candidates.get(index).map(|(v, t)| choice(v, t)).unwrap_or_default();
            // Once the time is up the default stays, in later runs too: only the first pays.
            let mut winner = 0;
            if let Some(verdict) = verdict {
                for &wrong in &verdict.wrong {
                    (self.settings.on_event)(Event::Wrong { label: &label, choice: &name(wrong) })?;
                }
                winner = verdict.winner;
                measured += 1;
                changed += usize::from(winner != 0);
            }
            found.set(shape.key.clone(), name(winner));
        }
        drop(scratch);
        self.settings.known.extend(&found);
        self.measured.extend(&found);
        let seconds = start.elapsed().as_secs_f64();
        self.settings.seconds = Some((limit - seconds).max(0.0));
        let left = open.len() - measured;
        (self.settings.on_event)(Event::End { measured, changed, left, seconds })?;
        if let Some(cache) = &self.settings.cache
            && let Err(e) = keep(cache, &found)
        {
            (self.settings.on_event)(Event::Unkept { problem: &e.to_string() })?;
        }
        Ok(())
    }
}

/// Adds to the cache's file, waiting for another process that writes there. A file that is not one is replaced.
fn keep(cache: &TuningFile, found: &Tuning) -> Result<()> {
    let folder = cache.path.parent().unwrap_or(&cache.path);
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    let start = Instant::now();
    let _lock = loop {
        match folder_lock::exclusive(folder) {
            Ok(held) => break held,
            Err(e) if start.elapsed() > PATIENCE => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    match cache.merge(found) {
        Err(Error::Format { .. }) => {
            std::fs::remove_file(&cache.path).map_err(Error::io(&cache.path, "remove"))?;
            cache.merge(found)
        }
        merged => merged,
    }
}
