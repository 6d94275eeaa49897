//! `deme merge`: base and experts in, one diffusers folder out; tensor by tensor, so that memory stays far below the
//! models' sum. Called by `cli::run`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Global;
use super::opened::{self, Opened};
use super::terminal::{grouped, say};
use crate::deme::merge::{Merge, TaskVectors};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::io::folder::NewWeights;
use crate::io::names::Names;
use crate::io::source::TensorSource;

/// Merge experts into one model: theta + sum of w_i (theta_i - theta).
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// The model that the experts started from: a diffusers folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// The experts: diffusers folders of the same architecture
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    pub(super) experts: Vec<PathBuf>,
    /// One weight an expert, in the experts' order, such as --weights=0.3,-0.2
    #[arg(long, value_name = "W", required = true, num_args = 1.., value_delimiter = ',')]
    pub(super) weights: Vec<f64>,
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
    let mut merge = Merge::new(&base.folder.weights, sources, &args.weights)?;
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
    let about = provenance(args, &base, &experts)?;
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
    summarise(&args.weights, &merge.task_vectors())
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
fn provenance(args: &MergeArgs, base: &Opened, experts: &[Opened]) -> Result<Map<String, Value>> {
    let model = |opened: &Opened| -> Result<Value> {
        let hashes = opened::hashes(opened.folder.weights.path())?;
        let hashes: Vec<_> = hashes.into_iter().map(|(_, _, hash)| hash).collect();
        Ok(json!({"path": opened.folder.dir, "sha256": hashes}))
    };
    let mut listed = Vec::new();
    for (expert, weight) in experts.iter().zip(&args.weights) {
        let mut entry = model(expert)?;
        entry["weight"] = json!(weight);
        listed.push(entry);
    }
    let about = json!({
        "deme": env!("CARGO_PKG_VERSION"),
        "command": "merge",
        "formula": "theta + sum of w_i (theta_i - theta)",
        "base": model(base)?,
        "experts": listed,
    });
    Ok(about.as_object().cloned().unwrap_or_default())
}

/// A line an expert: weight, length of its task vector, its angle to the others.
fn summarise(weights: &[f64], found: &TaskVectors) -> Result<()> {
    for (i, (w, norm)) in weights.iter().zip(&found.norms).enumerate() {
        let row = found.cosines.iter().skip(i * weights.len()).take(weights.len());
        let cosines: Vec<String> = row.map(|c| format!("{c:+.3}")).collect();
        say!("expert {i}: weight {w}, |tau| {norm:.6}, cosines {}", cosines.join(" "))?;
    }
    Ok(())
}
