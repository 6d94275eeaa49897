//! `deme inspect`: what a model folder or a weight file holds, without reading the weights' values.
//! Called by `cli::run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::opened;
use super::terminal::{grouped, say};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::io::folder::{FolderLayout, ModelFolder};
use crate::io::json as json_file;
use crate::io::names::Names;
use crate::io::safetensors::SafetensorsFile;
use crate::io::shards;
use crate::io::source::{TensorInfo, TensorSource};
use crate::model::config::UNetConfig;
use crate::model::projections::{PREFIX, Placement};
use crate::model::tensors;

/// Show what a model folder or a weight file holds.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A diffusers folder, or a .safetensors, .bin or .index.json file
    path: PathBuf,
    /// List every tensor with its type and extents
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints all that can be told; then, for a model that deme cannot run, fails with the reason.
pub fn run(args: &InspectArgs) -> Result<()> {
    let mut facts = Map::new();
    let about = std::fs::metadata(&args.path).map_err(Error::io(&args.path, "open"))?;
    let problem = if about.is_dir() { folder(&args.path, &mut facts)? } else { None };
    let weights = match &facts.get("weights") {
        Some(path) => PathBuf::from(path.as_str().unwrap_or_default()),
        None => args.path.clone(),
    };
    weight_file(&weights, args.tensors, &mut facts)?;
    if args.json {
        say!("{:#}", Value::Object(facts))?
    } else {
        print(&facts, 0)?
    }
    problem.map_or(Ok(()), Err)
}

/// Facts about the folder; the error is why this model cannot be run.
fn folder(dir: &Path, facts: &mut Map<String, Value>) -> Result<Option<Error>> {
    let folder = ModelFolder::open(dir)?;
    let config = &folder.unet_config;
    let layout = match folder.layout {
        FolderLayout::SubFolders => "unet/ and scheduler/",
        FolderLayout::Flat => "all files at the root",
        FolderLayout::BareUNet => "a UNet alone",
    };
    facts.insert("folder".into(), json!(dir));
    facts.insert("layout".into(), json!(layout));
    let pipeline = folder.model_index.as_ref().and_then(|f| f.map.get("_class_name"));
    facts.insert("pipeline".into(), pipeline.cloned().unwrap_or(Value::Null));
    facts.insert("unet".into(), Value::Object(config.map.clone()));
    let scheduler = folder.scheduler_config().ok();
    facts.insert("scheduler".into(), scheduler.map_or(Value::Null, |f| Value::Object(f.map.clone())));
    let written = dir.join("deme.json");
    if written.exists() {
        facts.insert("deme".into(), Value::Object(json_file::read_object(&written)?));
    }
    facts.insert("weights".into(), json!(folder.weights.path()));
    if let Ok(config) = UNetConfig::from_json(&config.path, &config.map) {
        let placement = Placement::of(&config, &folder.weights);
        let name = placement.name();
        let folds = placement.places(&config).iter().filter(|place| !place.folds_into.is_empty()).count();
        let all = placement.places(&config).len();
        facts.insert(
            "projection placement".into(),
            match placement {
                Placement::None => json!(name),
                _ => json!(format!("{name}: {folds} of {all} fold into convolutions (deme merge --export plain)")),
            },
        );
    }
    Ok(usable(&folder).err())
}

/// Whether deme can run the model.
fn usable(folder: &ModelFolder) -> Result<()> {
    let config = UNetConfig::from_json(&folder.unet_config.path, &folder.unet_config.map)?;
    let placement = Placement::of(&config, &folder.weights);
    tensors::check(&folder.weights, &tensors::expected(&config, placement))?;
    let scheduler = folder.scheduler_config()?;
    Schedule::from_json(&scheduler.path, &scheduler.map).map(|_| ())
}

/// Facts about a weight file, or about the shards of an index.
fn weight_file(path: &Path, list: bool, facts: &mut Map<String, Value>) -> Result<()> {
    let source = shards::open(path)?;
    let infos = source.names().iter().map(|n| Ok((n, source.info(n)?))).collect::<Result<Vec<_>>>()?;
    let mut types = BTreeMap::<String, u64>::new();
    infos.iter().for_each(|(_, info)| *types.entry(info.dtype.to_string()).or_default() += 1);
    let style = match Names::of(source.names().iter().map(String::as_str)) {
        Names::Old => "old (query, key, value, proj_attn)",
        Names::New => "new (to_q, to_k, to_v, to_out.0)",
    };
    let projections = source.names().iter().filter(|n| n.starts_with(PREFIX)).count();
    facts.insert("parameters".into(), json!(infos.iter().map(|(_, info)| info.elements()).sum::<u64>()));
    facts.insert("tensors".into(), json!(infos.len()));
    facts.insert("types".into(), json!(types));
    facts.insert("attention names".into(), json!(style));
    facts.insert("channel projections".into(), json!(projections));
    let files = opened::hashes(path)?;
    let files = files.iter().map(|(file, bytes, hash)| json!({"path": file, "bytes": bytes, "sha256": hash}));
    facts.insert("files".into(), files.collect());
    if path.extension().is_some_and(|e| e == "safetensors") {
        facts.insert("metadata".into(), json!(SafetensorsFile::open(path)?.metadata()));
    }
    if list {
        let line = |(name, info): &(&String, &TensorInfo)| (name.to_string(), json!(describe(info)));
        facts.insert("list".into(), Value::Object(infos.iter().map(line).collect()));
    }
    Ok(())
}

/// "F32 [32, 3, 3, 3]"
fn describe(info: &TensorInfo) -> String {
    format!("{} {:?}", info.dtype, info.shape)
}

/// "key: value" lines; an object's are indented below its key.
fn print(facts: &Map<String, Value>, indent: usize) -> Result<()> {
    for (key, value) in facts {
        match value {
            Value::Object(inner) => {
                say!("{:indent$}{key}:", "")?;
                print(inner, indent + 2)?;
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                say!("{:indent$}{key}:", "")?;
                for item in items.iter().filter_map(Value::as_object) {
                    print(item, indent + 2)?;
                }
            }
            other => say!("{:indent$}{key}: {}", "", plain(key, other))?,
        }
    }
    Ok(())
}

fn plain(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|v| plain(key, v)).collect::<Vec<_>>().join(", "),
        Value::Number(n) if ["parameters", "bytes"].contains(&key) => grouped(n.as_u64().unwrap_or_default()),
        other => other.to_string(),
    }
}
