//! `deme eval loss`: the denoising loss by timestep bucket, of a model or an ensemble; `deme eval fid` is beside it.
//! Called by `cli::run`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::data::{DataArgs, Split, spread};
use super::eval_fid::{self, FidArgs};
use super::models::{Judged, ModelArgs, timestep_ranges};
use super::sample::check_new_file;
use super::tune::TuneArgs;
use super::{Global, terminal::say};
use crate::diffusion::denoising::{DenoisingLoss, LossSpec, Trial, stratified_pairs};
use crate::error::Result;
use crate::eval::loss::{self, Buckets};
use crate::gpu::Gpu;
use crate::nn::{Role, Slabs};
use crate::rng::{Purpose, stream};

/// Judge a model
#[derive(Args, Debug)]
pub struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Loss(LossArgs),
    Fid(Box<FidArgs>),
}

/// Denoising loss by timestep, with standard errors
#[derive(Args, Debug)]
struct LossArgs {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Which images to judge on
    #[arg(long, value_enum, default_value = "holdout")]
    split: Split,
    /// Use at most so many images
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Timestep buckets of equal width
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    buckets: u32,
    /// Timesteps for each image and bucket
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write each pair's image, timestep and loss as JSON lines
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    #[command(flatten)]
    tune: TuneArgs,
}

pub fn run(args: &EvalArgs, global: &Global) -> Result<()> {
    match &args.what {
        What::Loss(args) => run_loss(args, global),
        What::Fid(args) => eval_fid::run(args, global),
    }
}

fn run_loss(args: &LossArgs, global: &Global) -> Result<()> {
    let judged = Judged::open(&args.models)?;
    let model = &judged.model;
    let dataset = args.data.open(model, global)?;
    let mut images = args.split.images(&dataset)?;
    images = spread(&images, args.limit.map_or(usize::MAX, |n| n as usize));
    args.pairs.as_deref().map(|path| check_new_file(path, "--pairs")).transpose()?;
    let buckets = timestep_ranges(model, args.buckets)?;
    let pairs = stratified_pairs(&images, &buckets, args.repeats as usize, args.seed);

    let gpu = args.tune.open(global, (pairs.len() as u64).div_ceil(u64::from(args.batch)))?;
    let trial = Trial {
        pairs: &pairs,
        image: &|i, out| dataset.write_pixels(i, false, out),
        seed: args.seed,
        stream: stream(Purpose::EvalNoise, 0),
    };
    let losses = pair_losses(&gpu, &judged, &trial, dataset.size(), args.batch, global)?;
    if let Some(path) = &args.pairs {
        let lines = pairs.iter().zip(&losses);
        let lines: String = lines
            .map(|(p, loss)| format!("{}\n", serde_json::json!({ "image": p.image, "t": p.t, "loss": loss })))
            .collect();
        crate::io::atomic::write(path, lines.as_bytes())?;
    }
    let report = loss::report(&Buckets::even(&buckets, pairs.len()), &losses, &pairs);
    if args.json {
        return say!(
            "{}",
            serde_json::json!({ "seed": args.seed, "images": images.len(), "precision": gpu.precision().to_string(), "report": report })
        );
    }
    say!("{:>12}  {:>6}  {:>12}  {:>12}", "timesteps", "pairs", "loss", "std. error")?;
    for line in &report.buckets {
        let t = format!("{}..{}", line.from, line.to);
        say!("{t:>12}  {:>6}  {:>12.6}  {:>12.6}", line.n, line.loss, line.standard_error)?;
    }
    let total = &report.total;
    say!("{:>12}  {:>6}  {:>12.6}  {:>12.6}", "all", total.n, total.loss, total.standard_error)
}

/// The loss of each pair of a trial, with a progress bar.
pub(super) fn pair_losses(
    gpu: &Gpu,
    judged: &Judged,
    trial: &Trial,
    side: u32,
    batch: u32,
    global: &Global,
) -> Result<Vec<f64>> {
    let model = &judged.model;
    let sets = judged.load(gpu)?;
    let theta = Slabs::of(gpu, &model.layout, Role::Theta, gpu.precision().stored())?;
    let spec = LossSpec {
        batch: batch.min(trial.pairs.len() as u32),
        sides: [side, side],
        projections: judged.projections()?,
    };
    let mut denoising = DenoisingLoss::new(gpu, &model.config, &model.schedule, &model.layout, &theta, spec)?;
    let bar = global.progress(trial.pairs.len() as u64, "judging", "pairs");
    let losses = loss::losses(gpu, &mut denoising, &theta, &sets, &|t| judged.set_at(t), trial, &mut |done| {
        bar.set_position(done as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(losses)
}
