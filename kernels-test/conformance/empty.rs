//! Tensors without elements: every builder refuses them by an error that names it, and none divides by their extents.
//! Called by `conformance.rs`.

use super::harness::case::Bench;
use deme::error::Result;
use deme::kernels::broadcast::{add_channel_bias, scale_shift};
use deme::kernels::conv2d::{Conv2dSpec, conv2d};
use deme::kernels::ddim::{Predicts, ddim_step};
use deme::kernels::loss::{Weighing, deme_loss, squared_error, weighted_mse};
use deme::kernels::matmul::{column_sum, matmul};
use deme::kernels::merge::{merge_task_vectors, task_vector_dots};
use deme::kernels::noise::{noise, q_sample};
use deme::kernels::optim::{SCALARS, STATUS, adamw, ema, gradient_norm};
use deme::kernels::pointwise::{accumulate, add, center, scale, silu};
use deme::kernels::resample::{concat_channels, slice_channels, split_channels, upsample_nearest};
use deme::kernels::{attention::attention, channel_projection::channel_projection, group_norm::group_norm};
use deme::shape::Shape;

type Build = fn(&mut Bench, [u32; 4]) -> Result<()>;

/// A builder on x [N, H, W, C], one of whose extents is 0.
const BUILDERS: &[(&str, Build)] = &[
    ("add", |b, x| {
        let x = b.tensor("x", &x);
        add(&mut b.tape, &x, &x).map(drop)
    }),
    ("accumulate", |b, x| {
        let (x, y) = (b.tensor("x", &x), b.tensor("y", &x));
        accumulate(&mut b.tape.rec, &x, &y)
    }),
    ("scale", |b, x| {
        let x = b.tensor("x", &x);
        scale(&mut b.tape, &x, 0.5).map(drop)
    }),
    ("center", |b, x| {
        let x = b.tensor("x", &x);
        center(&mut b.tape, &x, x.shape.last()).map(drop)
    }),
    ("silu", |b, x| {
        let x = b.tensor("x", &x);
        silu(&mut b.tape, &x).map(drop)
    }),
    ("matmul", |b, x| {
        let x = b.tensor("x", &x);
        let w = b.tensor("w", &[x.shape.last(), 4]);
        matmul(&mut b.tape, &x, &w, None).map(drop)
    }),
    ("column_sum", |b, x| {
        let x = b.tensor("x", &x);
        let y = b.tensor("y", &[x.shape.last()]);
        column_sum(&mut b.tape.rec, &x, &y)
    }),
    ("conv2d", |b, x| {
        let x = b.tensor("x", &x);
        let w = b.tensor("w", &[3, 3, x.shape.last(), 4]);
        conv2d(&mut b.tape, &x, &w, None, Conv2dSpec::same(3)).map(drop)
    }),
    ("channel_projection", |b, x| {
        let x = b.tensor("x", &x);
        let w = b.tensor("w", &[x.shape.last(), x.shape.last()]);
        channel_projection(&mut b.tape, &x, &w).map(drop)
    }),
    ("group_norm", |b, x| {
        let x = b.tensor("x", &x);
        let gamma = b.tensor("gamma", &[x.shape.last()]);
        group_norm(&mut b.tape, &x, &gamma, &gamma, 2, 1e-5, true).map(drop)
    }),
    ("attention", |b, x| {
        let x = b.tensor("x", &x);
        attention(&mut b.tape, &x, &x, &x, 2, None).map(drop)
    }),
    ("add_channel_bias", |b, x| {
        let t = b.tensor("t", &[x[0], x[3]]);
        let x = b.tensor("x", &x);
        add_channel_bias(&mut b.tape, &x, &t).map(drop)
    }),
    ("scale_shift", |b, x| {
        let t = b.tensor("t", &[x[0], x[3]]);
        let x = b.tensor("x", &x);
        scale_shift(&mut b.tape, &x, &t, &t).map(drop)
    }),
    ("upsample_nearest", |b, x| {
        let x = b.tensor("x", &x);
        upsample_nearest(&mut b.tape, &x).map(drop)
    }),
    ("concat_channels", |b, x| {
        let x = b.tensor("x", &x);
        concat_channels(&mut b.tape, &x, &x).map(drop)
    }),
    ("slice_channels", |b, x| {
        let x = b.tensor("x", &x);
        slice_channels(&mut b.tape, &x, 0, x.shape.last()).map(drop)
    }),
    ("split_channels", |b, x| {
        let x = b.tensor("x", &x);
        split_channels(&mut b.tape, &x).map(drop)
    }),
    ("squared_error", |b, x| {
        let x = b.tensor("x", &x);
        squared_error(&mut b.tape.rec, &x, &x, x.shape.last()).map(drop)
    }),
    ("weighted_mse", |b, x| {
        let weights = b.tensor("weights", &[x[0]]);
        let x = b.tensor("x", &x);
        weighted_mse(&mut b.tape, &x, &x, &weights, x.shape.last()).map(drop)
    }),
    ("deme_loss", |b, x| {
        let (weights, status) = (b.tensor("weights", &[x[0]]), b.tensor("status", &[STATUS]));
        let x = b.tensor("x", &x);
        let weighing = Weighing { weights: &weights, lambda: 1.0, status: &status };
        deme_loss(&mut b.tape.rec, &x, &x, None, weighing, x.shape.last()).map(drop)
    }),
    ("noise", |b, x| {
        let key = b.words("key", &[6], vec![0; 6]);
        noise(&mut b.tape.rec, &key, Shape::new(x), x[3]).map(drop)
    }),
    ("q_sample", |b, x| {
        let coefficients = b.tensor("coefficients", &[x[0], 4]);
        let x = b.tensor("x", &x);
        q_sample(&mut b.tape.rec, &x, &x, &coefficients, x.shape.last()).map(drop)
    }),
    ("ddim_step", |b, x| {
        let coefficients = b.tensor("coefficients", &[8]);
        let (x, output) = (b.tensor("x", &x), b.tensor("output", &x));
        ddim_step(&mut b.tape.rec, &x, &output, None, &coefficients, x.shape.last(), Predicts::Epsilon)
    }),
    ("merge_task_vectors", |b, x| {
        let (merged, models, weights) = (b.tensor("merged", &x), b.tensor("models", &x), b.tensor("weights", &[2]));
        merge_task_vectors(&mut b.tape.rec, &models, &weights, &merged)
    }),
    ("task_vector_dots", |b, x| {
        let (gradient, models, dots) = (b.tensor("gradient", &x), b.tensor("models", &x), b.tensor("dots", &[2]));
        task_vector_dots(&mut b.tape.rec, &gradient, &models, &dots)
    }),
    ("gradient_norm", |b, x| {
        let (gradient, status) = (b.tensor("gradient", &x), b.tensor("status", &[STATUS]));
        gradient_norm(&mut b.tape.rec, &[gradient], 1.0, 0, &status)
    }),
    ("adamw", |b, x| {
        let [theta, gradient, m, v] = ["theta", "gradient", "m", "v"].map(|name| b.tensor(name, &x));
        let (scalars, status) = (b.tensor("scalars", &[SCALARS]), b.tensor("status", &[STATUS]));
        adamw(&mut b.tape.rec, &scalars, &status, &theta, &gradient, &m, &v)
    }),
    ("ema", |b, x| {
        let [theta, average] = ["theta", "average"].map(|name| b.tensor(name, &x));
        let (scalars, status) = (b.tensor("scalars", &[SCALARS]), b.tensor("status", &[STATUS]));
        ema(&mut b.tape.rec, &scalars, &status, &theta, &average)
    }),
];

#[test]
fn empty_tensors_are_refused_by_every_builder() {
    let mut accepted = Vec::new();
    for &(name, build) in BUILDERS {
        for extents in [[0, 4, 4, 8], [2, 0, 4, 8], [2, 4, 0, 8], [2, 4, 4, 0]] {
            if build(&mut Bench::new(1), extents).is_ok() {
                accepted.push(format!("{name} {extents:?}"));
            }
        }
    }
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
}
