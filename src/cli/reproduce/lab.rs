//! Makes and judges the models of an experiment with deme's own commands, each step once: what is in the folder is done.
//! Called by `cli::reproduce`.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use serde::{Deserialize, Serialize};
use serde_json::json;
use toml::Table;

use super::config::Config;
use super::rows::{Subject, Training};
use crate::cli::data::{DataArgs, Split, spread};
use crate::cli::eval_fid::{self, FidCommand};
use crate::cli::models::{Judged, ModelArgs, timestep_ranges};
use crate::cli::terminal::say;
use crate::cli::tune::TuneArgs;
use crate::cli::{Cli, Global, eval, interrupt, run_file};
use crate::data::dataset::Dataset;
use crate::diffusion::denoising::{Pair, Trial, stratified_pairs};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::atomic;
use crate::rng::{Purpose, stream};

/// Everything that the steps share.
pub struct Lab<'a> {
    pub config: &'a Config,
    /// The experiment's file, for errors
    pub file: &'a Path,
    pub out: &'a Path,
    pub global: &'a Global,
    pub tune: &'a TuneArgs,
    pub gpu: Gpu,
    pub dataset: Dataset,
    pub trial: JudgePairs,
}

/// What every model of a table is judged on: images, timesteps and noise.
pub struct JudgePairs {
    pub pairs: Vec<Pair>,
    /// The timestep ranges, each with as many pairs
    pub buckets: Vec<std::ops::Range<usize>>,
    pub images: usize,
    stream: u64,
    seed: u64,
}

/// A judged model's file: the loss of each pair.
#[derive(Serialize, Deserialize)]
struct Losses {
    losses: Vec<f64>,
}

/// A distance's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub metric: String,
    pub distance: f64,
    pub pictures: u64,
    pub of: String,
    pub weights_sha256: String,
}

impl JudgePairs {
    /// Pairs on odd held-out images for tables; for a sweep on even ones, which a search may see, with noise that it has not.
    pub fn new(config: &Config, base: &Judged, dataset: &Dataset, sweep: bool) -> Result<Self> {
        let judge = &config.judge;
        let split = if sweep { Split::HoldoutEven } else { Split::HoldoutOdd };
        let images = split.images(dataset)?;
        let images = spread(&images, if judge.images == 0 { usize::MAX } else { judge.images });
        let buckets = timestep_ranges(&base.model, judge.buckets)?;
        let pairs = stratified_pairs(&images, &buckets, judge.repeats.max(1), judge.seed);
        let stream = stream(Purpose::EvalNoise, if sweep { 3 } else { 2 });
        Ok(Self { pairs, buckets, images: images.len(), stream, seed: judge.seed })
    }
}

/// The images as every step reads them.
pub fn data(config: &Config) -> DataArgs {
    DataArgs { data: config.data.clone(), tile: config.tile, holdout: Some(config.holdout), on_bad: "fatal".into() }
}

impl Lab<'_> {
    fn run_folder(&self, training: &Training, seed: u64) -> PathBuf {
        self.out.join("runs").join(training.name(seed))
    }

    fn experts(&self, training: &Training, seed: u64) -> Vec<PathBuf> {
        let folder = self.run_folder(training, seed);
        (0..training.ranges).map(|i| folder.join(format!("expert_{i}"))).collect()
    }

    /// What stands for a subject once it is made.
    fn models(&self, subject: &Subject, seed: u64) -> ModelArgs {
        let alone = |model: PathBuf| ModelArgs { model, experts: Vec::new(), ensemble: false };
        match subject {
            Subject::Base => alone(self.config.model.clone()),
            Subject::Whole(training) => alone(self.run_folder(training, seed).join("expert_0")),
            Subject::Merged(training) => alone(self.run_folder(training, seed).join("search/merged")),
            Subject::Ensemble(training) => {
                ModelArgs { model: self.config.model.clone(), experts: self.experts(training, seed), ensemble: true }
            }
        }
    }

    fn losses_file(&self, subject: &Subject, seed: u64, sweep: bool) -> PathBuf {
        let folder = if sweep { "losses-even" } else { "losses" };
        self.out.join(folder).join(format!("{}.json", subject.name(seed)))
    }

    fn distance_file(&self, subject: &Subject, seed: u64) -> PathBuf {
        // The base is drawn once for each seed: another seed is other noise.
        self.out.join("distances").join(format!("{}-seed{seed}.json", subject.name(seed)))
    }

    /// Runs one of deme's own commands, after printing it.
    fn command(&self, words: &[String]) -> Result<()> {
        say!("$ deme {}", words.join(" "))?;
        crate::cli::invoke(words, self.global)?;
        self.stop_if_asked()
    }

    /// A signal that came when a step had ended already.
    pub fn stop_if_asked(&self) -> Result<()> {
        let saved = format!("what is done is in {}; the same command continues", self.out.display());
        if interrupt::requested() { Err(Error::Interrupted { saved }) } else { Ok(()) }
    }

    /// The words that every command with images and a model begins with.
    fn common(&self, command: &str, out: &Path) -> Vec<String> {
        let config = self.config;
        let mut words = vec![
            command.to_string(),
            format!("--model={}", config.model.display()),
            format!("--data={}", config.data.display()),
            format!("--holdout={}", config.holdout),
            format!("--autotune={}", self.tune.autotune),
            format!("--out={}", out.display()),
        ];
        words.extend(config.tile.map(|tile| format!("--tile={tile}")));
        words
    }

    /// Trains what a subject needs, and searches where it is a merged model.
    pub fn make(&self, subject: &Subject, seed: u64) -> Result<()> {
        let Some(training) = subject.training() else { return Ok(()) };
        let folder = self.run_folder(training, seed);
        if self.experts(training, seed).iter().any(|expert| !expert.is_dir()) {
            let mut words = self.common("finetune", &folder);
            words.extend(training.words(seed));
            let usual = ["--log-every=10", "--eval-every=0", "--sample-every=0"];
            words.extend(usual.iter().filter(|word| !self.sets(word)).map(ToString::to_string));
            words.extend(self.options("finetune", &self.config.finetune)?);
            words.push("--resume".into());
            self.command(&words)?;
        }
        let search = folder.join("search");
        if matches!(subject, Subject::Merged(_)) && !search.join("merged").is_dir() {
            let mut words = self.common("search", &search);
            words.push(format!("--seed={seed}"));
            words.extend(self.options("search", &self.config.search)?);
            words.push("--experts".into());
            words.extend(self.experts(training, seed).iter().map(|expert| expert.display().to_string()));
            self.command(&words)?;
        }
        Ok(())
    }

    /// Refuses options that no command has, before anything is made.
    pub fn check_options(&self) -> Result<()> {
        self.options("finetune", &self.config.finetune)?;
        self.options("search", &self.config.search)?;
        self.config.distance.iter().try_for_each(|d| self.options("eval fid", &d.options).map(drop))
    }

    /// A table of the experiment's file as words for a command.
    fn options(&self, command: &str, table: &Table) -> Result<Vec<String>> {
        let cli = Cli::command();
        let found = command.split(' ').try_fold(&cli, |at, name| at.find_subcommand(name));
        let words = run_file::words(self.file, command, found.unwrap_or(&cli), table)?;
        Ok(words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    /// Whether the experiment's file has an option of `deme finetune` itself.
    fn sets(&self, word: &str) -> bool {
        let long = word.trim_start_matches("--").split('=').next().unwrap_or_default();
        self.config.finetune.keys().any(|key| key.replace('_', "-") == long)
    }

    /// The loss of a made subject on each of the trial's pairs.
    pub fn losses(&self, subject: &Subject, seed: u64, sweep: bool) -> Result<Vec<f64>> {
        let path = self.losses_file(subject, seed, sweep);
        if path.exists() {
            return Ok(read::<Losses>(&path)?.losses);
        }
        let judged = Judged::open(&self.models(subject, seed))?;
        let trial = Trial {
            pairs: &self.trial.pairs,
            image: &|i, out| self.dataset.write_pixels(i, false, out),
            seed: self.trial.seed,
            stream: self.trial.stream,
        };
        let (side, batch) = (self.dataset.size(), self.config.judge.batch);
        let losses = eval::pair_losses(&self.gpu, &judged, &trial, side, batch, self.global)?;
        write(&path, &Losses { losses: losses.clone() })?;
        Ok(losses)
    }

    /// How far what a made subject draws is from the images.
    pub fn distance(&self, subject: &Subject, seed: u64) -> Result<Option<Measured>> {
        let Some(distance) = &self.config.distance else { return Ok(None) };
        let path = self.distance_file(subject, seed);
        if path.exists() {
            return read(&path).map(Some);
        }
        let models = self.models(subject, seed);
        // The images' features once for all models.
        let reference = self.out.join("reference.npz");
        let mut words = vec![format!("--model={}", models.model.display()), format!("--seed={seed}")];
        if reference.exists() {
            words.push(format!("--against={}", reference.display()));
        } else {
            words.push(format!("--against={}", self.config.data.display()));
            words.push(format!("--save-reference={}", reference.display()));
            words.extend(self.config.tile.map(|tile| format!("--tile={tile}")));
        }
        words.extend(self.options("eval fid", &distance.options)?);
        if models.ensemble {
            words.extend(["--ensemble".to_string(), "--experts".to_string()]);
            words.extend(models.experts.iter().map(|expert| expert.display().to_string()));
        }
        say!("$ deme eval fid {}", words.join(" "))?;
        let all = std::iter::once("fid").chain(words.iter().map(String::as_str));
        let parsed = FidCommand::try_parse_from(all)
            .map_err(|e| Error::usage(format!("deme's own command line: {e}"), "please report this"))?;
        let report = eval_fid::measure(&parsed.args, self.global)?;
        let measured = Measured {
            metric: report.metric,
            distance: report.distance,
            pictures: report.pictures,
            of: report.of,
            weights_sha256: report.weights_sha256,
        };
        write(&path, &measured)?;
        self.stop_if_asked()?;
        Ok(Some(measured))
    }

    /// What is left of a subject: (updates to train, whether to search, whether to judge).
    pub fn left(&self, subject: &Subject, seed: u64, sweep: bool) -> (u64, bool, bool) {
        let missing = |t: &Training| self.experts(t, seed).iter().filter(|e| !e.is_dir()).count() as u64 * t.steps;
        let updates = subject.training().map_or(0, missing);
        let merged = |t: &Training| self.run_folder(t, seed).join("search/merged").is_dir();
        let search = matches!(subject, Subject::Merged(t) if !merged(t));
        (updates, search, !self.losses_file(subject, seed, sweep).exists())
    }
}

/// Binds the folder to what its files depend on, or refuses it: numbers of different experiments would be mixed.
pub fn bind(config: &Config, global: &Global, out: &Path) -> Result<()> {
    let distance = config.distance.as_ref().map(|d| &d.options);
    let shared = json!({
        "model": config.model, "data": config.data, "tile": config.tile, "holdout": config.holdout,
        "finetune": config.finetune, "search": config.search, "judge": config.judge, "distance": distance,
        "precision": global.precision().name(),
    });
    let path = out.join("shared.json");
    if !path.exists() {
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
        return atomic::write(&path, format!("{shared:#}\n").as_bytes());
    }
    let before: serde_json::Value = read(&path)?;
    let changed = shared.as_object().and_then(|all| all.iter().find(|(key, value)| before.get(*key) != Some(value)));
    match changed {
        None => Ok(()),
        Some((key, value)) => {
            let was = before.get(key).map_or("nothing".into(), ToString::to_string);
            let problem = format!("says {was} where the experiment says {value}");
            Err(Error::format(&path, key, problem, "give another --out for an experiment with other settings"))
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let hint = "remove the file; it is made again";
    serde_json::from_slice(&bytes).map_err(|e| Error::format(path, "JSON", e.to_string(), hint))
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    let text =
        serde_json::to_string(value).map_err(|e| Error::format(path, "JSON", e.to_string(), "please report this"))?;
    atomic::write(path, format!("{text}\n").as_bytes())
}
