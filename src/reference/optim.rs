//! Twins of the optimizer's kernels (`shader::cards::optim`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::optim::{CHUNK, GradientNormParams, SKIPS};

pub const TWINS: &[(&str, Twin)] =
    &[("sum_squares", sum_squares), ("gradient_norm", gradient_norm), ("adamw", adamw), ("ema", ema)];

fn sum_squares(c: &mut Call) {
    c.writes[0].fill(0.0);
    for (partial, chunk) in c.writes[0].iter_mut().zip(c.reads[0].chunks(CHUNK as usize)) {
        *partial = chunk.iter().map(|x| x * x).sum();
    }
}

fn gradient_norm(c: &mut Call) {
    let p = GradientNormParams::of(c.params);
    let total: f64 = c.reads[0].iter().sum();
    let status = &mut c.updates[0];
    let (scale, unscale) = (status[4], status[6]);
    // Finite as an f32, which is what the GPU sums in.
    if !(total as f32).is_finite() {
        status[..3].fill(0.0);
        status[3] += 1.0;
        if p.interval > 0 {
            status[5] = 0.0;
            if scale >= 1.0 {
                (status[4], status[6]) = (scale / 2.0, unscale * 2.0);
            }
        }
        return;
    }
    let norm = total.sqrt() * unscale;
    let factor = if p.max_norm > 0.0 { (f64::from(p.max_norm) / (norm + 1e-6)).min(1.0) } else { 1.0 };
    status[..3].copy_from_slice(&[factor * unscale, 1.0, norm]);
    if p.interval > 0 {
        status[5] += 1.0;
        if status[5] >= f64::from(p.interval) {
            status[5] = 0.0;
            if (1.0..16_777_216.0).contains(&scale) {
                (status[4], status[6]) = (scale * 2.0, unscale / 2.0);
            }
        }
    }
}

/// Where the three scalars are that depend on how many updates were skipped.
fn place(status: &[f64]) -> usize {
    5 + 3 * (status[3] as usize).min(SKIPS as usize - 1)
}

fn adamw(c: &mut Call) {
    let (scalars, status) = (&c.reads[0], &c.reads[1]);
    let [theta, gradient, m, v] = c.updates else { return };
    if status[1] != 0.0 {
        let at = place(status);
        for i in 0..theta.len() {
            let g = gradient[i] * status[0];
            m[i] += scalars[1] * (g - m[i]);
            v[i] = v[i] * scalars[2] + scalars[3] * g * g;
            theta[i] = theta[i] * scalars[0] - scalars[at] * m[i] / (v[i].sqrt() / scalars[at + 1] + scalars[4]);
        }
    }
    gradient.fill(0.0);
}

fn ema(c: &mut Call) {
    let (scalars, status, theta) = (&c.reads[0], &c.reads[1], &c.reads[2]);
    if status[1] != 0.0 {
        for (average, theta) in c.updates[0].iter_mut().zip(theta) {
            *average -= scalars[place(status) + 2] * (*average - theta);
        }
    }
}
