//! What `deme finetune` and `deme train` do alike: a run of one or more models, trained one after another, each ending as a
//! diffusers folder. Called by both.

mod footprint;
pub mod options;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::data::{DataArgs, spread};
use super::models::timestep_ranges;
use super::terminal::say;
use super::tune::TuneArgs;
use super::{Global, interrupt, tune};
use crate::data::dataset::Dataset;
use crate::deme::channel_projection::StartModel;
use crate::deme::expert::Expert;
use crate::deme::ranges::Ranges;
use crate::diffusion::denoising::{DenoisingLoss, LossSpec, stratified_pairs};
use crate::diffusion::pretrained::Pretrained;
use crate::diffusion::sampler::{SampleSpec, Sampler, StepNoise};
use crate::error::{Error, Result};
use crate::eval::loss::Buckets;
use crate::gpu::Gpu;
use crate::io::folder::{ABOUT, NewWeights, inside};
use crate::io::hash::Hash;
use crate::io::json as json_file;
use crate::model::projections::Placement;
use crate::model::unet::Projections;
use crate::nn::Slabs;
use crate::shader::Precision;
use crate::train::feed::Feeder;
use crate::train::objective::Objective;
use crate::train::run::Job;
use crate::train::run_folder::{Part, RunFolder};
use crate::train::settings::Settings;
use crate::train::state::TrainingState;
use crate::train::step::{Network, Trainer};
use footprint::beside;
use options::{OutputArgs, RunArgs, TrainingArgs};
use watch::{Best, HeldOut, Samples, Screen};

/// Pictures of a sample grid.
const GRID: u32 = 16;

/// What the user asks for, of either command.
pub struct Request<'a> {
    pub global: &'a Global,
    pub model: &'a Pretrained,
    pub start: StartModel<'a>,
    pub ranges: Ranges,
    /// What is trained, in this order.
    pub parts: Vec<(Part, Expert)>,
    pub data: &'a DataArgs,
    pub training: &'a TrainingArgs,
    pub output: &'a OutputArgs,
    pub tune: &'a TuneArgs,
    pub run: &'a RunArgs,
    /// The command's own settings for run.json.
    pub method: Map<String, Value>,
    /// run.toml
    pub echo: String,
}

/// Everything about a run that is known before a GPU is opened.
struct Plan<'a> {
    request: Request<'a>,
    dataset: Dataset,
    settings: Settings,
    /// Held-out images that are judged.
    judged: Vec<usize>,
    folder: RunFolder,
}

/// Checks the request, then trains, or with `dry_run` says what that would take.
pub fn run(request: Request) -> Result<()> {
    let Request { global, model, training, output, run, data, .. } = request;
    let out = &run.out;
    let dataset = data.open_whole(model, global, training.random_crop())?;
    let mut judged = dataset.holdout_indices();
    judged = spread(&judged, output.eval_images as usize);
    let resolved = request.resolved(&dataset)?;
    let parts: Vec<Part> = request.parts.iter().map(|(part, _)| *part).collect();
    let folder = RunFolder::check(out, resolved.clone(), &parts, run.resume || run.dry_run)?;
    for &part in &parts {
        model.folder.check_output(&folder.model(part))?;
        model.folder.check_output(&folder.best(part))?;
    }
    if inside(out, &data.data) {
        let message = format!("{} is inside {}, the images", out.display(), data.data.display());
        return Err(Error::usage(message, "write to another folder: sample grids would be taken for images"));
    }
    let settings = training.settings(output, !judged.is_empty());
    if output.keep_best && settings.eval_every == 0 {
        let hint = "keep images out of training with --holdout, and judge them with --eval-every";
        return Err(Error::usage("--keep-best has no held-out loss to go by", hint));
    }
    let dry_run = run.dry_run;
    let mut plan = Plan { request, dataset, settings, judged, folder };
    if dry_run {
        say!("{}", json_file::render(&resolved).trim_end())?;
        return plan.estimate();
    }
    plan.train()
}

/// Of the weights by name, the configuration and the schedule: what a run starts from, wherever the folder is.
fn model_hash(model: &Pretrained) -> Result<String> {
    let mut hash = Hash::default();
    hash.bytes(json_file::render(&model.folder.unet_config.map).as_bytes());
    hash.bytes(json_file::render(&model.folder.scheduler_config()?.map).as_bytes());
    for tensor in &model.tensors {
        hash.bytes(tensor.name.as_bytes());
        hash.values(&model.read(&tensor.name)?);
    }
    Ok(hash.finish())
}

fn data_hash(dataset: &Dataset) -> String {
    let mut hash = Hash::default();
    (0..dataset.len()).for_each(|i| hash.bytes(dataset.pixels_u8(i)));
    hash.finish()
}

impl Request<'_> {
    /// run.json: everything that a number of the run depends on, the inputs by their hashes.
    fn resolved(&self, dataset: &Dataset) -> Result<Map<String, Value>> {
        let start = json!({
            "version": 2,
            "model_sha256": model_hash(self.model)?,
            "data_sha256": data_hash(dataset),
            "holdout": self.data.holdout,
            "precision": self.global.precision().name(),
        });
        let mut all = start.as_object().cloned().unwrap_or_default();
        all.extend(self.training.resolved());
        all.extend(self.method.clone());
        all.extend(self.output.resolved());
        Ok(all)
    }
}

impl Plan<'_> {
    fn network(&self, precision: Precision) -> Network<'_> {
        let Request { model, start, .. } = &self.request;
        Network {
            config: &model.config,
            layout: &start.layout,
            size: [self.dataset.size(); 2],
            student_projections: start.student,
            teacher_projections: start.teacher,
            precision,
            recompute: self.request.training.recompute,
        }
    }

    fn train(mut self) -> Result<()> {
        let gpu = Gpu::open(&self.request.global.choice())?;
        self.request.global.detail(format_args!("{}", gpu.summary()));
        let footprint = self.settle(gpu.precision(), Some(gpu.largest_binding()))?;
        self.announce(&footprint);
        let Request { global, run, parts, .. } = &self.request;
        let _listening = interrupt::listen();
        self.folder.create(&self.request.echo)?;
        for (k, (part, objective)) in parts.iter().enumerate() {
            if self.folder.model(*part).exists() {
                global.note(format_args!("{part} is done already"));
                continue;
            }
            self.part(&gpu, *part, objective)?;
            if interrupt::requested() && k + 1 < parts.len() {
                return Err(Error::Interrupted { saved: format!("{part} is complete") });
            }
        }
        if self.request.start.student == Projections::Run {
            let folded = match self.request.start.placement {
                Placement::Foldable => "folds them into it",
                _ => "folds those of the up blocks into it and drops the others",
            };
            global.note(format_args!(
                "plain diffusers ignores the channel projections (adapter_list.*); `deme merge --export plain` {folded}"
            ));
        }
        match parts.as_slice() {
            [(Part::Whole, _)] => say!("the model is in {}", self.folder.model(Part::Whole).display()),
            _ => say!("{} of {} experts in {}", parts.len(), self.request.ranges.len(), run.out.display()),
        }
    }

    fn part(&self, gpu: &Gpu, part: Part, objective: &Expert) -> Result<()> {
        let Request { global, model, start, tune, .. } = &self.request;
        let (settings, layout) = (&self.settings, &start.layout);
        let own = objective.timesteps.own.clone();
        global.note(format_args!("{part}: timesteps {} to {}", own.start, own.end - 1));
        let folder = self.folder.training(part);
        let record = gpu.tuning_file(&folder.join("tuning.json"));
        let begun = folder.join("metrics.jsonl").exists();
        tune::resume(gpu, &record, begun, tune, global, settings.replays())?;
        let teacher = objective.needs_teacher();
        let state = TrainingState::start(gpu, layout, teacher, gpu.precision(), |name| start.read(name))?;
        let (held_out, samples) = (self.held_out(gpu, &state.ema)?, self.samples(gpu, &state.ema)?);
        let best = self.best(gpu, part, objective, state.ema.clone())?;
        let export = self.export(gpu, part, objective, state.ema.clone());
        let mut trainer = Trainer::new(gpu, self.network(gpu.precision()), settings, objective, state)?;
        let numbers = [settings.seed, u64::from(part.number())];
        let (config, schedule) = (&model.config, &model.schedule);
        let feeder = Feeder::new(config, schedule, &self.dataset, numbers, settings.augment)?;
        let job = Job {
            settings,
            objective,
            feeder: &feeder,
            folder: &folder,
            settings_sha256: &self.folder.settings_sha256(),
            device: &gpu.identity(),
            record: &record,
            tuning: &gpu.tuning(),
        };
        let bar = global.progress(settings.steps, &part.to_string(), "updates");
        let mut screen = Screen {
            global,
            bar: bar.clone(),
            dataset: &self.dataset,
            held_out,
            best,
            export,
            samples,
            seed: settings.seed,
            images_per_update: settings.images_per_update(),
            folder: &folder,
            began: None,
            loss: String::new(),
        };
        let done = job.run(&mut trainer, &mut screen);
        bar.finish_and_clear();
        done?;
        let (out, made) = (self.folder.model(part), Map::from_iter([("updates".into(), settings.steps.into())]));
        self.write(gpu, &out, (part, objective), &trainer.state.ema, made)?;
        global.note(format_args!("{part} is in {}", out.display()));
        Ok(())
    }

    /// Where the best averaged weights go, and how good those that are there already are: an interrupted run's.
    fn best<'b>(&'b self, gpu: &'b Gpu, part: Part, objective: &'b Expert, ema: Slabs) -> Result<Option<Best<'b>>> {
        const LOSS: &str = "held_out_loss";
        if !self.request.output.keep_best {
            return Ok(None);
        }
        let out = self.folder.best(part);
        let before = if out.exists() { json_file::read_object(&out.join(ABOUT))? } else { Map::new() };
        let loss = before.get(LOSS).and_then(Value::as_f64).unwrap_or(f64::INFINITY);
        let write = move |step: u64, loss: f64| {
            let made = Map::from_iter([("updates".into(), step.into()), (LOSS.into(), loss.into())]);
            self.write(gpu, &out, (part, objective), &ema, made)
        };
        Ok(Some(Best { loss, write: Box::new(write) }))
    }

    /// Writes the averaged weights after so many updates as a folder of their own.
    fn export<'b>(
        &'b self,
        gpu: &'b Gpu,
        part: Part,
        objective: &'b Expert,
        ema: Slabs,
    ) -> Box<dyn Fn(u64) -> Result<()> + 'b> {
        Box::new(move |step| {
            let made = Map::from_iter([("updates".into(), step.into())]);
            self.write(gpu, &self.folder.exported(part, step), (part, objective), &ema, made)
        })
    }

    /// Writes the averaged weights as a diffusers folder with deme.json beside them, which begins with what they are and how they
    /// were made.
    fn write(
        &self,
        gpu: &Gpu,
        out: &Path,
        (part, objective): (Part, &Expert),
        ema: &Slabs,
        made: Map<String, Value>,
    ) -> Result<()> {
        let Request { model, start, .. } = &self.request;
        let mut weights: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        ema.for_each(gpu, &start.layout, |name, values| {
            weights.insert(name.to_owned(), values);
            Ok(())
        })?;
        let tensors: Vec<_> = start.tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let about = json!({
            "seed": self.settings.seed,
            "precision": gpu.precision().to_string(),
            "settings_sha256": self.folder.settings_sha256(),
            "tuning_sha256": gpu.tuning().sha256(),
        });
        let mut all = self.kind(part, objective);
        all.extend(made);
        all.extend(about.as_object().cloned().unwrap_or_default());
        let new = NewWeights {
            tensors: &tensors,
            names: model.folder.weights.style(),
            metadata: BTreeMap::new(),
            about: Some(&all),
        };
        model.folder.write(out, &new, |name| {
            weights.remove(name).ok_or_else(|| Error::shape("training", format!("{name} is not among the weights")))
        })
    }

    /// What deme.json says that a folder is.
    fn kind(&self, part: Part, objective: &Expert) -> Map<String, Value> {
        let about = match part {
            Part::Whole => json!({ "kind": "model" }),
            Part::Expert(i) => json!({
                "kind": "expert",
                "expert": i,
                "ranges": self.request.ranges.len(),
                "timesteps": [objective.timesteps.own.start, objective.timesteps.own.end],
                "p": objective.timesteps.p,
                "consistency": objective.consistency,
            }),
        };
        about.as_object().cloned().unwrap_or_default()
    }

    fn held_out(&self, gpu: &Gpu, ema: &Slabs) -> Result<Option<HeldOut>> {
        if self.settings.eval_every == 0 {
            return Ok(None);
        }
        let Request { model, start, ranges, .. } = &self.request;
        let ranges = timestep_ranges(model, ranges.len())?;
        let pairs = stratified_pairs(&self.judged, &ranges, 1, self.settings.seed);
        let buckets = Buckets::even(&ranges, pairs.len());
        let side = self.dataset.size();
        let batch = beside(self.settings.at_once, side);
        let spec = LossSpec { batch, sides: [side; 2], projections: start.student };
        let loss = DenoisingLoss::new(gpu, &model.config, &model.schedule, &start.layout, ema, spec)?;
        Ok(Some(HeldOut { loss, pairs, buckets }))
    }

    fn samples(&self, gpu: &Gpu, ema: &Slabs) -> Result<Option<Samples>> {
        if self.settings.sample_every == 0 {
            return Ok(None);
        }
        let Request { model, start, output, .. } = &self.request;
        let (config, schedule) = (&model.config, &model.schedule);
        let steps = schedule.steps(schedule.spacing, output.sample_steps as usize)?;
        let side = self.dataset.size();
        let spec = SampleSpec {
            batch: beside(GRID, side),
            height: side,
            width: side,
            step_noise: StepNoise::None,
            projections: start.student,
        };
        let sampler = Sampler::new(gpu, config, schedule, &start.layout, std::slice::from_ref(ema), spec)?;
        Ok(Some(Samples { sampler, steps, channels: config.in_channels }))
    }
}
