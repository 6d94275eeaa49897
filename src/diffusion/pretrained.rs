//! A checkpoint opened for running: configuration, schedule, places of its weights, and the weights themselves.
//! Called by every command that runs a model.

use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::folder::ModelFolder;
use crate::io::source::TensorSource;
use crate::kernels::channel_projection;
use crate::model::config::UNetConfig;
use crate::model::projections::{PREFIX, Placement};
use crate::model::tensors::{self, TensorSpec};
use crate::model::unet::Projections;
use crate::nn::{ParamLayout, Role, Slabs};
use std::path::Path;

fn places(tensors: &[TensorSpec]) -> Result<ParamLayout> {
    ParamLayout::new(tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())))
}

/// Everything that running a UNet needs, checked; the weights are read when asked for.
pub struct Pretrained {
    pub folder: ModelFolder,
    pub config: UNetConfig,
    pub schedule: Schedule,
    pub tensors: Vec<TensorSpec>,
    pub layout: ParamLayout,
    /// Where it has channel projections.
    pub placement: Placement,
}

impl Pretrained {
    /// Opens a diffusers folder and compares its weights with its configuration.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::of(ModelFolder::open(dir)?)
    }

    /// The same of an opened folder.
    pub fn of(folder: ModelFolder) -> Result<Self> {
        let config = UNetConfig::from_json(&folder.unet_config.path, &folder.unet_config.map)?;
        let scheduler = folder.scheduler_config()?;
        let schedule = Schedule::from_json(&scheduler.path, &scheduler.map)?;
        let placement = Placement::of(&config, &folder.weights);
        let tensors = tensors::expected(&config, placement);
        tensors::check(&folder.weights, &tensors)?;
        let layout = places(&tensors)?;
        Ok(Self { folder, config, schedule, tensors, layout, placement })
    }

    /// The same model with channel projections where `placement` has them too; those that its file lacks are the identity.
    pub fn with_projections(self, placement: Placement) -> Result<Self> {
        let placement = self.placement.max(placement);
        let tensors = tensors::expected(&self.config, placement);
        let layout = places(&tensors)?;
        Ok(Self { tensors, layout, placement, ..self })
    }

    /// The weights on the GPU, as its precision stores them; a value that is not finite is refused by the tensor's name.
    pub fn load(&self, gpu: &Gpu, role: Role) -> Result<Slabs> {
        let slabs = Slabs::of(gpu, &self.layout, role, gpu.precision().stored())?;
        slabs.fill(gpu, &self.layout, |name| self.read(name))?;
        Ok(slabs)
    }

    /// One tensor in the file's layout.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        if name.starts_with(PREFIX) && !self.folder.weights.contains(name) {
            let channels = self.layout.find(name).map_or(0, |p| p.layout.file_shape()[0]);
            return Ok(channel_projection::identity(channels as u32));
        }
        let values = self.folder.weights.read_f32(name)?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(Error::format(
                self.folder.weights.path(),
                format!("tensor {name}"),
                format!("element {i} is {}", values[i]),
                "the training that made this file diverged; take an earlier checkpoint",
            )),
        }
    }

    /// Whether the projections must run: skipped where there are none, or where all are the identity.
    pub fn projections(&self) -> Result<Projections> {
        for t in self.tensors.iter().filter(|t| t.name.starts_with(PREFIX)) {
            let c = t.shape[0] as usize;
            let identity = |(i, &v): (usize, &f32)| v == f32::from(u8::from(i / c == i % c));
            if !self.read(&t.name)?.iter().enumerate().all(identity) {
                return Ok(Projections::Run);
            }
        }
        Ok(Projections::Skip)
    }

    /// Sides of the images: the configuration's, or an error that says how to give them.
    pub fn sides(&self) -> Result<[u32; 2]> {
        self.config.sample_size.ok_or_else(|| {
            let hint = "add \"sample_size\": 32 (or the side the model was trained at) to config.json";
            Error::format(&self.folder.unet_config.path, "sample_size", "is missing", hint)
        })
    }
}
