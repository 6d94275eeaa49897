//! Cards that measure an adapter's own ceilings: arithmetic without memory, and memory without arithmetic.
//! Built by `kernels::peak`; twins in `reference::peak`.

use super::pointwise::CountParams;
use crate::shader::card::{Card, Params, Variant, plain, read, write};
use crate::{params, wgsl};

params! {
    pub struct PeakFmaParams {
        /// Elements, a multiple of 4.
        pub count: u32,
        /// Times `STEPS` multiply-adds of every chain.
        pub rounds: u32,
        pub factor: f32,
    }
}

/// Chains of an element; each is a vec4 in the shader.
pub const CHAINS: u32 = 2;
/// Multiply-adds of a chain in a round.
pub const STEPS: u32 = 16;

pub const CARDS: &[&Card] = &[&PEAK_FMA, &PEAK_COPY];

/// Independent chains a = factor a + x
pub static PEAK_FMA: Card = Card {
    word: "peak_fma",
    params: PeakFmaParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[Variant {
        constants: |_| vec![("CHAINS", CHAINS)],
        ..plain(wgsl!("peak_fma"), |w| u64::from(PeakFmaParams::of(w).count / 4).div_ceil(64))
    }],
    flops: |w| {
        let p = PeakFmaParams::of(w);
        2 * u64::from(CHAINS) * u64::from(p.count) * (u64::from(STEPS) * u64::from(p.rounds) + 1)
    },
};

/// y = x
pub static PEAK_COPY: Card = Card {
    word: "peak_copy",
    params: CountParams::FIELDS,
    bindings: &[read("x"), write("y")],
    variants: &[plain(wgsl!("peak_copy"), |w| u64::from(CountParams::of(w).count / 4).div_ceil(1024))],
    flops: |_| 0,
};
