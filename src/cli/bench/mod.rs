//! `deme bench`: how fast this adapter is, and beside others.
//! Called by `cli::run`.

mod compare;
mod curves;
mod kernels;
mod table;
mod unet;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::Global;
use super::tune::TuneArgs;
use crate::bench::results::{Moved, Results, Row, moved};
use crate::error::Result;
use crate::gpu::Gpu;

/// Measure kernels and whole networks on this machine's GPU, and compare with other engines
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Kernels(kernels::KernelsArgs),
    Unet(unet::UnetArgs),
    Compare(compare::CompareArgs),
    Curves(curves::CurvesArgs),
}

pub fn run(args: &BenchArgs, global: &Global) -> Result<()> {
    match &args.what {
        What::Kernels(args) => kernels::run(args, global),
        What::Unet(args) => unet::run(args, global),
        What::Compare(args) => compare::run(args),
        What::Curves(args) => curves::run(args),
    }
}

/// Where results go, and what they are compared with.
#[derive(Args, Debug)]
struct OutArgs {
    /// Write the results as JSON
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Mark what moved by more than the noise since this earlier run's --out
    #[arg(long, value_name = "FILE.json")]
    baseline: Option<PathBuf>,
}

impl OutArgs {
    /// The earlier run's rows, read before the work.
    fn earlier(&self) -> Result<Option<Results>> {
        self.baseline.as_deref().map(Results::read).transpose()
    }

    /// Prints and gives what moved, and writes the file.
    fn finish(&self, results: &Results, earlier: Option<&Results>, global: &Global) -> Result<Vec<Moved>> {
        let mut found = Vec::new();
        if let Some(earlier) = earlier {
            if (&earlier.device, &earlier.driver) != (&results.device, &results.driver) {
                let text = format!("the baseline was measured on {} ({})", earlier.device, earlier.driver);
                global.warn(&text);
            }
            found = moved(&earlier.rows, &results.rows);
            table::moved(&results.rows, &found)?;
        }
        if let Some(path) = &self.out {
            results.write(path)?;
            global.note(format_args!("wrote {}", path.display()));
        }
        Ok(found)
    }
}

/// The command line as it was typed.
fn command_line() -> String {
    let words: Vec<_> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = words.first().map(Path::new).and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    name.into_iter().chain(words.into_iter().skip(1)).collect::<Vec<_>>().join(" ")
}

/// Settings in the results: (name, value) pairs.
fn settings<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Puts the choices of kernels into the results' settings.
fn tuned(results: &mut Results, gpu: &Gpu, args: &TuneArgs) {
    results.settings.insert("autotune".to_owned(), args.autotune.to_string().into());
    results.settings.insert("tuning".to_owned(), Value::Object(gpu.tuning().to_json()));
}

/// How a row is called in messages.
fn name(row: &Row) -> String {
    format!("{} {} {}", row.case, row.pass, row.variant)
}

/// A finite number above 0.
fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}
