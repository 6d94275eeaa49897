//! `deme doctor`: what this machine offers.
//! Called by `cli::run`.

mod adapters;

use clap::Args;

use super::Global;
use super::terminal::say;
use crate::error::Result;

/// List this machine's GPUs, their drivers and limits.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &DoctorArgs, global: &Global) -> Result<()> {
    let choice = global.choice();
    if args.json { say!("{:#}", adapters::json(&choice)?) } else { adapters::print(&choice) }
}
