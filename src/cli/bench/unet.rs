//! `deme bench unet`: a network's forward pass, sampling step and update, at several batch sizes.
//! Called by `cli::bench`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::table::seconds;
use super::{OutArgs, command_line, settings, tuned};
use crate::bench::measure::Effort;
use crate::bench::model::Model;
use crate::bench::results::{Results, Row};
use crate::bench::unet::{self, By, Profile, What};
use crate::cli::Global;
use crate::cli::terminal::{bytes, grouped, say};
use crate::cli::tune::TuneArgs;
use crate::error::{Error, Result};

/// Time a whole network: forward pass, sampling step, update, and the update with DeMe's frozen teacher
#[derive(Args, Debug)]
pub(super) struct UnetArgs {
    /// Model folder as diffusers saves it
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    model: Option<PathBuf>,
    /// Instead, a known configuration with random weights: ddpm-cifar10, lsun-256 or emoji32
    #[arg(long, value_name = "NAME", default_value = "ddpm-cifar10")]
    config: String,
    /// Images at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Which of forward, sample_step, train_step, train_step+teacher [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PASS")]
    pass: Vec<String>,
    /// Make activations again in the backward pass of updates, as --recompute of the training commands does
    #[arg(long)]
    recompute: bool,
    /// Also print each step's kernels, or each kernel at each shape, and their sum beside an unprofiled step
    #[arg(long, value_enum, value_name = "BY", num_args = 0..=1, require_equals = true, default_missing_value = "kernels")]
    profile: Option<Profiled>,
    /// Run everything once
    #[arg(long)]
    smoke: bool,
    /// Seconds for each row
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = super::positive)]
    time: f64,
    #[command(flatten)]
    files: OutArgs,
    #[command(flatten)]
    tune: TuneArgs,
}

/// How a profile is added up.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Profiled {
    Kernels,
    Shapes,
}

impl Profiled {
    fn by(self) -> By {
        match self {
            Self::Kernels => By::Kernel,
            Self::Shapes => By::Shape,
        }
    }
}

/// The passes that were asked for.
fn passes(names: &[String]) -> Result<Vec<What>> {
    let known = What::ALL.map(What::name).join(", ");
    let find = |name: &String| {
        let found = What::ALL.into_iter().find(|what| what.name() == name);
        found.ok_or_else(|| Error::usage(format!("--pass {name} is not known"), format!("choose from {known}")))
    };
    if names.is_empty() { Ok(What::ALL.to_vec()) } else { names.iter().map(find).collect() }
}

pub(super) fn run(args: &UnetArgs, global: &Global) -> Result<()> {
    let earlier = args.files.earlier()?;
    let passes = passes(&args.pass)?;
    let model = match &args.model {
        Some(dir) => Model::open(dir)?,
        None => Model::named(&args.config)?,
    };
    let gpu = args.tune.open(global, u64::MAX)?;
    let effort = Effort { seconds: args.time, smoke: args.smoke };
    let clock = if gpu.has_timestamps() { "timestamps" } else { "host" };
    let settings = settings([
        ("seconds_a_row", json!(args.time)),
        ("smoke", json!(args.smoke)),
        ("profile_clock", json!(clock)),
        ("random_weights", json!(model.is_random())),
    ]);
    let mut results = Results::new(&gpu, command_line(), settings);
    say!("{}", gpu.summary())?;
    say!("{}: {} weights{}", model.name, grouped(model.count()), if model.is_random() { ", random" } else { "" })?;
    head()?;
    let mut profiles = Vec::new();
    for &batch in &args.batch {
        for &what in &passes {
            let (row, profile) =
                unet::run(&gpu, &model, batch, (what, args.recompute), effort, args.profile.map(Profiled::by))?;
            line(&row)?;
            profiles.extend(profile.map(|p| (format!("{} {}", row.case, row.pass), p)));
            results.rows.push(row);
        }
    }
    for (name, profile) in &profiles {
        print(name, profile, clock)?;
    }
    tuned(&mut results, &gpu, &args.tune);
    args.files.finish(&results, earlier.as_ref(), global).map(drop)
}

fn head() -> Result<()> {
    say!(
        "\n{:26} {:19} {:>10} {:>10} {:>7} {:>10} {:>9} {:>10} {:>10} {:>10}",
        "case",
        "pass",
        "median",
        "best",
        "spread",
        "images/s",
        "GFLOP/s",
        "memory",
        "dispatches",
        "host"
    )
}

fn line(row: &Row) -> Result<()> {
    say!(
        "{:26} {:19} {:>10} {:>10} {:>5.1} % {:>10.2} {:>9.1} {:>10} {:>10} {:>10}",
        row.case,
        row.pass,
        seconds(row.median_s),
        seconds(row.best_s),
        100.0 * row.spread,
        row.images_s.unwrap_or_default(),
        row.gflop_s.unwrap_or_default(),
        bytes(row.memory_bytes.unwrap_or_default()),
        row.dispatches.unwrap_or_default(),
        seconds(row.host_s.unwrap_or_default())
    )
}

/// The step's kernels, the largest share first, and whether they add up.
fn print(name: &str, profile: &Profile, clock: &str) -> Result<()> {
    say!("\nprofile of {name}")?;
    let width = profile.shares.iter().map(|share| share.name.len()).max().unwrap_or(0).max(6);
    say!("{:width$} {:>6} {:>10} {:>7} {:>9} {:>8}", "kernel", "count", "time", "share", "GFLOP/s", "GB/s")?;
    for share in &profile.shares {
        let rate = |amount: u64| if share.seconds > 0.0 { amount as f64 / share.seconds / 1e9 } else { 0.0 };
        say!(
            "{:width$} {:>6} {:>10} {:>5.1} % {:>9.1} {:>8.1}",
            share.name,
            share.count,
            seconds(share.seconds),
            100.0 * share.seconds / profile.sum,
            rate(share.cost.flops),
            rate(share.cost.bytes)
        )?;
    }
    let off = 100.0 * (profile.sum / profile.wall - 1.0);
    let verdict = if off.abs() <= 10.0 { "they agree within 10 %" } else { "they DO NOT agree within 10 %" };
    let (sum, wall) = (seconds(profile.sum), seconds(profile.wall));
    say!("sum by {clock} {sum}, an unprofiled step's wall time {wall}: {off:+.1} %, {verdict}")
}
