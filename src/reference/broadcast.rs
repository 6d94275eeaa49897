//! Twins of the broadcasting kernels (`shader::cards::broadcast`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::broadcast::{PixelParams, SumPixelsParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("add_channel_bias", add_channel_bias),
    ("sum_pixels", sum_pixels),
    ("scale_shift_forward", scale_shift_forward),
    ("scale_shift_backward_input", scale_shift_backward_input),
    ("scale_shift_backward_scale", scale_shift_backward_scale),
];

/// Where the values [batch, channels] of element i of [batch, pixels, channels] are.
fn broadcast(words: &[u32]) -> impl Fn(usize) -> usize + use<> {
    let p = PixelParams::of(words);
    let (pixels, channels) = (p.pixels as usize, p.channels as usize);
    move |i| i / channels / pixels * channels + i % channels
}

fn add_channel_bias(c: &mut Call) {
    let at = broadcast(c.params);
    for (i, y) in c.writes[0].iter_mut().enumerate() {
        *y = c.reads[0][i] + c.reads[1][at(i)];
    }
}

fn scale_shift_forward(c: &mut Call) {
    let at = broadcast(c.params);
    for (i, y) in c.writes[0].iter_mut().enumerate() {
        *y = c.reads[0][i] * (1.0 + c.reads[1][at(i)]) + c.reads[2][at(i)];
    }
}

fn scale_shift_backward_input(c: &mut Call) {
    let at = broadcast(c.params);
    for (i, dx) in c.writes[0].iter_mut().enumerate() {
        *dx = c.reads[1][i] * (1.0 + c.reads[0][at(i)]);
    }
}

/// Adds value(i) of each element of [batch, pixels, channels] into its chunk's place.
fn chunk_sums(words: &[u32], sums: &mut [f64], value: impl Fn(usize) -> f64) {
    let p = SumPixelsParams::of(words);
    let [batch, pixels, channels, chunk] = [p.batch, p.pixels, p.channels, p.chunk].map(|v| v as usize);
    sums.fill(0.0);
    for i in 0..batch * pixels * channels {
        let (n, pixel) = (i / channels / pixels, i / channels % pixels);
        sums[(n * pixels.div_ceil(chunk) + pixel / chunk) * channels + i % channels] += value(i);
    }
}

fn sum_pixels(c: &mut Call) {
    chunk_sums(c.params, &mut c.writes[0], |i| c.reads[0][i]);
}

fn scale_shift_backward_scale(c: &mut Call) {
    chunk_sums(c.params, &mut c.writes[0], |i| c.reads[0][i] * c.reads[1][i]);
}
