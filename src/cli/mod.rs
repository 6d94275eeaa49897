//! One file a command: its options, then its run. The only room that prints.
//! Called by `main`.

pub mod analyze;
pub mod bench;
pub mod cuts;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod eval;
mod eval_fid;
mod export;
mod features;
pub mod finetune;
pub mod inspect;
pub mod interrupt;
pub mod merge;
pub mod models;
pub mod opened;
mod reproduce;
pub mod run_file;
pub mod sample;
pub mod search;
pub mod terminal;
pub mod train;
pub mod training;
pub mod tune;
mod weights_file;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Gpu};
use crate::shader::Precision;

/// The help lists these after a command's own.
const HEADING_GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "Exit codes: 0 success, 2 usage or configuration, 3 bad input file, 4 GPU device, \
5 out of GPU memory, 6 storage, 7 numbers not finite, 130 stopped by a signal.";

/// Finetune a diffusion model as timestep-range experts and merge them into one (DeMe), on any GPU.
#[derive(Parser, Debug)]
#[command(name = "deme", version, after_help = EXIT_CODES, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Args, Debug, Clone, Serialize)]
pub struct Global {
    /// GPU to use: a part of its name, or its index in the list of `deme doctor` [env: WGPU_ADAPTER_NAME]
    #[arg(long, global = true, value_name = "NAME|INDEX", help_heading = HEADING_GLOBAL)]
    pub adapter: Option<String>,
    /// Graphics interface to use: vulkan, metal, dx12 or gl [env: WGPU_BACKEND]
    #[arg(long, global = true, value_name = "NAME", help_heading = HEADING_GLOBAL)]
    pub backend: Option<String>,
    /// What weights and activations are stored in; sums, gradients, the optimizer's state and files are always f32. f16 takes
    /// about half the memory, multiplies in cooperative matrices where there are any, and scales the loss in training; auto
    /// takes it on GPUs that have them [default: f32]
    #[arg(long, global = true, value_enum, value_name = "NAME", help_heading = HEADING_GLOBAL)]
    #[serde(serialize_with = "precision_word")]
    pub precision: Option<PrecisionArg>,
    /// Print results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = HEADING_GLOBAL)]
    #[serde(skip)]
    pub quiet: bool,
    /// Print more about what is being done
    #[arg(short, long, global = true, help_heading = HEADING_GLOBAL)]
    #[serde(skip)]
    pub verbose: bool,
}

fn precision_word<S: serde::Serializer>(
    precision: &Option<PrecisionArg>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(precision.unwrap_or(PrecisionArg::F32).name())
}

impl Global {
    /// What `gpu::Gpu::open` takes.
    pub fn choice(&self) -> AdapterChoice {
        let precision = match self.precision() {
            PrecisionArg::F32 => Some(Precision::F32),
            PrecisionArg::F16 => Some(Precision::F16),
            PrecisionArg::Auto => None,
        };
        AdapterChoice { adapter: self.adapter.clone(), backend: self.backend.clone(), precision }
    }

    pub fn precision(&self) -> PrecisionArg {
        self.precision.unwrap_or(PrecisionArg::F32)
    }

    /// Opens the adapter with all that it offers, for what walks every variant of every kernel; plans are in the precision asked
    /// for, without --precision in f32.
    pub fn open_with_all(&self) -> Result<Gpu> {
        let gpu = Gpu::open(&AdapterChoice {
            precision: self.choice().precision.filter(|_| self.precision.is_some()),
            ..self.choice()
        })?;
        Ok(if self.precision.is_some() { gpu } else { gpu.at(Precision::F32) })
    }
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    F32,
    F16,
    Auto,
}

impl PrecisionArg {
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Auto => "auto",
        }
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    Train(Box<train::TrainArgs>),
    Finetune(Box<finetune::FinetuneArgs>),
    Cuts(cuts::CutsArgs),
    Merge(merge::MergeArgs),
    Search(search::SearchArgs),
    Sample(sample::SampleArgs),
    Eval(eval::EvalArgs),
    Analyze(Box<analyze::AnalyzeArgs>),
    Demo(demo::DemoArgs),
    Reproduce(reproduce::ReproduceArgs),
    Inspect(inspect::InspectArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
}

/// Every option takes negative numbers, so that an error is about the number and not about a missing option.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let open = |arg: clap::Arg| match arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    command.mut_args(open).mut_subcommands(with_negative_numbers)
}

impl Cli {
    /// All commands with their options and defaults.
    fn described() -> clap::Command {
        with_negative_numbers(Self::command()).mut_subcommand("train", train::defaults)
    }

    /// The command line with its run file, or, once help, the version or an error is printed, the exit code.
    pub fn parse_arguments() -> std::result::Result<Self, u8> {
        let described = Self::described();
        let arguments = run_file::expand(std::env::args_os().collect(), &described).map_err(|error| {
            terminal::error(&error);
            error.exit_code()
        })?;
        let parsed = described.try_get_matches_from(arguments).and_then(|matches| Self::from_arg_matches(&matches));
        parsed.map_err(|e| {
            // A closed pipe is the only way to fail, and then nobody reads.
            let _ = e.print();
            u8::try_from(e.exit_code()).unwrap_or(2)
        })
    }
}

/// Runs another of deme's commands as if its words stood on the command line, with the same global options.
fn invoke(words: &[String], global: &Global) -> Result<()> {
    let words = std::iter::once("deme").chain(words.iter().map(String::as_str));
    let cli = Cli::try_parse_from(words)
        .map_err(|e| Error::usage(format!("deme's own command line: {e}"), "please report this"))?;
    run(&Cli { global: global.clone(), ..cli })
}

/// Runs the command.
pub fn run(cli: &Cli) -> Result<()> {
    let global = &cli.global;
    match &cli.command {
        Command::Train(args) => train::run(args, global),
        Command::Finetune(args) => finetune::run(args, global),
        Command::Cuts(args) => cuts::run(args, global),
        Command::Merge(args) => merge::run(args, global),
        Command::Search(args) => search::run(args, global),
        Command::Sample(args) => sample::run(args, global),
        Command::Eval(args) => eval::run(args, global),
        Command::Analyze(args) => analyze::run(args, global),
        Command::Demo(args) => demo::run(args, global),
        Command::Reproduce(args) => reproduce::run(args, global),
        Command::Inspect(args) => inspect::run(args),
        Command::Doctor(args) => doctor::run(args, global),
        Command::Bench(args) => bench::run(args, global),
    }
}
