//! Cards of the pointwise kernels: one invocation an element.
//! Built by `kernels::pointwise`; twins in `reference::pointwise`.

use crate::shader::card::{Card, Params, per64, plain, read, update, write};
use crate::{params, wgsl};

params! {
    /// Number of elements.
    pub struct CountParams { pub count: u32 }
}

params! {
    pub struct ScaleParams { pub count: u32, pub factor: f32 }
}

pub const CARDS: &[&Card] = &[&ADD, &ACCUMULATE, &SCALE, &FILL_ZERO, &SILU_FORWARD, &SILU_BACKWARD];

fn groups(words: &[u32]) -> u64 {
    per64(CountParams::of(&words[..1]).count)
}

fn flops(words: &[u32]) -> u64 {
    u64::from(words[0])
}

/// z = x + y
pub static ADD: Card = Card {
    word: "add",
    params: CountParams::FIELDS,
    bindings: &[read("x"), read("y"), write("z")],
    variants: &[plain(wgsl!("add"), groups)],
    flops,
};

/// y += x
pub static ACCUMULATE: Card = Card {
    word: "accumulate",
    params: CountParams::FIELDS,
    bindings: &[read("x"), update("y")],
    variants: &[plain(wgsl!("accumulate"), groups)],
    flops,
};

/// y = factor x
pub static SCALE: Card = Card {
    word: "scale",
    params: ScaleParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[plain(wgsl!("scale"), groups)],
    flops,
};

/// y = 0
pub static FILL_ZERO: Card = Card {
    word: "fill_zero",
    params: CountParams::FIELDS,
    bindings: &[write("y")],
    variants: &[plain(wgsl!("fill_zero"), groups)],
    flops,
};

/// y = x sigmoid(x)
pub static SILU_FORWARD: Card = Card {
    word: "silu_forward",
    params: CountParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[plain(wgsl!("silu_forward"), groups)],
    flops: |w| 8 * flops(w),
};

/// dx = dy s (1 + x (1 - s)), s = sigmoid(x)
pub static SILU_BACKWARD: Card = Card {
    word: "silu_backward",
    params: CountParams::FIELDS,
    bindings: &[read("x"), read("dy"), write("dx")],
    variants: &[plain(wgsl!("silu_backward"), groups)],
    flops: |w| 10 * flops(w),
};
