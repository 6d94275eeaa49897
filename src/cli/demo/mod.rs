//! `deme demo`: the whole method on the bundled model and images, ending in pictures, a loss table and a report. It runs
//! the same commands that a user would, and prints each. Called by `cli::run`.

mod budget;
mod losses;
pub(super) mod plots;
pub(super) mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::data::{DataArgs, Split, spread};
use super::models::{Judged, ModelArgs, timestep_ranges};
use super::sample::{Request, draw};
use super::terminal::say;
use super::tune::TuneArgs;
use super::{Global, eval, interrupt};
use crate::data::dataset::Dataset;
use crate::deme::search::Candidate;
use crate::diffusion::denoising::{Trial, stratified_pairs};
use crate::diffusion::spacing::Spacing;
use crate::diffusion::summary::Summary;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::atomic;
use crate::io::png::{self, Batch, Grid};
use crate::rng::{Purpose, stream};
use budget::{Budget, EXPERTS};
use losses::{loss_rows, losses_json, print_table};
use report::{Curve, Picture, Report};

/// The whole method on the bundled emoji model, ending in a report
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Folder for everything that the demo makes; a stopped demo in it continues [default: out/demo, out/demo-full or
    /// out/demo-smoke]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The model to start from
    #[arg(long, value_name = "DIR", default_value = "models/ddpm-emoji32")]
    model: PathBuf,
    /// The images, an atlas of 32x32 tiles
    #[arg(long, value_name = "FILE", default_value = "data/noto-emoji-32.png")]
    data: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A long run that is meant to gain something: most of a day without a GPU
    #[arg(long, conflicts_with = "smoke")]
    full: bool,
    /// Every stage for a moment: shows that all of it works here, gains nothing
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    tune: TuneArgs,
}

/// Side of the atlas's tiles, and which images training leaves out: as the model was trained.
const TILE: u32 = 32;
const HOLDOUT: u32 = 10;

/// Everything that the stages share.
struct Demo<'a> {
    args: &'a DemoArgs,
    out: PathBuf,
    global: &'a Global,
    budget: Budget,
    dataset: Dataset,
    images: Vec<usize>,
    gpu: Gpu,
}

/// The models that are compared, with their losses pair by pair and their pictures.
struct Compared {
    name: &'static str,
    models: ModelArgs,
    losses: Vec<f64>,
    /// The image of each pair.
    images: Vec<usize>,
    pictures: Vec<f32>,
}

pub fn run(args: &DemoArgs, global: &Global) -> Result<()> {
    let started = Instant::now();
    if !args.model.is_dir() || !args.data.is_file() {
        let missing = if args.model.is_dir() { &args.data } else { &args.model };
        let hint = "run the demo from the root of deme's repository, or name --model and --data";
        return Err(Error::usage(format!("{} is not there", missing.display()), hint));
    }
    let gpu = Gpu::open(&global.choice())?;
    let budget = Budget::of(gpu.class(), args.full, args.smoke);
    args.tune.apply(&gpu, global, u64::from(budget.pictures * budget.steps) * 3)?;
    let base = Judged::open(&ModelArgs { model: args.model.clone(), experts: Vec::new(), ensemble: false })?;
    let data = DataArgs { data: args.data.clone(), tile: Some(TILE), holdout: Some(HOLDOUT), on_bad: "fatal".into() };
    let dataset = data.open(&base.model, global)?;
    let mut images = Split::HoldoutOdd.images(&dataset)?;
    images = spread(&images, budget.images);
    let out = args.folder()?;
    let demo = Demo { args, out, global, budget, dataset, images, gpu };
    demo.announce()?;

    let judging = Instant::now();
    let mut compared = vec![demo.judge("base", base_only(args), &base)?];
    demo.plan_time(&compared[0], judging.elapsed())?;
    demo.finetune()?;
    demo.stop_if_asked()?;
    demo.search()?;
    demo.stop_if_asked()?;
    let experts = (0..EXPERTS).map(|i| demo.out.join(format!("experts/expert_{i}"))).collect();
    let ensemble = ModelArgs { model: args.model.clone(), experts, ensemble: true };
    compared.push(demo.judge("ensemble", ensemble.clone(), &Judged::open(&ensemble)?)?);
    let merged = ModelArgs { model: demo.out.join("search/merged"), experts: Vec::new(), ensemble: false };
    compared.push(demo.judge("merged", merged.clone(), &Judged::open(&merged)?)?);
    for c in &mut compared {
        c.pictures = demo.draw(c)?;
    }
    demo.finish(&compared, &base, started)
}

impl DemoArgs {
    /// Makes the folder. Budgets do not share one: a run continues with its own settings only.
    fn folder(&self) -> Result<PathBuf> {
        let usual = match (self.full, self.smoke) {
            (true, _) => "out/demo-full",
            (_, true) => "out/demo-smoke",
            _ => "out/demo",
        };
        let out = self.out.clone().unwrap_or_else(|| usual.into());
        if out.exists() && !out.is_dir() {
            return Err(Error::usage(format!("{} is not a folder", out.display()), "name a folder for --out"));
        }
        std::fs::create_dir_all(&out).map_err(Error::io(&out, "create"))?;
        Ok(out)
    }
}

fn base_only(args: &DemoArgs) -> ModelArgs {
    ModelArgs { model: args.model.clone(), experts: Vec::new(), ensemble: false }
}

impl Demo<'_> {
    /// What the budget is, before anything is spent.
    fn announce(&self) -> Result<()> {
        let b = &self.budget;
        say!("deme demo on {}", self.gpu.summary())?;
        say!(
            "budget: {EXPERTS} experts x {} updates of {} images at lr {:e} (p = {}); search on {} even held-out images \
             a range; losses on {} odd held-out images; {} pictures of {} steps",
            b.updates,
            b.batch * b.accumulate,
            b.lr,
            b.p,
            b.pairs,
            self.images.len(),
            b.pictures,
            b.steps
        )
    }

    /// How long the rest takes, from how long the base's losses took; what an earlier run has done costs nothing.
    fn plan_time(&self, base: &Compared, took: Duration) -> Result<()> {
        let [judged, mut trained, mut searched, rest @ ..] = self.budget.forwards(self.images.len());
        let left = (0..EXPERTS).filter(|&i| !self.out.join(format!("experts/expert_{i}")).exists()).count();
        trained *= left as f64 / f64::from(EXPERTS);
        if self.out.join("search/merged").is_dir() {
            searched = 0.0;
        }
        let seconds = took.as_secs_f64() / judged * (trained + searched + rest.iter().sum::<f64>());
        let loss = Summary::of(&base.losses, &base.images);
        let left =
            if seconds < 100.0 { format!("{seconds:.0} seconds") } else { format!("{:.0} minutes", seconds / 60.0) };
        say!("base: held-out loss {loss}; the rest will take about {left} at this speed")
    }

    /// A signal that came when a stage had ended already.
    fn stop_if_asked(&self) -> Result<()> {
        let saved = format!("what is done is in {}", self.out.display());
        if interrupt::requested() { Err(Error::Interrupted { saved }) } else { Ok(()) }
    }

    /// Runs one of deme's own commands, after printing it.
    fn command(&self, words: &[String]) -> Result<()> {
        let precision = self.global.precision.map_or(String::new(), |p| format!(" --precision {}", p.name()));
        say!("\n$ deme {}{precision}", words.join(" "))?;
        super::invoke(words, self.global)
    }

    fn words(&self, command: &str, more: &[(&str, String)]) -> Vec<String> {
        let out = |name: &str| self.out.join(name).display().to_string();
        let mut words = vec![command.to_string()];
        let common = [
            ("--model", self.args.model.display().to_string()),
            ("--data", self.args.data.display().to_string()),
            ("--tile", TILE.to_string()),
            ("--holdout", HOLDOUT.to_string()),
            ("--seed", self.args.seed.to_string()),
            ("--autotune", self.args.tune.autotune.to_string()),
            ("--out", out(if command == "search" { "search" } else { "experts" })),
        ];
        for (option, value) in common.iter().chain(more) {
            words.extend([option.to_string(), value.clone()]);
        }
        words
    }

    fn finetune(&self) -> Result<()> {
        let b = &self.budget;
        let log_every = (b.updates / 10).max(1);
        let mut words = self.words(
            "finetune",
            &[
                ("--ranges", EXPERTS.to_string()),
                ("--steps", b.updates.to_string()),
                ("--batch", b.batch.to_string()),
                ("--accumulate", b.accumulate.to_string()),
                ("--lr", format!("{:e}", b.lr)),
                ("--p", b.p.to_string()),
                ("--log-every", log_every.to_string()),
                ("--eval-every", "0".into()),
                ("--sample-every", "0".into()),
            ],
        );
        words.extend(["--flip".into(), "--resume".into()]);
        self.command(&words)
    }

    fn search(&self) -> Result<()> {
        let merged = self.out.join("search/merged");
        if merged.is_dir() {
            self.global.note(format_args!("the search is done already"));
            return Ok(());
        }
        let b = &self.budget;
        let mut words = self.words(
            "search",
            &[
                ("--high", b.high.to_string()),
                ("--step", b.step.to_string()),
                ("--fine", b.fine.to_string()),
                ("--pairs", b.pairs.to_string()),
            ],
        );
        words.push("--experts".into());
        words.extend((0..EXPERTS).map(|i| self.out.join(format!("experts/expert_{i}")).display().to_string()));
        self.command(&words)
    }

    /// Losses on odd held-out images, with noise that neither training nor the search has seen.
    fn judge(&self, name: &'static str, models: ModelArgs, judged: &Judged) -> Result<Compared> {
        say!("\njudging the {name}: odd held-out images, fresh noise")?;
        let ranges = timestep_ranges(&judged.model, EXPERTS)?;
        let pairs =
            stratified_pairs(&self.images, &ranges, self.budget.repeats as usize, self.args.seed.wrapping_add(1));
        let trial = Trial {
            pairs: &pairs,
            image: &|i, out| self.dataset.write_pixels(i, false, out),
            seed: self.args.seed,
            stream: stream(Purpose::EvalNoise, 2),
        };
        let losses = eval::pair_losses(&self.gpu, judged, &trial, self.dataset.size(), 16, self.global)?;
        let images = pairs.iter().map(|p| p.image).collect();
        Ok(Compared { name, models, losses, images, pictures: Vec::new() })
    }

    fn draw(&self, compared: &Compared) -> Result<Vec<f32>> {
        say!("drawing {} pictures with the {}", self.budget.pictures, compared.name)?;
        let judged = Judged::open(&compared.models)?;
        let steps = judged.model.schedule.steps(Spacing::Leading, self.budget.steps as usize)?;
        let request = Request {
            num: self.budget.pictures,
            batch: 16,
            steps: &steps,
            eta: 0.0,
            seed: self.args.seed,
            noise: None,
        };
        draw(&self.gpu, &judged, &request, self.global)
    }

    /// Table, pictures, losses.json and the report.
    fn finish(&self, compared: &[Compared], base: &Judged, started: Instant) -> Result<()> {
        let rows = loss_rows(compared, &timestep_ranges(&base.model, EXPERTS)?);
        print_table(compared, &rows)?;
        let [h, w] = base.model.sides()?;
        let batch = |data| Batch { data, height: h, width: w, channels: base.model.config.in_channels };
        let out = |name: &str| self.out.join(name);
        let all: Vec<f32> = compared.iter().flat_map(|c| c.pictures.iter().copied()).collect();
        let note = "rows: base, ensemble, merged, from the same noise".to_string();
        let text = [("Description".to_string(), note)];
        png::write_grid(&out("pictures.png"), &batch(&all), Grid { columns: self.budget.pictures, padding: 2 }, &text)?;
        let mut pictures = Vec::new();
        for c in compared {
            let path = out(&format!("{}.png", c.name));
            let columns = f64::from(self.budget.pictures).sqrt().ceil() as u32;
            png::write_grid(&path, &batch(&c.pictures), Grid { columns, padding: 2 }, &[])?;
            let png = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
            pictures.push(Picture { caption: c.name.to_string(), png });
        }
        atomic::write(&out("losses.json"), format!("{:#}\n", losses_json(compared, &rows)).as_bytes())?;
        let (candidates, judged) = self.candidates()?;
        let report = Report {
            title: "deme demo: decouple, then merge".into(),
            lead: "A pretrained DDPM of 32x32 emoji, finetuned as four experts, one per quarter of the timesteps, and \
                   merged into one network of the same size. These are the numbers that came out, better or not."
                .into(),
            models: compared.iter().map(|c| c.name.to_string()).collect(),
            rows,
            loss_note: format!(
                "Mean squared error of the predicted noise on {} images that neither training nor the search has seen, \
                 with fresh noise; {} an image and range. Differences are paired; ± is one standard error. \
                 Coloured: beyond two.",
                self.images.len(),
                times(self.budget.repeats)
            ),
            pictures,
            curves: (0..EXPERTS).map(|i| self.curve(i)).collect::<Result<_>>()?,
            candidates,
            search_note: format!(
                "The ten best of {judged} candidates, judged on {} other held-out images a range, the same noise for all.",
                self.budget.pairs
            ),
            settings: self.settings(started),
        };
        report.write(&out("report.html"))?;
        say!(
            "\n{}, pictures.png, losses.json and the merged model (search/merged) in {}; {:.1} minutes",
            "report.html",
            self.out.display(),
            started.elapsed().as_secs_f64() / 60.0
        )
    }

    /// The ten best candidates, and how many there were.
    fn candidates(&self) -> Result<(Vec<Candidate>, usize)> {
        let path = self.out.join("search/table.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let mut all = Vec::new();
        for (i, line) in text.lines().enumerate().skip(1) {
            all.push(parse::<Candidate>(&path, i, line)?);
        }
        all.retain(|candidate| !candidate.fresh);
        all.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        let judged = all.len();
        all.truncate(10);
        Ok((all, judged))
    }

    /// Loss against update of expert `i`, from its log.
    fn curve(&self, i: u32) -> Result<Curve> {
        let path = self.out.join(format!("experts/training/expert_{i}/metrics.jsonl"));
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let mut points = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let value: Value = parse(&path, n, line)?;
            if let (Some(step), Some(loss)) = (value["step"].as_f64(), value["noise_loss"].as_f64()) {
                points.push((step, loss));
            }
        }
        Ok(Curve { name: format!("expert {i}"), points })
    }

    fn settings(&self, started: Instant) -> Vec<(String, String)> {
        let b = &self.budget;
        [
            ("adapter", self.gpu.summary().to_string()),
            ("precision", self.gpu.precision().to_string()),
            ("deme", env!("CARGO_PKG_VERSION").to_string()),
            ("model", self.args.model.display().to_string()),
            ("experts", format!("{EXPERTS} x {} updates of {} images", b.updates, b.batch * b.accumulate)),
            ("learning rate", format!("{:e}", b.lr)),
            ("p, probability of the whole range", b.p.to_string()),
            ("search", search_settings(b)),
            ("pictures", format!("DDIM, {} steps, eta 0, leading, seed {}", b.steps, self.args.seed)),
            ("time", format!("{:.1} minutes", started.elapsed().as_secs_f64() / 60.0)),
        ]
        .map(|(k, v)| (k.to_string(), v))
        .into()
    }
}

/// "1 timestep", "3 timesteps".
fn times(n: u32) -> String {
    format!("{n} timestep{}", if n == 1 { "" } else { "s" })
}

fn search_settings(b: &Budget) -> String {
    let fine = if b.fine < b.step { format!(", then of {} around the best", b.fine) } else { String::new() };
    format!("grid from 0 to {} in steps of {}{fine}", b.high, b.step)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Error::format(path, format!("line {}", line + 1), e.to_string(), "remove the folder and run the demo again")
    })
}
