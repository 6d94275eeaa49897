//! Channel-wise projection (section 3.3): a matrix per block over the channels, y = P x at every pixel, trained with the
//! rest and starting as the identity. Called by `cli::finetune` and `cli::train`; the network runs it where the weights have it.

use crate::diffusion::pretrained::Pretrained;
use crate::error::Result;
use crate::io::source::TensorSource;
use crate::kernels::channel_projection;
use crate::model::projections::{PREFIX, Placement};
use crate::model::tensors::{self, TensorSpec};
use crate::model::unet::Projections;
use crate::nn::ParamLayout;

/// A start model with or without projections added.
pub struct StartModel<'a> {
    model: &'a Pretrained,
    pub tensors: Vec<TensorSpec>,
    pub layout: ParamLayout,
    /// Whether the experts run and train projections.
    pub student: Projections,
    /// Whether the frozen start model has some that are not the identity.
    pub teacher: Projections,
    /// Where the experts have projections.
    pub placement: Placement,
}

impl<'a> StartModel<'a> {
    /// `asked`: where the experts train projections. Those that the model has are kept in any case.
    pub fn new(model: &'a Pretrained, asked: Placement) -> Result<Self> {
        let placement = model.placement.max(asked);
        let tensors = tensors::expected(&model.config, placement);
        let layout = ParamLayout::new(tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())))?;
        let teacher = model.projections()?;
        let student = if asked == Placement::None { teacher } else { Projections::Run };
        Ok(Self { model, tensors, layout, student, teacher, placement })
    }

    /// A tensor of the start, in the file's layout; a projection that the model lacks is the identity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let added = name.starts_with(PREFIX) && !self.model.folder.weights.contains(name);
        match self.tensors.iter().find(|t| added && t.name == name) {
            Some(spec) => Ok(channel_projection::identity(spec.shape[0] as u32)),
            None => self.model.read(name),
        }
    }
}
