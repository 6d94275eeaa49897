//! `deme search`: finds merge weights on a grid by the denoising loss, and writes the table, the weights and the merged
//! model. Called by `cli::run`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::data::{DataArgs, Split, spread};
use super::merge::{self, MergeArgs};
use super::models::{open_with_experts, timestep_ranges};
use super::tune::{self, TuneArgs};
use super::{Global, interrupt, opened, terminal::say};
use crate::data::dataset::Dataset;
use crate::deme::judge::{Merger, judge};
use crate::deme::search::{self, Candidate, Grid, Header, Table};
use crate::diffusion::denoising::{DenoisingLoss, LossSpec, Trial, stratified_pairs};
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tuning};
use crate::io::atomic;
use crate::io::hash::{self, Hash};
use crate::io::lock;
use crate::io::source::TensorSource;
use crate::model::unet::Projections;
use crate::nn::{Role, Slabs};
use crate::rng::{Purpose, stream};
use crate::shader::Precision;

/// Find the weights of a merge
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// Model folder that the experts were finetuned from
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Experts, in the order of their timestep ranges
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    experts: Vec<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// Which images judge the candidates; the others are left for reported figures
    #[arg(long, value_enum, default_value = "holdout-even")]
    split: Split,
    /// How candidates are chosen
    #[arg(long, default_value = "grid", value_parser = ["grid"])]
    method: String,
    /// Smallest weight
    #[arg(long, default_value_t = 0.0)]
    low: f64,
    /// Largest weight
    #[arg(long, default_value_t = 1.0)]
    high: f64,
    /// Step of the first pass
    #[arg(long, default_value_t = 0.5)]
    step: f64,
    /// Step of the second pass, around the best of the first; as large as --step for none
    #[arg(long, default_value_t = 0.25)]
    fine: f64,
    /// Images for each timestep range, the same with the same noise for all candidates
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Folder for table.jsonl, weights.json and merged/; a stopped search in it continues
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    tune: TuneArgs,
}

/// What identifies a search: everything that a candidate's loss and the choice among candidates depend on.
fn identity(
    args: &SearchArgs,
    grid: &Grid,
    models: &[&Pretrained],
    dataset: &Dataset,
    images: &[usize],
    precision: Precision,
) -> Result<Header> {
    let described = |m: &&Pretrained| -> Result<_> {
        let weights: Vec<_> = opened::hashes(m.folder.weights.path())?.into_iter().map(|(_, _, hash)| hash).collect();
        Ok(json!([weights, m.folder.unet_config.map, m.folder.scheduler_config()?.map]))
    };
    let models = models.iter().map(described).collect::<Result<Vec<_>>>()?;
    let mut pixels = Hash::default();
    images.iter().for_each(|&i| pixels.bytes(dataset.pixels_u8(i)));
    let settings = json!({
        "models": models, "grid": grid, "images": images, "pixels": pixels.finish(), "pairs": args.pairs,
        "seed": args.seed, "batch": args.batch, "precision": precision.to_string(),
    });
    Ok(Header { identity: hash::of_bytes(settings.to_string().as_bytes()) })
}

pub fn run(args: &SearchArgs, global: &Global) -> Result<()> {
    let grid = Grid { low: args.low, high: args.high, step: args.step, fine: args.fine };
    grid.check(args.experts.len())?;
    let (model, experts) = open_with_experts(&args.model, &args.experts)?;
    let dataset = args.data.open(&model, global)?;
    let mut images = args.split.images(&dataset)?;
    images = spread(&images, args.pairs as usize);
    let repeats = (args.pairs as usize).div_ceil(images.len());
    let ranges = timestep_ranges(&model, experts.len() as u32)?;
    let pairs = stratified_pairs(&images, &ranges, repeats, args.seed);
    let merged = args.out.join("merged");
    if merged.exists() {
        let message = format!("{} exists: this search is done", merged.display());
        return Err(Error::usage(message, "give another --out, or move the merged model away to search on"));
    }
    if args.out.is_file() {
        return Err(Error::usage(format!("{} is a file", args.out.display()), "give a folder for --out"));
    }
    let images_of_pairs: Vec<usize> = pairs.iter().map(|p| p.image).collect();
    let models: Vec<&Pretrained> = std::iter::once(&model).chain(&experts).collect();
    for input in &models {
        input.folder.check_output(&merged)?;
    }
    let gpu = Gpu::open(&global.choice())?;
    let header = identity(args, &grid, &models, &dataset, &images, gpu.precision())?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "create"))?;
    let _lock = lock::exclusive(&args.out)?;
    let begun = args.out.join("table.jsonl").exists();
    let mut table = Table::open(&args.out.join("table.jsonl"), &header)?;
    // Candidates are compared to the last digit: a search goes on with the kernels that it began with.
    let record = gpu.tuning_file(&args.out.join("tuning.json"));
    let replays = (pairs.len() as u64).div_ceil(u64::from(args.batch)) * grid.coarse(experts.len()).len() as u64;
    tune::resume(&gpu, &record, begun, &args.tune, global, replays)?;
    if !table.rows.is_empty() {
        global.note(format_args!("{} candidates are in the table already", table.rows.len()));
    }
    let theta = Slabs::new(&gpu, &model.layout, Role::Theta)?;
    let read = |i: usize, name: &str| if i == 0 { model.read(name) } else { experts[i - 1].read(name) };
    let mut merger = Merger::new(&gpu, &model.layout, experts.len() as u32, &read, &theta)?;
    let projections = if model.has_projections { Projections::Run } else { Projections::Skip };
    let sides = [dataset.size(), dataset.size()];
    let spec = LossSpec { batch: args.batch.min(pairs.len() as u32), sides, projections };
    let mut denoising = DenoisingLoss::new(&gpu, &model.config, &model.schedule, &model.layout, &theta, spec)?;
    let trial = Trial {
        pairs: &pairs,
        image: &|i, out| dataset.write_pixels(i, false, out),
        seed: args.seed,
        stream: stream(Purpose::EvalNoise, 1),
    };

    record.begin(&gpu.tuning())?;
    let listening = interrupt::listen();
    let bar = global.progress(1, "searching", "candidates");
    let best = search::grid(
        experts.len(),
        &grid,
        &images_of_pairs,
        &mut table,
        &mut |w| judge(&mut merger, &mut denoising, &trial, w, &mut |_| Ok(())),
        &mut |done, planned, best| {
            bar.set_length(planned as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("best {:.6} at {:?}", best.loss, best.w));
            if interrupt::requested() {
                let saved = "all judged candidates are in the table; the same command continues".to_string();
                return Err(Error::Interrupted { saved });
            }
            Ok(())
        },
    )?;
    drop(listening);
    bar.finish_and_clear();
    say!("{} candidates, the best at w = {:?}", table.rows.len(), best.w)?;
    say!(
        "search loss {:.6}, against the base {:+.6} ± {:.6} ({} pairs)",
        best.loss,
        best.difference,
        best.difference_error,
        pairs.len()
    )?;
    write_weights(args, &best, &gpu.tuning())?;
    let merge = MergeArgs {
        model: args.model.clone(),
        experts: args.experts.clone(),
        weights: best.w.clone(),
        out: merged,
        names: None,
        dry_run: false,
    };
    merge::run(&merge, global)
}

/// weights.json: the result in a form that scripts read.
fn write_weights(args: &SearchArgs, best: &Candidate, tuning: &Tuning) -> Result<()> {
    let text = json!({
        "weights": best.w, "loss": best.loss, "difference": best.difference,
        "difference_error": best.difference_error, "experts": args.experts, "model": args.model,
        "tuning_sha256": tuning.sha256(),
    });
    atomic::write(&args.out.join("weights.json"), format!("{text:#}\n").as_bytes())
}
