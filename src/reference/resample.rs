//! Twins of the kernels that move data (`shader::cards::resample`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::resample::{ConcatParams, SliceParams, UpsampleParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("upsample_nearest_forward", upsample_nearest_forward),
    ("upsample_nearest_backward", upsample_nearest_backward),
    ("concat_channels", concat_channels),
    ("slice_channels_forward", slice_channels_forward),
    ("slice_channels_backward", slice_channels_backward),
];

/// For element i of the large image, the element of the small one that it comes from.
fn source(words: &[u32]) -> impl Fn(usize) -> usize + use<> {
    let p = UpsampleParams::of(words);
    let [height, width, channels] = [p.height, p.width, p.channels].map(|v| v as usize);
    move |i| {
        let (c, w, rest) = (i % channels, i / channels % (2 * width), i / channels / (2 * width));
        let (h, n) = (rest % (2 * height), rest / (2 * height));
        ((n * height + h / 2) * width + w / 2) * channels + c
    }
}

fn upsample_nearest_forward(c: &mut Call) {
    let source = source(c.params);
    for (i, y) in c.writes[0].iter_mut().enumerate() {
        *y = c.reads[0][source(i)];
    }
}

fn upsample_nearest_backward(c: &mut Call) {
    let source = source(c.params);
    c.writes[0].fill(0.0);
    for (i, dy) in c.reads[0].iter().enumerate() {
        c.writes[0][source(i)] += dy;
    }
}

fn concat_channels(c: &mut Call) {
    let p = ConcatParams::of(c.params);
    let (a, b) = (p.a_channels as usize, p.b_channels as usize);
    for (r, row) in c.writes[0].chunks_exact_mut(a + b).enumerate() {
        row[..a].copy_from_slice(&c.reads[0][r * a..(r + 1) * a]);
        row[a..].copy_from_slice(&c.reads[1][r * b..(r + 1) * b]);
    }
}

fn slice_channels_forward(c: &mut Call) {
    let p = SliceParams::of(c.params);
    let [channels, first, count] = [p.channels, p.first, p.count].map(|v| v as usize);
    for (y, x) in c.writes[0].chunks_exact_mut(count).zip(c.reads[0].chunks_exact(channels)) {
        y.copy_from_slice(&x[first..first + count]);
    }
}

fn slice_channels_backward(c: &mut Call) {
    let p = SliceParams::of(c.params);
    let [channels, first, count] = [p.channels, p.first, p.count].map(|v| v as usize);
    c.writes[0].fill(0.0);
    for (dx, dy) in c.writes[0].chunks_exact_mut(channels).zip(c.reads[0].chunks_exact(count)) {
        dx[first..first + count].copy_from_slice(dy);
    }
}
