//! The sinusoidal embedding of a timestep (Vaswani et al. 2017), the input of a UNet's time MLP.
//! Called by whoever fills a step's inputs: training, sampling, evaluation.

use crate::error::{Error, Result};

/// `dim` values for timestep `t`: sin(t f_i) then cos(t f_i), f_i = 10000^(-i / (dim/2 - freq_shift)), swapped if
/// `flip_sin_to_cos`, and a 0 if `dim` is odd (diffusers' get_timestep_embedding).
///
/// The frequencies and the arguments are rounded to f32 where diffusers rounds them: at t = 999 the rounding of the
/// argument alone moves the sine by 3e-5, and networks were trained with that. The functions themselves are f64.
///
/// # Errors
/// `Shape` if `dim` leaves no frequency (dim/2 <= freq_shift).
pub fn timestep_embedding(t: usize, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Vec<f32>> {
    let half = dim / 2;
    let span = half as f64 - freq_shift;
    if half == 0 || span <= 0.0 {
        let message = format!("width {dim} with freq_shift {freq_shift} leaves no frequencies");
        return Err(Error::shape("timestep_embedding", message));
    }
    let argument = |i: usize| {
        let exponent = -(1e4f64.ln() as f32) * i as f32 / span as f32;
        let frequency = f64::from(exponent).exp() as f32;
        f64::from(t as f32 * frequency)
    };
    let sines = (0..half).map(|i| argument(i).sin() as f32);
    let cosines = (0..half).map(|i| argument(i).cos() as f32);
    let mut embedding: Vec<f32> =
        if flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
    embedding.resize(dim, 0.0);
    Ok(embedding)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn halves_swap_and_odd_widths_are_padded() {
        let plain = timestep_embedding(37, 6, false, 1.0).unwrap();
        let flipped = timestep_embedding(37, 7, true, 1.0).unwrap();
        assert_eq!((&plain[..3], &plain[3..]), (&flipped[3..6], &flipped[..3]));
        assert_eq!(flipped[6], 0.0);
        assert!((f64::from(plain[0]) - 37f64.sin()).abs() < 1e-7, "the first frequency is 1");
        assert!((f64::from(plain[2]) - 37e-4f64.sin()).abs() < 1e-9, "with a shift of 1 the last is 1/10000");
    }

    #[test]
    fn a_width_without_frequencies_is_refused() {
        assert!(timestep_embedding(1, 2, false, 1.0).is_err());
        assert!(timestep_embedding(1, 1, false, 0.0).is_err());
    }
}
