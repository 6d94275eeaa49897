//! Layers by the names of their weights: convolution, linear, group norm, residual layer, self-attention.
//! Called by `model::unet`. Shapes: activations [N, H, W, C], embeddings [N, E].

use super::params::{ParamLayout, Role};
use crate::error::Result;
use crate::kernels;
use crate::kernels::conv2d::{Conv2dSpec, Padding};
use crate::recording::Tensor;
use crate::shape::{DType, Shape};
use crate::tape::Tape;

/// A network under construction: a tape, and where its weights are.
pub struct Net<'a> {
    pub tape: &'a mut Tape,
    pub layout: &'a ParamLayout,
    /// Whose weights run, and what their slabs hold.
    pub role: Role,
    pub stored: DType,
    /// Whether gradients are wanted, in the slabs of `Role::Gradient`.
    pub trained: bool,
}

/// Group norm's numbers.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    pub groups: u32,
    pub eps: f32,
}

/// How the time embedding enters a residual layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeEntry {
    /// Added before the second norm.
    Add,
    /// norm2(h) (1 + scale) + shift.
    ScaleShift,
}

/// What residual layers and attentions of a block share.
#[derive(Debug, Clone, Copy)]
pub struct BlockSpec {
    pub norm: Norm,
    pub time: TimeEntry,
    /// Outputs are divided by it (`mid_block_scale_factor`; 1 elsewhere).
    pub output_scale: f32,
}

/// 3x3, stride 1, one zero around.
pub const SAME: Conv2dSpec = Conv2dSpec { stride: 1, padding: Padding::Symmetric(1) };

impl Net<'_> {
    /// A weight by its name, with a place for its gradient where one is wanted.
    pub fn param(&mut self, name: &str) -> Result<Tensor> {
        let theta = self.layout.tensor(&mut self.tape.rec, (self.role, self.stored), name)?;
        if self.trained {
            let gradient = self.layout.tensor(&mut self.tape.rec, (Role::Gradient, DType::F32), name)?;
            self.tape.parameter(theta, gradient);
        }
        Ok(theta)
    }

    pub fn has(&self, name: &str) -> bool {
        self.layout.find(name).is_some()
    }

    pub fn conv(&mut self, name: &str, x: &Tensor, spec: Conv2dSpec) -> Result<Tensor> {
        let w = self.param(&format!("{name}.weight"))?;
        let bias = self.param(&format!("{name}.bias"))?;
        kernels::conv2d::conv2d(self.tape, x, &w, Some(&bias), spec)
    }

    /// The network's output: `conv`, in f32 whatever activations are stored in.
    pub fn output(&mut self, name: &str, x: &Tensor, spec: Conv2dSpec) -> Result<Tensor> {
        let w = self.param(&format!("{name}.weight"))?;
        let bias = self.param(&format!("{name}.bias"))?;
        kernels::conv2d::conv2d_as(self.tape, x, &w, Some(&bias), spec, DType::F32)
    }

    /// y = x W + b over the last extent.
    pub fn linear(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let w = self.param(&format!("{name}.weight"))?;
        let bias = self.param(&format!("{name}.bias"))?;
        kernels::matmul::matmul(self.tape, x, &w, Some(&bias))
    }

    pub fn group_norm(&mut self, name: &str, x: &Tensor, norm: Norm, silu: bool) -> Result<Tensor> {
        let gamma = self.param(&format!("{name}.weight"))?;
        let beta = self.param(&format!("{name}.bias"))?;
        kernels::group_norm::group_norm(self.tape, x, &gamma, &beta, norm.groups, norm.eps, silu)
    }

    /// Divides a layer's output. Of what the layer made, only this need stay for the backward pass.
    fn end(&mut self, x: Tensor, output_scale: f32) -> Result<Tensor> {
        let y = if output_scale == 1.0 { x } else { kernels::pointwise::scale(self.tape, &x, 1.0 / output_scale)? };
        self.tape.rec.cut();
        Ok(y)
    }

    /// ResnetBlock2D: (shortcut(x) + conv2(silu(norm2(conv1(silu(norm1 x)) + time)))) / output_scale.
    /// `time`: silu of the time embedding, [N, E].
    pub fn resnet(&mut self, name: &str, x: &Tensor, time: &Tensor, spec: BlockSpec) -> Result<Tensor> {
        let h = self.group_norm(&format!("{name}.norm1"), x, spec.norm, true)?;
        let h = self.conv(&format!("{name}.conv1"), &h, SAME)?;
        let t = self.linear(&format!("{name}.time_emb_proj"), time)?;
        let norm2 = format!("{name}.norm2");
        let h = match spec.time {
            TimeEntry::Add => {
                let h = kernels::broadcast::add_channel_bias(self.tape, &h, &t)?;
                self.group_norm(&norm2, &h, spec.norm, true)?
            }
            TimeEntry::ScaleShift => {
                let h = self.group_norm(&norm2, &h, spec.norm, false)?;
                let (scale, shift) = kernels::resample::split_channels(self.tape, &t)?;
                let h = kernels::broadcast::scale_shift(self.tape, &h, &scale, &shift)?;
                kernels::pointwise::silu(self.tape, &h)?
            }
        };
        let h = self.conv(&format!("{name}.conv2"), &h, SAME)?;
        let shortcut = format!("{name}.conv_shortcut");
        let x = if self.has(&format!("{shortcut}.weight")) {
            self.conv(&shortcut, x, Conv2dSpec { stride: 1, padding: Padding::Symmetric(0) })?
        } else {
            *x
        };
        let y = kernels::pointwise::add(self.tape, &x, &h)?;
        self.end(y, spec.output_scale)
    }

    /// Self-attention over pixels: (x + to_out(attention(q, k, v of norm(x)))) / output_scale.
    /// `norm` is None where the configuration has no norm before it.
    pub fn attention(
        &mut self,
        name: &str,
        x: &Tensor,
        norm: Option<Norm>,
        heads: u32,
        output_scale: f32,
    ) -> Result<Tensor> {
        let [n, h, w, c] = x.shape.nhwc("attention")?;
        let normed = match norm {
            Some(norm) => self.group_norm(&format!("{name}.group_norm"), x, norm, false)?,
            None => *x,
        };
        let tokens = normed.reshape("attention", Shape::new([n, h * w, c]))?;
        let q = self.linear(&format!("{name}.to_q"), &tokens)?;
        let k = self.linear(&format!("{name}.to_k"), &tokens)?;
        let v = self.linear(&format!("{name}.to_v"), &tokens)?;
        let o = kernels::attention::attention(self.tape, &q, &k, &v, heads, None)?;
        let o = self.linear(&format!("{name}.to_out.0"), &o)?.reshape("attention", x.shape)?;
        let y = kernels::pointwise::add(self.tape, x, &o)?;
        self.end(y, output_scale)
    }

    /// The channel projection of the paper: y = P x per pixel, P starting as the identity.
    pub fn channel_projection(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let p = self.param(name)?;
        let c = x.shape.last();
        let p = p.reshape("channel_projection", Shape::new([c, c]))?;
        kernels::channel_projection::channel_projection(self.tape, x, &p)
    }
}
