//! Weights of any format by path, and weights split over several files with an index (`*.index.json`).
//! Called by the folder reader.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::json;
use super::safetensors::SafetensorsFile;
use super::source::{TensorInfo, TensorSource, missing};
use super::torch::TorchFile;
use crate::error::{Error, Result};

/// Opens a weight file; its name says what it is: `.safetensors`, `.index.json`, or a file of `torch.save`.
pub fn open(path: &Path) -> Result<Box<dyn TensorSource>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".index.json") {
        Ok(Box::new(Shards::open(path)?))
    } else if name.ends_with(".safetensors") {
        Ok(Box::new(SafetensorsFile::open(path)?))
    } else {
        Ok(Box::new(TorchFile::open(path)?))
    }
}

/// Several files that make one set of tensors.
pub struct Shards {
    path: PathBuf,
    names: Vec<String>,
    files: Vec<Box<dyn TensorSource>>,
    /// Name -> which of `files`.
    place: HashMap<String, usize>,
}

impl Shards {
    pub fn open(index: &Path) -> Result<Self> {
        let hint = "the index and the weight files do not belong together; download the folder again";
        let refuse = |thing: String, problem: String| Error::format(index, thing, problem, hint);
        let map = json::read_object(index)?;
        let Some(Value::Object(weight_map)) = map.get("weight_map") else {
            return Err(refuse("weight_map".into(), "is missing or not an object".into()));
        };
        let folder = index.parent().unwrap_or(Path::new(""));
        let (mut names, mut place) = (Vec::new(), HashMap::new());
        let (mut file_names, mut files) = (Vec::<&str>::new(), Vec::<Box<dyn TensorSource>>::new());
        for (name, file) in weight_map {
            let thing = || format!("weight_map, tensor {name}");
            let Some(file) = file.as_str().filter(|f| is_plain(f)) else {
                return Err(refuse(
                    thing(),
                    format!("names {}, expected a file beside the index", json::describe(file)),
                ));
            };
            let at = match file_names.iter().position(|f| *f == file) {
                Some(at) => at,
                None => {
                    file_names.push(file);
                    files.push(open(&folder.join(file))?);
                    files.len() - 1
                }
            };
            if !files[at].contains(name) {
                return Err(refuse(thing(), format!("is not in {file}")));
            }
            names.push(name.clone());
            place.insert(name.clone(), at);
        }
        for (at, file) in files.iter().enumerate() {
            if let Some(stray) = file.names().iter().find(|n| place.get(*n) != Some(&at)) {
                return Err(refuse(
                    format!("tensor {stray}"),
                    format!("is in {} but not in the index", file_names[at]),
                ));
            }
        }
        Ok(Self { path: index.to_path_buf(), names, files, place })
    }

    fn file(&self, name: &str) -> Result<&dyn TensorSource> {
        self.place.get(name).map(|&at| &*self.files[at]).ok_or_else(|| missing(&self.path, name))
    }
}

/// One file name, no folders, and not another index.
fn is_plain(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        && !file.contains(['/', '\\', ':'])
        && (file.ends_with(".safetensors") || file.ends_with(".bin"))
}

impl TensorSource for Shards {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.file(name)?.info(name)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.file(name)?.read_f32(name)
    }
}
