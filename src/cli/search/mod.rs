//! `deme search`: finds merge weights by the denoising loss, and writes the table, a plot, the weights and the merged model.
//! Called by `cli::run`.

mod plot;
mod report;

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::data::{DataArgs, Split, spread};
use super::export::ExportArgs;
use super::merge::{self, MergeArgs};
use super::models::{open_with_experts, ranges_of, timestep_ranges};
use super::tune::{self, TuneArgs};
use super::{Global, interrupt, opened};
use crate::data::dataset::Dataset;
use crate::deme::blocks::Per;
use crate::deme::judge::{Derivative, MergedLoss, Merger};
use crate::deme::merge::Weights;
use crate::deme::search::{self, Candidate, Cma, Grid, Header, Method, Settings, Table};
use crate::diffusion::denoising::{DenoisingLoss, LossSpec, Pair, Trial, stratified_pairs};
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::atomic;
use crate::io::hash::{self, Hash};
use crate::io::lock;
use crate::io::source::TensorSource;
use crate::model::projections::Placement;
use crate::model::unet::Projections;
use crate::nn::{Role, Slabs};
use crate::rng::{Purpose, stream};
use crate::shader::Precision;
use report::{Cost, Found};

/// What the seed of fresh timesteps and noise differs by.
const FRESH: u64 = 0x6672_6573_6800_0000;

/// Find the weights of a merge
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// Model folder that the experts were finetuned from
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Experts, in the order of their timestep ranges
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    experts: Vec<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// Which images judge the candidates; the others are left for reported figures
    #[arg(long, value_enum, default_value = "holdout-even")]
    split: Split,
    /// One weight for each expert; or one for each expert and block or layer of the network (N is then their product); or a search
    /// for each expert's timestep range, judged there alone, for a merged model a range
    #[arg(long, value_enum, default_value = "model")]
    weights_per: PerName,
    /// How candidates are chosen
    #[arg(long, value_enum, default_value = "grid")]
    method: MethodName,
    /// Smallest weight
    #[arg(long, default_value_t = 0.0)]
    low: f64,
    /// Largest weight
    #[arg(long, default_value_t = 1.0)]
    high: f64,
    /// Step of the first pass of grid and coordinate
    #[arg(long, default_value_t = 0.5)]
    step: f64,
    /// Step of their second pass, around the best of the first; as large as --step for none
    #[arg(long, default_value_t = 0.25)]
    fine: f64,
    /// Most candidates of cma, quadratic and gradient [default: 15 N; two fits; 10 + 2 N]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    candidates: Option<u32>,
    /// Initial standard deviation of cma, which starts at 1 / N
    #[arg(long, default_value_t = 0.167)]
    sigma: f64,
    /// Candidates of a generation of cma [default: 4 + 3 ln N]
    #[arg(long, value_name = "COUNT")]
    population: Option<usize>,
    /// So many of the best are judged again, on fresh timesteps and noise, which decide; 0 for none
    #[arg(long, value_name = "COUNT", default_value_t = search::ELITE)]
    elite: usize,
    /// Images for each timestep range, the same with the same noise for all candidates
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Folder for table.jsonl, search.svg, weights.json and merged/; a stopped search in it continues
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    tune: TuneArgs,
}

/// What has a weight of its own for each expert.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum PerName {
    Model,
    /// Each down, mid and up block, and what is before and behind them
    Block,
    /// Each residual layer, attention and convolution between blocks
    Layer,
    /// Each timestep range: as many searches as ranges, of one weight an expert each
    Range,
}

/// How candidates are chosen.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum MethodName {
    /// All combinations of weights in steps, then finer around the best
    Grid,
    /// One weight after the other in steps, until none moves, then finer
    Coordinate,
    /// CMA-ES, then the minimum of a quadratic through what it judged
    Cma,
    /// Minima of quadratics fitted to (N + 1) (N + 2) / 2 candidates
    Quadratic,
    /// Descent along the exact derivative, a backward pass a candidate
    Gradient,
}

impl MethodName {
    fn method(self) -> Method {
        match self {
            Self::Grid => Method::Grid,
            Self::Coordinate => Method::Coordinate,
            Self::Cma => Method::Cma,
            Self::Quadratic => Method::Quadratic,
            Self::Gradient => Method::Gradient,
        }
    }

    fn word(self) -> String {
        self.to_possible_value().map_or(String::new(), |v| v.get_name().to_string())
    }
}

impl SearchArgs {
    fn per(&self) -> Per {
        match self.weights_per {
            PerName::Model | PerName::Range => Per::Model,
            PerName::Block => Per::Block,
            PerName::Layer => Per::Layer,
        }
    }

    /// The method's numbers, for n weights.
    fn settings(&self, n: usize) -> Settings {
        let method = self.method.method();
        Settings {
            method,
            grid: Grid { low: self.low, high: self.high, step: self.step, fine: self.fine },
            candidates: self.candidates.map_or(search::usual_candidates(method, n), |c| c as usize),
            cma: Cma { sigma: self.sigma, population: self.population, seed: self.seed },
        }
    }
}

/// A search: over all timesteps, or those of a range.
struct Part {
    /// For its table and plot.
    folder: PathBuf,
    own: Option<Range<u32>>,
    pairs: Vec<Pair>,
    /// Of the same images, for the elite.
    fresh: Vec<Pair>,
}

impl Part {
    fn table(&self) -> PathBuf {
        self.folder.join("table.jsonl")
    }

    fn open(&self, identity: &Value) -> Result<Table> {
        let mut identity = identity.clone();
        if let Some(own) = &self.own {
            identity["timesteps"] = json!([own.start, own.end]);
        }
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder, "create"))?;
        Table::open(&self.table(), &Header { identity: hash::of_bytes(identity.to_string().as_bytes()) })
    }
}

impl SearchArgs {
    fn parts(&self, model: &Pretrained, images: &[usize]) -> Result<Vec<Part>> {
        let repeats = (self.pairs as usize).div_ceil(images.len());
        let part = |folder, own, ranges: &[Range<usize>]| {
            let [pairs, fresh] =
                [self.seed, self.seed ^ FRESH].map(|seed| stratified_pairs(images, ranges, repeats, seed));
            Part { folder, own, pairs, fresh }
        };
        if self.weights_per != PerName::Range {
            let ranges = timestep_ranges(model, self.experts.len() as u32)?;
            return Ok(vec![part(self.out.clone(), None, &ranges)]);
        }
        let dirs: Vec<&Path> = self.experts.iter().map(PathBuf::as_path).collect();
        let ranges = ranges_of(model.schedule.timesteps() as u32, &dirs)?;
        let of_range = |(i, own): (usize, Range<u32>)| {
            let timesteps = own.start as usize..own.end as usize;
            part(self.out.join(format!("range_{i}")), Some(own), &[timesteps])
        };
        Ok(ranges.iter().enumerate().map(of_range).collect())
    }
}

/// What identifies a search, but for its timesteps: everything that a candidate's loss and the choice among candidates depend on.
fn identity(
    args: &SearchArgs,
    settings: &Settings,
    models: &[&Pretrained],
    dataset: &Dataset,
    images: &[usize],
    precision: Precision,
) -> Result<Value> {
    let described = |m: &&Pretrained| -> Result<_> {
        let weights: Vec<_> = opened::hashes(m.folder.weights.path())?.into_iter().map(|(_, _, hash)| hash).collect();
        Ok(json!([weights, m.folder.unet_config.map, m.folder.scheduler_config()?.map]))
    };
    let models = models.iter().map(described).collect::<Result<Vec<_>>>()?;
    let mut pixels = Hash::default();
    images.iter().for_each(|&i| pixels.bytes(dataset.pixels_u8(i)));
    let mut identity = json!({
        "models": models, "grid": settings.grid, "images": images, "pixels": pixels.finish(), "pairs": args.pairs,
        "seed": args.seed, "batch": args.batch, "precision": precision.to_string(),
    });
    // A grid's identity has no method: tables from before there were others continue.
    if settings.method != Method::Grid {
        let Cma { sigma, population, .. } = settings.cma;
        identity["method"] = json!([args.method.word(), settings.candidates, sigma, population]);
    }
    if args.per() != Per::Model {
        identity["weights_per"] = json!(args.per().name());
    }
    Ok(identity)
}

pub fn run(args: &SearchArgs, global: &Global) -> Result<()> {
    // Before anything is opened, what would make no sense even with one weight an expert.
    args.settings(args.experts.len()).check(args.experts.len())?;
    let (model, experts) = open_with_experts(&args.model, &args.experts)?;
    let blocks = args.per().blocks(model.layout.params.iter().map(|p| p.name.as_str()));
    let n = blocks.len() * experts.len();
    let settings = args.settings(n);
    settings.check(n)?;
    let dataset = args.data.open(&model, global)?;
    let mut images = args.split.images(&dataset)?;
    images = spread(&images, args.pairs as usize);
    let parts = args.parts(&model, &images)?;
    let merged = args.out.join("merged");
    if merged.exists() {
        let message = format!("{} exists: this search is done", merged.display());
        return Err(Error::usage(message, "give another --out, or move the merged model away to search on"));
    }
    if args.out.is_file() {
        return Err(Error::usage(format!("{} is a file", args.out.display()), "give a folder for --out"));
    }
    let models: Vec<&Pretrained> = std::iter::once(&model).chain(&experts).collect();
    for input in &models {
        input.folder.check_output(&merged)?;
    }
    let gpu = Gpu::open(&global.choice())?;
    let identity = identity(args, &settings, &models, &dataset, &images, gpu.precision())?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "create"))?;
    let _lock = lock::exclusive(&args.out)?;
    let begun = parts.iter().any(|part| part.table().exists());
    let mut tables = parts.iter().map(|part| part.open(&identity)).collect::<Result<Vec<_>>>()?;
    // Candidates are compared to the last digit: a search goes on with the kernels that it began with.
    let record = gpu.tuning_file(&args.out.join("tuning.json"));
    let candidates = if settings.method == Method::Grid { settings.grid.coarse(n).len() } else { settings.candidates };
    let replays = parts.iter().map(|part| (part.pairs.len() as u64).div_ceil(u64::from(args.batch))).sum::<u64>();
    let replays = replays * candidates as u64;
    tune::resume(&gpu, &record, begun, &args.tune, global, replays)?;
    let judged: usize = tables.iter().map(|table| table.rows.len()).sum();
    if judged > 0 {
        global.note(format_args!("{judged} candidates are in the table already"));
    }
    let mut judge = Judge::new(&gpu, args, &model, &experts, &dataset, parts[0].pairs.len())?;
    record.begin(&gpu.tuning())?;
    let mut found = Vec::new();
    for (part, table) in parts.iter().zip(&mut tables) {
        let best = judge.search(args, &settings, n, [&part.pairs, &part.fresh], table, global)?;
        let pairs = part.pairs.len() as u64;
        let cost = Cost { candidates: table.ranked(false).len(), passes: table.passes(), pairs };
        atomic::write(&part.folder.join("search.svg"), plot::svg(table, pairs, experts.len())?.as_bytes())?;
        let weights = Weights::of_search(args.per(), &blocks, &best.w)?;
        let own = part.own.clone();
        let one = Found { own, best, weights, cost };
        report::print(args, table, &one)?;
        found.push(one);
    }
    let weights_file = report::write(args, &found, &gpu.tuning())?;
    let merge = MergeArgs {
        model: args.model.clone(),
        experts: args.experts.clone(),
        weights: Vec::new(),
        weights_file: Some(weights_file),
        method: merge::MethodName::Task,
        density: None,
        lambda: 1.0,
        seed: 0,
        out: merged,
        names: None,
        weights_per: merge::WeightsPer::Model,
        export: ExportArgs::default(),
        dry_run: false,
    };
    merge::run(&merge, global)
}

/// The models on the GPU, and what judges them.
struct Judge<'a> {
    merger: Merger,
    loss: DenoisingLoss,
    /// Where gradients are searched along: the loss that makes them, and what takes the derivative by the weights.
    gradient: Option<(DenoisingLoss, Derivative)>,
    dataset: &'a Dataset,
}

impl<'a> Judge<'a> {
    fn new(
        gpu: &Gpu,
        args: &SearchArgs,
        model: &Pretrained,
        experts: &[Pretrained],
        dataset: &'a Dataset,
        pairs: usize,
    ) -> Result<Self> {
        let layout = &model.layout;
        let theta = Slabs::new(gpu, layout, Role::Theta)?;
        let read = |i: usize, name: &str| if i == 0 { model.read(name) } else { experts[i - 1].read(name) };
        let merger = Merger::new(gpu, layout, experts.len() as u32, args.per(), &read, &theta)?;
        let projections = if model.placement == Placement::None { Projections::Skip } else { Projections::Run };
        let sides = [dataset.size(), dataset.size()];
        let spec = LossSpec { batch: args.batch.min(pairs as u32), sides, projections };
        let loss = DenoisingLoss::new(gpu, &model.config, &model.schedule, layout, &theta, spec)?;
        let gradient = if args.method == MethodName::Gradient {
            let slabs = Slabs::new(gpu, layout, Role::Gradient)?;
            let both = (&theta, &slabs);
            let loss = DenoisingLoss::with_gradient(gpu, &model.config, &model.schedule, layout, both, spec)?;
            let derivative = merger.derivative(gpu, &slabs)?;
            Some((loss, derivative))
        } else {
            None
        };
        Ok(Self { merger, loss, gradient, dataset })
    }

    /// Runs the method on the pairs, and the elite on the fresh ones; a signal ends it between two candidates.
    fn search(
        &mut self,
        args: &SearchArgs,
        settings: &Settings,
        n: usize,
        [pairs, fresh]: [&[Pair]; 2],
        table: &mut Table,
        global: &Global,
    ) -> Result<Candidate> {
        let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
        let image = |i: usize, out: &mut [f32]| self.dataset.write_pixels(i, false, out);
        let trial = |pairs, seed| Trial { pairs, image: &image, seed, stream: stream(Purpose::EvalNoise, 1) };
        let listening = interrupt::listen();
        let bar = global.progress(1, "searching", "candidates");
        let mut on_candidate = |done: usize, planned: usize, best: &Candidate| {
            bar.set_length(planned as u64);
            bar.set_position(done as u64);
            let at = if n > 8 { String::new() } else { format!(" at {:?}", best.w) };
            bar.set_message(format!("best {:.6}{at}", best.loss));
            if interrupt::requested() {
                let saved = "all judged candidates are in the table; the same command continues".to_string();
                return Err(Error::Interrupted { saved });
            }
            Ok(())
        };
        let experts = args.experts.len();
        let (loss, derivative) = match &mut self.gradient {
            Some((loss, derivative)) => (loss, Some(derivative)),
            None => (&mut self.loss, None),
        };
        let merger = &mut self.merger;
        let mut objective = MergedLoss { merger, loss, derivative, trial: trial(pairs, args.seed) };
        let mut best = search::search(settings, [n, experts], &mut objective, &images, table, &mut on_candidate)?;
        if args.elite > 0 {
            let (merger, loss, trial) = (&mut self.merger, &mut self.loss, trial(fresh, args.seed ^ FRESH));
            let mut objective = MergedLoss { merger, loss, derivative: None, trial };
            best = search::elite(args.elite, &mut objective, &images, table, &mut on_candidate)?;
        }
        drop(listening);
        bar.finish_and_clear();
        Ok(best)
    }
}
