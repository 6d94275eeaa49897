//! Cards of the diffusion process: noise from (seed, stream, block), q(x_t | x_0), the DDIM update.
//! Built by `kernels::noise` and `kernels::ddim`; twins in `reference::noise`.

use crate::shader::card::{Card, Params, per64, plain, read, update, write};
use crate::{params, wgsl};

params! {
    pub struct NoiseParams {
        pub images: u32,
        /// Stored elements of one image, pad channels included.
        pub image: u32,
        /// Blocks of four elements an image takes.
        pub blocks: u32,
        /// Channels that are not padding.
        pub channels: u32,
        /// Channels as stored.
        pub stride: u32,
    }
}

params! {
    pub struct QSampleParams {
        /// Stored elements of the batch.
        pub count: u32,
        pub image: u32,
        pub channels: u32,
        pub stride: u32,
    }
}

params! {
    pub struct DdimStepParams {
        /// Stored elements of the batch.
        pub count: u32,
        pub channels: u32,
        pub stride: u32,
        /// 0 where the model predicts epsilon, 1 for v, 2 for x_0.
        pub predicts: u32,
        pub has_noise: u32,
    }
}

pub const CARDS: &[&Card] = &[&NOISE, &Q_SAMPLE, &DDIM_STEP];

/// x = standard normals
pub static NOISE: Card = Card {
    word: "noise",
    params: NoiseParams::FIELDS,
    bindings: &[read("key"), write("x")],
    variants: &[plain(wgsl!("noise"), |w| {
        let p = NoiseParams::of(w);
        per64(p.images * p.blocks)
    })],
    // About 10 rounds of 20 integer operations a block, and 40 operations a value.
    flops: |w| {
        let p = NoiseParams::of(w);
        360 * u64::from(p.images) * u64::from(p.blocks)
    },
};

/// x_t = a x_0 + b noise, target = c x_0 + d noise
pub static Q_SAMPLE: Card = Card {
    word: "q_sample",
    params: QSampleParams::FIELDS,
    bindings: &[read("x_0"), read("noise"), read("coefficients"), write("x_t"), write("target_")],
    variants: &[plain(wgsl!("q_sample"), |w| per64(QSampleParams::of(w).count))],
    flops: |w| 6 * u64::from(QSampleParams::of(w).count),
};

/// x_t -> x_t_prev
pub static DDIM_STEP: Card = Card {
    word: "ddim_step",
    params: DdimStepParams::FIELDS,
    bindings: &[read("output"), read("noise"), read("coefficients"), update("x")],
    variants: &[plain(wgsl!("ddim_step"), |w| per64(DdimStepParams::of(w).count))],
    flops: |w| 12 * u64::from(DdimStepParams::of(w).count),
};
