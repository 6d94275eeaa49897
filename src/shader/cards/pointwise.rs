//! Cards of the pointwise kernels: one invocation an element.
//! Built by `kernels::pointwise`; twins in `reference::pointwise`.

use crate::shader::card::{Card, Params, Variant, per64, plain, read, update, write};
use crate::{params, wgsl};

params! {
    /// Number of elements.
    pub struct CountParams { pub count: u32 }
}

params! {
    pub struct ScaleParams { pub count: u32, pub factor: f32 }
}

params! {
    /// `stride` channels a pixel are stored, of which the first `channels` are real.
    pub struct CenterParams { pub count: u32, pub channels: u32, pub stride: u32 }
}

pub const CARDS: &[&Card] = &[&ADD, &ACCUMULATE, &SCALE, &FILL_ZERO, &CENTER, &SILU_FORWARD, &SILU_BACKWARD];

/// Elements that an invocation takes at a time.
fn width(words: &[u32]) -> u32 {
    if words[0].is_multiple_of(4) { 4 } else { 1 }
}

/// A kernel whose first parameter is the number of elements: eight times `width` of them an invocation.
const fn wide(file: (&'static str, &'static str)) -> Variant {
    Variant { constants: |w| vec![("WIDTH", width(w))], ..plain(file, |w| u64::from(w[0] / width(w)).div_ceil(512)) }
}

fn flops(words: &[u32]) -> u64 {
    u64::from(words[0])
}

/// z = x + y
pub static ADD: Card = Card {
    word: "add",
    params: CountParams::FIELDS,
    bindings: &[read("x").or_half(), read("y").or_half(), write("z").or_half()],
    variants: &[wide(wgsl!("add"))],
    flops,
};

/// y += x
pub static ACCUMULATE: Card = Card {
    word: "accumulate",
    params: CountParams::FIELDS,
    bindings: &[read("x"), update("y")],
    variants: &[wide(wgsl!("accumulate"))],
    flops,
};

/// y = factor x
pub static SCALE: Card = Card {
    word: "scale",
    params: ScaleParams::FIELDS,
    bindings: &[read("x").or_half(), write("y").or_half()],
    variants: &[wide(wgsl!("scale"))],
    flops,
};

/// y = 0
pub static FILL_ZERO: Card = Card {
    word: "fill_zero",
    params: CountParams::FIELDS,
    bindings: &[write("y")],
    variants: &[wide(wgsl!("fill_zero"))],
    flops,
};

/// y = 2 x - 1, pad channels 0
pub static CENTER: Card = Card {
    word: "center",
    params: CenterParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[plain(wgsl!("center"), |w| per64(w[0]))],
    flops: |w| 2 * flops(w),
};

/// y = x sigmoid(x)
pub static SILU_FORWARD: Card = Card {
    word: "silu_forward",
    params: CountParams::FIELDS,
    bindings: &[read("x").or_half(), write("y").or_half()],
    variants: &[wide(wgsl!("silu_forward"))],
    flops: |w| 8 * flops(w),
};

/// dx = dy s (1 + x (1 - s)), s = sigmoid(x)
pub static SILU_BACKWARD: Card = Card {
    word: "silu_backward",
    params: CountParams::FIELDS,
    bindings: &[read("x").or_half(), read("dy"), write("dx")],
    variants: &[wide(wgsl!("silu_backward"))],
    flops: |w| 10 * flops(w),
};
