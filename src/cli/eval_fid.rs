//! `deme eval fid`: how far pictures, or what a model draws, are from others in the features of a network.
//! Called by `cli::eval`.

use std::path::PathBuf;

use clap::{Args, Parser};
use serde::Serialize;
use serde_json::json;

use super::features::{NetworkArg, Side};
use super::models::{Judged, ModelArgs};
use super::sample::{Request, check_new_file, draw_each, visited};
use super::tune::TuneArgs;
use super::{Global, terminal::say};
use crate::error::{Error, Result};
use crate::eval::features::Extractor;
use crate::eval::resize::FidMode;
use crate::eval::sets::{self, Features};
use crate::eval::statistics::{Statistics, frechet_distance};
use crate::eval::weights::Weights;
use crate::gpu::Gpu;

/// Frechet distance between pictures in the features of a network (FID), and what is computed from the same features
#[derive(Args, Debug)]
pub struct FidArgs {
    /// Draw the pictures with this model folder
    #[arg(long, value_name = "DIR", required_unless_present = "images", conflicts_with = "images")]
    model: Option<PathBuf>,
    /// Experts of --ensemble, in the order of their timestep ranges
    #[arg(long, value_name = "DIR", num_args = 1.., requires = "ensemble")]
    experts: Vec<PathBuf>,
    /// Let the expert of the range that holds t predict at t (eq. 7 of the paper)
    #[arg(long, requires = "experts")]
    ensemble: bool,
    /// Judge these pictures: a folder tree, an archive, or with --tile an atlas
    #[arg(long, value_name = "PATH")]
    images: Option<PathBuf>,
    /// What is compared with: pictures, or a .npz with mu and sigma
    #[arg(long, value_name = "PATH")]
    against: PathBuf,
    /// Pictures that come as one atlas are tiles with this side
    #[arg(long, value_name = "SIDE", value_parser = clap::value_parser!(u32).range(1..=4096))]
    tile: Option<u32>,
    /// Weights of the network: scripts/eval-weights.sh fetches them
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// inception is FID; mobilenet is another distance, for machines without a GPU
    #[arg(long, value_enum, default_value = "inception")]
    network: NetworkArg,
    /// Whose FID: pytorch (pytorch-fid), tf (TensorFlow, torch-fidelity) or clean (clean-fid)
    #[arg(long, default_value = "pytorch", value_parser = ["pytorch", "tf", "clean"])]
    mode: String,
    /// Also the kernel distance, precision and recall, and the Inception score where the weights have the last layer (a state
    /// dict with fc.weight); all features are then kept in memory
    #[arg(long)]
    sets: bool,
    /// Pictures to draw
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    num: u32,
    /// DDIM steps
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Which timesteps are visited: leading, linspace, trailing or quad [default: as the model's scheduler says]
    #[arg(long, value_name = "NAME")]
    spacing: Option<String>,
    /// Fresh noise in each step, 0 (DDIM) to 1 (DDPM)
    #[arg(long, default_value_t = 0.0)]
    eta: f64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures at once, drawn and judged
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Keep the statistics of what was judged as .npz
    #[arg(long, value_name = "FILE")]
    save_stats: Option<PathBuf>,
    /// Keep the statistics of what it was compared with as .npz, to compare others with
    #[arg(long, value_name = "FILE")]
    save_reference: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tune: TuneArgs,
}

/// A distance and everything that it depends on.
#[derive(Debug, Serialize)]
pub struct Report {
    pub metric: String,
    pub distance: f64,
    pub pictures: u64,
    /// How the pictures were drawn, or where they are.
    pub of: String,
    pub against: PathBuf,
    /// None where their statistics came from a file.
    pub against_pictures: Option<u64>,
    pub weights_sha256: String,
    pub sets: Option<Sets>,
}

/// What --sets adds.
#[derive(Debug, Serialize)]
pub struct Sets {
    pub kernel_distance: f64,
    pub kernel_distance_deviation: Option<f64>,
    pub precision: f64,
    pub recall: f64,
    /// None where the weights have no last layer, as MobileNetV2's and the TorchScript archive's.
    pub inception_score: Option<f64>,
    pub inception_score_deviation: Option<f64>,
}

/// For tables of options in an experiment's file: the command by itself.
#[derive(Parser, Debug)]
#[command(name = "fid")]
pub struct FidCommand {
    #[command(flatten)]
    pub args: FidArgs,
}

/// What the model draws; returns how.
fn take_drawn(
    side: &mut Side,
    extractor: &mut Extractor,
    gpu: &Gpu,
    judged: &Judged,
    args: &FidArgs,
    global: &Global,
) -> Result<String> {
    let model = &judged.model;
    let (sides, channels) = (model.sides()?, model.config.in_channels);
    let (spacing, steps) = visited(model, args.spacing.as_deref(), args.steps, args.eta)?;
    let request =
        Request { num: args.num, batch: args.batch, steps: &steps, eta: args.eta, seed: args.seed, noise: None };
    draw_each(gpu, judged, &request, global, &mut |batch| side.take_drawn(extractor, batch, sides, channels))?;
    Ok(format!("DDIM {} steps, {spacing}, eta {}, seed {}, batch {}", args.steps, args.eta, args.seed, args.batch))
}

/// Prints the distance.
pub fn run(args: &FidArgs, global: &Global) -> Result<()> {
    let report = measure(args, global)?;
    if args.json {
        return say!("{}", json!(report));
    }
    say!("{} {:.4}", report.metric, report.distance)?;
    if let Some(sets) = &report.sets {
        let deviation = sets.kernel_distance_deviation.map_or(String::new(), |d| format!(" ± {d:.6}"));
        say!("kernel distance {:.6}{deviation}", sets.kernel_distance)?;
        say!("precision {:.4}  recall {:.4}", sets.precision, sets.recall)?;
        if let (Some(mean), Some(deviation)) = (sets.inception_score, sets.inception_score_deviation) {
            say!("Inception score {mean:.4} ± {deviation:.4}")?;
        }
    }
    let count = report.against_pictures.map_or(String::new(), |n| format!("{n} pictures of "));
    say!("{} pictures ({}) against {count}{}", report.pictures, report.of, report.against.display())?;
    say!("weights sha256 {}", report.weights_sha256)
}

/// Draws where a model is to be judged, and measures; prints progress alone.
pub fn measure(args: &FidArgs, global: &Global) -> Result<Report> {
    let (backbone, metric) = args.network.metric(&args.mode);
    let mode: FidMode = args.mode.parse()?;
    args.save_stats.as_deref().map(|path| check_new_file(path, "--save-stats")).transpose()?;
    args.save_reference.as_deref().map(|path| check_new_file(path, "--save-reference")).transpose()?;
    let models = args.model.as_ref().map(|model| ModelArgs {
        model: model.clone(),
        experts: args.experts.clone(),
        ensemble: args.ensemble,
    });
    let judged = models.as_ref().map(Judged::open).transpose()?;
    let stored = args.against.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    if stored && args.sets {
        let message = format!("{} holds no features", args.against.display());
        return Err(Error::usage(message, "--sets needs pictures on both sides"));
    }
    let known = stored.then(|| Statistics::read_npz(&args.against)).transpose()?;
    if let Some(known) = known.as_ref().filter(|k| k.mu.len() != backbone.features() as usize) {
        let problem = format!("has {} features, the network {}", known.mu.len(), backbone.features());
        return Err(Error::format(&args.against, "mu", problem, "take statistics of the same network"));
    }
    let weights = Weights::open(&args.weights, backbone)?;
    if !weights.known() {
        global.warn(&"these weights are not the ones that published figures are computed with");
    }
    let gpu = args.tune.open(global, u64::from(args.num.div_ceil(args.batch)))?;
    let mut extractor = Extractor::new(&gpu, &weights, backbone, mode, args.batch)?;

    let mut ours = Side::new(backbone, args.sets);
    let how = match (&judged, &args.images) {
        (Some(judged), _) => take_drawn(&mut ours, &mut extractor, &gpu, judged, args, global)?,
        (None, Some(images)) => {
            ours.take_path(&mut extractor, images, args.tile, global)?;
            images.display().to_string()
        }
        (None, None) => return Err(Error::usage("nothing to judge", "give --model or --images")),
    };
    let mut theirs = Side::new(backbone, args.sets);
    let (reference, count) = match known {
        Some(known) => (known, None),
        None => {
            theirs.take_path(&mut extractor, &args.against, args.tile, global)?;
            (theirs.moments.statistics()?, Some(theirs.moments.count()))
        }
    };
    let statistics = ours.moments.statistics()?;
    let distance = frechet_distance(&statistics, &reference)?;
    if let Some(path) = &args.save_stats {
        statistics.write_npz(path)?;
    }
    if let Some(path) = &args.save_reference {
        reference.write_npz(path)?;
    }
    let sets = match (&ours.kept, &theirs.kept) {
        (Some(a), Some(b)) => {
            let [a, b] = [a, b].map(|features| Features::new(features, backbone.features() as usize));
            let score = weights.head.as_ref().map(|head| head.score(&a)).transpose()?;
            let (kernel, shares) =
                (sets::kernel_inception_distance(&a, &b, args.seed)?, sets::precision_recall(&a, &b)?);
            Some(Sets {
                kernel_distance: kernel.mean,
                kernel_distance_deviation: kernel.deviation,
                precision: shares.precision,
                recall: shares.recall,
                inception_score: score.map(|s| s.mean),
                inception_score_deviation: score.map(|s| s.deviation),
            })
        }
        _ => None,
    };
    Ok(Report {
        metric,
        distance,
        pictures: ours.moments.count(),
        of: how,
        against: args.against.clone(),
        against_pictures: count,
        weights_sha256: weights.sha256,
        sets,
    })
}
