//! Planted faults: a wrong shader, a wrong call or a wrong result that the harness must notice.
//! Called by `Family::catches`.

use super::case::Bench;
use super::compare::Tolerance;
use super::device::{self, Words};
use super::family::{Failure, Half, Trial};
use deme::recording::Op;
use deme::shader::{Limits, translate};

/// What is broken in the first op of kernel `word`.
pub struct Fault {
    pub name: &'static str,
    pub word: &'static str,
    pub kind: Kind,
}

pub enum Kind {
    /// In the text of variant `stem`, the first `from` in its code becomes `to`; in the tiling of this name, or the first.
    Shader { stem: &'static str, tiling: Option<&'static str>, from: &'static str, to: &'static str },
    /// The GPU is given another op than the twin.
    Call(fn(&mut Op)),
    /// The same of the op with its elements in f16.
    Elements(fn(&mut Op)),
    /// The buffers (with guard words) after run 0, 1 or 2 are changed before they are judged.
    Result(fn(usize, &Op, &mut Words)),
}

impl Fault {
    pub const fn shader(
        name: &'static str,
        word: &'static str,
        stem: &'static str,
        from: &'static str,
        to: &'static str,
    ) -> Self {
        Self { name, word, kind: Kind::Shader { stem, tiling: None, from, to } }
    }

    /// The same in this tiling.
    pub const fn tiled(self, tiling: &'static str) -> Self {
        match self.kind {
            Kind::Shader { stem, from, to, .. } => {
                Self { kind: Kind::Shader { stem, tiling: Some(tiling), from, to }, ..self }
            }
            _ => self,
        }
    }

    /// Whether the broken variant is one that this adapter cannot run (others can): then the fault cannot be planted.
    fn elsewhere(&self, op: &Op) -> bool {
        let Kind::Shader { stem, .. } = &self.kind else { return false };
        let named = op.card.variants.iter().find(|v| v.stem == *stem);
        let fits = |limits: &Limits| named.is_some_and(|v| (v.fits)(&op.params, limits));
        fits(&translate::LIMITS) && !fits(&device::gpu().limits())
    }

    /// Whether the fault was planted: then the sound op passes, and the faulty one runs and fails.
    pub fn caught(&self, bench: &Bench, tolerance: &Tolerance) -> Result<bool, String> {
        let rec = &bench.tape.rec;
        let dtypes: Vec<_> = rec.buffers.iter().map(|b| b.dtype).collect();
        let mut state = bench.snapshot();
        for op in &rec.ops {
            if op.card.word == self.word && self.elsewhere(op) {
                return Ok(false);
            }
            let sound = Op { card: self.card(op)?, ..op.clone() };
            let half = match self.kind {
                Kind::Elements(_) if op.card.word == self.word => match Half::of(&sound, &dtypes, &state) {
                    None => return Ok(false),
                    half => half,
                },
                _ => None,
            };
            let mut trial = half.as_ref().map_or_else(|| Trial::new(&sound, &dtypes, &state), Half::trial);
            if op.card.word == self.word {
                if let Kind::Shader { tiling: Some(tiling), .. } = &self.kind {
                    trial.tiling = Some((*tiling).to_owned());
                }
                trial.conform(tolerance, |_, _| ()).map_err(|e| format!("without the fault: {e:?}"))?;
                return match self.plant(trial, tolerance)? {
                    Err(Failure::Wrong(_)) => Ok(true),
                    Err(Failure::Device(e)) => Err(format!("the faulty op did not run: {e}")),
                    Ok(_) => Err("not noticed".into()),
                };
            }
            let after = device::run(&sound, &dtypes, &trial.words, false, 1)?;
            for (b, words) in device::untouched(&sound, &trial.words, &after[0])? {
                state[b] = words;
            }
        }
        Err(format!("the recording has no {}", self.word))
    }

    /// The card that the sound op runs on: of the variant that is broken, or of the first that fits.
    fn card(&self, op: &Op) -> Result<&'static deme::shader::card::Card, String> {
        let wanted = match &self.kind {
            Kind::Shader { stem, .. } if op.card.word == self.word => Some(*stem),
            _ => None,
        };
        let variant = device::fitting(op).into_iter().find(|v| wanted.is_none_or(|stem| v.stem == stem));
        variant.map(|v| device::forced(op.card, v)).ok_or_else(|| format!("{wanted:?} does not fit {}", op.label()))
    }

    fn plant(&self, trial: Trial, tolerance: &Tolerance) -> Result<Result<Words, Failure>, String> {
        let mut op = trial.op.clone();
        match &self.kind {
            Kind::Shader { from, to, .. } => {
                let variant = &op.card.variants[0];
                let text = broken(variant.source, from, to)
                    .or_else(|| broken(&inlined(variant.source), from, to))
                    .ok_or_else(|| format!("{} does not contain {from:?}", variant.stem))?;
                let text = Box::leak(text.into_boxed_str());
                op.card = device::single(op.card, variant, variant.stem, text);
            }
            Kind::Call(change) | Kind::Elements(change) => change(&mut op),
            Kind::Result(change) => {
                return Ok(trial.conform(tolerance, |run, words| change(run, trial.op, words)));
            }
        }
        Ok(Trial { op: &op, ..trial }.conform(tolerance, |_, _| ()))
    }
}

/// The text with each include replaced by what it includes: a fault may lie there.
fn inlined(source: &str) -> String {
    let shared = |line: &str| {
        let name = line.strip_prefix("//% include \"")?.strip_suffix('"')?;
        Some(std::fs::read_to_string(format!("{}/shaders/shared/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap())
    };
    source.lines().map(|line| shared(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

/// The text with the first `from` outside of whole-line comments replaced.
fn broken(source: &str, from: &str, to: &str) -> Option<String> {
    let comment = |at: usize| source[..at].rsplit('\n').next().is_some_and(|line| line.starts_with("//"));
    let (at, _) = source.match_indices(from).find(|(at, _)| !comment(*at))?;
    Some(format!("{}{to}{}", &source[..at], &source[at + from.len()..]))
}
