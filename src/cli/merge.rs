//! `deme merge`: base and experts in, one diffusers folder out; tensor by tensor, so that memory stays far below the
//! models' sum. Called by `cli::run`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, from_value, json};

use super::Global;
use super::opened::{self, Opened};
use super::terminal::{grouped, say};
use crate::deme::blocks::Per;
use crate::deme::merge::{Merge, Method, TaskVectors, Weights};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::io::folder::NewWeights;
use crate::io::json::read_object;
use crate::io::names::Names;
use crate::io::source::TensorSource;

/// Merge experts into one model: theta + sum of w_i (theta_i - theta), or by another method.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// The model that the experts started from: a diffusers folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// The experts: diffusers folders of the same architecture
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    pub(super) experts: Vec<PathBuf>,
    /// One weight an expert, in the experts' order, such as --weights=0.3,-0.2
    #[arg(long, value_name = "W", num_args = 1.., value_delimiter = ',')]
    pub(super) weights: Vec<f64>,
    /// The weights.json of a search instead: also weights for each block
    #[arg(long, value_name = "FILE", conflicts_with = "weights")]
    pub(super) weights_file: Option<PathBuf>,
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
    /// Check everything and print what would be done, but write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
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

    fn weights(&self) -> Result<Weights> {
        match (&self.weights_file, self.method) {
            (None, MethodName::Soup) if self.weights.is_empty() => Ok(Weights::per_model(&[])),
            (_, MethodName::Soup) => {
                Err(Error::usage("a soup has no weights", "leave them out, or take --method task"))
            }
            (Some(file), _) => read_weights(file),
            (None, _) if self.weights.is_empty() => {
                Err(Error::usage("there are no weights", "give --weights, or a search's --weights-file"))
            }
            (None, _) => Ok(Weights::per_model(&self.weights)),
        }
    }
}

/// The weights of a search's weights.json: numbers, or with `blocks` a list of them for each.
fn read_weights(file: &Path) -> Result<Weights> {
    let found = read_object(file)?;
    let fail =
        |key: &str, problem: &str| Error::format(file, key, problem, "give the weights.json that a search wrote");
    let parsed =
        |value: &Value, of: &str| from_value::<Vec<f64>>(value.clone()).map_err(|_| fail(of, "is no list of numbers"));
    let weights = found.get("weights").ok_or_else(|| fail("weights", "is missing"))?;
    let Some(blocks) = found.get("blocks") else {
        return Ok(Weights::per_model(&parsed(weights, "weights")?));
    };
    let names: Vec<String> = from_value(blocks.clone()).map_err(|_| fail("blocks", "is no list of names"))?;
    let rows = weights.as_array().filter(|rows| rows.len() == names.len());
    let rows = rows.ok_or_else(|| fail("weights", "has not one list for each block"))?;
    let rows = names.into_iter().zip(rows).map(|(name, row)| {
        let row = parsed(row, &format!("weights of {name}"))?;
        Ok((name, row))
    });
    Weights::per_block(rows.collect::<Result<_>>()?)
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

pub fn run(args: &MergeArgs, global: &Global) -> Result<()> {
    let base = Opened::open(&args.model)?;
    let experts = args.experts.iter().map(|dir| Opened::open(dir)).collect::<Result<Vec<_>>>()?;
    for expert in &experts {
        same_model(&base, expert)?;
    }
    let sources = experts.iter().map(|e| &e.folder.weights as &dyn TensorSource).collect();
    let (method, weights) = (args.method()?, args.weights()?);
    let mut merge = Merge::with(&base.folder.weights, sources, method, weights.clone())?;
    refuse_occupied(&args.out)?;
    for input in std::iter::once(&base).chain(&experts) {
        input.folder.check_output(&args.out)?;
    }
    let tensors = merge.tensors().to_vec();
    let parameters: u64 = tensors.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
    let size = format!("{} parameters in {} tensors", grouped(parameters), tensors.len());
    if args.dry_run {
        say!("would merge {} experts into {}: {size}", experts.len(), args.out.display())?;
        return Ok(());
    }
    global.detail(format_args!("hashing the weights of base and experts"));
    let about = provenance((method, &weights), &base, &experts)?;
    let names = args.names.map_or(base.folder.weights.style(), Names::from);
    let new = NewWeights { tensors: &tensors, names, metadata: Default::default(), about: Some(&about) };
    let bar = global.progress(tensors.len() as u64, "merging", "tensors");
    base.folder.write(&args.out, &new, |name| {
        bar.inc(1);
        merge.tensor(name)
    })?;
    bar.finish_and_clear();
    say!("merged {} experts into {}: {size}", experts.len(), args.out.display())?;
    if tensors.iter().any(|(name, _)| name.starts_with("adapter_list.")) {
        global.note(format_args!(
            "note: the model has channel projections (adapter_list.*); plain diffusers ignores them"
        ));
    }
    summarise(&weights, &merge.task_vectors())
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

/// deme.json: what was merged, by path and hash.
fn provenance((method, weights): (Method, &Weights), base: &Opened, experts: &[Opened]) -> Result<Map<String, Value>> {
    let model = |opened: &Opened| -> Result<Value> {
        let hashes = opened::hashes(opened.folder.weights.path())?;
        let hashes: Vec<_> = hashes.into_iter().map(|(_, _, hash)| hash).collect();
        Ok(json!({"path": opened.folder.dir, "sha256": hashes}))
    };
    let mut listed = Vec::new();
    for (i, expert) in experts.iter().enumerate() {
        let mut entry = model(expert)?;
        // An arc has one weight, a soup none.
        if weights.len() == experts.len() {
            entry["weight"] = match weights.per() {
                Per::Model => json!(weights.of("model").map(|w| w[i])),
                Per::Block => weights.rows().map(|(block, w)| (block, json!(w[i]))).collect(),
            };
        }
        listed.push(entry);
    }
    let mut about = json!({
        "deme": env!("CARGO_PKG_VERSION"),
        "command": "merge",
        "formula": method.formula(),
        "base": model(base)?,
        "experts": listed,
    });
    match method {
        Method::Task | Method::Soup => {}
        Method::Ties { density, lambda } => (about["density"], about["lambda"]) = (json!(density), json!(lambda)),
        Method::Dare { density, seed } => (about["density"], about["seed"]) = (json!(density), json!(seed)),
        Method::Slerp => about["weight"] = json!(weights.of("model").map(|w| w[0])),
    }
    Ok(about.as_object().cloned().unwrap_or_default())
}

/// A line an expert: weight, length of its task vector, its angle to the others.
fn summarise(weights: &Weights, found: &TaskVectors) -> Result<()> {
    let experts = found.norms.len();
    for (i, norm) in found.norms.iter().enumerate() {
        let row = found.cosines.iter().skip(i * experts).take(experts);
        let cosines: Vec<String> = row.map(|c| format!("{c:+.3}")).collect();
        let weight: Vec<String> = weights.rows().filter_map(|(_, w)| w.get(i)).map(f64::to_string).collect();
        // An arc has one weight, a soup none.
        let weight = if weights.len() == experts { format!("weight {}, ", weight.join(" ")) } else { String::new() };
        say!("expert {i}: {weight}|tau| {norm:.6}, cosines {}", cosines.join(" "))?;
    }
    Ok(())
}
