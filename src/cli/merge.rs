//! `deme merge`: base and experts in, one diffusers folder out, or one for each timestep range; tensor by tensor, so that
//! memory stays far below the models' sum. Called by `cli::run` and `cli::search`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Global;
use super::export::{Change, ExportArgs};
use super::models::ranges_of;
use super::opened::{self, Opened};
use super::terminal::{grouped, say};
use super::weights_file::MergeWeights;
use crate::deme::blocks::Per;
use crate::deme::fold::Plain;
use crate::deme::merge::{Merge, Method, TaskVectors, Weights};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::io::atomic::AtomicFolder;
use crate::io::folder::NewWeights;
use crate::io::names::Names;
use crate::io::source::TensorSource;
use crate::model::projections::{PREFIX, Placement};

/// Merge experts into one model: theta + sum of w_i (theta_i - theta), or by another method.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// The model that the experts started from: a diffusers folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// The experts: diffusers folders of the same architecture
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    pub(super) experts: Vec<PathBuf>,
    /// One weight an expert, in the experts' order, such as --weights=0.3,-0.2; range after range if each has its own
    #[arg(long, value_name = "W", num_args = 1.., value_delimiter = ',')]
    pub(super) weights: Vec<f64>,
    /// The weights.json of a search instead: also weights for each block, layer or timestep range
    #[arg(long, value_name = "FILE", conflicts_with = "weights")]
    pub(super) weights_file: Option<PathBuf>,
    /// Merge one model, or one for each expert's timestep range (folders range_0, ...; to be sampled as an ensemble)
    #[arg(long, value_enum, default_value = "model", conflicts_with = "weights_file")]
    pub(super) weights_per: WeightsPer,
    /// What is done with the task vectors
    #[arg(long, value_enum, default_value = "task")]
    pub(super) method: MethodName,
    /// Fraction of each task vector that ties or dare keep [default: 0.2 for ties, 0.5 for dare]
    #[arg(long, value_name = "FRACTION")]
    pub(super) density: Option<f64>,
    /// What ties multiplies the merged task vector by
    #[arg(long, default_value_t = 1.0)]
    pub(super) lambda: f64,
    /// Decides what dare drops
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// The folder to write; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Spelling of attention tensors [default: as in the model]
    #[arg(long, value_enum)]
    pub(super) names: Option<NameStyle>,
    #[command(flatten)]
    pub(super) export: ExportArgs,
    /// Check everything and print what would be done, but write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// What has weights of its own.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsPer {
    Model,
    Range,
}

/// What is done with the task vectors.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodName {
    /// Task arithmetic, the paper's: theta + sum of w_i (theta_i - theta)
    Task,
    /// The largest elements, of one sign: arXiv 2306.01708
    Ties,
    /// Elements dropped at random, the others enlarged: arXiv 2311.03099
    Dare,
    /// The arc between two experts; one weight, 0 for the first and 1 for the second
    Slerp,
    /// The experts' mean; no weights
    Soup,
}

impl MergeArgs {
    fn method(&self) -> Result<Method> {
        if self.density.is_some() && !matches!(self.method, MethodName::Ties | MethodName::Dare) {
            return Err(Error::usage("--density is for ties and dare", "leave it out, or take another --method"));
        }
        Ok(match self.method {
            MethodName::Task => Method::Task,
            MethodName::Ties => Method::Ties { density: self.density.unwrap_or(0.2), lambda: self.lambda },
            MethodName::Dare => Method::Dare { density: self.density.unwrap_or(0.5), seed: self.seed },
            MethodName::Slerp => Method::Slerp,
            MethodName::Soup => Method::Soup,
        })
    }

    fn weights(&self, inputs: &Inputs) -> Result<MergeWeights> {
        let per_range = self.weights_per == WeightsPer::Range;
        let weights = match (&self.weights_file, self.method) {
            (None, MethodName::Soup) if self.weights.is_empty() && !per_range => {
                MergeWeights::One(Weights::per_model(&[]))
            }
            (_, MethodName::Soup) => {
                return Err(Error::usage("a soup has no weights", "leave them out, or take --method task"));
            }
            (Some(file), _) => MergeWeights::read(file)?,
            (None, _) if self.weights.is_empty() => {
                return Err(Error::usage("there are no weights", "give --weights, or a search's --weights-file"));
            }
            (None, _) if per_range => {
                let dirs: Vec<&Path> = self.experts.iter().map(PathBuf::as_path).collect();
                MergeWeights::per_range(&ranges_of(inputs.timesteps()?, &dirs)?, &self.weights)?
            }
            (None, _) => MergeWeights::One(Weights::per_model(&self.weights)),
        };
        if let MergeWeights::PerRange(rows) = &weights {
            let (end, total) = (rows.last().map_or(0, |(own, _)| own.end), inputs.timesteps()?);
            if end != total {
                let message = format!("the weights are for {end} timesteps, the model has {total}");
                return Err(Error::usage(message, "give the weights.json of a search over these experts"));
            }
        }
        Ok(weights)
    }
}

/// How the written file spells attention tensors.
#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum NameStyle {
    /// query, key, value, proj_attn
    Old,
    /// to_q, to_k, to_v, to_out.0
    New,
}

impl From<NameStyle> for Names {
    fn from(style: NameStyle) -> Self {
        match style {
            NameStyle::Old => Self::Old,
            NameStyle::New => Self::New,
        }
    }
}

/// Base and experts, checked against each other, and how they are merged.
pub struct Inputs {
    pub base: Opened,
    pub experts: Vec<Opened>,
    method: Method,
}

impl Inputs {
    fn open(args: &MergeArgs) -> Result<Self> {
        let base = Opened::open(&args.model)?;
        let experts = args.experts.iter().map(|dir| Opened::open(dir)).collect::<Result<Vec<_>>>()?;
        for expert in &experts {
            same_model(&base, expert)?;
        }
        Ok(Self { base, experts, method: args.method()? })
    }

    /// The merge of these or, with the same names, of what stands for them.
    pub fn merge_of<'a>(
        &self,
        base: &'a dyn TensorSource,
        experts: Vec<&'a dyn TensorSource>,
        weights: &Weights,
    ) -> Result<Merge<'a>> {
        Merge::with(base, experts, self.method, weights.clone())
    }

    pub fn merge(&self, weights: &Weights) -> Result<Merge<'_>> {
        let experts = self.experts.iter().map(|e| &e.folder.weights as &dyn TensorSource).collect();
        self.merge_of(&self.base.folder.weights, experts, weights)
    }

    /// Where the merged model has channel projections.
    pub fn placement(&self) -> Placement {
        self.experts.iter().fold(self.base.placement, |placement, e| placement.max(e.placement))
    }

    /// T
    fn timesteps(&self) -> Result<u32> {
        let scheduler = self.base.folder.scheduler_config()?;
        Ok(Schedule::from_json(&scheduler.path, &scheduler.map)?.timesteps() as u32)
    }
}

pub fn run(args: &MergeArgs, global: &Global) -> Result<()> {
    let inputs = Inputs::open(args)?;
    let weights = args.weights(&inputs)?;
    args.export.check(&weights)?;
    let rows: Vec<&Weights> = match &weights {
        MergeWeights::One(weights) => vec![weights],
        MergeWeights::PerRange(rows) => rows.iter().map(|(_, weights)| weights).collect(),
    };
    let mut tensors = Vec::new();
    for weights in &rows {
        tensors = inputs.merge(weights)?.tensors().to_vec();
    }
    tensors.retain(|(name, _)| !(args.export.plain() && name.starts_with(PREFIX)));
    refuse_occupied(&args.out)?;
    for input in std::iter::once(&inputs.base).chain(&inputs.experts) {
        input.folder.check_output(&args.out)?;
    }
    let parameters: u64 = tensors.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
    let size = format!("{} parameters in {} tensors", grouped(parameters), tensors.len());
    let models = match &weights {
        MergeWeights::One(_) => String::new(),
        MergeWeights::PerRange(rows) => format!("{} models, one for each timestep range, in ", rows.len()),
    };
    let what = format!("{} experts into {models}{}: {size}", inputs.experts.len(), args.out.display());
    if args.dry_run {
        return say!("would merge {what}");
    }
    global.detail(format_args!("hashing the weights of base and experts"));
    let origins = Origins::of(&inputs)?;
    let job = Job { args, global, inputs: &inputs, tensors: &tensors, origins };
    let done = match &weights {
        MergeWeights::One(weights) => job.write(&args.out, weights, Map::new())?,
        MergeWeights::PerRange(rows) => job.write_ranges(rows)?,
    };
    say!("merged {what}")?;
    if tensors.iter().any(|(name, _)| name.starts_with(PREFIX)) {
        global.note(format_args!(
            "note: the model has channel projections (adapter_list.*); plain diffusers ignores them, see --export plain"
        ));
    }
    done.change.map_or(Ok(()), |change| change.print())?;
    if let MergeWeights::PerRange(rows) = &weights {
        let last = rows.len() - 1;
        let folders = args.out.join(format!("range_{{0..{last}}}"));
        global.note(format_args!("sample them with --ensemble --experts {}, in this order", folders.display()));
    }
    summarise(&rows, &done.found)
}

/// A merge that is about to be written.
struct Job<'a> {
    args: &'a MergeArgs,
    global: &'a Global,
    inputs: &'a Inputs,
    tensors: &'a [(String, Vec<u64>)],
    origins: Origins,
}

/// What became of it.
struct Done {
    found: TaskVectors,
    change: Option<Change>,
}

impl Job<'_> {
    /// Writes the model of some weights; `own` begins what its deme.json says.
    fn write(&self, out: &Path, weights: &Weights, own: Map<String, Value>) -> Result<Done> {
        let Self { args, global, inputs, tensors, .. } = self;
        let mut merge = inputs.merge(weights)?;
        let mut about = own;
        about.extend(self.origins.about(inputs.method, weights));
        let placement = if args.export.plain() { inputs.placement() } else { Placement::None };
        let plain = Plain::new(&inputs.base.config, placement, &mut |name| merge.tensor(name))?;
        let change = match args.export.plain() {
            true => Some(Change::measure(&args.export, inputs, weights, &plain, global)?),
            false => None,
        };
        about.extend(change.iter().flat_map(Change::to_json));
        let names = args.names.map_or(inputs.base.folder.weights.style(), Names::from);
        let new = NewWeights { tensors, names, metadata: Default::default(), about: Some(&about) };
        let bar = global.progress(tensors.len() as u64, "merging", "tensors");
        inputs.base.folder.write(out, &new, |name| {
            bar.inc(1);
            plain.tensor(name, merge.tensor(name)?)
        })?;
        bar.finish_and_clear();
        Ok(Done { found: merge.task_vectors(), change })
    }

    /// A folder of models that is there whole or not at all.
    fn write_ranges(&self, rows: &[(Range<u32>, Weights)]) -> Result<Done> {
        let folder = AtomicFolder::create(&self.args.out)?;
        let mut done = None;
        for (i, (own, weights)) in rows.iter().enumerate() {
            let about = json!({ "kind": "merged for a range", "range": i, "timesteps": [own.start, own.end] });
            let about = about.as_object().cloned().unwrap_or_default();
            done = Some(self.write(&folder.path().join(format!("range_{i}")), weights, about)?);
        }
        folder.commit()?;
        done.ok_or_else(|| Error::usage("there are no ranges", "give weights for one at least"))
    }
}

/// Refuses an expert that computes something else than the base with the same weights.
fn same_model(base: &Opened, expert: &Opened) -> Result<()> {
    let hint = "merge only experts that were finetuned from this model";
    let (ours, theirs) = (&base.folder.unet_config, &expert.folder.unet_config);
    // Neither takes part in a forward pass on an image of given size.
    let mut config = expert.config.clone();
    (config.sample_size, config.dropout) = (base.config.sample_size, base.config.dropout);
    if config != base.config {
        let differs = |key: &&String| !key.starts_with('_') && ours.map.get(*key) != theirs.map.get(*key);
        let keys: Vec<_> = theirs.map.keys().chain(ours.map.keys()).filter(differs).map(String::as_str).collect();
        let first = keys.first().copied().unwrap_or("config");
        return Err(Error::format(&theirs.path, first, format!("differs from {}", ours.path.display()), hint));
    }
    if let (Ok(ours), Ok(theirs)) = (base.folder.scheduler_config(), expert.folder.scheduler_config()) {
        let [a, b] = [Schedule::from_json(&ours.path, &ours.map)?, Schedule::from_json(&theirs.path, &theirs.map)?];
        for (thing, same) in [("betas", a.betas == b.betas), ("prediction_type", a.prediction == b.prediction)] {
            if !same {
                let problem = format!("differ from those of {}", ours.path.display());
                return Err(Error::format(&theirs.path, thing, problem, hint));
            }
        }
    }
    Ok(())
}

/// An existing model is never replaced: it may be an expert that took hours.
fn refuse_occupied(out: &Path) -> Result<()> {
    let occupied = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if !occupied {
        return Ok(());
    }
    Err(Error::usage(format!("{} exists already", out.display()), "name a new folder for --out, or move this one away"))
}

/// Base and experts by path and hash.
struct Origins {
    base: Value,
    experts: Vec<Value>,
}

impl Origins {
    fn of(inputs: &Inputs) -> Result<Self> {
        let model = |opened: &Opened| -> Result<Value> {
            let hashes = opened::hashes(opened.folder.weights.path())?;
            let hashes: Vec<_> = hashes.into_iter().map(|(_, _, hash)| hash).collect();
            Ok(json!({"path": opened.folder.dir, "sha256": hashes}))
        };
        Ok(Self { base: model(&inputs.base)?, experts: inputs.experts.iter().map(model).collect::<Result<_>>()? })
    }

    /// deme.json: what was merged.
    fn about(&self, method: Method, weights: &Weights) -> Map<String, Value> {
        let mut listed = self.experts.clone();
        // An arc has one weight, a soup none.
        if weights.len() == listed.len() {
            for (i, entry) in listed.iter_mut().enumerate() {
                entry["weight"] = match weights.per() {
                    Per::Model => json!(weights.of("model").map(|w| w[i])),
                    Per::Block | Per::Layer => weights.rows().map(|(block, w)| (block, json!(w[i]))).collect(),
                };
            }
        }
        let mut about = json!({
            "deme": env!("CARGO_PKG_VERSION"),
            "command": "merge",
            "formula": method.formula(),
            "base": self.base,
            "experts": listed,
        });
        match method {
            Method::Task | Method::Soup => {}
            Method::Ties { density, lambda } => (about["density"], about["lambda"]) = (json!(density), json!(lambda)),
            Method::Dare { density, seed } => (about["density"], about["seed"]) = (json!(density), json!(seed)),
            Method::Slerp => about["weight"] = json!(weights.of("model").map(|w| w[0])),
        }
        about.as_object().cloned().unwrap_or_default()
    }
}

/// A line an expert: its weights, length of its task vector, its angle to the others.
fn summarise(rows: &[&Weights], found: &TaskVectors) -> Result<()> {
    let experts = found.norms.len();
    for (i, norm) in found.norms.iter().enumerate() {
        let row = found.cosines.iter().skip(i * experts).take(experts);
        let cosines: Vec<String> = row.map(|c| format!("{c:+.3}")).collect();
        let all = rows.iter().filter(|weights| weights.len() == experts).flat_map(|weights| weights.rows());
        let weight: Vec<String> = all.filter_map(|(_, w)| w.get(i)).map(f64::to_string).collect();
        // An arc has one weight, a soup none.
        let weight = if weight.is_empty() { weight.concat() } else { format!("weight {}, ", weight.join(" ")) };
        say!("expert {i}: {weight}|tau| {norm:.6}, cosines {}", cosines.join(" "))?;
    }
    Ok(())
}
