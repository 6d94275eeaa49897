//! Cards of group norm with optionally fused SiLU. Sums run over chunks of pixels first, channels side by side, then over
//! the chunks: the same two stages suit GPUs and CPU rasterisers, and their order is fixed.
//! Built by `kernels::group_norm`; twins in `reference::norm`.

use crate::shader::card::{Card, Class, Constants, Params, Variant, per64, plain, read, single, update, whole, write};
use crate::{params, wgsl};

params! {
    /// x, y [batch, pixels, channels]; sums over `chunk` pixels at a time.
    pub struct GroupNormParams {
        pub batch: u32,
        pub pixels: u32,
        pub channels: u32,
        pub groups: u32,
        pub chunk: u32,
        /// 1 where SiLU follows.
        pub silu: u32,
        pub eps: f32,
    }
}

params! {
    /// gradient [channels] += the sum over the batch of sums [batch, 2, channels] at `component`.
    pub struct GroupNormParameterParams { pub batch: u32, pub channels: u32, pub component: u32 }
}

/// Pixels that one invocation of the pointwise kernels handles, so that it looks its channels' statistics up once.
pub const PIXELS_PER_LANE: u32 = 8;

/// Channels that one invocation handles.
pub fn lane_width(channels: u32) -> u32 {
    if channels.is_multiple_of(4) { 4 } else { 1 }
}

/// Pixels of one partial sum: near the square root, so that neither stage is long.
pub fn chunk_of(pixels: u32) -> u32 {
    pixels.isqrt().next_multiple_of(16)
}

/// Workgroups of 64 invocations that each hold `rows` pixels of `lane_width` channels.
pub fn per_block(batch: u32, pixels: u32, channels: u32, rows: u32) -> u64 {
    let blocks = u64::from(batch) * u64::from(pixels.div_ceil(rows));
    (blocks * u64::from(channels / lane_width(channels))).div_ceil(64)
}

pub const CARDS: &[&Card] = &[
    &GROUP_NORM_MOMENTS,
    &GROUP_NORM_STATISTICS,
    &GROUP_NORM_FORWARD,
    &GROUP_NORM_BACKWARD_MOMENTS,
    &GROUP_NORM_BACKWARD_STATISTICS,
    &GROUP_NORM_BACKWARD_INPUT,
    &GROUP_NORM_BACKWARD_PARAMETER,
];

fn constants(words: &[u32]) -> Constants {
    let p = GroupNormParams::of(words);
    vec![("WIDTH", lane_width(p.channels)), ("SILU", p.silu), ("ROWS", PIXELS_PER_LANE)]
}

fn elements(words: &[u32]) -> u64 {
    let p = GroupNormParams::of(words);
    u64::from(p.batch) * u64::from(p.pixels) * u64::from(p.channels)
}

fn partials(words: &[u32]) -> u64 {
    let p = GroupNormParams::of(words);
    u64::from(p.batch) * u64::from(p.pixels.div_ceil(p.chunk)) * u64::from(p.channels)
}

const fn variant(file: (&'static str, &'static str), class: Class, groups: fn(&[u32]) -> u64) -> Variant {
    Variant { stem: file.0, source: file.1, class, constants, fits: |_, _| true, groups, windows: whole, menu: single }
}

fn chunk_groups(words: &[u32]) -> u64 {
    let p = GroupNormParams::of(words);
    per_block(p.batch, p.pixels, p.channels, p.chunk)
}

fn pixel_groups(words: &[u32]) -> u64 {
    let p = GroupNormParams::of(words);
    per_block(p.batch, p.pixels, p.channels, PIXELS_PER_LANE)
}

fn batch_groups(words: &[u32]) -> u64 {
    let p = GroupNormParams::of(words);
    u64::from(p.batch) * u64::from(p.groups)
}

/// moments [batch, chunks, 2, channels] = mean and sum of squared deviations of each chunk of each channel
pub static GROUP_NORM_MOMENTS: Card = Card {
    word: "group_norm_moments",
    params: GroupNormParams::FIELDS,
    bindings: &[read("x").or_half(), write("moments")],
    variants: &[variant(wgsl!("group_norm_moments"), Class::Any, chunk_groups)],
    flops: |w| 4 * elements(w),
};

/// statistics [batch, groups, 2] = mean and 1 / sqrt(variance + eps), from the moments of the chunks
pub static GROUP_NORM_STATISTICS: Card = Card {
    word: "group_norm_statistics",
    params: GroupNormParams::FIELDS,
    bindings: &[read("moments"), write("statistics")],
    variants: &[
        variant(wgsl!("group_norm_statistics_tiled"), Class::Gpu, batch_groups),
        variant(wgsl!("group_norm_statistics_v1"), Class::Any, |w| batch_groups(w).div_ceil(64)),
    ],
    flops: |w| 6 * partials(w),
};

/// y = silu?((x - mean_g) rstd_g gamma_c + beta_c)
pub static GROUP_NORM_FORWARD: Card = Card {
    word: "group_norm_forward",
    params: GroupNormParams::FIELDS,
    bindings: &[
        read("x").or_half(),
        read("statistics"),
        read("gamma").or_half(),
        read("beta").or_half(),
        write("y").or_half(),
    ],
    variants: &[variant(wgsl!("group_norm_forward"), Class::Any, pixel_groups)],
    flops: |w| (4 + 8 * u64::from(GroupNormParams::of(w).silu)) * elements(w),
};

/// moments [batch, chunks, 2, channels] = sums of dz and dz xhat over each chunk, dz = dL/d(the value before SiLU)
pub static GROUP_NORM_BACKWARD_MOMENTS: Card = Card {
    word: "group_norm_backward_moments",
    params: GroupNormParams::FIELDS,
    bindings: &[
        read("x").or_half(),
        read("statistics"),
        read("gamma").or_half(),
        read("beta").or_half(),
        read("dy"),
        write("moments"),
    ],
    variants: &[variant(wgsl!("group_norm_backward_moments"), Class::Any, chunk_groups)],
    flops: |w| (5 + 12 * u64::from(GroupNormParams::of(w).silu)) * elements(w),
};

/// means [batch, groups, 2] = means over the group of gamma dz and gamma dz xhat, from sums [batch, 2, channels]
pub static GROUP_NORM_BACKWARD_STATISTICS: Card = Card {
    word: "group_norm_backward_statistics",
    params: GroupNormParams::FIELDS,
    bindings: &[read("sums"), read("gamma").or_half(), write("means")],
    variants: &[variant(wgsl!("group_norm_backward_statistics"), Class::Any, |w| batch_groups(w).div_ceil(64))],
    flops: |w| {
        let p = GroupNormParams::of(w);
        4 * u64::from(p.batch) * u64::from(p.channels)
    },
};

/// dx = rstd_g (gamma_c dz - mean(gamma dz) - xhat mean(gamma dz xhat))
pub static GROUP_NORM_BACKWARD_INPUT: Card = Card {
    word: "group_norm_backward_input",
    params: GroupNormParams::FIELDS,
    bindings: &[
        read("x").or_half(),
        read("statistics"),
        read("gamma").or_half(),
        read("beta").or_half(),
        read("means"),
        read("dy"),
        write("dx"),
    ],
    variants: &[variant(wgsl!("group_norm_backward_input"), Class::Any, pixel_groups)],
    flops: |w| (8 + 12 * u64::from(GroupNormParams::of(w).silu)) * elements(w),
};

/// dbeta (component 0) or dgamma (component 1) += the sum over the batch
pub static GROUP_NORM_BACKWARD_PARAMETER: Card = Card {
    word: "group_norm_backward_parameter",
    params: GroupNormParameterParams::FIELDS,
    bindings: &[read("sums"), update("gradient")],
    variants: &[plain(wgsl!("group_norm_backward_parameter"), |w| per64(GroupNormParameterParams::of(w).channels))],
    flops: |w| {
        let p = GroupNormParameterParams::of(w);
        u64::from(p.batch) * u64::from(p.channels)
    },
};
