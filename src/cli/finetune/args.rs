//! The options of `deme finetune`, and what they resolve to: training settings, experts, and run.json.
//! Called by `finetune::run`. Defaults are those of the paper's official training script.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::cli::PrecisionArg;
use crate::cli::data::DataArgs;
use crate::cli::tune::TuneArgs;
use crate::deme::expert::Expert;
use crate::deme::ranges::Ranges;
use crate::deme::timesteps::{Coin, TimestepDraw};
use crate::diffusion::LossWeighting;
use crate::error::{Error, Result};
use crate::train::settings::{AdamW, EmaSchedule, LossScaling, Settings};

/// Finetune a model as experts of timestep ranges
#[derive(Args, Debug)]
pub struct FinetuneArgs {
    /// Model folder as diffusers saves it
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Folder of the run: experts, checkpoints, logs
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number of timestep ranges N, an expert each; 1 is plain continued training
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranges: u32,
    /// Which experts to train: a number from 0, a list (0,2), FIRST..LAST, or all
    #[arg(long, default_value = "all", value_name = "WHICH")]
    pub range: String,
    /// Continue the run in --out (or begin it), bit for bit as if it had not stopped
    #[arg(long)]
    pub resume: bool,
    /// Print the resolved configuration, parameters, memory and arithmetic; write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Updates for each expert
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=99_999_999), help_heading = TRAINING)]
    pub steps: u64,
    /// Images of a micro-batch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = TRAINING)]
    pub batch: u32,
    /// Micro-batches of an update
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = TRAINING)]
    pub accumulate: u32,
    /// Learning rate of AdamW, constant
    #[arg(long, default_value_t = 5e-5, help_heading = TRAINING)]
    pub lr: f64,
    /// Decay rates of AdamW's moments
    #[arg(long, default_value = "0.95,0.999", value_delimiter = ',', num_args = 1, value_name = "B1,B2", help_heading = TRAINING)]
    pub betas: Vec<f64>,
    /// Added to the root of AdamW's second moment
    #[arg(long, default_value_t = 1e-8, help_heading = TRAINING)]
    pub eps: f64,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 1e-6, help_heading = TRAINING)]
    pub weight_decay: f64,
    /// The gradient's norm is cut to this
    #[arg(long, default_value_t = 1.0, help_heading = TRAINING)]
    pub clip: f64,
    /// Upper bound of the decay of the weights' moving average
    #[arg(long, default_value_t = 0.9999, help_heading = TRAINING)]
    pub ema_max_decay: f64,
    /// The decay after t updates is 1 - (1 + t / inv-gamma)^-power
    #[arg(long, default_value_t = 0.75, help_heading = TRAINING)]
    pub ema_power: f64,
    /// See --ema-power
    #[arg(long, default_value_t = 1.0, help_heading = TRAINING)]
    pub ema_inv_gamma: f64,
    /// How much each timestep counts, by its signal-to-noise ratio, whatever the model predicts
    #[arg(long, value_enum, default_value = "none", help_heading = TRAINING)]
    pub loss_weighting: WeightingArg,
    /// Gamma of --loss-weighting min-snr
    #[arg(long, default_value_t = 5.0, value_name = "GAMMA", help_heading = TRAINING)]
    pub min_snr_gamma: f64,
    /// k of --loss-weighting p2
    #[arg(long, default_value_t = 1.0, value_name = "K", help_heading = TRAINING)]
    pub p2_k: f64,
    /// Gamma of --loss-weighting p2
    #[arg(long, default_value_t = 1.0, value_name = "GAMMA", help_heading = TRAINING)]
    pub p2_gamma: f64,
    /// Decides every random number of the run
    #[arg(long, default_value_t = 0, help_heading = TRAINING)]
    pub seed: u64,
    /// Mirror images, half of the time
    #[arg(long, help_heading = TRAINING)]
    pub flip: bool,

    /// Probability that a timestep is drawn from the whole range (the paper has 0.4 for CIFAR-10, 0.3 for LSUN and LAION)
    #[arg(long, default_value_t = 0.4, help_heading = METHOD)]
    pub p: f64,
    /// Weight of the loss against the frozen start model
    #[arg(long, default_value_t = 1.0, help_heading = METHOD)]
    pub consistency: f64,
    /// What one toss of --p decides for
    #[arg(long, value_enum, default_value = "micro-batch", help_heading = METHOD)]
    pub coin: CoinArg,
    /// Draw every timestep by itself, not half of them as mirror images
    #[arg(long, help_heading = METHOD)]
    pub no_antithetic: bool,
    /// Channel projections: none (plain diffusers models) or all (after every block; plain diffusers ignores them)
    #[arg(long, value_enum, default_value = "none", help_heading = METHOD)]
    pub projection: ProjectionArg,

    /// Updates between checkpoints; 0: only at the end
    #[arg(long, default_value_t = 1000, help_heading = OUTPUT)]
    pub save_every: u64,
    /// Checkpoints that are kept
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = OUTPUT)]
    pub keep: u32,
    /// Updates between held-out losses (with --holdout); 0: never
    #[arg(long, default_value_t = 1000, help_heading = OUTPUT)]
    pub eval_every: u64,
    /// Held-out images that are judged, in each range
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..), help_heading = OUTPUT)]
    pub eval_images: u32,
    /// Updates between sample grids; 0: never
    #[arg(long, default_value_t = 1000, help_heading = OUTPUT)]
    pub sample_every: u64,
    /// DDIM steps of a sample grid
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = OUTPUT)]
    pub sample_steps: u32,
    /// Updates between lines of the log; 0: only at the end
    #[arg(long, default_value_t = 10, help_heading = OUTPUT)]
    pub log_every: u64,

    #[command(flatten)]
    pub tune: TuneArgs,
}

const TRAINING: &str = "Training";
const METHOD: &str = "Method";
const OUTPUT: &str = "Output";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightingArg {
    /// The model's own target counts alike at all timesteps
    None,
    /// SNR + 1 on x_0 (Salimans & Ho 2022)
    #[value(name = "snr+1")]
    SnrPlusOne,
    /// max(SNR, 1) on x_0 (Salimans & Ho 2022)
    TruncatedSnr,
    /// min(SNR, gamma) on x_0 (Hang et al. 2023)
    MinSnr,
    /// 1 / (k + SNR)^gamma on epsilon (Choi et al. 2022)
    P2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CoinArg {
    MicroBatch,
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProjectionArg {
    None,
    All,
}

/// "micro-batch", "sample"; "none", "all".
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

impl FinetuneArgs {
    /// Refuses numbers that no run can have.
    pub fn check(&self) -> Result<()> {
        // What the GPU gets is f32.
        let positive = |x: f64| x as f32 > 0.0 && x.is_finite();
        let decay = |x: f64| (0.0..1.0).contains(&x);
        let weight = |x: f64| x >= 0.0 && x.is_finite();
        let rules: [(&str, &[f64], bool, &str); 13] = [
            ("--lr", &[self.lr], positive(self.lr), "a number above 0, such as 5e-5"),
            (
                "--betas",
                &self.betas,
                self.betas.len() == 2 && self.betas.iter().all(|&b| decay(b)),
                "two numbers in 0..1",
            ),
            ("--eps", &[self.eps], positive(self.eps), "a number above 0, such as 1e-8"),
            ("--weight-decay", &[self.weight_decay], weight(self.weight_decay), "a number of at least 0"),
            ("--clip", &[self.clip], self.clip as f32 > 0.0, "a number above 0 (inf: no clipping)"),
            ("--ema-max-decay", &[self.ema_max_decay], decay(self.ema_max_decay), "a number in 0..1"),
            ("--ema-power", &[self.ema_power], positive(self.ema_power), "a number above 0"),
            ("--ema-inv-gamma", &[self.ema_inv_gamma], positive(self.ema_inv_gamma), "a number above 0"),
            ("--min-snr-gamma", &[self.min_snr_gamma], positive(self.min_snr_gamma), "a number above 0, such as 5"),
            ("--p2-k", &[self.p2_k], positive(self.p2_k), "a number above 0, such as 1"),
            ("--p2-gamma", &[self.p2_gamma], weight(self.p2_gamma), "a number of at least 0, such as 1"),
            ("--p", &[self.p], (0.0..=1.0).contains(&self.p), "a probability, 0 to 1"),
            ("--consistency", &[self.consistency], weight(self.consistency), "a number of at least 0"),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((option, values, _, hint)) => {
                let values: Vec<_> = values.iter().map(f64::to_string).collect();
                Err(Error::usage(format!("{option} {} is out of range", values.join(",")), format!("give {hint}")))
            }
            None => self.experts().map(drop),
        }
    }

    /// The experts that `--range` names, ascending.
    pub fn experts(&self) -> Result<Vec<u32>> {
        let wrong = || {
            let last = self.ranges - 1;
            let message = format!("--range {} names no expert of {}", self.range, self.ranges);
            Error::usage(message, format!("give a number from 0 to {last}, a list such as 0,{last}, 0..{last}, or all"))
        };
        let number = |text: &str| text.trim().parse().ok().filter(|&i: &u32| i < self.ranges).ok_or_else(wrong);
        let mut experts = Vec::new();
        for part in self.range.split(',') {
            match part.split_once("..") {
                _ if part == "all" => experts.extend(0..self.ranges),
                Some((first, last)) => experts.extend(number(first)?..=number(last)?),
                None => experts.push(number(part)?),
            }
        }
        experts.sort_unstable();
        experts.dedup();
        if experts.is_empty() { Err(wrong()) } else { Ok(experts) }
    }

    pub fn settings(&self, held_out: bool) -> Settings {
        Settings {
            seed: self.seed,
            steps: self.steps,
            batch: self.batch,
            accumulate: self.accumulate,
            adamw: AdamW {
                lr: self.lr,
                betas: [self.betas[0], self.betas[1]],
                eps: self.eps,
                weight_decay: self.weight_decay,
            },
            clip: self.clip,
            scaling: LossScaling::DYNAMIC,
            ema: EmaSchedule { max_decay: self.ema_max_decay, inv_gamma: self.ema_inv_gamma, power: self.ema_power },
            flip: self.flip,
            log_every: self.log_every,
            eval_every: if held_out { self.eval_every } else { 0 },
            sample_every: self.sample_every,
            save_every: self.save_every,
            keep: self.keep as usize,
        }
    }

    pub fn weighting(&self) -> LossWeighting {
        match self.loss_weighting {
            WeightingArg::None => LossWeighting::None,
            WeightingArg::SnrPlusOne => LossWeighting::SnrPlusOne,
            WeightingArg::TruncatedSnr => LossWeighting::TruncatedSnr,
            WeightingArg::MinSnr => LossWeighting::MinSnr { gamma: self.min_snr_gamma },
            WeightingArg::P2 => LossWeighting::P2 { k: self.p2_k, gamma: self.p2_gamma },
        }
    }

    /// The objective of expert `i`; `weights` is the table of `weighting`.
    pub fn expert(&self, i: u32, ranges: Ranges, weights: Option<&[f64]>) -> Expert {
        let own = ranges.range(i);
        Expert {
            timesteps: TimestepDraw {
                seed: self.seed,
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

    /// run.json: everything that a number of the run depends on, the inputs by their hashes.
    pub fn resolved(&self, precision: PrecisionArg, model_sha256: &str, data_sha256: &str) -> Map<String, Value> {
        let all = json!({
            "version": 2,
            "model_sha256": model_sha256,
            "data_sha256": data_sha256,
            "ranges": self.ranges,
            "steps": self.steps,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "clip": if self.clip.is_finite() { json!(self.clip) } else { json!("inf") },
            "ema_max_decay": self.ema_max_decay,
            "ema_power": self.ema_power,
            "ema_inv_gamma": self.ema_inv_gamma,
            "loss_weighting": name(&self.loss_weighting),
            "min_snr_gamma": self.min_snr_gamma,
            "p2_k": self.p2_k,
            "p2_gamma": self.p2_gamma,
            "seed": self.seed,
            "precision": precision.name(),
            "flip": self.flip,
            "holdout": self.data.holdout,
            "p": self.p,
            "consistency": self.consistency,
            "coin": name(&self.coin),
            "antithetic": !self.no_antithetic,
            "projection": name(&self.projection),
            "eval_every": self.eval_every,
            "eval_images": self.eval_images,
            "log_every": self.log_every,
        });
        all.as_object().cloned().unwrap_or_default()
    }
}
