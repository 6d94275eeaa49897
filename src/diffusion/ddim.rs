//! One DDIM step (Song et al. 2020, eq. 12 and 16) as a handful of coefficients, and its f64 reference.
//! Called by sampling, which hands the coefficients to the DDIM kernel.

use super::schedule::{Prediction, Schedule};
use super::spacing::Step;
use crate::error::{Error, Result};

/// Everything that x_t -> x_{t_prev} needs besides the tensors. alpha_bar is the cumulative product (the paper's alpha).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DdimStep {
    pub prediction: Prediction,
    pub sqrt_alpha_bar: f64,
    pub sqrt_one_minus_alpha_bar: f64,
    pub sqrt_alpha_bar_prev: f64,
    /// sqrt(1 - alpha_bar_prev - sigma^2), the weight of the predicted noise.
    pub direction: f64,
    /// Standard deviation of the added noise; 0 for eta = 0.
    pub sigma: f64,
    /// The predicted x_0 is clamped to +- this.
    pub clip: Option<f64>,
}

impl Schedule {
    /// eta = 0 is deterministic, eta = 1 has the noise of DDPM.
    ///
    /// # Errors
    /// `Usage` for eta outside 0..=1, where alpha_bar_t = 0 leaves an epsilon prediction without a signal, and where
    /// alpha_bar_t = 1 leaves a prediction of x_0 without noise.
    pub fn ddim_step(&self, step: Step, eta: f64) -> Result<DdimStep> {
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::usage(format!("eta is {eta}"), "choose --eta between 0 and 1"));
        }
        let alpha_bar = self.alpha_bar[step.t];
        let alpha_bar_prev = step.t_prev.map_or(self.final_alpha_bar, |t| self.alpha_bar[t]);
        if alpha_bar == 0.0 && self.prediction == Prediction::Epsilon {
            return Err(Error::usage(
                format!("timestep {} is pure noise (alpha_bar = 0), from which epsilon tells nothing", step.t),
                "choose --spacing leading, or a model with v_prediction",
            ));
        }
        if alpha_bar == 1.0 && self.prediction == Prediction::Sample {
            return Err(Error::usage(
                format!("timestep {} has no noise (alpha_bar = 1), which a prediction of x_0 leaves unknown", step.t),
                "choose another --spacing, or a schedule whose first beta is above 0",
            ));
        }
        // Without noise at t there is none to add.
        let variance = if alpha_bar < 1.0 {
            (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev)
        } else {
            0.0
        };
        let sigma = eta * variance.sqrt();
        Ok(DdimStep {
            prediction: self.prediction,
            sqrt_alpha_bar: alpha_bar.sqrt(),
            sqrt_one_minus_alpha_bar: (1.0 - alpha_bar).sqrt(),
            sqrt_alpha_bar_prev: alpha_bar_prev.sqrt(),
            direction: (1.0 - alpha_bar_prev - sigma * sigma).max(0.0).sqrt(),
            sigma,
            clip: self.clip,
        })
    }
}

impl DdimStep {
    /// x_{t_prev} of one element, from x_t, the network's `output` and a standard normal `noise`.
    /// Like diffusers, the predicted noise is not corrected for the clamped x_0.
    pub fn apply(&self, x: f64, output: f64, noise: f64) -> f64 {
        let (a, b) = (self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar);
        let (x_0, epsilon) = match self.prediction {
            Prediction::Epsilon => ((x - b * output) / a, output),
            Prediction::V => (a * x - b * output, a * output + b * x),
            Prediction::Sample => (output, (x - a * output) / b),
        };
        let x_0 = self.clip.map_or(x_0, |range| x_0.clamp(-range, range));
        self.sqrt_alpha_bar_prev * x_0 + self.direction * epsilon + self.sigma * noise
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn schedule(json: &str) -> Schedule {
        Schedule::from_json(std::path::Path::new("test"), &serde_json::from_str(json).unwrap()).unwrap()
    }

    /// A network that knows the truth takes x_t to x_{t_prev} of the same x_0 and epsilon, whatever it predicts.
    #[test]
    fn a_perfect_prediction_stays_on_the_noising_path() {
        let (x_0, epsilon) = (0.4, -1.3);
        for kind in ["epsilon", "v_prediction", "sample"] {
            let schedule = schedule(&format!(r#"{{"prediction_type": "{kind}"}}"#));
            for (t, t_prev) in [(999, Some(750)), (250, Some(249)), (20, Some(0)), (0, None)] {
                let (a, b) = schedule.noising(t);
                let (c, d) = schedule.target(t);
                let (a_prev, b_prev) = t_prev.map_or((1.0, 0.0), |t| schedule.noising(t));
                let step = schedule.ddim_step(Step { t, t_prev }, 0.0).unwrap();
                let got = step.apply(a * x_0 + b * epsilon, c * epsilon + d * x_0, 9.0);
                assert!((got - (a_prev * x_0 + b_prev * epsilon)).abs() < 1e-12, "{kind} {t}");
            }
        }
    }

    #[test]
    fn eta_one_keeps_the_total_variance() {
        let step = schedule("{}").ddim_step(Step { t: 600, t_prev: Some(480) }, 1.0).unwrap();
        let total = step.sqrt_alpha_bar_prev.powi(2) + step.direction.powi(2) + step.sigma.powi(2);
        assert!(step.sigma > 0.1 && (total - 1.0).abs() < 1e-12);
    }

    #[test]
    fn eta_outside_the_unit_interval_and_steps_without_signal_are_refused() {
        let plain = schedule("{}");
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(plain.ddim_step(Step { t: 9, t_prev: None }, eta).is_err());
        }
        let last = Step { t: 999, t_prev: Some(979) };
        assert!(schedule(r#"{"rescale_betas_zero_snr": true}"#).ddim_step(last, 0.0).is_err());
        let clean = r#"{"num_train_timesteps": 2, "trained_betas": [0, 0.5], "prediction_type": "sample"}"#;
        assert!(schedule(clean).ddim_step(Step { t: 0, t_prev: None }, 0.0).is_err());
        let v = schedule(r#"{"rescale_betas_zero_snr": true, "prediction_type": "v_prediction"}"#);
        let step = v.ddim_step(last, 1.0).unwrap();
        assert_eq!((step.sqrt_alpha_bar, step.direction), (0.0, 0.0));
    }
}
