//! Twins of the pointwise kernels (`shader::cards::pointwise`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::pointwise::{CenterParams, ScaleParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("add", add),
    ("accumulate", accumulate),
    ("scale", scale),
    ("fill_zero", fill_zero),
    ("center", center),
    ("silu_forward", silu_forward),
    ("silu_backward", silu_backward),
];

fn add(c: &mut Call) {
    for (i, z) in c.writes[0].iter_mut().enumerate() {
        *z = c.reads[0][i] + c.reads[1][i];
    }
}

fn accumulate(c: &mut Call) {
    for (y, x) in c.updates[0].iter_mut().zip(&c.reads[0]) {
        *y += x;
    }
}

fn scale(c: &mut Call) {
    let p = ScaleParams::of(c.params);
    for (y, x) in c.writes[0].iter_mut().zip(&c.reads[0]) {
        *y = f64::from(p.factor) * x;
    }
}

fn fill_zero(c: &mut Call) {
    c.writes[0].fill(0.0);
}

fn center(c: &mut Call) {
    let p = CenterParams::of(c.params);
    for (i, (y, x)) in c.writes[0].iter_mut().zip(&c.reads[0]).enumerate() {
        *y = if i as u32 % p.stride < p.channels { 2.0 * x - 1.0 } else { 0.0 };
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu_forward(c: &mut Call) {
    for (y, &x) in c.writes[0].iter_mut().zip(&c.reads[0]) {
        *y = x * sigmoid(x);
    }
}

fn silu_backward(c: &mut Call) {
    for (i, dx) in c.writes[0].iter_mut().enumerate() {
        let (x, dy) = (c.reads[0][i], c.reads[1][i]);
        let s = sigmoid(x);
        *dx = dy * s * (1.0 + x * (1.0 - s));
    }
}
