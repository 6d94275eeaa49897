//! `--autotune`: which variants and tilings the kernels take, from the built-in table, the cache, measurements or a record.
//! Called by every command that runs a network.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use indicatif::ProgressBar;
use serde::{Serialize, Serializer};

use super::{Global, interrupt};
use crate::error::{Error, Result};
use crate::gpu::autotune::{Event, OnEvent};
use crate::gpu::{Autotune, Gpu, Tuning, TuningFile};
use crate::shader::Class;

/// How kernels are chosen.
#[derive(Args, Debug, Clone, Serialize)]
pub struct TuneArgs {
    /// How kernels are chosen: cached (measured on first use on this adapter, then kept), full (measured anew), off (the
    /// built-in table), or as the tuning.json of an earlier run says
    #[arg(long, value_name = "cached|full|off|FILE", default_value = "cached")]
    pub autotune: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Cached,
    Full,
    Off,
    As(PathBuf),
}

impl FromStr for Mode {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(match text {
            "cached" => Self::Cached,
            "full" => Self::Full,
            "off" => Self::Off,
            path => Self::As(path.into()),
        })
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cached => f.write_str("cached"),
            Self::Full => f.write_str("full"),
            Self::Off => f.write_str("off"),
            Self::As(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Seconds of measuring on first use.
const FIRST_USE: f64 = 15.0;
/// A command that replays its network less often than this measures nothing by itself: it would be done sooner without.
const WORTHWHILE: u64 = 100;

impl TuneArgs {
    /// Opens the adapter for a command that replays its network about so often.
    pub fn open(&self, global: &Global, replays: u64) -> Result<Gpu> {
        let gpu = Gpu::open(&global.choice())?;
        self.apply(&gpu, global, replays)?;
        Ok(gpu)
    }

    /// From here on the adapter's plans are tuned as the option says.
    pub fn apply(&self, gpu: &Gpu, global: &Global, replays: u64) -> Result<()> {
        let (known, seconds, cache) = match &self.autotune {
            Mode::Off => (Tuning::default(), None, None),
            Mode::As(path) => (recorded(&gpu.tuning_file(path))?, None, None),
            Mode::Full => (gpu.measured(), Some(f64::INFINITY), gpu.tuning_cache()),
            Mode::Cached => {
                let cache = gpu.tuning_cache();
                let known = cache.as_ref().map(|file| kept(file, global)).unwrap_or_default();
                let pays = replays >= WORTHWHILE && gpu.class() != Class::Cpu;
                (known, pays.then_some(FIRST_USE), cache)
            }
        };
        gpu.autotune(Autotune { known, seconds, cache, on_event: listener(global) });
        Ok(())
    }
}

/// Tunes for work that keeps a record of its choices and may have been begun: by the record where it is of this device;
/// not at all where the work was begun without one; else as the option says.
pub fn resume(
    gpu: &Gpu,
    record: &TuningFile,
    begun: bool,
    args: &TuneArgs,
    global: &Global,
    replays: u64,
) -> Result<()> {
    let known = match record.read()? {
        Some(known) => known,
        None if begun && !record.path.exists() => Tuning::default(),
        None => return args.apply(gpu, global, replays),
    };
    global.detail(format_args!("{} kernel shapes tuned as when this began", known.len()));
    gpu.autotune(Autotune { known, seconds: None, cache: None, on_event: listener(global) });
    Ok(())
}

/// What the cache says of this device. One that cannot be read is as good as none.
fn kept(file: &TuningFile, global: &Global) -> Tuning {
    let tuning = file.read().unwrap_or_else(|e| {
        global.warn(&format!("what was tuned is not used: {e}"));
        None
    });
    tuning.unwrap_or_default()
}

fn recorded(file: &TuningFile) -> Result<Tuning> {
    if !file.path.exists() {
        let message = format!("--autotune {} is no mode, and no file of that name is there", file.path.display());
        return Err(Error::usage(message, "give cached, full, off, or the tuning.json of a run"));
    }
    file.read()?.ok_or_else(|| {
        let message = format!("{} says nothing of {}", file.path.display(), file.device);
        Error::usage(message, "a record serves on the adapter, driver and version of deme that it is of")
    })
}

/// A line when measuring begins and one when it ends, with a bar between them.
fn listener(global: &Global) -> OnEvent {
    let global = global.clone();
    let mut bar = ProgressBar::hidden();
    Box::new(move |event| {
        match event {
            Event::Begin { shapes, seconds } => {
                let limit = if seconds.is_finite() { format!(", at most {seconds:.0} s") } else { String::new() };
                global.note(format_args!("tuning {shapes} kernel shapes for this adapter, once{limit}"));
                bar = global.progress(shapes as u64, "tuning", "shapes");
            }
            Event::Shape { label } => {
                bar.inc(1);
                bar.set_message(label.to_owned());
            }
            Event::Wrong { label, choice } => {
                global.warn(&format!("{choice} computes {label} wrongly on this adapter; it is not used"));
            }
            Event::End { measured, changed, left, seconds } => {
                bar.finish_and_clear();
                let rest = match left {
                    0 => String::new(),
                    left => format!("; {left} keep their defaults (--autotune full measures all)"),
                };
                global.note(format_args!("tuned {measured} in {seconds:.1} s, {changed} for the better{rest}"));
            }
            Event::Unkept { problem } => global.warn(&format!("what was tuned is not kept: {problem}")),
        }
        match interrupt::requested() {
            true => Err(Error::Interrupted { saved: "nothing was begun yet".into() }),
            false => Ok(()),
        }
    })
}
