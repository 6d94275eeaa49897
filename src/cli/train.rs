//! `deme train`: a denoising diffusion model from random weights, or from given ones. Defaults are those of diffusers' example of
//! unconditional training. Called by `cli::run`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Global;
use super::data::DataArgs;
use super::run_file::{self, word};
use super::training::options::{OutputArgs, RunArgs, TrainingArgs, name};
use super::training::{self, Request};
use super::tune::TuneArgs;
use crate::deme::channel_projection::StartModel;
use crate::deme::expert::Expert;
use crate::deme::ranges::Ranges;
use crate::deme::timesteps::{Coin, TimestepDraw};
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::io::folder::{JsonFile, ModelFolder};
use crate::io::json as json_file;
use crate::io::source::{Canonical, InMemory};
use crate::model::config::UNetConfig;
use crate::model::projections::Placement;
use crate::model::{init, tensors};
use crate::train::run_folder::Part;

/// Train a model from random weights
#[derive(Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainArgs {
    /// The network: a UNet2DModel's config.json, or a folder that holds one
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "init")]
    pub arch: Option<PathBuf>,
    /// The noise schedule: a scheduler_config.json, or a folder that holds one [default: what lies beside the network or the given
    /// weights, or else 1000 timesteps with beta linear from 0.0001 to 0.02]
    #[arg(long, value_name = "FILE|DIR")]
    pub scheduler: Option<PathBuf>,
    /// What the network learns to predict [default: as the schedule says, or epsilon]
    #[arg(long, value_enum)]
    #[serde(serialize_with = "prediction")]
    pub prediction: Option<PredictionArg>,
    /// Begin with the weights of this model folder in place of random ones
    #[arg(long, value_name = "DIR")]
    pub init: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    #[serde(skip)]
    pub run: RunArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub training: TrainingArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub tune: TuneArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PredictionArg {
    /// The noise
    Epsilon,
    /// v of Salimans & Ho 2022
    #[value(name = "v_prediction")]
    V,
    /// The image x_0
    Sample,
}

fn prediction<S: serde::Serializer>(
    value: &Option<PredictionArg>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match value {
        Some(prediction) => word(prediction, serializer),
        None => serializer.serialize_none(),
    }
}

/// Defaults that are not finetuning's.
pub fn defaults(command: clap::Command) -> clap::Command {
    let values =
        [("steps", "100000"), ("accumulate", "1"), ("lr", "1e-4"), ("lr_schedule", "cosine"), ("lr_warmup", "500")];
    values.into_iter().fold(command, |command, (id, value)| command.mut_arg(id, |arg| arg.default_value(value)))
}

pub fn run(args: &TrainArgs, global: &Global) -> Result<()> {
    args.training.check()?;
    let model = args.begin()?;
    model.config.check_trainable(&model.folder.unet_config.path)?;
    let ranges = Ranges::even(model.schedule.timesteps() as u32, 1)?;
    let total = model.schedule.timesteps();
    // Plain training: every timestep by itself, uniform over all of them, no teacher.
    let objective = Expert {
        timesteps: TimestepDraw {
            seed: args.training.seed,
            expert: Part::Whole.number(),
            own: 0..total,
            total,
            p: 0.0,
            coin: Coin::Sample,
            antithetic: false,
        },
        consistency: 0.0,
        weights: args.training.weighting().table(&model.schedule)?,
    };
    training::run(Request {
        global,
        model: &model,
        start: StartModel::new(&model, Placement::None)?,
        ranges,
        parts: vec![(Part::Whole, objective)],
        data: &args.data,
        training: &args.training,
        output: &args.output,
        tune: &args.tune,
        run: &args.run,
        method: Map::new(),
        echo: run_file::echo("train", args, global)?,
    })
}

/// `name` in a folder, or below `inner` in it; a file is itself.
fn find(path: &Path, inner: &str, name: &str) -> PathBuf {
    match path.is_dir() {
        false => path.to_path_buf(),
        true if path.join(inner).join(name).is_file() => path.join(inner).join(name),
        true => path.join(name),
    }
}

fn read(path: PathBuf) -> Result<JsonFile> {
    let map = json_file::read_object(&path)?;
    Ok(JsonFile { path, map })
}

impl TrainArgs {
    /// The model before the first update.
    fn begin(&self) -> Result<Pretrained> {
        let given = self.init.as_deref().map(ModelFolder::open).transpose()?;
        let arch = match (&self.arch, &given) {
            (Some(arch), _) => read(find(arch, "unet", "config.json"))?,
            (None, Some(init)) => init.unet_config.clone(),
            (None, None) => return Err(Error::usage("no network is named", "give --arch or --init")),
        };
        let config = UNetConfig::from_json(&arch.path, &arch.map)?;
        let scheduler = self.schedule(given.as_ref())?;
        let folder = match given {
            Some(init) => init.with_configs(arch, scheduler),
            None => {
                let first = init::weights(&tensors::expected(&config, Placement::None), self.training.seed);
                let weights = Canonical::new(Box::new(InMemory::new("the first weights", first)?))?;
                ModelFolder::made(arch, scheduler, weights)
            }
        };
        Pretrained::of(folder)
    }

    fn schedule(&self, init: Option<&ModelFolder>) -> Result<JsonFile> {
        const NAME: &str = "scheduler_config.json";
        let beside = |arch: &PathBuf| Some(find(arch, "scheduler", NAME)).filter(|p| arch.is_dir() && p.is_file());
        let mut file = match (&self.scheduler, self.arch.as_ref().and_then(beside), init) {
            (Some(named), ..) => read(find(named, "scheduler", NAME))?,
            (None, Some(beside), _) => read(beside)?,
            (None, None, Some(init)) if init.scheduler_config().is_ok() => init.scheduler_config()?.clone(),
            _ => usual(),
        };
        if let Some(prediction) = self.prediction {
            file.map.insert("prediction_type".into(), name(&prediction).into());
        }
        Ok(file)
    }
}

/// DDPM's schedule (Ho et al. 2020), as diffusers' DDPMScheduler has it by default.
fn usual() -> JsonFile {
    let map = json!({
        "_class_name": "DDPMScheduler",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": true,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
    });
    let map: Map<String, Value> = map.as_object().cloned().unwrap_or_default();
    JsonFile { path: "the usual schedule".into(), map }
}
