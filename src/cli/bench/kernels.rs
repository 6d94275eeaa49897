//! `deme bench kernels`: every kernel and variant at the shapes of models in use, against this adapter's own ceilings.
//! Called by `cli::bench` and by `cargo bench`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{OutArgs, command_line, settings, table, tuned};
use crate::bench::ceilings::Ceilings;
use crate::bench::kernels::{self, Options};
use crate::bench::measure::Effort;
use crate::bench::page;
use crate::bench::results::Results;
use crate::cli::Global;
use crate::cli::terminal::say;
use crate::cli::tune::TuneArgs;
use crate::error::Result;

/// Time every kernel and variant that fits this adapter, at the shapes of models in use
#[derive(Args, Debug)]
pub(super) struct KernelsArgs {
    /// Only rows whose `case pass variant` contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Also variants made for other adapters, and the naive ones on a CPU
    #[arg(long)]
    all_variants: bool,
    /// Also every tiling of each variant
    #[arg(long)]
    tilings: bool,
    /// Also the cases that take a CPU long
    #[arg(long)]
    heavy: bool,
    /// Run one small case of each kind, and every kernel in every variant, once
    #[arg(long)]
    smoke: bool,
    /// Seconds for each row
    #[arg(long, value_name = "S", default_value_t = 0.3, value_parser = super::positive)]
    time: f64,
    /// Write a page with plots and the table
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    #[command(flatten)]
    files: OutArgs,
    #[command(flatten)]
    tune: TuneArgs,
}

pub(super) fn run(args: &KernelsArgs, global: &Global) -> Result<()> {
    let earlier = args.files.earlier()?;
    let effort = Effort { seconds: args.time, smoke: args.smoke };
    let options = Options {
        filter: args.filter.clone(),
        all_variants: args.all_variants,
        tilings: args.tilings,
        heavy: args.heavy,
        effort,
    };
    let gpu = global.open_with_all()?;
    args.tune.apply(&gpu, global, u64::MAX)?;
    let clock = if gpu.has_timestamps() { "timestamps" } else { "host" };
    let settings = settings([
        ("clock", json!(clock)),
        ("seconds_a_row", json!(args.time)),
        ("smoke", json!(args.smoke)),
        ("filter", json!(args.filter)),
    ]);
    let mut results = Results::new(&gpu, command_line(), settings);
    say!("{}", gpu.summary())?;
    let ceilings = Ceilings::measure(&gpu, effort)?;
    say!("{}", ceilings.describe())?;
    say!("timed by {}\n", if gpu.has_timestamps() { "the adapter's timestamps" } else { "waiting for each run" })?;
    table::head()?;
    results.rows = kernels::run(&gpu, &options, &ceilings, &mut |row| table::row(row))?;
    results.ceilings = Some(ceilings);
    tuned(&mut results, &gpu, &args.tune);
    let moved = args.files.finish(&results, earlier.as_ref(), global)?;
    if let Some(path) = &args.html {
        page::write(path, &results, &moved)?;
        global.note(format_args!("wrote {}", path.display()));
    }
    Ok(())
}
