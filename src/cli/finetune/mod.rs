//! `deme finetune`: experts of timestep ranges, trained one after another, each ending as a diffusers folder.
//! Called by `cli::run` and the demo.

mod args;
mod estimate;
mod watch;

pub use args::FinetuneArgs;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::data::spread;
use super::models::timestep_ranges;
use super::terminal::say;
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
use crate::io::folder::{NewWeights, inside};
use crate::io::hash::Hash;
use crate::io::json as json_file;
use crate::nn::Slabs;
use crate::shader::Precision;
use crate::train::feed::Feeder;
use crate::train::objective::Objective;
use crate::train::run::Job;
use crate::train::run_folder::RunFolder;
use crate::train::settings::Settings;
use crate::train::state::TrainingState;
use crate::train::step::{Network, Trainer};
use watch::{HeldOut, Samples, Screen};

/// Pictures of a sample grid.
const GRID: u32 = 16;

/// Everything about a run that is known before a GPU is opened.
struct Plan<'a> {
    args: &'a FinetuneArgs,
    global: &'a Global,
    start: StartModel<'a>,
    model: &'a Pretrained,
    dataset: &'a Dataset,
    ranges: Ranges,
    settings: Settings,
    /// The loss weighting by timestep.
    weights: Option<Vec<f64>>,
    /// Held-out images that are judged.
    judged: Vec<usize>,
    folder: RunFolder,
}

pub fn run(args: &FinetuneArgs, global: &Global) -> Result<()> {
    args.check()?;
    let experts = args.experts()?;
    let model = Pretrained::open(&args.model)?;
    model.config.check_trainable(&model.folder.unet_config.path)?;
    let ranges = Ranges::even(model.schedule.timesteps() as u32, args.ranges)?;
    let start = StartModel::new(&model, args.projection == args::ProjectionArg::All)?;
    let dataset = args.data.open(&model, global)?;
    let mut judged = dataset.holdout_indices();
    judged = spread(&judged, args.eval_images as usize);
    let resolved = args.resolved(global.precision(), &model_hash(&model)?, &data_hash(&dataset));
    let folder = RunFolder::check(&args.out, resolved.clone(), &experts, args.resume || args.dry_run)?;
    for &i in &experts {
        model.folder.check_output(&folder.expert(i))?;
    }
    if inside(&args.out, &args.data.data) {
        let message = format!("{} is inside {}, the images", args.out.display(), args.data.data.display());
        return Err(Error::usage(message, "write to another folder: sample grids would be taken for images"));
    }
    let settings = args.settings(!judged.is_empty());
    let weights = args.weighting().table(&model.schedule)?;
    let plan =
        Plan { args, global, start, model: &model, dataset: &dataset, ranges, settings, weights, judged, folder };
    if args.dry_run {
        say!("{}", json_file::render(&resolved).trim_end())?;
        return plan.estimate(&experts);
    }
    plan.train(&experts)
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

impl Plan<'_> {
    fn network(&self, precision: Precision) -> Network<'_> {
        Network {
            config: &self.model.config,
            layout: &self.start.layout,
            size: [self.dataset.size(); 2],
            student_projections: self.start.student,
            teacher_projections: self.start.teacher,
            precision,
        }
    }

    fn train(&self, experts: &[u32]) -> Result<()> {
        let gpu = Gpu::open(&self.global.choice())?;
        self.global.detail(format_args!("{}", gpu.summary()));
        let _listening = interrupt::listen();
        self.folder.create()?;
        for &i in experts {
            if self.folder.expert(i).exists() {
                self.global.note(format_args!("expert {i} is done already"));
                continue;
            }
            self.expert(&gpu, i)?;
            if interrupt::requested() && Some(&i) != experts.last() {
                return Err(Error::Interrupted { saved: format!("expert {i} is complete") });
            }
        }
        if self.args.projection == args::ProjectionArg::All {
            self.global.note(format_args!("plain diffusers ignores the experts' channel projections (adapter_list.*)"));
        }
        say!("{} of {} experts in {}", experts.len(), self.ranges.len(), self.args.out.display())
    }

    fn expert(&self, gpu: &Gpu, i: u32) -> Result<()> {
        let (settings, layout) = (&self.settings, &self.start.layout);
        let objective = self.args.expert(i, self.ranges, self.weights.as_deref());
        let own = objective.timesteps.own.clone();
        self.global.note(format_args!("expert {i}: timesteps {} to {}", own.start, own.end - 1));
        let folder = self.folder.training(i);
        let record = gpu.tuning_file(&folder.join("tuning.json"));
        let begun = folder.join("metrics.jsonl").exists();
        tune::resume(gpu, &record, begun, &self.args.tune, self.global, settings.replays())?;
        let teacher = objective.needs_teacher();
        let state = TrainingState::start(gpu, layout, teacher, gpu.precision(), |name| self.start.read(name))?;
        let (held_out, samples) = (self.held_out(gpu, &state.ema)?, self.samples(gpu, &state.ema)?);
        let mut trainer = Trainer::new(gpu, self.network(gpu.precision()), settings, &objective, state)?;
        let (config, schedule) = (&self.model.config, &self.model.schedule);
        let numbers = [settings.seed, u64::from(i)];
        let feeder = Feeder::new(config, schedule, self.dataset, numbers, settings.batch, settings.flip)?;
        let job = Job {
            settings,
            objective: &objective,
            feeder: &feeder,
            folder: &folder,
            settings_sha256: &self.folder.settings_sha256(),
            device: &gpu.identity(),
            record: &record,
            tuning: &gpu.tuning(),
        };
        let bar = self.global.progress(settings.steps, &format!("expert {i}"), "updates");
        let mut screen = Screen {
            global: self.global,
            bar: bar.clone(),
            dataset: self.dataset,
            held_out,
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
        self.write(gpu, i, &objective, &trainer.state.ema)
    }

    /// Writes the averaged weights as a diffusers folder with deme.json beside them.
    fn write(&self, gpu: &Gpu, i: u32, objective: &Expert, ema: &Slabs) -> Result<()> {
        let mut weights: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        ema.for_each(gpu, &self.start.layout, |name, values| {
            weights.insert(name.to_owned(), values);
            Ok(())
        })?;
        let tensors: Vec<_> = self.start.tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let about = json!({
            "kind": "expert",
            "expert": i,
            "ranges": self.ranges.len(),
            "timesteps": [objective.timesteps.own.start, objective.timesteps.own.end],
            "p": objective.timesteps.p,
            "consistency": objective.consistency,
            "updates": self.settings.steps,
            "seed": self.settings.seed,
            "precision": gpu.precision().to_string(),
            "settings_sha256": self.folder.settings_sha256(),
            "tuning_sha256": gpu.tuning().sha256(),
        });
        let new = NewWeights {
            tensors: &tensors,
            names: self.model.folder.weights.style(),
            metadata: BTreeMap::new(),
            about: about.as_object(),
        };
        let out = self.folder.expert(i);
        self.model.folder.write(&out, &new, |name| {
            weights.remove(name).ok_or_else(|| Error::shape("expert", format!("{name} is not among the weights")))
        })?;
        self.global.note(format_args!("expert {i} is in {}", Path::new(&out).display()));
        Ok(())
    }

    fn held_out(&self, gpu: &Gpu, ema: &Slabs) -> Result<Option<HeldOut>> {
        if self.settings.eval_every == 0 {
            return Ok(None);
        }
        let ranges = timestep_ranges(self.model, self.ranges.len())?;
        let pairs = stratified_pairs(&self.judged, &ranges, 1, self.settings.seed);
        let buckets = Buckets::even(&ranges, pairs.len());
        let spec =
            LossSpec { batch: self.settings.batch, sides: [self.dataset.size(); 2], projections: self.start.student };
        let (config, schedule) = (&self.model.config, &self.model.schedule);
        let loss = DenoisingLoss::new(gpu, config, schedule, &self.start.layout, ema, spec)?;
        Ok(Some(HeldOut { loss, pairs, buckets }))
    }

    fn samples(&self, gpu: &Gpu, ema: &Slabs) -> Result<Option<Samples>> {
        if self.settings.sample_every == 0 {
            return Ok(None);
        }
        let (config, schedule) = (&self.model.config, &self.model.schedule);
        let steps = schedule.steps(schedule.spacing, self.args.sample_steps as usize)?;
        let side = self.dataset.size();
        let spec = SampleSpec {
            batch: GRID,
            height: side,
            width: side,
            step_noise: StepNoise::None,
            projections: self.start.student,
        };
        let sampler = Sampler::new(gpu, config, schedule, &self.start.layout, std::slice::from_ref(ema), spec)?;
        Ok(Some(Samples { sampler, steps, channels: config.in_channels }))
    }
}
