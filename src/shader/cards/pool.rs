//! Cards of the networks that only judge images: pooling, clamping and depthwise convolution, none with a gradient.
//! Built by `kernels::pool`; twins in `reference::pool`.

use crate::shader::card::{Card, Params, Variant, per64, plain, read, write};
use crate::{params, wgsl};

params! {
    /// Square windows over x [batch, in_h, in_w, channels], each an output pixel of y [batch, out_h, out_w, channels].
    pub struct PoolParams {
        pub batch: u32,
        pub in_h: u32,
        pub in_w: u32,
        pub channels: u32,
        pub out_h: u32,
        pub out_w: u32,
        pub kernel: u32,
        pub stride: u32,
        /// On each side; what lies there belongs to no window.
        pub pad: u32,
    }
}

impl PoolParams {
    pub fn outputs(&self) -> u64 {
        [self.batch, self.out_h, self.out_w, self.channels].into_iter().map(u64::from).product()
    }
}

params! {
    pub struct ClampParams { pub count: u32, pub low: f32, pub high: f32 }
}

pub const CARDS: &[&Card] = &[&MAX_POOL, &AVERAGE_POOL, &CLAMP_VALUES, &DEPTHWISE_CONV2D];

/// Channels an invocation.
fn width(words: &[u32]) -> u32 {
    if PoolParams::of(words).channels.is_multiple_of(4) { 4 } else { 1 }
}

/// One invocation a pixel of y and `width` channels.
const fn windowed(file: (&'static str, &'static str)) -> Variant {
    Variant {
        constants: |w| vec![("WIDTH", width(w))],
        ..plain(file, |w| (PoolParams::of(w).outputs() / u64::from(width(w))).div_ceil(64))
    }
}

fn flops(words: &[u32]) -> u64 {
    let p = PoolParams::of(words);
    p.outputs() * u64::from(p.kernel) * u64::from(p.kernel)
}

/// y = the largest value in each window
pub static MAX_POOL: Card = Card {
    word: "max_pool",
    params: PoolParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[windowed(wgsl!("max_pool"))],
    flops: |_| 0,
};

/// y = the mean of what each window holds of x
pub static AVERAGE_POOL: Card = Card {
    word: "average_pool",
    params: PoolParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[windowed(wgsl!("average_pool"))],
    flops,
};

/// y = min(max(x, low), high)
pub static CLAMP_VALUES: Card = Card {
    word: "clamp_values",
    params: ClampParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[plain(wgsl!("clamp_values"), |w| per64(w[0]))],
    flops: |_| 0,
};

/// y = bias + each channel's window of x times its own weights w [kernel kernel, channels]
pub static DEPTHWISE_CONV2D: Card = Card {
    word: "depthwise_conv2d",
    params: PoolParams::FIELDS,
    bindings: &[read("x"), read("w"), read("bias"), write("y")],
    variants: &[windowed(wgsl!("depthwise_conv2d"))],
    flops: |w| 2 * flops(w),
};
