//! A model folder whose weights' headers have been checked against its configuration; no weights are read.
//! Called by the commands that handle files without running a model.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::folder::ModelFolder;
use crate::io::{hash, json};
use crate::model::config::UNetConfig;
use crate::model::projections::Placement;
use crate::model::tensors;

pub struct Opened {
    pub folder: ModelFolder,
    pub config: UNetConfig,
    /// Where the weights have channel projections.
    pub placement: Placement,
}

impl Opened {
    pub fn open(dir: &Path) -> Result<Self> {
        let folder = ModelFolder::open(dir)?;
        let config = UNetConfig::from_json(&folder.unet_config.path, &folder.unet_config.map)?;
        let placement = Placement::of(&config, &folder.weights);
        tensors::check(&folder.weights, &tensors::expected(&config, placement))?;
        Ok(Self { folder, config, placement })
    }
}

/// The files behind a weight path: itself, or the shards that an index names.
pub fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.to_string_lossy().ends_with(".index.json") {
        return Ok(vec![path.to_path_buf()]);
    }
    let index = json::read_object(path)?;
    let shards = index.get("weight_map").and_then(|m| m.as_object()).into_iter().flat_map(|m| m.values());
    let mut names: Vec<&str> = shards.filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|n| path.with_file_name(n)).collect())
}

/// (path, bytes, SHA-256) of the files behind a weight path.
pub fn hashes(path: &Path) -> Result<Vec<(PathBuf, u64, String)>> {
    let each = |file: PathBuf| {
        let bytes = std::fs::metadata(&file).map_err(Error::io(&file, "read"))?.len();
        let hash = hash::of_file(&file)?;
        Ok((file, bytes, hash))
    };
    weight_files(path)?.into_iter().map(each).collect()
}
