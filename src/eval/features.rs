//! Pictures to feature vectors on the GPU, in batches. Called by `cli::eval_fid`.
//! Always in f32: the figures are compared with other tools'.

use image::RgbImage;

use super::backbone::{Backbone, Record, Walk};
use super::resize::{self, FidMode};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions};
use crate::io::source::TensorSource;
use crate::nn::{Net, ParamLayout, Role, Slabs};
use crate::recording::{Recording, Tensor};
use crate::shape::DType;
use crate::tape::Tape;

/// A feature network ready to run.
pub struct Extractor {
    backbone: Backbone,
    mode: FidMode,
    batch: usize,
    plan: Plan,
    input: Tensor,
    output: Tensor,
}

impl Extractor {
    pub fn new(gpu: &Gpu, weights: &Weights, backbone: Backbone, mode: FidMode, batch: u32) -> Result<Self> {
        let source = &weights.tensors;
        let extents = source.names().iter().map(|name| Ok((name.as_str(), source.info(name)?.shape.as_slice())));
        let layout = ParamLayout::new(extents.collect::<Result<Vec<_>>>()?)?;
        let slabs = Slabs::load(gpu, &layout, Role::Theta, source)?;
        let mut tape = Tape::new(Recording::new("features"));
        let input = tape.rec.input("pictures", backbone.input(batch), DType::F32);
        let net = Net { tape: &mut tape, layout: &layout, role: Role::Theta, stored: DType::F32, trained: false };
        let mut record = Record(net);
        let output = backbone.walk(&mut record, input)?;
        debug_assert_eq!(record.channels(output), backbone.features());
        let mut rec = tape.rec;
        rec.keep(&output);
        let mut externals = Externals::new();
        slabs.bind(&mut externals);
        let plan = Plan::new(gpu, rec, &externals, &PlanOptions::default())?;
        Ok(Self { backbone, mode, batch: batch as usize, plan, input, output })
    }

    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Features of at most `batch` pictures, one after the other.
    pub fn features(&mut self, pictures: &[RgbImage]) -> Result<Vec<f32>> {
        let width = self.backbone.features() as usize;
        if pictures.len() > self.batch {
            return Err(Error::shape("features", format!("{} pictures in a batch of {}", pictures.len(), self.batch)));
        }
        let mut input: Vec<f32> = Vec::with_capacity(self.input.elements() as usize);
        for picture in pictures {
            input.extend(resize::input(picture, self.backbone, self.mode));
        }
        // The last batch is filled up; what comes of that is dropped.
        input.resize(self.input.elements() as usize, 0.0);
        self.plan.run(&[(self.input, bytemuck::cast_slice(&input))])?;
        let mut features = self.plan.read(&self.output)?;
        features.truncate(pictures.len() * width);
        match features.iter().position(|f| !f.is_finite()) {
            None => Ok(features),
            Some(i) => Err(Error::NonFinite { what: format!("feature {}", i % width), step: 0 }),
        }
    }
}
