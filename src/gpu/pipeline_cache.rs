//! The driver's compiled pipelines, kept on disk between runs where the backend offers it (Vulkan).
//! Called by `device` and `pipeline`; `autotune` keeps its results in the same folder.
//!
//! The file is `<cache>/pipelines/<adapter>-<driver and shaders>`, where `<cache>` is $DEME_CACHE, else `deme` in the user's
//! folder for caches. It only saves time: without it, or where it cannot be read or written, everything is compiled again.

use super::adapter::AdapterSummary;
use super::shader_module;
use crate::io::{atomic, hash, lock};
use crate::shader::template;
use std::path::PathBuf;

/// A cache above this size is not worth its reading.
const LARGEST: u64 = 256 << 20;

pub(super) struct PipelineCache {
    path: PathBuf,
    cache: wgpu::PipelineCache,
    /// Bytes that were loaded: the file is written again only where the cache has grown.
    loaded: usize,
}

/// The program's own folder for what can be made again.
pub(super) fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("DEME_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(dirs::cache_dir()?.join("deme")))
}

impl PipelineCache {
    /// None where the backend has no such cache, or the user no folder for it.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, summary: &AdapterSummary) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let adapter = wgpu::util::pipeline_cache_key(info)?;
        let key = hash::of_bytes(format!("{summary} {}", template::shader_hash()).as_bytes());
        let path = folder()?.join("pipelines").join(format!("{adapter}-{}", &key[..16]));
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= LARGEST);
        let data = if small { std::fs::read(&path).ok() } else { None };
        let loaded = data.as_ref().map_or(0, Vec::len);
        Some(Self { path, cache: shader_module::pipeline_cache(device, data.as_deref()), loaded })
    }

    pub fn get(&self) -> &wgpu::PipelineCache {
        &self.cache
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        let Some(data) = self.cache.get_data().filter(|data| data.len() > self.loaded) else { return };
        let Some(folder) = self.path.parent() else { return };
        // Best effort: the next run compiles what is not there.
        // While another process writes, its file will do.
        if std::fs::create_dir_all(folder).is_ok()
            && let Ok(_lock) = lock::exclusive(folder.parent().unwrap_or(folder))
        {
            let _ = atomic::write(&self.path, &data);
        }
    }
}
