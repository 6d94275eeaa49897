//! Model folders as diffusers saves them: found in any of their layouts, read without loading the weights, written with
//! sub-folders as one atomic step. Called by every command that opens or writes a model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::atomic::{self, AtomicFolder};
use super::json as json_file;
use super::names::Names;
use super::safetensors::SafetensorsFile;
use super::shards;
use super::source::Canonical;
use super::writer::SafetensorsWriter;
use crate::error::{Error, Result};

const WEIGHTS: &str = "diffusion_pytorch_model";
/// What a folder that deme wrote may hold at its root; anything else there is the user's.
const OURS: [&str; 4] = ["model_index.json", "unet", "scheduler", ABOUT];
/// What deme tells of a model, beside what diffusers reads.
pub const ABOUT: &str = "deme.json";

/// How a folder is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderLayout {
    /// `unet/` and `scheduler/`, as diffusers writes.
    SubFolders,
    /// Everything at the root, as the hub's google/ddpm-* repositories.
    Flat,
    /// A UNet's own folder: config.json and weights, no scheduler.
    BareUNet,
}

/// A JSON object and where it came from; key order and unknown keys are kept.
#[derive(Debug, Clone)]
pub struct JsonFile {
    pub path: PathBuf,
    pub map: Map<String, Value>,
}

/// An open model folder. The weights are checked headers; tensors are read when asked for, by canonical name.
pub struct ModelFolder {
    pub dir: PathBuf,
    pub layout: FolderLayout,
    pub model_index: Option<JsonFile>,
    pub unet_config: JsonFile,
    pub weights: Canonical,
    scheduler_config: Option<JsonFile>,
}

/// What `ModelFolder::write` needs beyond the folder that the configurations come from.
pub struct NewWeights<'a> {
    /// (canonical name, extents in the file), in the order in which they are to be written.
    pub tensors: &'a [(String, Vec<u64>)],
    /// How attention tensors are spelled: `folder.weights.style()` keeps the input's style.
    pub names: Names,
    /// Free texts for the weight file's header; `deme` and `format` are added.
    pub metadata: BTreeMap<String, String>,
    /// Written as deme.json, which diffusers does not read: the range of an expert, the weights of a merge.
    pub about: Option<&'a Map<String, Value>>,
}

/// Whether `out`, which need not exist, lies in the folder `dir`.
pub fn inside(out: &Path, dir: &Path) -> bool {
    let folders = out.ancestors().skip(1).map(|a| if a.as_os_str().is_empty() { Path::new(".") } else { a });
    let above = folders.into_iter().find_map(|a| a.canonicalize().ok());
    matches!((above, dir.canonicalize()), (Some(above), Ok(dir)) if above.starts_with(&dir))
}

impl ModelFolder {
    pub fn open(dir: &Path) -> Result<Self> {
        atomic::recover(dir)?;
        let hint = "name a folder that diffusers saved, with unet/config.json or config.json in it";
        let about = fs::metadata(dir).map_err(Error::io(dir, "open the model folder"))?;
        if !about.is_dir() {
            return Err(Error::format(dir, "model", "is a file, expected a folder", hint));
        }
        let (layout, unet) = if dir.join("unet").is_dir() {
            (FolderLayout::SubFolders, dir.join("unet"))
        } else if dir.join("model_index.json").exists() || dir.join("scheduler_config.json").exists() {
            (FolderLayout::Flat, dir.to_path_buf())
        } else if dir.join("config.json").exists() {
            (FolderLayout::BareUNet, dir.to_path_buf())
        } else {
            return Err(Error::format(dir, "config.json", "is neither here nor in unet/", hint));
        };
        let model_index = read_if_there(dir.join("model_index.json"))?;
        if let Some(index) = &model_index {
            check_components(index)?;
        }
        let unet_config = read(unet.join("config.json"))?;
        let scheduler_config = match read_if_there(dir.join("scheduler").join("scheduler_config.json"))? {
            Some(found) => Some(found),
            None => read_if_there(dir.join("scheduler_config.json"))?,
        };
        let weights = Canonical::new(shards::open(&find_weights(&unet)?)?)?;
        Ok(Self { dir: dir.to_path_buf(), layout, model_index, unet_config, weights, scheduler_config })
    }

    /// A model that is in no folder yet: made configurations and weights.
    pub fn made(unet_config: JsonFile, scheduler_config: JsonFile, weights: Canonical) -> Self {
        Self {
            dir: unet_config.path.clone(),
            layout: FolderLayout::SubFolders,
            model_index: None,
            unet_config,
            weights,
            scheduler_config: Some(scheduler_config),
        }
    }

    /// The same weights under other configurations.
    pub fn with_configs(self, unet_config: JsonFile, scheduler_config: JsonFile) -> Self {
        Self { unet_config, scheduler_config: Some(scheduler_config), ..self }
    }

    /// The noise schedule's configuration, or an error that says where it was looked for.
    pub fn scheduler_config(&self) -> Result<&JsonFile> {
        let hint = "copy the scheduler_config.json of the model's training into a folder named scheduler";
        let absent = || Error::format(&self.dir, "scheduler/scheduler_config.json", "is not there", hint);
        self.scheduler_config.as_ref().ok_or_else(absent)
    }

    /// Writes a diffusers folder with this one's configurations and new weights in f32; `values(canonical name)` gives
    /// the tensors one by one, row-major in the file's layout. All or nothing: see `check_output` and `AtomicFolder`.
    pub fn write(&self, out: &Path, new: &NewWeights, mut values: impl FnMut(&str) -> Result<Vec<f32>>) -> Result<()> {
        self.check_output(out)?;
        let folder = AtomicFolder::create(out)?;
        let put = |name: &str, map: &Map<String, Value>| {
            let path = folder.path().join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(Error::io(out, "create"))?;
            }
            atomic::write(&path, json_file::render(map).as_bytes())
        };
        put("unet/config.json", &self.unet_config.map)?;
        // Without a scheduler there is no pipeline, only a UNet.
        if let Some(scheduler) = &self.scheduler_config {
            put("scheduler/scheduler_config.json", &scheduler.map)?;
            put("model_index.json", &self.new_index(scheduler))?;
        }
        if let Some(about) = new.about {
            put(ABOUT, about)?;
        }
        let mut metadata = new.metadata.clone();
        metadata.insert("deme".into(), env!("CARGO_PKG_VERSION").into());
        let declared: Vec<_> =
            new.tensors.iter().map(|(name, shape)| (new.names.in_file(name), shape.clone())).collect();
        let path = folder.path().join("unet").join(format!("{WEIGHTS}.safetensors"));
        let mut writer = SafetensorsWriter::create(&path, &declared, &metadata)?;
        for ((canonical, _), (file, _)) in new.tensors.iter().zip(&declared) {
            writer.append(file, &values(canonical)?)?;
        }
        writer.finish()?;
        folder.commit()
    }

    /// Whether `write` may take this place: nothing there, an empty folder, or a folder that deme wrote and nobody added
    /// to. Commands call it before the work that leads to the writing.
    pub fn check_output(&self, out: &Path) -> Result<()> {
        let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if same(out, &self.dir) {
            let message = format!("{} is the model that is being read", out.display());
            return Err(Error::usage(message, "write to another folder"));
        }
        if inside(out, &self.dir) {
            let message = format!("{} is inside {}, a model that is being read", out.display(), self.dir.display());
            return Err(Error::usage(message, "write to another folder"));
        }
        atomic::recover(out)?;
        if !out.exists() {
            return Ok(());
        }
        let refuse = |why: String| {
            let message = format!("{} is in the way: {why}", out.display());
            Err(Error::usage(message, "name a new or empty folder, or move this one away"))
        };
        if !out.is_dir() {
            return refuse("it is a file".into());
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(out).map_err(Error::io(out, "list"))? {
            entries.push(entry.map_err(Error::io(out, "list"))?.file_name().to_string_lossy().into_owned());
        }
        entries.sort();
        if entries.is_empty() {
            return Ok(());
        }
        if let Some(foreign) = entries.iter().find(|e| !OURS.contains(&e.as_str())) {
            return refuse(format!("it holds {foreign}, which deme did not write"));
        }
        let weights = out.join("unet").join(format!("{WEIGHTS}.safetensors"));
        match SafetensorsFile::open(&weights) {
            Ok(file) if file.metadata().contains_key("deme") => Ok(()),
            _ => refuse("it holds a model that deme did not write".into()),
        }
    }

    /// The input's model_index.json, or a new one of the pipeline that fits the scheduler.
    fn new_index(&self, scheduler: &JsonFile) -> Map<String, Value> {
        let text = |map: &Map<String, Value>, key: &str, default: &str| {
            map.get(key).and_then(Value::as_str).unwrap_or(default).to_owned()
        };
        let class = text(&scheduler.map, "_class_name", "DDPMScheduler");
        let mut index = self.model_index.as_ref().map(|f| f.map.clone()).unwrap_or_default();
        let pipeline = if class.starts_with("DDIM") { "DDIMPipeline" } else { "DDPMPipeline" };
        let version = text(&self.unet_config.map, "_diffusers_version", "0.42.1");
        index.entry("_class_name").or_insert(json!(pipeline));
        index.entry("_diffusers_version").or_insert(json!(version));
        index.entry("scheduler").or_insert(json!(["diffusers", class]));
        index.entry("unet").or_insert(json!(["diffusers", "UNet2DModel"]));
        index
    }
}

fn read(path: PathBuf) -> Result<JsonFile> {
    let map = json_file::read_object(&path)?;
    Ok(JsonFile { path, map })
}

fn read_if_there(path: PathBuf) -> Result<Option<JsonFile>> {
    if path.exists() { read(path).map(Some) } else { Ok(None) }
}

/// A pipeline with more parts than a UNet and a scheduler (a VAE, a text encoder) gives other pictures than the UNet.
fn check_components(index: &JsonFile) -> Result<()> {
    for (name, value) in &index.map {
        let class = match value {
            Value::Array(parts) if !name.starts_with('_') => parts.get(1).unwrap_or(&Value::Null),
            _ => continue,
        };
        let known = match name.as_str() {
            "unet" => class == "UNet2DModel",
            "scheduler" => true,
            _ => class.is_null(),
        };
        if !known {
            let hint = "only pipelines of one UNet2DModel and a scheduler are supported";
            return Err(Error::unsupported(&index.path, name, json_file::describe(class), hint));
        }
    }
    Ok(())
}

/// The weight file to read: safetensors before pickles, full precision before the fp16 variant.
fn find_weights(unet: &Path) -> Result<PathBuf> {
    for variant in ["", ".fp16"] {
        for kind in ["safetensors", "bin"] {
            let single = format!("{WEIGHTS}{variant}.{kind}");
            let index = format!("{WEIGHTS}.{kind}.index{variant}.json");
            // diffusers has written the index of a variant under two names.
            let other = format!("{WEIGHTS}.{kind}{variant}.index.json");
            for name in [single, index, other] {
                let path = unet.join(name);
                if path.is_file() {
                    return Ok(path);
                }
            }
        }
    }
    let mut there: Vec<String> = fs::read_dir(unet)
        .map_err(Error::io(unet, "list"))?
        .filter_map(|e| e.ok().map(|e| e.file_name().to_string_lossy().into_owned()))
        .filter(|n| n.ends_with(".safetensors") || n.ends_with(".bin") || n.ends_with(".ckpt"))
        .collect();
    there.sort();
    let found = if there.is_empty() { "no weights at all".to_owned() } else { there.join(", ") };
    let hint =
        "weights are diffusion_pytorch_model.safetensors or .bin, or their fp16 variant; rename the file to use it";
    Err(Error::format(unet, format!("{WEIGHTS}.safetensors"), format!("is not there; found {found}"), hint))
}
