//! UNet2DModel: eps = unet(x_t, time embedding), block by block as diffusers has it, with the paper's channel
//! projections where the weights have them. Called by `train`, `deme`, `eval` and `cli`.

use super::config::{Block, DownsamplePadding, TimeScaleShift, UNetConfig};
use super::projections::PREFIX;
use crate::error::{Error, Result};
use crate::kernels;
use crate::kernels::conv2d::{Conv2dSpec, Padding};
use crate::nn::layers::{BlockSpec, Net, Norm, SAME, TimeEntry};
use crate::recording::Tensor;

/// Outputs of the parts, in order, for comparing block by block.
pub type Trace<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// How the channel projections that the weights have are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// The weights have none, or all are the identity and frozen.
    Skip,
    Run,
}

/// Numbers of the projections, counted through down, mid and up blocks.
struct Counter {
    run: Projections,
    next: usize,
}

impl Counter {
    fn apply(&mut self, net: &mut Net, x: Tensor) -> Result<Tensor> {
        let name = format!("{PREFIX}{}.weight", self.next);
        self.next += 1;
        match self.run {
            Projections::Run if net.has(&name) => net.channel_projection(&name, &x),
            Projections::Run | Projections::Skip => Ok(x),
        }
    }
}

impl UNetConfig {
    fn spec(&self, output_scale: f64) -> BlockSpec {
        BlockSpec {
            norm: Norm { groups: self.norm_num_groups, eps: self.norm_eps as f32 },
            time: match self.time_scale_shift {
                TimeScaleShift::Default => TimeEntry::Add,
                TimeScaleShift::ScaleShift => TimeEntry::ScaleShift,
            },
            output_scale: output_scale as f32,
        }
    }

    /// Sides that every downsampler halves exactly are multiples of this.
    pub fn side_multiple(&self) -> u32 {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Records the network. x: [N, H, W, padded in_channels], embedding: [N, block_out_channels[0]] from
    /// `diffusion::embedding`. Gives [N, H, W, padded out_channels].
    pub fn forward(
        &self,
        net: &mut Net,
        x: &Tensor,
        embedding: &Tensor,
        projections: Projections,
        trace: Trace,
    ) -> Result<Tensor> {
        let [_, h, w, _] = x.shape.nhwc("unet")?;
        let multiple = self.side_multiple();
        if h % multiple != 0 || w % multiple != 0 {
            return Err(Error::shape("unet", format!("images of {h}x{w}: sides must be multiples of {multiple}")));
        }
        let mut counter = Counter { run: projections, next: 0 };
        let x = if self.center_input_sample { kernels::pointwise::center(net.tape, x, self.in_channels)? } else { *x };
        let time = net.linear("time_embedding.linear_1", embedding)?;
        let time = kernels::pointwise::silu(net.tape, &time)?;
        let time = net.linear("time_embedding.linear_2", &time)?;
        // Every residual layer starts with silu(embedding): once for all.
        let time = kernels::pointwise::silu(net.tape, &time)?;

        let mut x = net.conv("conv_in", &x, SAME)?;
        trace("conv_in", &x);
        let mut skips = vec![x];
        for i in 0..self.down_blocks.len() {
            x = self.down_block(net, i, x, &time, &mut skips)?;
            x = counter.apply(net, x)?;
            trace(&format!("down_blocks.{i}"), &x);
        }
        if self.mid_block {
            x = self.mid(net, x, &time)?;
            x = counter.apply(net, x)?;
            trace("mid_block", &x);
        }
        for i in 0..self.up_blocks.len() {
            x = self.up_block(net, i, x, &time, &mut skips)?;
            x = counter.apply(net, x)?;
            trace(&format!("up_blocks.{i}"), &x);
        }
        let x = net.group_norm("conv_norm_out", &x, self.spec(1.0).norm, true)?;
        let y = net.output("conv_out", &x, SAME)?;
        trace("conv_out", &y);
        Ok(y)
    }

    fn down_block(
        &self,
        net: &mut Net,
        i: usize,
        mut x: Tensor,
        time: &Tensor,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let (block, spec) = (format!("down_blocks.{i}"), self.spec(1.0));
        for j in 0..self.layers_per_block {
            x = net.resnet(&format!("{block}.resnets.{j}"), &x, time, spec)?;
            if self.down_blocks[i] == Block::Attention {
                let heads = self.heads(x.shape.last());
                x = net.attention(&format!("{block}.attentions.{j}"), &x, Some(spec.norm), heads, 1.0)?;
            }
            skips.push(x);
        }
        if i + 1 < self.down_blocks.len() {
            let padding = match self.downsample_padding {
                DownsamplePadding::RightBottom => Padding::RightBottom,
                DownsamplePadding::Symmetric => Padding::Symmetric(1),
            };
            x = net.conv(&format!("{block}.downsamplers.0.conv"), &x, Conv2dSpec { stride: 2, padding })?;
            skips.push(x);
        }
        Ok(x)
    }

    fn mid(&self, net: &mut Net, x: Tensor, time: &Tensor) -> Result<Tensor> {
        let spec = self.spec(self.mid_block_scale_factor);
        let mut x = net.resnet("mid_block.resnets.0", &x, time, spec)?;
        if self.mid_attention {
            let norm = self.mid_attention_groups.map(|groups| Norm { groups, ..spec.norm });
            let heads = self.heads(x.shape.last());
            x = net.attention("mid_block.attentions.0", &x, norm, heads, spec.output_scale)?;
        }
        net.resnet("mid_block.resnets.1", &x, time, spec)
    }

    fn up_block(
        &self,
        net: &mut Net,
        i: usize,
        mut x: Tensor,
        time: &Tensor,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let (block, spec) = (format!("up_blocks.{i}"), self.spec(1.0));
        for j in 0..=self.layers_per_block {
            let skip = skips.pop().ok_or_else(|| Error::shape("unet", "more up layers than skip tensors"))?;
            x = kernels::resample::concat_channels(net.tape, &x, &skip)?;
            x = net.resnet(&format!("{block}.resnets.{j}"), &x, time, spec)?;
            if self.up_blocks[i] == Block::Attention {
                let heads = self.heads(x.shape.last());
                x = net.attention(&format!("{block}.attentions.{j}"), &x, Some(spec.norm), heads, 1.0)?;
            }
        }
        if i + 1 < self.up_blocks.len() {
            x = kernels::resample::upsample_nearest(net.tape, &x)?;
            x = net.conv(&format!("{block}.upsamplers.0.conv"), &x, SAME)?;
            net.tape.rec.cut();
        }
        Ok(x)
    }
}
