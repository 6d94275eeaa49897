//! `deme doctor`: this machine's adapters, and a self-test of every kernel on the one that deme would use.
//! Called by `cli::run`.

mod adapters;
mod dump;
mod self_test;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use super::terminal::say;
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// List the GPUs with their drivers and limits, and test every kernel on the one in use.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// List the adapters only
    #[arg(long)]
    skip_test: bool,
    /// Write every shader as SPIR-V, HLSL and Metal text into this folder, and do nothing else
    #[arg(long, value_name = "DIR")]
    dump_shaders: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &DoctorArgs, global: &Global) -> Result<()> {
    if let Some(dir) = &args.dump_shaders {
        let files = dump::run(dir)?;
        return say!("wrote {files} shaders into {}", dir.display());
    }
    let choice = global.choice();
    let found = adapters::examine(&choice)?;
    if !args.json {
        adapters::print(&found)?;
    }
    let mut report = json!({"deme": env!("CARGO_PKG_VERSION"), "adapters": adapters::json(&found)});
    let outcome = match args.skip_test {
        // No adapter, and a name that none of them has, are errors as for every other command.
        true => Gpu::describe_features(&choice).map(drop),
        false => test(args, global, &mut report),
    };
    if args.json {
        say!("{report:#}")?;
    }
    outcome
}

/// Opens the adapter in use and holds every kernel to its twin; an error names the kernels that are wrong.
fn test(args: &DoctorArgs, global: &Global, report: &mut serde_json::Value) -> Result<()> {
    let gpu = global.open_with_all()?;
    report["tested"] = adapters::opened(&gpu);
    if !args.json {
        adapters::print_opened(&gpu)?;
    }
    let found = self_test::run(&gpu, global)?;
    report["kernels"] = found.json();
    if !args.json {
        found.print(global)?;
    }
    let wrong = found.wrong();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::WrongNumbers { adapter: gpu.summary().name.clone(), kernels: wrong.join(", ") })
}
