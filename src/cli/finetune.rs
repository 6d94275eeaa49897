//! `deme finetune`: experts of timestep ranges, trained one after another, each ending as a diffusers folder. Defaults are those
//! of the paper's official training script. Called by `cli::run` and the demo.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Global;
use super::data::DataArgs;
use super::run_file::{self, word};
use super::training::options::{OutputArgs, RunArgs, TrainingArgs, enforce, name};
use super::training::{self, Request};
use super::tune::TuneArgs;
use crate::deme::channel_projection::StartModel;
use crate::deme::expert::Expert;
use crate::deme::ranges::Ranges;
use crate::deme::timesteps::{Coin, TimestepDraw};
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::model::projections::Placement;
use crate::train::run_folder::Part;

/// Finetune a model as experts of timestep ranges
#[derive(Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FinetuneArgs {
    /// Model folder as diffusers saves it
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    #[serde(skip)]
    pub run: RunArgs,
    /// Number of timestep ranges N of equal width, an expert each; 1 is plain continued training [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranges: Option<u32>,
    /// Ranges of other widths: where they begin, from 0, and the number of timesteps
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "0,A,..,T", conflicts_with = "ranges")]
    pub cuts: Option<Vec<u32>>,
    /// Which experts to train: a number from 0, a list (0,2), FIRST..LAST, or all
    #[arg(long, default_value = "all", value_name = "WHICH")]
    pub range: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub training: TrainingArgs,

    /// Probability that a timestep is drawn from the whole range (the paper has 0.4 for CIFAR-10, 0.3 for LSUN and LAION)
    #[arg(long, default_value_t = 0.4, help_heading = METHOD)]
    pub p: f64,
    /// Weight of the loss against the frozen start model
    #[arg(long, default_value_t = 1.0, help_heading = METHOD)]
    pub consistency: f64,
    /// What one toss of --p decides for
    #[arg(long, value_enum, default_value = "micro-batch", help_heading = METHOD)]
    #[serde(serialize_with = "word")]
    pub coin: CoinArg,
    /// Draw every timestep by itself, not half of them as mirror images
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "true|false", help_heading = METHOD)]
    pub no_antithetic: bool,
    /// Where the experts get channel projections (plain diffusers ignores them; a plain export folds the foldable)
    #[arg(long, value_enum, default_value = "none", help_heading = METHOD)]
    #[serde(serialize_with = "word")]
    pub projection: ProjectionArg,

    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub tune: TuneArgs,
}

const METHOD: &str = "Method";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CoinArg {
    MicroBatch,
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProjectionArg {
    /// Plain diffusers models
    None,
    /// After the up blocks alone, where a projection folds exactly into the convolution before it
    Foldable,
    /// After every block, as the paper's code has it
    All,
}

impl ProjectionArg {
    fn placement(self) -> Placement {
        match self {
            Self::None => Placement::None,
            Self::Foldable => Placement::Foldable,
            Self::All => Placement::All,
        }
    }
}

pub fn run(args: &FinetuneArgs, global: &Global) -> Result<()> {
    args.check()?;
    let experts = args.experts()?;
    let model = Pretrained::open(&args.model)?;
    model.config.check_trainable(&model.folder.unet_config.path)?;
    let total = model.schedule.timesteps() as u32;
    let ranges = match &args.cuts {
        Some(cuts) => Ranges::cut(total, cuts)?,
        None => Ranges::even(total, args.count())?,
    };
    let weights = args.training.weighting().table(&model.schedule)?;
    let placement = args.projection.placement();
    if placement == Placement::Foldable && placement.places(&model.config).is_empty() {
        let message = "this network has no place where a channel projection folds into a convolution";
        return Err(Error::usage(message, "train without one (--projection none), or with --projection all"));
    }
    let start = StartModel::new(&model, placement)?;
    let part = |&i: &u32| (Part::Expert(i), args.expert(i, &ranges, weights.as_deref()));
    training::run(Request {
        global,
        model: &model,
        start,
        parts: experts.iter().map(part).collect(),
        method: args.method(&ranges),
        ranges: ranges.clone(),
        data: &args.data,
        training: &args.training,
        output: &args.output,
        tune: &args.tune,
        run: &args.run,
        echo: run_file::echo("finetune", args, global)?,
    })
}

impl FinetuneArgs {
    /// Refuses numbers that no run can have.
    fn check(&self) -> Result<()> {
        self.training.check()?;
        let consistency = self.consistency >= 0.0 && self.consistency.is_finite();
        enforce(&[
            ("--p", &[self.p], (0.0..=1.0).contains(&self.p), "a probability, 0 to 1"),
            ("--consistency", &[self.consistency], consistency, "a number of at least 0"),
        ])
    }

    /// N
    fn count(&self) -> u32 {
        match &self.cuts {
            Some(cuts) => (cuts.len() as u32).saturating_sub(1).max(1),
            None => self.ranges.unwrap_or(4),
        }
    }

    /// The experts that `--range` names, ascending.
    fn experts(&self) -> Result<Vec<u32>> {
        let count = self.count();
        let wrong = || {
            let last = count - 1;
            let message = format!("--range {} names no expert of {count}", self.range);
            Error::usage(message, format!("give a number from 0 to {last}, a list such as 0,{last}, 0..{last}, or all"))
        };
        let number = |text: &str| text.trim().parse().ok().filter(|&i: &u32| i < count).ok_or_else(wrong);
        let mut experts = Vec::new();
        for part in self.range.split(',') {
            match part.split_once("..") {
                _ if part == "all" => experts.extend(0..count),
                Some((first, last)) => experts.extend(number(first)?..=number(last)?),
                None => experts.push(number(part)?),
            }
        }
        experts.sort_unstable();
        experts.dedup();
        if experts.is_empty() { Err(wrong()) } else { Ok(experts) }
    }

    /// The objective of expert `i`; `weights` is the loss weighting's table.
    fn expert(&self, i: u32, ranges: &Ranges, weights: Option<&[f64]>) -> Expert {
        let own = ranges.range(i);
        Expert {
            timesteps: TimestepDraw {
                seed: self.training.seed,
                expert: i,
                own: own.start as usize..own.end as usize,
                total: ranges.whole().len(),
                p: self.p,
                coin: match self.coin {
                    CoinArg::MicroBatch => Coin::MicroBatch,
                    CoinArg::Sample => Coin::Sample,
                },
                antithetic: !self.no_antithetic,
            },
            consistency: self.consistency,
            weights: weights.map(<[f64]>::to_vec),
        }
    }

    /// The method's settings for run.json.
    fn method(&self, ranges: &Ranges) -> Map<String, Value> {
        let all = json!({
            "ranges": ranges.bounds(),
            "p": self.p,
            "consistency": self.consistency,
            "coin": name(&self.coin),
            "antithetic": !self.no_antithetic,
            "projection": name(&self.projection),
        });
        all.as_object().cloned().unwrap_or_default()
    }
}
