//! Twins of the group norm kernels (`shader::cards::norm`).

use super::pointwise::sigmoid;
use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::norm::{GroupNormParameterParams, GroupNormParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("group_norm_moments", group_norm_moments),
    ("group_norm_statistics", group_norm_statistics),
    ("group_norm_forward", group_norm_forward),
    ("group_norm_backward_moments", group_norm_backward_moments),
    ("group_norm_backward_statistics", group_norm_backward_statistics),
    ("group_norm_backward_input", group_norm_backward_input),
    ("group_norm_backward_parameter", group_norm_backward_parameter),
];

/// The extents as usize, with what follows from them.
struct Extents {
    batch: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
    /// Channels of a group.
    members: usize,
    chunk: usize,
    chunks: usize,
    silu: bool,
    eps: f64,
}

impl Extents {
    fn of(words: &[u32]) -> Self {
        let p = GroupNormParams::of(words);
        let [batch, pixels, channels, groups, chunk] =
            [p.batch, p.pixels, p.channels, p.groups, p.chunk].map(|v| v as usize);
        Self {
            batch,
            pixels,
            channels,
            groups,
            members: channels / groups,
            chunk,
            chunks: pixels.div_ceil(chunk),
            silu: p.silu == 1,
            eps: f64::from(p.eps),
        }
    }

    /// (n, pixel, channel) of each element, in order.
    fn elements(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (pixels, channels) = (self.pixels, self.channels);
        (0..self.batch * pixels * channels).map(move |i| (i / channels / pixels, i / channels % pixels, i % channels))
    }

    /// Where the chunk of (n, pixel) has its first sum for channel c; the second is `channels` further.
    fn moment(&self, n: usize, pixel: usize, c: usize) -> usize {
        (n * self.chunks + pixel / self.chunk) * 2 * self.channels + c
    }

    /// Where the pair of the group of (n, c) begins.
    fn pair(&self, n: usize, c: usize) -> usize {
        2 * (n * self.groups + c / self.members)
    }
}

fn group_norm_moments(c: &mut Call) {
    let e = Extents::of(c.params);
    let (x, moments) = (&c.reads[0], &mut c.writes[0]);
    moments.fill(0.0);
    for (i, (n, p, ch)) in e.elements().enumerate() {
        let count = e.chunk.min(e.pixels - p / e.chunk * e.chunk);
        moments[e.moment(n, p, ch)] += x[i] / count as f64;
    }
    for (i, (n, p, ch)) in e.elements().enumerate() {
        let at = e.moment(n, p, ch);
        moments[at + e.channels] += (x[i] - moments[at]).powi(2);
    }
}

fn group_norm_statistics(c: &mut Call) {
    let e = Extents::of(c.params);
    let (moments, statistics) = (&c.reads[0], &mut c.writes[0]);
    let elements = (e.pixels * e.members) as f64;
    for n in 0..e.batch {
        for g in 0..e.groups {
            let parts: Vec<_> = (0..e.chunks)
                .flat_map(|k| (g * e.members..(g + 1) * e.members).map(move |ch| (k, ch)))
                .map(|(k, ch)| {
                    let at = e.moment(n, k * e.chunk, ch);
                    (e.chunk.min(e.pixels - k * e.chunk) as f64, moments[at], moments[at + e.channels])
                })
                .collect();
            let mean = parts.iter().map(|(count, mean, _)| count * mean).sum::<f64>() / elements;
            let squares: f64 = parts.iter().map(|(count, m, squares)| squares + count * (m - mean).powi(2)).sum();
            statistics[2 * (n * e.groups + g)] = mean;
            statistics[2 * (n * e.groups + g) + 1] = 1.0 / (squares / elements + e.eps).sqrt();
        }
    }
}

fn group_norm_forward(c: &mut Call) {
    let e = Extents::of(c.params);
    let [x, statistics, gamma, beta] = c.reads else { return };
    for (i, (n, _, ch)) in e.elements().enumerate() {
        let at = e.pair(n, ch);
        let z = (x[i] - statistics[at]) * statistics[at + 1] * gamma[ch] + beta[ch];
        c.writes[0][i] = if e.silu { z * sigmoid(z) } else { z };
    }
}

/// xhat and dL/dz of element i, z being the value before SiLU.
fn xhat_dz(e: &Extents, reads: [&Vec<f64>; 5], i: usize, n: usize, ch: usize) -> (f64, f64) {
    let [x, statistics, gamma, beta, dy] = reads;
    let at = e.pair(n, ch);
    let xhat = (x[i] - statistics[at]) * statistics[at + 1];
    let z = xhat * gamma[ch] + beta[ch];
    let s = sigmoid(z);
    (xhat, dy[i] * if e.silu { s * (1.0 + z * (1.0 - s)) } else { 1.0 })
}

fn group_norm_backward_moments(c: &mut Call) {
    let e = Extents::of(c.params);
    let [x, statistics, gamma, beta, dy] = c.reads else { return };
    let moments = &mut c.writes[0];
    moments.fill(0.0);
    for (i, (n, p, ch)) in e.elements().enumerate() {
        let (xhat, dz) = xhat_dz(&e, [x, statistics, gamma, beta, dy], i, n, ch);
        let at = e.moment(n, p, ch);
        moments[at] += dz;
        moments[at + e.channels] += dz * xhat;
    }
}

fn group_norm_backward_statistics(c: &mut Call) {
    let e = Extents::of(c.params);
    let (sums, gamma, means) = (&c.reads[0], &c.reads[1], &mut c.writes[0]);
    means.fill(0.0);
    for n in 0..e.batch {
        for ch in 0..e.channels {
            for component in 0..2 {
                let share = gamma[ch] * sums[(2 * n + component) * e.channels + ch];
                means[e.pair(n, ch) + component] += share / (e.pixels * e.members) as f64;
            }
        }
    }
}

fn group_norm_backward_input(c: &mut Call) {
    let e = Extents::of(c.params);
    let [x, statistics, gamma, beta, means, dy] = c.reads else { return };
    for (i, (n, _, ch)) in e.elements().enumerate() {
        let (xhat, dz) = xhat_dz(&e, [x, statistics, gamma, beta, dy], i, n, ch);
        let at = e.pair(n, ch);
        c.writes[0][i] = statistics[at + 1] * (gamma[ch] * dz - means[at] - xhat * means[at + 1]);
    }
}

fn group_norm_backward_parameter(c: &mut Call) {
    let p = GroupNormParameterParams::of(c.params);
    let channels = p.channels as usize;
    for (ch, gradient) in c.updates[0].iter_mut().enumerate() {
        for n in 0..p.batch as usize {
            *gradient += c.reads[0][(2 * n + p.component as usize) * channels + ch];
        }
    }
}
