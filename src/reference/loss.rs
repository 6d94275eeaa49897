//! Twins of the losses (`shader::cards::loss`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::loss::{DemeLossParams, WeightedMseParams};

pub const TWINS: &[(&str, Twin)] =
    &[("weighted_mse", weighted_mse), ("weighted_mse_backward", weighted_mse_backward), ("deme_loss", deme_loss)];

fn weighted_mse(c: &mut Call) {
    let p = WeightedMseParams::of(c.params);
    let elements = f64::from(p.image / p.stride * p.channels);
    for n in 0..p.images as usize {
        let mut sum = 0.0;
        for j in (0..p.image).filter(|j| j % p.stride < p.channels) {
            let at = n * p.image as usize + j as usize;
            sum += (c.reads[0][at] - c.reads[1][at]).powi(2);
        }
        let weight = if p.has_weights == 0 { 1.0 } else { c.reads[2][n] };
        c.writes[0][n] = weight * sum / elements;
    }
}

fn weighted_mse_backward(c: &mut Call) {
    let p = WeightedMseParams::of(c.params);
    let elements = f64::from(p.image / p.stride * p.channels);
    for (i, dx) in c.writes[0].iter_mut().enumerate() {
        let n = i / p.image as usize;
        let weight = if p.has_weights == 0 { 1.0 } else { c.reads[2][n] };
        let d = c.reads[0][i] - c.reads[1][i];
        *dx = if i as u32 % p.stride >= p.channels { 0.0 } else { c.reads[3][n] * weight * 2.0 * d / elements };
    }
}

fn deme_loss(c: &mut Call) {
    let p = DemeLossParams::of(c.params);
    let elements = f64::from(p.image / p.stride * p.channels);
    for n in 0..p.images as usize {
        let factor = c.reads[4][4] * 2.0 * c.reads[3][n] / (f64::from(p.images) * elements);
        let (mut noise, mut consistency) = (0.0, 0.0);
        for j in 0..p.image {
            let at = n * p.image as usize + j as usize;
            if j % p.stride >= p.channels {
                c.writes[1][at] = 0.0;
                continue;
            }
            let x = c.reads[0][at];
            let to_target = x - c.reads[1][at];
            let to_teacher = if p.has_teacher == 0 { 0.0 } else { x - c.reads[2][at] };
            noise += to_target * to_target;
            consistency += to_teacher * to_teacher;
            c.writes[1][at] = factor * (to_target + f64::from(p.lambda) * to_teacher);
        }
        c.writes[0][2 * n] = noise / elements;
        c.writes[0][2 * n + 1] = consistency / elements;
    }
}
