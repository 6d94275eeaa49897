//! Group norm with and without SiLU, forward and backward.
//! Called by `conformance.rs`. Bounds are first-order error propagation through the formula, in units of u = 2^-24; the
//! exponential is held to WGSL's interval of 3 + 2 |z| units in the last place.

use super::harness::case::{Bench, Fill};
use super::harness::compare::{Twinned, U};
use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::group_norm::group_norm;
use deme::kernels::pointwise::add;
use deme::recording::Tensor;
use deme::shader::card::Params;
use deme::shader::cards::norm::{GroupNormParameterParams, GroupNormParams};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("group_norm_moments", Tolerance::Custom(moments)),
    ("group_norm_statistics", Tolerance::Custom(statistics)),
    ("group_norm_forward", Tolerance::Custom(forward)),
    ("group_norm_backward_moments", Tolerance::Custom(backward_moments)),
    ("group_norm_backward_statistics", Tolerance::Sum(|op| u64::from(members(&op.params)) + 2)),
    ("group_norm_backward_input", Tolerance::Custom(backward_input)),
    (
        "group_norm_backward_parameter",
        Tolerance::Sum(|op| u64::from(GroupNormParameterParams::of(&op.params).batch) + 1),
    ),
];

fn members(words: &[u32]) -> u32 {
    let p = GroupNormParams::of(words);
    p.channels / p.groups
}

/// Element i of [batch, pixels, channels]: (sample, channel, place of its group's pair, place of its chunk's first sum).
fn place(p: &GroupNormParams, i: usize) -> (usize, usize, usize, usize) {
    let [pixels, channels, groups, chunk] = [p.pixels, p.channels, p.groups, p.chunk].map(|v| v as usize);
    let (n, pixel, c) = (i / channels / pixels, i / channels % pixels, i % channels);
    let pair = 2 * (n * groups + c / (channels / groups));
    (n, c, pair, (n * pixels.div_ceil(chunk) + pixel / chunk) * 2 * channels + c)
}

/// The mean by 2 K u mean |x|; the squares by their own sum and by the square of the mean's error.
fn moments(t: &Twinned) -> Vec<Vec<f64>> {
    let p = GroupNormParams::of(&t.op.params);
    let (x, expected) = (&t.reads[0], &t.outputs[0]);
    let (k, channels) = (f64::from(p.chunk.min(p.pixels)), p.channels as usize);
    let mut bound = vec![f64::MIN_POSITIVE; expected.len()];
    let mut counts = vec![0.0; expected.len()];
    for (i, x) in x.iter().enumerate() {
        let at = place(&p, i).3;
        bound[at] += x.abs();
        counts[at] += 1.0;
    }
    for at in (0..bound.len()).filter(|at| at / channels % 2 == 0) {
        bound[at] *= 2.0 * k * U / counts[at];
        bound[at + channels] = 2.0 * (k + 4.0) * U * expected[at + channels] + counts[at] * bound[at].powi(2);
        bound[at + channels] += f64::from(f32::MIN_POSITIVE);
    }
    vec![bound]
}

fn statistics(t: &Twinned) -> Vec<Vec<f64>> {
    let p = GroupNormParams::of(&t.op.params);
    let (moments, expected) = (&t.reads[0], &t.outputs[0]);
    let [pixels, channels, chunk] = [p.pixels, p.channels, p.chunk].map(|v| v as usize);
    let terms = f64::from(p.pixels.div_ceil(p.chunk) * members(&p.words()));
    let mut sizes = vec![0.0; expected.len()];
    for first in (0..p.batch as usize * pixels).filter(|i| i % pixels % chunk == 0) {
        let count = chunk.min(pixels - first % pixels) as f64;
        for c in 0..channels {
            let (_, _, pair, at) = place(&p, first * channels + c);
            sizes[pair] += count * moments[at].abs() / (pixels * members(&p.words()) as usize) as f64;
        }
    }
    let mut bound = vec![0.0; expected.len()];
    for g in 0..expected.len() / 2 {
        let (size, rstd) = (sizes[2 * g], expected[2 * g + 1]);
        bound[2 * g] = 2.0 * (terms + 2.0) * U * size + f64::from(f32::MIN_POSITIVE);
        // d rstd / rstd = -d variance / (2 (variance + eps)); the mean's error enters squared.
        let variance = 2.0 * (terms + 8.0) * U / rstd.powi(2) + bound[2 * g].powi(2);
        bound[2 * g + 1] = rstd * (0.5 * variance * rstd.powi(2) + 6.0 * U);
    }
    vec![bound]
}

/// Relative error of 1 / (1 + exp(-z)) by WGSL: the exponential's where it matters, addition and division.
fn sigmoid_error(z: f64) -> f64 {
    let e = (-z).exp();
    let share = if e.is_finite() { e / (1.0 + e) } else { 1.0 };
    share * (3.0 + 2.0 * z.abs()) * 2.0 * U + 8.0 * U
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

fn forward(t: &Twinned) -> Vec<Vec<f64>> {
    let p = GroupNormParams::of(&t.op.params);
    let [x, statistics, gamma, beta] = t.reads.as_slice() else { panic!("four reads") };
    let bound = |(i, x): (usize, &f64)| {
        let (_, c, at, _) = place(&p, i);
        let size = (x.abs() + statistics[at].abs()) * statistics[at + 1] * gamma[c].abs() + beta[c].abs();
        let linear = 2.0 * 4.0 * U * size;
        if p.silu == 0 {
            return linear;
        }
        let z = (x - statistics[at]) * statistics[at + 1] * gamma[c] + beta[c];
        1.1 * linear + (z * sigmoid(z)).abs() * sigmoid_error(z) + f64::from(f32::MIN_POSITIVE)
    };
    vec![x.iter().enumerate().map(bound).collect()]
}

/// xhat, dz and their errors, for element i.
fn xhat_dz(p: &GroupNormParams, reads: [&Vec<f64>; 5], i: usize) -> [f64; 4] {
    let [x, statistics, gamma, beta, dy] = reads;
    let (_, c, at, _) = place(p, i);
    let xhat = (x[i] - statistics[at]) * statistics[at + 1];
    let xhat_error = 4.0 * U * (x[i].abs() + statistics[at].abs()) * statistics[at + 1];
    if p.silu == 0 {
        return [xhat, dy[i], xhat_error, 0.0];
    }
    let z = xhat * gamma[c] + beta[c];
    let z_error = xhat_error * gamma[c].abs() + 4.0 * U * (z.abs() + beta[c].abs());
    let s = sigmoid(z);
    let dz = dy[i] * s * (1.0 + z * (1.0 - s));
    // |silu''| <= 1/2; a relative error r of s enters as s r (1 + |z|).
    let dz_error = dy[i].abs() * (0.5 * z_error + s * (sigmoid_error(z) + 4.0 * U) * (1.0 + z.abs()));
    [xhat, dz, xhat_error, dz_error + f64::from(f32::MIN_POSITIVE)]
}

fn backward_moments(t: &Twinned) -> Vec<Vec<f64>> {
    let p = GroupNormParams::of(&t.op.params);
    let [x, statistics, gamma, beta, dy] = t.reads.as_slice() else { panic!("five reads") };
    let mut bound = vec![f64::from(f32::MIN_POSITIVE); t.outputs[0].len()];
    let factor = 2.0 * (f64::from(p.chunk.min(p.pixels)) + 2.0) * U;
    for i in 0..x.len() {
        let [xhat, dz, xhat_error, dz_error] = xhat_dz(&p, [x, statistics, gamma, beta, dy], i);
        let at = place(&p, i).3;
        bound[at] += factor * dz.abs() + dz_error;
        bound[at + p.channels as usize] += factor * (dz * xhat).abs() + dz_error * xhat.abs() + dz.abs() * xhat_error;
    }
    vec![bound]
}

fn backward_input(t: &Twinned) -> Vec<Vec<f64>> {
    let p = GroupNormParams::of(&t.op.params);
    let [x, statistics, gamma, beta, means, dy] = t.reads.as_slice() else { panic!("six reads") };
    let bound = |i: usize| {
        let [xhat, dz, xhat_error, dz_error] = xhat_dz(&p, [x, statistics, gamma, beta, dy], i);
        let (_, c, at, _) = place(&p, i);
        let size = (gamma[c] * dz).abs() + means[at].abs() + (xhat * means[at + 1]).abs();
        let inner = 2.0 * 4.0 * U * size + gamma[c].abs() * dz_error + means[at + 1].abs() * xhat_error;
        statistics[at + 1] * inner + f64::from(f32::MIN_POSITIVE)
    };
    vec![(0..x.len()).map(bound).collect()]
}

/// Samples, pixels, channels, groups.
const SHAPES: [[u32; 4]; 24] = [
    [1, 1, 2, 1],
    [1, 1, 4, 1],
    [1, 2, 1, 1],
    [2, 4, 4, 4],
    [2, 3, 6, 3],
    [1, 16, 8, 2],
    [3, 17, 12, 3],
    [2, 15, 20, 4],
    [1, 64, 32, 32],
    [2, 64, 64, 32],
    [1, 64, 96, 32],
    [2, 16, 256, 32],
    [1, 9, 320, 32],
    [1, 255, 8, 4],
    [1, 256, 10, 5],
    [1, 257, 16, 1],
    [5, 7, 35, 7],
    [1, 1024, 8, 8],
    [1, 1023, 3, 1],
    [2, 2500, 4, 2],
    [8, 36, 24, 8],
    [1, 1, 512, 32],
    [33, 2, 9, 3],
    [2, 100, 28, 14],
];

fn recorded(b: &mut Bench, x: &Tensor, groups: u32, silu: bool) -> Result<Tensor> {
    let channels = x.shape.last();
    let (gamma, beta) = (b.parameter("gamma", &[channels]), b.parameter("beta", &[channels]));
    group_norm(&mut b.tape, x, &gamma, &beta, groups, 1e-5, silu)
}

pub fn cases(f: &mut Family) {
    for [n, p, c, groups] in SHAPES {
        for silu in [false, true] {
            f.case(&format!("{n}x{p}x{c} in {groups} groups, silu {silu}"), |b| {
                let x = b.watched("x", &[n, p, c]);
                let y = recorded(b, &x, groups, silu)?;
                b.backward(&y)
            });
        }
    }
    // A mean far from zero: sums of squares without a shift would lose every digit.
    for (low, high) in [(1000.0, 1001.0), (-80.0, 80.0), (3.0, 3.0), (0.0, 1e-6)] {
        f.case(&format!("values from {low} to {high}"), |b| {
            let x = b.filled("x", &[2, 70, 8], Fill::Uniform(low, high));
            b.tape.watch(&x);
            let y = recorded(b, &x, 2, true)?;
            b.backward(&y)
        });
    }
    // SiLU far out, where exp overflows.
    f.case("gamma of 60", |b| {
        let x = b.watched("x", &[1, 40, 8]);
        let gamma = b.filled("gamma", &[8], Fill::Values(vec![60.0, -60.0, 1.0, 0.0, 90.0, 30.0, 1e-3, 100.0]));
        let beta = b.tensor("beta", &[8]);
        let y = group_norm(&mut b.tape, &x, &gamma, &beta, 2, 1e-6, true)?;
        b.backward(&y)
    });
    for (channels, groups, silu) in
        [(4, 2, false), (4, 2, true), (6, 3, true), (5, 1, false), (8, 8, true), (8, 2, true)]
    {
        f.gradient(&format!("{channels} in {groups}, silu {silu}"), |b| {
            let x = b.watched("x", &[2, 3, 6, channels]);
            recorded(b, &x, groups, silu)
        });
    }
    f.gradient("through a skip", |b| {
        let x = b.watched("x", &[1, 20, 6]);
        let y = recorded(b, &x, 2, true)?;
        add(&mut b.tape, &x, &y)
    });
    f.gradient("gamma and beta frozen", |b| {
        let (x, gamma, beta) = (b.watched("x", &[2, 5, 6]), b.tensor("gamma", &[6]), b.tensor("beta", &[6]));
        group_norm(&mut b.tape, &x, &gamma, &beta, 2, 1e-5, true)
    });
    f.gradient("x normed by itself: gamma and beta are x", |b| {
        let x = b.watched("x", &[1, 1, 8]);
        group_norm(&mut b.tape, &x, &x, &x, 2, 1e-2, true)
    });
    f.rejects(&["group_norm", "[1, 4, 6]", "4 groups"], |b| {
        let (x, g) = (b.tensor("x", &[1, 4, 6]), b.tensor("g", &[6]));
        group_norm(&mut b.tape, &x, &g, &g, 4, 1e-5, false)
    });
    f.rejects(&["group_norm", "[1, 4, 6]", "0 groups"], |b| {
        let (x, g) = (b.tensor("x", &[1, 4, 6]), b.tensor("g", &[6]));
        group_norm(&mut b.tape, &x, &g, &g, 0, 1e-5, false)
    });
    f.rejects(&["group_norm", "[1, 4, 6]", "[4]"], |b| {
        let (x, g, h) = (b.tensor("x", &[1, 4, 6]), b.tensor("g", &[6]), b.tensor("h", &[4]));
        group_norm(&mut b.tape, &x, &g, &h, 2, 1e-5, false)
    });
    f.rejects(&["group_norm", "eps"], |b| {
        let (x, g) = (b.tensor("x", &[1, 4, 6]), b.tensor("g", &[6]));
        group_norm(&mut b.tape, &x, &g, &g, 2, 0.0, false)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let x = b.watched("x", &[2, 90, 8]);
            let y = recorded(b, &x, 2, true)?;
            b.backward(&y)
        });
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 48);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader(
        "no shift",
        "group_norm_moments",
        "group_norm_moments",
        "x[start + p * width] - mean",
        "x[start + p * width]",
    ),
    Fault::shader(
        "ragged chunk counted whole",
        "group_norm_statistics",
        "group_norm_statistics_v1",
        "f32(min(params.chunk, params.pixels - k * params.chunk))",
        "f32(params.chunk)",
    ),
    Fault::shader(
        "missing barrier's loss: one lane's share",
        "group_norm_statistics",
        "group_norm_statistics_tiled",
        "if lane < step {",
        "if lane > 0u && lane < step {",
    ),
    Fault::shader("eps lost", "group_norm_statistics", "group_norm_statistics_v1", " + params.eps", " + 0.1"),
    Fault::shader(
        "neighbour's group",
        "group_norm_forward",
        "group_norm_forward",
        "load_statistics(n, c)",
        "load_statistics(n, 0u)",
    ),
    Fault::shader("beta lost", "group_norm_forward", "group_norm_forward", "* factor + offset", "* factor"),
    Fault::shader(
        "SiLU's derivative halved",
        "group_norm_backward_moments",
        "group_norm_backward_moments",
        "(1.0 + z * (1.0 - sigmoid))",
        "(1.0 - z * (1.0 - sigmoid))",
    ),
    Fault::shader(
        "gamma lost",
        "group_norm_backward_statistics",
        "group_norm_backward_statistics",
        "gamma[c] * vec2",
        "vec2",
    ),
    Fault::shader("mean term lost", "group_norm_backward_input", "group_norm_backward_input", " - m.first", ""),
    Fault::shader(
        "overwrites",
        "group_norm_backward_parameter",
        "group_norm_backward_parameter",
        "+= total",
        "= total",
    ),
];
