//! `deme analyze`: the paper's figures of a base and its experts, as data and as one page. Each part is measured once and kept as
//! JSON; the same command goes on with those that are missing. Called by `cli::run`.

mod csv;
mod figures;
mod measure;
mod page;
mod parts;
mod plots;

use std::path::{Path, PathBuf};

use clap::Args;

use super::data::{DataArgs, Split};
use super::models::{open_with_experts, ranges_of};
use super::terminal::{bytes, grouped, say};
use super::tune::TuneArgs;
use super::{Global, data};
use crate::deme::ranges::Ranges;
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::io::folder::inside;
use crate::io::lock;
use measure::Analysis;
use parts::{Found, Part};

/// The paper's figures: gradients, activations, loss landscapes, task vectors
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// Model folder that the experts were finetuned from
    #[arg(long, visible_alias = "model", value_name = "DIR")]
    base: PathBuf,
    /// Experts, in the order of their timestep ranges; or one folder of a run or a demo, which holds them
    #[arg(long, value_name = "DIR", num_args = 1..)]
    experts: Vec<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// Which images to measure on
    #[arg(long, value_enum, default_value = "train")]
    split: Split,
    /// Folder for the parts' JSON and CSV files and report.html
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which parts to measure [default: all that the models allow]
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1, value_name = "PART,..")]
    only: Vec<Part>,
    /// Images in each timestep range for activations and losses
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Buckets of timesteps whose gradients are compared
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=200))]
    buckets: u32,
    /// Independent groups of images and noise for each gradient: products between them have no bias
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(3..=1000))]
    groups: u32,
    /// Images of a bucket in each group
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    group_images: u32,
    /// Points on each axis of a plane
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..=201))]
    grid: u32,
    /// Points along each task vector, from -0.5 to 1.5
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(3..=401))]
    points: u32,
    /// How far the random plane reaches: at 1 every filter moves by its own norm
    #[arg(long, default_value_t = 0.05)]
    radius: f64,
    /// The two experts whose task vectors span the plane [default: the first and the last]
    #[arg(long, value_name = "I,J", value_delimiter = ',', num_args = 1)]
    plane: Vec<usize>,
    /// Decides images, noise, timesteps and random directions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Print what each part costs; write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tune: TuneArgs,
}

pub fn run(args: &AnalyzeArgs, global: &Global) -> Result<()> {
    if !(args.radius > 0.0 && args.radius.is_finite()) {
        return Err(Error::usage(
            format!("--radius {} is no distance", args.radius),
            "give a positive number, such as 0.05",
        ));
    }
    let (base, experts) = open_with_experts(&args.base, &expert_folders(&args.experts)?)?;
    let total = base.schedule.timesteps() as u32;
    let dirs: Vec<&Path> = experts.iter().map(|e| e.folder.dir.as_path()).collect();
    let ranges = if experts.is_empty() { Ranges::even(total, 4)? } else { ranges_of(total, &dirs)? };
    if !experts.is_empty() && ranges.len() as usize != experts.len() {
        let message = format!("{} experts for {} timestep ranges", experts.len(), ranges.len());
        return Err(Error::usage(message, "give one expert for each range"));
    }
    let wanted = args.parts(experts.len())?;
    let plane = args.plane_experts(experts.len())?;
    for model in std::iter::once(&base).chain(&experts) {
        let dir = &model.folder.dir;
        if inside(&args.out.join("report.html"), dir) {
            let message = format!("{} is inside {}, a model that is being read", args.out.display(), dir.display());
            return Err(Error::usage(message, "write to another folder"));
        }
    }
    if args.out.is_file() {
        return Err(Error::usage(format!("{} is a file", args.out.display()), "give a folder for --out"));
    }
    let dataset = args.data.open(&base, global)?;
    let images = args.split.images(&dataset)?;
    let analysis =
        Analysis { args, global, base: &base, experts: &experts, ranges: &ranges, dataset: &dataset, images, plane };
    let settings = analysis.settings()?;
    let mut found = Found::read(&args.out, &settings, &wanted, global)?;
    let missing: Vec<Part> = wanted.into_iter().filter(|&part| !found.has(part)).collect();
    if args.dry_run {
        return costs(&analysis, &missing);
    }
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "create"))?;
    let _lock = lock::exclusive(&args.out)?;
    analysis.measure(&missing, &settings, &mut found)?;
    csv::write(&args.out, &found)?;
    page::write(&args.out.join("report.html"), &analysis, &found)?;
    say!("report.html and the data of {} in {}", found.names().join(", "), args.out.display())
}

/// What the parts that are missing would cost.
fn costs(analysis: &Analysis, missing: &[Part]) -> Result<()> {
    say!("{:>12}  {:>14}", "part", "forward passes")?;
    let mut sum = 0;
    for &part in missing {
        let passes = analysis.passes(part);
        sum += passes;
        say!("{:>12}  {:>14}", part.word(), grouped(passes))?;
    }
    say!("{:>12}  {:>14}  of one image, a backward pass counted as two", "all", grouped(sum))?;
    if missing.contains(&Part::Gradients) {
        say!("gradients on disk meanwhile: {}", bytes(analysis.gradient_bytes()))?;
    }
    Ok(())
}

/// The folders of the experts: as given, or those inside the one folder of a run (`expert_0`, ...) or a demo (`experts/`).
fn expert_folders(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let [only] = given else { return Ok(given.to_vec()) };
    let inside = |folder: &Path| -> Vec<PathBuf> {
        (0..).map(|i| folder.join(format!("expert_{i}"))).take_while(|expert| expert.is_dir()).collect()
    };
    let found = [inside(only), inside(&only.join("experts"))].into_iter().find(|experts| !experts.is_empty());
    Ok(found.unwrap_or_else(|| given.to_vec()))
}

impl AnalyzeArgs {
    /// The parts to measure; refuses one that these models do not allow.
    fn parts(&self, experts: usize) -> Result<Vec<Part>> {
        let lacking = |part: Part| experts < part.experts();
        if self.only.is_empty() {
            return Ok(Part::ALL.into_iter().filter(|&part| !lacking(part)).collect());
        }
        if let Some(part) = self.only.iter().find(|&&part| lacking(part)) {
            let message = format!("{} needs {} experts or more, {experts} are given", part.word(), part.experts());
            return Err(Error::usage(message, "name them with --experts, or leave this part out of --only"));
        }
        Ok(Part::ALL.into_iter().filter(|part| self.only.contains(part)).collect())
    }

    /// Which two experts span the plane; any where there are not two.
    fn plane_experts(&self, experts: usize) -> Result<[usize; 2]> {
        match self.plane[..] {
            [] => Ok([0, experts.saturating_sub(1)]),
            [i, j] if i != j && i < experts && j < experts => Ok([i, j]),
            _ => {
                let words: Vec<String> = self.plane.iter().map(usize::to_string).collect();
                let message = format!("--plane {} names no two of {experts} experts", words.join(","));
                Err(Error::usage(message, "experts count from 0: --plane 0,1"))
            }
        }
    }

    fn images(&self, all: &[usize], part: Part) -> Vec<usize> {
        let count = if part == Part::Gradients {
            self.groups as usize * self.group_images as usize
        } else {
            self.pairs as usize
        };
        data::spread(all, count)
    }
}

/// The name of a range, or of all timesteps.
fn range_name(range: &std::ops::Range<u32>) -> String {
    format!("{}..{}", range.start, range.end)
}

/// What a figure calls model `i` of `experts`.
fn expert_name(i: usize, ranges: &Ranges) -> String {
    format!("expert {i} ({})", range_name(&ranges.range(i as u32)))
}

fn describe(model: &Pretrained) -> String {
    model.folder.dir.display().to_string()
}
