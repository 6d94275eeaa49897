//! Builder of the DDIM update.
//! Called by `diffusion`, once a sampling step.

use super::{count, noise::image, same_shape};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::noise::{DDIM_STEP, DdimStepParams};

/// What the model's output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predicts {
    Epsilon,
    V,
    /// x_0 itself.
    Sample,
}

/// Length of the coefficients' input.
pub const COEFFICIENTS: u32 = 8;

/// The coefficients' words: [sqrt_alpha_bar, sqrt_one_minus_alpha_bar, sqrt_alpha_bar_prev, direction, sigma], and the
/// range that x_0 is clamped to.
pub fn coefficients(step: [f64; 5], clip: Option<f64>) -> [u32; COEFFICIENTS as usize] {
    let clip = clip.map_or(f32::MAX, |range| range as f32);
    let [a, b, c, d, e] = step.map(|v| (v as f32).to_bits());
    [a, b, c, d, e, clip.to_bits(), 0, 0]
}

/// x_t -> x_t_prev in place: x [N, H, W, C as stored], the model's `output` and standard normal `noise` alike (none for
/// eta = 0), `coefficients` [8] as above. Pad channels become 0.
pub fn ddim_step(
    rec: &mut Recording,
    x: &Tensor,
    output: &Tensor,
    noise: Option<&Tensor>,
    coefficients: &Tensor,
    channels: u32,
    predicts: Predicts,
) -> Result<()> {
    let [.., stride] = image("ddim_step", x.shape, channels)?;
    same_shape("ddim_step", x, output)?;
    if let Some(noise) = noise {
        same_shape("ddim_step", x, noise)?;
    }
    if coefficients.elements() != u64::from(COEFFICIENTS) {
        let got = coefficients.shape;
        return Err(Error::shape("ddim_step", format!("the coefficients are [{COEFFICIENTS}], got {got}")));
    }
    let params = DdimStepParams {
        count: count("ddim_step", x)?,
        channels,
        stride,
        predicts: predicts as u32,
        has_noise: u32::from(noise.is_some()),
    };
    let noise = noise.copied().unwrap_or_else(|| rec.absent());
    rec.push(&DDIM_STEP, &params, &[*output, noise, *coefficients], &[], &[*x])
}
