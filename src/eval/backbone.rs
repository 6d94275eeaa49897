//! The networks whose features judge images, each as one walk over its layers: InceptionV3 as FID has it, and MobileNetV2.
//! The walk is made twice, to collect the shapes of the weights and to record the forward pass. Called by `features`.

use crate::error::{Error, Result};
use crate::kernels::conv2d::{Conv2dSpec, Padding};
use crate::kernels::pointwise::add;
use crate::kernels::pool::{self, Window};
use crate::kernels::resample::concat_channels;
use crate::nn::Net;
use crate::recording::Tensor;
use crate::shape::Shape;

/// A convolution and the batch norm behind it, which are one convolution here.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Names of both in a state dict.
    pub conv: String,
    pub norm: String,
    pub cout: u32,
    /// Height and width.
    pub kernel: [u32; 2],
    pub stride: u32,
    /// Rows above and below, columns left and right.
    pub pad: [u32; 2],
    /// Each channel by itself.
    pub depthwise: bool,
    /// What the output is clamped to.
    pub clamp: Option<[f32; 2]>,
}

/// What a walk does at each layer. `Image` is what flows from one to the next.
pub trait Walk {
    type Image: Copy;

    fn conv(&mut self, conv: &Conv, x: Self::Image) -> Result<Self::Image>;
    fn max_pool(&mut self, x: Self::Image, window: Window) -> Result<Self::Image>;
    fn average_pool(&mut self, x: Self::Image, window: Window) -> Result<Self::Image>;
    fn add(&mut self, x: Self::Image, y: Self::Image) -> Result<Self::Image>;
    fn concat(&mut self, images: &[Self::Image]) -> Result<Self::Image>;
    fn channels(&self, x: Self::Image) -> u32;
}

/// One convolution's weights, as a state dict has them.
#[derive(Debug, Clone)]
pub struct ConvShape {
    pub conv: Conv,
    pub cin: u32,
}

impl ConvShape {
    /// [cout, cin, kh, kw]; of a depthwise convolution [C, 1, kh, kw].
    pub fn extents(&self) -> [u64; 4] {
        let Conv { cout, kernel: [kh, kw], depthwise, .. } = self.conv;
        [cout, if depthwise { 1 } else { self.cin }, kh, kw].map(u64::from)
    }
}

/// Collects the convolutions in the order of the walk. An image is its number of channels.
#[derive(Default)]
pub struct Shapes(pub Vec<ConvShape>);

impl Walk for Shapes {
    type Image = u32;

    fn conv(&mut self, conv: &Conv, cin: u32) -> Result<u32> {
        self.0.push(ConvShape { conv: conv.clone(), cin });
        Ok(conv.cout)
    }

    fn max_pool(&mut self, x: u32, _: Window) -> Result<u32> {
        Ok(x)
    }

    fn average_pool(&mut self, x: u32, _: Window) -> Result<u32> {
        Ok(x)
    }

    fn add(&mut self, x: u32, _: u32) -> Result<u32> {
        Ok(x)
    }

    fn concat(&mut self, images: &[u32]) -> Result<u32> {
        Ok(images.iter().sum())
    }

    fn channels(&self, x: u32) -> u32 {
        x
    }
}

/// Records the forward pass; weights by the names of the convolutions, batch norm folded in.
pub struct Record<'a>(pub Net<'a>);

impl Walk for Record<'_> {
    type Image = Tensor;

    fn conv(&mut self, conv: &Conv, x: Tensor) -> Result<Tensor> {
        let y = if conv.depthwise {
            let w = self.0.param(&format!("{}.weight", conv.conv))?;
            let bias = self.0.param(&format!("{}.bias", conv.conv))?;
            let window = Window { kernel: conv.kernel[0], stride: conv.stride, pad: conv.pad[0] };
            pool::depthwise_conv2d(&mut self.0.tape.rec, &x, &w, &bias, window)?
        } else {
            self.0.conv(&conv.conv, &x, Conv2dSpec { stride: conv.stride, padding: Padding::Sides(conv.pad) })?
        };
        match conv.clamp {
            Some(limits) => pool::clamp_values(&mut self.0.tape.rec, &y, limits),
            None => Ok(y),
        }
    }

    fn max_pool(&mut self, x: Tensor, window: Window) -> Result<Tensor> {
        pool::max_pool(&mut self.0.tape.rec, &x, window)
    }

    fn average_pool(&mut self, x: Tensor, window: Window) -> Result<Tensor> {
        pool::average_pool(&mut self.0.tape.rec, &x, window)
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Result<Tensor> {
        add(self.0.tape, &x, &y)
    }

    fn concat(&mut self, images: &[Tensor]) -> Result<Tensor> {
        let (first, rest) = images.split_first().ok_or_else(|| Error::shape("concat", "of nothing"))?;
        rest.iter().try_fold(*first, |all, image| concat_channels(self.0.tape, &all, image))
    }

    fn channels(&self, x: Tensor) -> u32 {
        x.shape.last()
    }
}

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backbone {
    /// Google's of 2015-12-05 (Szegedy et al. 2016), whose pooled features FID is defined on (Heusel et al. 2017).
    Inception,
    /// torchvision's `mobilenet_v2` (Sandler et al. 2018).
    MobileNet,
}

impl Backbone {
    /// Side of the images that it takes.
    pub fn side(self) -> u32 {
        match self {
            Self::Inception => 299,
            Self::MobileNet => 224,
        }
    }

    /// Number of features.
    pub fn features(self) -> u32 {
        match self {
            Self::Inception => 2048,
            Self::MobileNet => 1280,
        }
    }

    /// What batch norm adds to the variance.
    pub fn norm_eps(self) -> f64 {
        match self {
            Self::Inception => 1e-3,
            Self::MobileNet => 1e-5,
        }
    }

    /// The image's features, [N, 1, 1, features]: the mean over the last layer's pixels.
    pub fn walk<W: Walk>(self, walk: &mut W, x: W::Image) -> Result<W::Image> {
        match self {
            Self::Inception => super::inception::walk(walk, x),
            Self::MobileNet => super::mobilenet::walk(walk, x),
        }
    }

    /// The convolutions, in order.
    pub fn convolutions(self) -> Result<Vec<ConvShape>> {
        let mut shapes = Shapes::default();
        self.walk(&mut shapes, 3)?;
        Ok(shapes.0)
    }

    /// Shape of a batch of images, the fourth channel zero.
    pub fn input(self, batch: u32) -> Shape {
        Shape::new([batch, self.side(), self.side(), 4])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn weights(backbone: Backbone) -> (usize, u64) {
        let convolutions = backbone.convolutions().unwrap();
        (convolutions.len(), convolutions.iter().map(|c| c.extents().iter().product::<u64>()).sum())
    }

    /// As the published files count them: 376 tensors are 94 convolutions with beta, mean and variance; MobileNetV2 has
    /// 2,223,872 parameters before its classifier, of which 34,112 are batch norm's.
    #[test]
    fn convolutions_are_those_of_the_published_networks() {
        let (count, weights_of_inception) = weights(Backbone::Inception);
        let outputs: u32 = Backbone::Inception.convolutions().unwrap().iter().map(|c| c.conv.cout).sum();
        assert_eq!((count, weights_of_inception + 3 * u64::from(outputs)), (94, 21_802_784));
        assert_eq!(weights(Backbone::MobileNet), (52, 2_223_872 - 34_112));
    }
}
