//! Builders for the networks that only judge images: pooling, clamping, depthwise convolution. They record no gradient.
//! Called by `eval`. Shapes: images [N, H, W, C].

use super::{count, own};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::pool::{AVERAGE_POOL, CLAMP_VALUES, ClampParams, DEPTHWISE_CONV2D, MAX_POOL, PoolParams};
use crate::shape::Shape;

/// A square window that moves over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub kernel: u32,
    pub stride: u32,
    /// Pixels on each side that belong to no window; fewer than `kernel`, so that every window holds one of x.
    pub pad: u32,
}

/// The parameters of a pass of windows over x, and the output that it writes.
fn windows(rec: &mut Recording, op: &'static str, x: &Tensor, window: Window) -> Result<(PoolParams, Tensor)> {
    let [batch, in_h, in_w, channels] = x.shape.nhwc(op)?;
    let Window { kernel, stride, pad } = window;
    let extent = |size: u32| {
        let room = size.checked_add(pad.checked_mul(2)?)?.checked_sub(kernel)?;
        room.checked_div(stride).map(|steps| steps + 1)
    };
    let (Some(out_h), Some(out_w), true) = (extent(in_h), extent(in_w), pad < kernel && x.elements() > 0) else {
        return Err(Error::shape(op, format!("{window:?} over {}", x.shape)));
    };
    let y = rec.transient(op, Shape::new([batch, out_h, out_w, channels]));
    count(op, x)?;
    count(op, &y)?;
    Ok((PoolParams { batch, in_h, in_w, channels, out_h, out_w, kernel, stride, pad }, y))
}

/// The largest value in each window.
pub fn max_pool(rec: &mut Recording, x: &Tensor, window: Window) -> Result<Tensor> {
    let (p, y) = windows(rec, "max_pool", x, window)?;
    rec.push(&MAX_POOL, &p, &[*x], &[y], &[])?;
    Ok(y)
}

/// The mean of what each window holds of x: padding does not count, as with torch's `count_include_pad=False`.
pub fn average_pool(rec: &mut Recording, x: &Tensor, window: Window) -> Result<Tensor> {
    let (p, y) = windows(rec, "average_pool", x, window)?;
    rec.push(&AVERAGE_POOL, &p, &[*x], &[y], &[])?;
    Ok(y)
}

/// y = min(max(x, low), high)
pub fn clamp_values(rec: &mut Recording, x: &Tensor, [low, high]: [f32; 2]) -> Result<Tensor> {
    let y = rec.transient("clamp_values", x.shape);
    rec.push(&CLAMP_VALUES, &ClampParams { count: count("clamp_values", x)?, low, high }, &[*x], &[y], &[])?;
    Ok(y)
}

/// Each channel convolved with its own weights: w [kernel kernel, C], bias [C].
pub fn depthwise_conv2d(rec: &mut Recording, x: &Tensor, w: &Tensor, bias: &Tensor, window: Window) -> Result<Tensor> {
    let op = "depthwise_conv2d";
    let channels = x.shape.last();
    let taps = window.kernel.saturating_mul(window.kernel);
    if w.shape.dims() != [taps, channels] || bias.shape.dims() != [channels] {
        return Err(Error::shape(op, format!("w {} and bias {} for {window:?} over {}", w.shape, bias.shape, x.shape)));
    }
    let (p, y) = windows(rec, op, x, window)?;
    rec.push(&DEPTHWISE_CONV2D, &p, &[*x, *w, *bias], &[y], &[])?;
    Ok(y)
}

/// Every kernel of this family: channels a multiple of four and not.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("pool");
    for channels in [8, 6] {
        let x = own(&mut rec, &format!("x{channels}"), [2, 9, 7, channels]);
        let w = own(&mut rec, &format!("w{channels}"), [9, channels]);
        let bias = own(&mut rec, &format!("bias{channels}"), [channels]);
        let y = depthwise_conv2d(&mut rec, &x, &w, &bias, Window { kernel: 3, stride: 1, pad: 1 })?;
        let y = clamp_values(&mut rec, &y, [0.0, 6.0])?;
        let y = max_pool(&mut rec, &y, Window { kernel: 3, stride: 2, pad: 0 })?;
        average_pool(&mut rec, &y, Window { kernel: 3, stride: 1, pad: 1 })?;
    }
    Ok(rec)
}
