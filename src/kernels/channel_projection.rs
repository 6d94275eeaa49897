//! The channel-wise projection P(F_t) = W F_t (section 3.2 of the paper): a C x C matrix at every pixel, no bias,
//! identity at the start of training.
//! Called by `model`, after each block.

use super::matmul::matmul;
use crate::error::{Error, Result};
use crate::recording::Tensor;
use crate::tape::Tape;

/// y = P(x): x [..., C], w [C, C] stored [in, out] as every linear weight, the transpose of the paper's W.
pub fn channel_projection(tape: &mut Tape, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let channels = x.shape.last();
    if w.shape.dims() != [channels, channels] {
        let what = format!("expected w [{channels}, {channels}] for x {}, got {}", x.shape, w.shape);
        return Err(Error::shape("channel_projection", what));
    }
    matmul(tape, x, w, None)
}

/// The w with which nothing changes.
pub fn identity(channels: u32) -> Vec<f32> {
    let n = channels as usize;
    (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect()
}
