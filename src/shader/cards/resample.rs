//! Cards that move data: nearest upsampling, concatenation and slices of channels.
//! Built by `kernels::resample`; twins in `reference::resample`.

use super::norm::PIXELS_PER_LANE;
use crate::shader::card::{Card, Class, Params, Variant, read, single, whole, write};
use crate::{params, wgsl};

params! {
    /// x [batch, height, width, channels] -> y [batch, 2 height, 2 width, channels].
    pub struct UpsampleParams { pub batch: u32, pub height: u32, pub width: u32, pub channels: u32 }
}

params! {
    /// a [rows, a_channels], b [rows, b_channels] -> y [rows, a_channels + b_channels].
    pub struct ConcatParams { pub rows: u32, pub a_channels: u32, pub b_channels: u32 }
}

params! {
    /// x [rows, channels] -> y [rows, count], its channels first .. first + count.
    pub struct SliceParams { pub rows: u32, pub channels: u32, pub first: u32, pub count: u32 }
}

pub const CARDS: &[&Card] = &[
    &UPSAMPLE_NEAREST_FORWARD,
    &UPSAMPLE_NEAREST_BACKWARD,
    &CONCAT_CHANNELS,
    &SLICE_CHANNELS_FORWARD,
    &SLICE_CHANNELS_BACKWARD,
];

/// Four channels an invocation where all these counts allow it.
fn width(counts: &[u32]) -> u32 {
    if counts.iter().all(|c| c.is_multiple_of(4)) { 4 } else { 1 }
}

fn upsample_groups(words: &[u32]) -> u64 {
    let p = UpsampleParams::of(words);
    let lanes = u64::from(p.channels / width(&[p.channels]));
    (u64::from(p.batch) * u64::from(p.height) * u64::from(p.width) * lanes).div_ceil(64)
}

const fn upsample(file: (&'static str, &'static str)) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class: Class::Any,
        constants: |w| vec![("WIDTH", width(&[UpsampleParams::of(w).channels]))],
        fits: |_, _| true,
        groups: upsample_groups,
        windows: whole,
        menu: single,
    }
}

/// y[2h + i, 2w + j] = x[h, w]
pub static UPSAMPLE_NEAREST_FORWARD: Card = Card {
    word: "upsample_nearest_forward",
    params: UpsampleParams::FIELDS,
    bindings: &[read("x").or_half(), write("y").or_half()],
    variants: &[upsample(wgsl!("upsample_nearest_forward"))],
    flops: |_| 0,
};

/// dx[h, w] = the sum of dy's four
pub static UPSAMPLE_NEAREST_BACKWARD: Card = Card {
    word: "upsample_nearest_backward",
    params: UpsampleParams::FIELDS,
    bindings: &[read("dy"), write("dx")],
    variants: &[upsample(wgsl!("upsample_nearest_backward"))],
    flops: |w| 4 * w.iter().map(|&extent| u64::from(extent)).product::<u64>(),
};

fn concat_groups(words: &[u32]) -> u64 {
    let p = ConcatParams::of(words);
    per_row(p.rows, p.a_channels + p.b_channels, width(&[p.a_channels, p.b_channels]))
}

/// Workgroups of 64 invocations that each hold eight rows of `width` channels.
fn per_row(rows: u32, channels: u32, width: u32) -> u64 {
    (u64::from(rows.div_ceil(PIXELS_PER_LANE)) * u64::from(channels / width)).div_ceil(64)
}

/// y = a and b side by side
pub static CONCAT_CHANNELS: Card = Card {
    word: "concat_channels",
    params: ConcatParams::FIELDS,
    bindings: &[read("a").or_half(), read("b").or_half(), write("y").or_half()],
    variants: &[Variant {
        stem: wgsl!("concat_channels").0,
        source: wgsl!("concat_channels").1,
        class: Class::Any,
        constants: |w| {
            let p = ConcatParams::of(w);
            vec![("WIDTH", width(&[p.a_channels, p.b_channels])), ("ROWS", PIXELS_PER_LANE)]
        },
        fits: |_, _| true,
        groups: concat_groups,
        windows: whole,
        menu: single,
    }],
    flops: |_| 0,
};

const fn slice(file: (&'static str, &'static str), groups: fn(&[u32]) -> u64) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class: Class::Any,
        constants: |w| vec![("WIDTH", slice_width(w)), ("ROWS", PIXELS_PER_LANE)],
        fits: |_, _| true,
        groups,
        windows: whole,
        menu: single,
    }
}

fn slice_width(words: &[u32]) -> u32 {
    width(&words[1..])
}

/// y = x's channels first .. first + count
pub static SLICE_CHANNELS_FORWARD: Card = Card {
    word: "slice_channels_forward",
    params: SliceParams::FIELDS,
    bindings: &[read("x").or_half(), write("y").or_half()],
    variants: &[slice(wgsl!("slice_channels_forward"), |w| {
        let p = SliceParams::of(w);
        per_row(p.rows, p.count, slice_width(w))
    })],
    flops: |_| 0,
};

/// dx = dy at the channels first .. first + count, 0 elsewhere
pub static SLICE_CHANNELS_BACKWARD: Card = Card {
    word: "slice_channels_backward",
    params: SliceParams::FIELDS,
    bindings: &[read("dy"), write("dx")],
    variants: &[slice(wgsl!("slice_channels_backward"), |w| {
        let p = SliceParams::of(w);
        per_row(p.rows, p.channels, slice_width(w))
    })],
    flops: |_| 0,
};
