//! Cards of the optimizer: gradient norm and clipping, AdamW, EMA. They run over whole slabs.
//! Built by `kernels::optim`; twins in `reference::optim`.

use super::pointwise::CountParams;
use crate::shader::card::{Card, Class, Params, Variant, per64, plain, read, single, update, whole, write};
use crate::{params, wgsl};

/// Elements that one partial sum of squares covers.
pub const CHUNK: u32 = 16384;

/// Counts of skipped updates, from 0, that the scalars tell apart; AdamW's bias correction has ended before there are more.
pub const SKIPS: u32 = 32;

params! {
    pub struct SumSquaresParams {
        pub count: u32,
        /// Sums written; those behind the last chunk are 0.
        pub partials: u32,
    }
}

params! {
    pub struct GradientNormParams {
        /// Number of partial sums.
        pub count: u32,
        /// 0 for no clipping.
        pub max_norm: f32,
        /// Finite gradients in a row after which the loss scale doubles; 0: it never moves.
        pub interval: u32,
    }
}

pub const CARDS: &[&Card] = &[&SUM_SQUARES, &GRADIENT_NORM, &ADAMW, &EMA];

const SUM_SQUARES_WGSL: (&str, &str) = wgsl!("sum_squares");

/// Partial sums of x^2
pub static SUM_SQUARES: Card = Card {
    word: "sum_squares",
    params: SumSquaresParams::FIELDS,
    bindings: &[read("x"), write("partials")],
    variants: &[Variant {
        stem: SUM_SQUARES_WGSL.0,
        source: SUM_SQUARES_WGSL.1,
        class: Class::Any,
        constants: |_| vec![("CHUNK", CHUNK)],
        fits: |_, _| true,
        groups: |w| u64::from(SumSquaresParams::of(w).partials),
        windows: whole,
        menu: single,
    }],
    flops: |w| 2 * u64::from(SumSquaresParams::of(w).count),
};

/// Partial sums -> clip factor over scale, finite flag, norm, count of skipped updates; and the scale moves
pub static GRADIENT_NORM: Card = Card {
    word: "gradient_norm",
    params: GradientNormParams::FIELDS,
    bindings: &[read("partials"), update("status")],
    variants: &[plain(wgsl!("gradient_norm"), |_| 1)],
    flops: |w| u64::from(GradientNormParams::of(w).count),
};

/// One invocation an element, by the scalars of as many skipped updates as there were.
const fn stepping(file: (&'static str, &'static str)) -> Variant {
    Variant { constants: |_| vec![("SKIPS", SKIPS)], ..plain(file, |words| per64(CountParams::of(words).count)) }
}

/// theta, m, v after one update; gradient = 0
pub static ADAMW: Card = Card {
    word: "adamw",
    params: CountParams::FIELDS,
    bindings: &[read("scalars"), read("status"), update("theta"), update("gradient"), update("m"), update("v")],
    variants: &[stepping(wgsl!("adamw"))],
    flops: |w| 15 * u64::from(w[0]),
};

/// average -= (1 - decay) (average - theta)
pub static EMA: Card = Card {
    word: "ema",
    params: CountParams::FIELDS,
    bindings: &[read("scalars"), read("status"), read("theta"), update("average")],
    variants: &[stepping(wgsl!("ema"))],
    flops: |w| 3 * u64::from(w[0]),
};
