//! Cards of the losses: weighted mean squared error and its gradient, the fused DeMe loss.
//! Built by `kernels::loss`; twins in `reference::loss`.

use crate::shader::card::{Card, Params, per64, plain, read, write};
use crate::{params, wgsl};

params! {
    pub struct WeightedMseParams {
        pub images: u32,
        /// Stored elements of one image, pad channels included.
        pub image: u32,
        /// Channels that are not padding.
        pub channels: u32,
        /// Channels as stored.
        pub stride: u32,
        /// 0 where every weight is 1.
        pub has_weights: u32,
    }
}

params! {
    pub struct DemeLossParams {
        pub images: u32,
        pub image: u32,
        pub channels: u32,
        pub stride: u32,
        /// 0 without a consistency loss.
        pub has_teacher: u32,
        /// Weight of the consistency loss.
        pub lambda: f32,
    }
}

pub const CARDS: &[&Card] = &[&WEIGHTED_MSE, &WEIGHTED_MSE_BACKWARD, &DEME_LOSS];

/// The first two words of both structs are images and elements of one.
fn elements(words: &[u32]) -> u64 {
    u64::from(words[0]) * u64::from(words[1])
}

/// losses_n = weights_n mean (x - target)^2
pub static WEIGHTED_MSE: Card = Card {
    word: "weighted_mse",
    params: WeightedMseParams::FIELDS,
    bindings: &[read("x"), read("target_"), read("weights"), write("losses")],
    variants: &[plain(wgsl!("weighted_mse"), |w| u64::from(WeightedMseParams::of(w).images))],
    flops: |w| 3 * elements(w),
};

/// dx = dlosses_n weights_n 2 (x - target) / elements
pub static WEIGHTED_MSE_BACKWARD: Card = Card {
    word: "weighted_mse_backward",
    params: WeightedMseParams::FIELDS,
    bindings: &[read("x"), read("target_"), read("weights"), read("dlosses"), write("dx")],
    variants: &[plain(wgsl!("weighted_mse_backward"), |w| per64(elements(w) as u32))],
    flops: |w| 4 * elements(w),
};

/// Both losses and dx in one pass
pub static DEME_LOSS: Card = Card {
    word: "deme_loss",
    params: DemeLossParams::FIELDS,
    bindings: &[
        read("x"),
        read("target_"),
        read("teacher"),
        read("weights"),
        read("status"),
        write("losses"),
        write("dx"),
    ],
    variants: &[plain(wgsl!("deme_loss"), |w| u64::from(DemeLossParams::of(w).images))],
    flops: |w| 9 * elements(w),
};
