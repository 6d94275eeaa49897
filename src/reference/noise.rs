//! Twins of the diffusion process's kernels (`shader::cards::noise`).

use super::{Call, Twin};
use crate::rng::philox;
use crate::shader::card::Params;
use crate::shader::cards::noise::{DdimStepParams, NoiseParams, QSampleParams};

pub const TWINS: &[(&str, Twin)] = &[("noise", noise), ("q_sample", q_sample), ("ddim_step", ddim_step)];

/// sqrt(-2 ln(k 2^-24))
pub fn normal_radius(k: u32) -> f64 {
    (-2.0 * (f64::from(k) * 2f64.powi(-24)).ln()).sqrt()
}

/// (cos, sin)(2 pi k 2^-24), exact where a quarter turn is.
pub fn normal_turn(k: u32) -> [f64; 2] {
    let quadrant = (k + (1 << 21)) >> 22;
    let rest = f64::from(k as i32 - (quadrant << 22) as i32) * 2f64.powi(-24);
    let (s, c) = (2.0 * std::f64::consts::PI * rest).sin_cos();
    match quadrant % 4 {
        0 => [c, s],
        1 => [-s, c],
        2 => [-c, -s],
        _ => [s, -c],
    }
}

/// `rng::normal4` with turns reduced exactly.
pub fn normal4(seed: u64, stream: u64, block: u64) -> [f64; 4] {
    let k = philox(seed, stream, block).map(|w| w >> 8);
    let pair = |u: u32, v: u32| normal_turn(v).map(|t| normal_radius(u + 1) * t);
    let ([a, b], [c, d]) = (pair(k[0], k[1]), pair(k[2], k[3]));
    [a, b, c, d]
}

fn noise(c: &mut Call) {
    let p = NoiseParams::of(c.params);
    let wide = |i: usize| (c.reads[0][i] as u64) | ((c.reads[0][i + 1] as u64) << 32);
    let (seed, stream, first) = (wide(0), wide(2), wide(4));
    for (i, x) in c.writes[0].iter_mut().enumerate() {
        let (image, element) = (i as u64 / u64::from(p.image), i as u64 % u64::from(p.image));
        let block = first.wrapping_add(image * u64::from(p.blocks) + element / 4);
        let pad = i as u32 % p.stride >= p.channels;
        *x = if pad { 0.0 } else { normal4(seed, stream, block)[(element % 4) as usize] };
    }
}

fn q_sample(c: &mut Call) {
    let p = QSampleParams::of(c.params);
    for i in 0..p.count as usize {
        let (x_0, noise) = (c.reads[0][i], c.reads[1][i]);
        let coefficients = &c.reads[2][4 * (i / p.image as usize)..];
        let pad = i as u32 % p.stride >= p.channels;
        let mix = |a: f64, b: f64| if pad { 0.0 } else { a * x_0 + b * noise };
        c.writes[0][i] = mix(coefficients[0], coefficients[1]);
        c.writes[1][i] = mix(coefficients[2], coefficients[3]);
    }
}

fn ddim_step(c: &mut Call) {
    let p = DdimStepParams::of(c.params);
    let step = &c.reads[2];
    let (a, b) = (step[0], step[1]);
    for i in 0..p.count as usize {
        let (x, output) = (c.updates[0][i], c.reads[0][i]);
        let (x_0, epsilon) = match p.predicts {
            0 => ((x - b * output) / a, output),
            1 => (a * x - b * output, a * output + b * x),
            _ => (output, (x - a * output) / b),
        };
        let noise = if p.has_noise == 0 { 0.0 } else { c.reads[1][i] };
        let next = step[2] * x_0.clamp(-step[5], step[5]) + step[3] * epsilon + step[4] * noise;
        c.updates[0][i] = if i as u32 % p.stride >= p.channels { 0.0 } else { next };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn normals_are_those_of_the_host() {
        for block in 0..10_000 {
            let (ours, host) = (super::normal4(3, 5, block), crate::rng::normal4(3, 5, block));
            assert!(ours.iter().zip(host).all(|(a, b)| (a - b).abs() < 1e-13), "{block}: {ours:?} {host:?}");
        }
    }
}
