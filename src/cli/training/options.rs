//! The options that `deme finetune` and `deme train` share: optimizer, average, batches, loss weighting, and what a run writes.
//! Called by both; defaults are those of the paper's official script, `deme train` has some of its own.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::run_file::{integer, word};
use crate::diffusion::LossWeighting;
use crate::error::{Error, Result};
use crate::train::feed::Augment;
use crate::train::rate::{Decay, RateSchedule};
use crate::train::settings::{AdamW, EmaSchedule, LossScaling, Settings};

/// Where a run is, and what is done with it: nothing that its numbers depend on, and run.toml does not hold it.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Folder of the run: models, checkpoints, logs
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Settings from a TOML file, its keys being these options' names; what the command line says wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Continue the run in --out (or begin it), bit for bit as if it had not stopped
    #[arg(long)]
    pub resume: bool,
    /// Print the resolved configuration, parameters, memory and arithmetic; write nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainingArgs {
    /// Updates of each model
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=99_999_999), help_heading = TRAINING)]
    pub steps: u64,
    /// Images of a micro-batch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = TRAINING)]
    pub batch: u32,
    /// Images of a micro-batch on the GPU at once, a divisor of --batch; the same update by more replays. auto: as many as the
    /// adapter's bindings and --memory allow
    #[arg(long, default_value = "auto", value_name = "auto|N", help_heading = TRAINING)]
    pub at_once: AtOnce,
    /// Memory of the GPU that the run may take
    #[arg(long, value_name = "GIB", help_heading = TRAINING)]
    pub memory: Option<f64>,
    /// Micro-batches of an update
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = TRAINING)]
    pub accumulate: u32,
    /// Learning rate of AdamW, at its highest
    #[arg(long, default_value_t = 5e-5, help_heading = TRAINING)]
    pub lr: f64,
    /// What the learning rate does after the warm-up: stay, or fall to 0 at the last update
    #[arg(long, value_enum, default_value = "constant", help_heading = TRAINING)]
    #[serde(serialize_with = "word")]
    pub lr_schedule: DecayArg,
    /// Updates over which the learning rate rises from 0
    #[arg(long, default_value_t = 0, value_name = "UPDATES", value_parser = clap::value_parser!(u64).range(..=99_999_999), help_heading = TRAINING)]
    pub lr_warmup: u64,
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
    #[serde(serialize_with = "word")]
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
    /// Make activations again in the backward pass instead of keeping them: much less memory, the same numbers, up to a fifth more
    /// arithmetic
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "true|false", help_heading = TRAINING)]
    pub recompute: bool,
    /// Decides every random number of the run
    #[arg(long, default_value_t = 0, help_heading = TRAINING)]
    #[serde(serialize_with = "integer")]
    pub seed: u64,
    /// Which square of an image that is none, its short side being resized: the centre, or one drawn anew each time
    #[arg(long, value_enum, default_value = "centre", help_heading = TRAINING)]
    #[serde(serialize_with = "word")]
    pub crop: CropArg,
    /// Mirror images, half of the time
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "true|false", help_heading = TRAINING)]
    pub flip: bool,
}

#[derive(Args, Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutputArgs {
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
    /// Keep the averaged weights with the lowest held-out loss too, as a model folder of their own (expert_0_best, model_best)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "true|false", help_heading = OUTPUT)]
    pub keep_best: bool,
    /// Updates between model folders of the averaged weights (expert_0_step_00001000), to merge several of one expert; 0: never
    #[arg(long, default_value_t = 0, value_name = "UPDATES", help_heading = OUTPUT)]
    pub export_every: u64,
    /// Updates between sample grids; 0: never
    #[arg(long, default_value_t = 1000, help_heading = OUTPUT)]
    pub sample_every: u64,
    /// DDIM steps of a sample grid
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = OUTPUT)]
    pub sample_steps: u32,
    /// Updates between lines of the log; 0: only at the end
    #[arg(long, default_value_t = 10, help_heading = OUTPUT)]
    pub log_every: u64,
}

const TRAINING: &str = "Training";
const OUTPUT: &str = "Output";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CropArg {
    #[value(alias = "center")]
    Centre,
    Random,
}

/// Images of a micro-batch that are on the GPU at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtOnce {
    Auto,
    Images(u32),
}

impl FromStr for AtOnce {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(n) if n > 0 => Ok(Self::Images(n)),
            _ => Err("give auto or a number of at least 1".into()),
        }
    }
}

impl std::fmt::Display for AtOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Images(n) => n.fmt(f),
        }
    }
}

impl Serialize for AtOnce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecayArg {
    Constant,
    Linear,
    Cosine,
}

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

/// "micro-batch", "sample"; "none", "all".
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// An option, its values, whether they are sound, and what to give.
pub type Rule<'a> = (&'a str, &'a [f64], bool, &'a str);

/// Refuses the first option whose rule does not hold.
pub fn enforce(rules: &[Rule]) -> Result<()> {
    match rules.iter().find(|(_, _, holds, _)| !holds) {
        None => Ok(()),
        Some((option, values, _, hint)) => {
            let values: Vec<_> = values.iter().map(f64::to_string).collect();
            Err(Error::usage(format!("{option} {} is out of range", values.join(",")), format!("give {hint}")))
        }
    }
}

impl TrainingArgs {
    /// Refuses numbers that no run can have.
    pub fn check(&self) -> Result<()> {
        // What the GPU gets is f32.
        let positive = |x: f64| x as f32 > 0.0 && x.is_finite();
        let decay = |x: f64| (0.0..1.0).contains(&x);
        let weight = |x: f64| x >= 0.0 && x.is_finite();
        if let AtOnce::Images(n) = self.at_once
            && !self.batch.is_multiple_of(n)
        {
            let message = format!("--at-once {n} does not divide --batch {}", self.batch);
            return Err(Error::usage(message, "give a divisor of --batch, or auto"));
        }
        let memory = self.memory.unwrap_or(1.0);
        let betas = self.betas.len() == 2 && self.betas.iter().all(|&b| decay(b));
        enforce(&[
            ("--memory", &[memory], positive(memory), "GiB above 0, such as 12"),
            ("--lr", &[self.lr], positive(self.lr), "a number above 0, such as 5e-5"),
            ("--betas", &self.betas, betas, "two numbers in 0..1"),
            ("--eps", &[self.eps], positive(self.eps), "a number above 0, such as 1e-8"),
            ("--weight-decay", &[self.weight_decay], weight(self.weight_decay), "a number of at least 0"),
            ("--clip", &[self.clip], self.clip as f32 > 0.0, "a number above 0 (inf: no clipping)"),
            ("--ema-max-decay", &[self.ema_max_decay], decay(self.ema_max_decay), "a number in 0..1"),
            ("--ema-power", &[self.ema_power], positive(self.ema_power), "a number above 0"),
            ("--ema-inv-gamma", &[self.ema_inv_gamma], positive(self.ema_inv_gamma), "a number above 0"),
            ("--min-snr-gamma", &[self.min_snr_gamma], positive(self.min_snr_gamma), "a number above 0, such as 5"),
            ("--p2-k", &[self.p2_k], positive(self.p2_k), "a number above 0, such as 1"),
            ("--p2-gamma", &[self.p2_gamma], weight(self.p2_gamma), "a number of at least 0, such as 1"),
        ])
    }

    pub fn random_crop(&self) -> bool {
        self.crop == CropArg::Random
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

    pub fn settings(&self, output: &OutputArgs, held_out: bool) -> Settings {
        let decay = match self.lr_schedule {
            DecayArg::Constant => Decay::Constant,
            DecayArg::Linear => Decay::Linear,
            DecayArg::Cosine => Decay::Cosine,
        };
        Settings {
            seed: self.seed,
            steps: self.steps,
            batch: self.batch,
            at_once: self.batch,
            accumulate: self.accumulate,
            adamw: AdamW {
                lr: self.lr,
                betas: [self.betas[0], self.betas[1]],
                eps: self.eps,
                weight_decay: self.weight_decay,
            },
            rate: RateSchedule { decay, warmup: self.lr_warmup },
            clip: self.clip,
            scaling: LossScaling::DYNAMIC,
            ema: EmaSchedule { max_decay: self.ema_max_decay, inv_gamma: self.ema_inv_gamma, power: self.ema_power },
            augment: Augment { flip: self.flip, crop: self.random_crop() },
            log_every: output.log_every,
            eval_every: if held_out { output.eval_every } else { 0 },
            sample_every: output.sample_every,
            export_every: output.export_every,
            save_every: output.save_every,
            keep: output.keep as usize,
        }
    }

    /// For run.json: what a number of the run depends on.
    pub fn resolved(&self) -> Map<String, Value> {
        let all = json!({
            "steps": self.steps,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "lr": self.lr,
            "lr_schedule": name(&self.lr_schedule),
            "lr_warmup": self.lr_warmup,
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
            "flip": self.flip,
        });
        let mut all = all.as_object().cloned().unwrap_or_default();
        // Only where they are not as they always were: older runs can be continued.
        if self.random_crop() {
            all.insert("crop".into(), name(&self.crop).into());
        }
        if let AtOnce::Images(n) = self.at_once {
            all.insert("at_once".into(), n.into());
        }
        if let Some(gib) = self.memory {
            all.insert("memory".into(), gib.into());
        }
        all
    }
}

impl OutputArgs {
    /// For run.json: what the bytes of the log depend on.
    pub fn resolved(&self) -> Map<String, Value> {
        let all =
            json!({ "eval_every": self.eval_every, "eval_images": self.eval_images, "log_every": self.log_every });
        all.as_object().cloned().unwrap_or_default()
    }
}
