//! Loss weightings by signal-to-noise ratio, for networks of any prediction type (DeMe appendix A.1).
//! Called by `cli` (`--loss-weighting`), which hands the table to the training objective.

use super::schedule::{Prediction, Schedule};
use crate::error::{Error, Result};

/// How much a timestep counts. Except for `None` each is a weight on |x_0 - x_theta|^2, whatever the network predicts;
/// SNR_t = alpha_bar_t / (1 - alpha_bar_t).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossWeighting {
    /// 1 on the network's own target: for epsilon the standard loss of Ho et al. 2020, which is SNR on x_0.
    None,
    /// SNR + 1 (Salimans & Ho 2022): the plain loss of v.
    SnrPlusOne,
    /// max(SNR, 1) (Salimans & Ho 2022).
    TruncatedSnr,
    /// min(SNR, gamma) (Hang et al. 2023).
    MinSnr { gamma: f64 },
    /// SNR / (k + SNR)^gamma (Choi et al. 2022): 1 / (k + SNR)^gamma on epsilon.
    P2 { k: f64, gamma: f64 },
}

impl LossWeighting {
    /// The weight on |x_0 - x_theta|^2; `None` where that depends on what the network predicts.
    fn of_x_0(self, snr: f64) -> Option<f64> {
        match self {
            Self::None => None,
            Self::SnrPlusOne => Some(snr + 1.0),
            Self::TruncatedSnr => Some(snr.max(1.0)),
            Self::MinSnr { gamma } => Some(snr.min(gamma)),
            Self::P2 { k, gamma } => Some(snr / (k + snr).powf(gamma)),
        }
    }

    /// The weight on the squared error of what this schedule's network predicts, for every timestep; none where all are 1.
    ///
    /// # Errors
    /// `Usage` where a weight is not finite: an epsilon prediction of a schedule that leaves no signal, or no noise.
    pub fn table(self, schedule: &Schedule) -> Result<Option<Vec<f64>>> {
        let weight = |(t, &alpha_bar): (usize, &f64)| {
            let snr = alpha_bar / (1.0 - alpha_bar);
            let Some(of_x_0) = self.of_x_0(snr) else { return Ok(None) };
            let weight = of_x_0 / schedule.prediction.errors_per_x_0(snr);
            if weight.is_finite() {
                return Ok(Some(weight));
            }
            let message =
                format!("this loss weighting has no finite weight at t = {t}, where alpha_bar is {alpha_bar}");
            Err(Error::usage(message, "train without --loss-weighting, or with a schedule that has signal and noise"))
        };
        schedule.alpha_bar.iter().enumerate().map(weight).collect()
    }
}

impl Prediction {
    /// |output error|^2 over |x_0 - x_theta|^2 for the x_theta that the output stands for: by x_t = a x_0 + b epsilon an
    /// error of epsilon is a/b times that of x_0, and one of v = a epsilon - b x_0 is a^2/b + b = 1/b times.
    fn errors_per_x_0(self, snr: f64) -> f64 {
        match self {
            Self::Epsilon => snr,
            Self::V => snr + 1.0,
            Self::Sample => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const ALL: [LossWeighting; 4] = [
        LossWeighting::SnrPlusOne,
        LossWeighting::TruncatedSnr,
        LossWeighting::MinSnr { gamma: 5.0 },
        LossWeighting::P2 { k: 1.0, gamma: 1.0 },
    ];

    fn schedule(more: &str) -> Schedule {
        let map = serde_json::from_str(&format!("{{{more}}}")).unwrap();
        Schedule::from_json(std::path::Path::new("test"), &map).unwrap()
    }

    fn predicting(kind: &str) -> Schedule {
        schedule(&format!(r#""prediction_type": "{kind}""#))
    }

    fn close(a: f64, b: f64, what: &str) {
        assert!((a - b).abs() <= 1e-12 * b.abs(), "{what}: {a} and {b}");
    }

    /// Appendix A.1: one prediction, written as epsilon, as v and as x_0, has one weighted loss.
    #[test]
    fn the_three_prediction_types_have_the_same_weighted_loss() {
        let (x_0, epsilon, x_theta) = (0.4, -1.3, 0.1);
        let schedules = ["epsilon", "v_prediction", "sample"].map(predicting);
        for weighting in ALL {
            let tables = schedules.each_ref().map(|s| weighting.table(s).unwrap().unwrap());
            for (t, alpha_bar) in schedules[0].alpha_bar.iter().enumerate() {
                let (a, b) = schedules[0].noising(t);
                let epsilon_theta = (a * x_0 + b * epsilon - a * x_theta) / b;
                let losses = [0, 1, 2].map(|k| {
                    let (c, d) = schedules[k].target(t);
                    let error = (c * epsilon + d * x_0) - (c * epsilon_theta + d * x_theta);
                    tables[k][t] * error * error
                });
                let expected = weighting.of_x_0(alpha_bar / (1.0 - alpha_bar)).unwrap() * (x_0 - x_theta).powi(2);
                // Near t = 0 and T - 1 the errors are differences of nearly equal numbers: 1e-10 has digits to spare.
                assert!(
                    losses.iter().all(|l| (l - expected).abs() <= 1e-10 * expected),
                    "{weighting:?} {t}: {losses:?}"
                );
            }
        }
    }

    /// Eq. 11 and 12: the standard loss is SNR on x_0, and SNR + 1 is the plain loss of v.
    #[test]
    fn standard_is_snr_and_snr_plus_one_is_v() {
        let v = LossWeighting::SnrPlusOne.table(&predicting("v_prediction")).unwrap().unwrap();
        assert!(v.iter().all(|&w| w == 1.0));
        for (t, alpha_bar) in predicting("epsilon").alpha_bar.iter().enumerate() {
            let snr = alpha_bar / (1.0 - alpha_bar);
            assert_eq!(Prediction::Epsilon.errors_per_x_0(snr) / Prediction::Sample.errors_per_x_0(snr), snr, "{t}");
        }
        for kind in ["epsilon", "v_prediction", "sample"] {
            assert_eq!(LossWeighting::None.table(&predicting(kind)).unwrap(), None);
        }
    }

    /// The weights on epsilon as their papers have them.
    #[test]
    fn weights_on_epsilon_are_the_published_ones() {
        let schedule = predicting("epsilon");
        let [plus_one, truncated, min_snr, p2] = ALL.map(|w| w.table(&schedule).unwrap().unwrap());
        let odd = LossWeighting::P2 { k: 2.0, gamma: 0.5 }.table(&schedule).unwrap().unwrap();
        let mut sides = [0; 4];
        for (t, alpha_bar) in schedule.alpha_bar.iter().enumerate() {
            let snr = alpha_bar / (1.0 - alpha_bar);
            close(plus_one[t], 1.0 / alpha_bar, "SNR + 1");
            close(truncated[t], (1.0 / snr).max(1.0), "truncated SNR");
            close(min_snr[t], (5.0 / snr).min(1.0), "Min-SNR-5");
            close(p2[t], 1.0 - alpha_bar, "P2, k = gamma = 1");
            close(odd[t], 1.0 / (2.0 + snr).sqrt(), "P2");
            let seen = [snr < 1.0, snr > 1.0, snr < 5.0, snr > 5.0];
            (0..4).for_each(|i| sides[i] += usize::from(seen[i]));
        }
        assert!(sides.iter().all(|&n| n > 100), "both sides of each bound are seen: {sides:?}");
    }

    #[test]
    fn weights_that_are_not_finite_are_refused_by_their_timestep() {
        let end = r#""rescale_betas_zero_snr": true, "prediction_type""#;
        for weighting in ALL {
            let refused = weighting.table(&schedule(&format!(r#"{end}: "epsilon""#))).unwrap_err().to_string();
            assert!(refused.contains("at t = 999, where alpha_bar is 0"), "{refused}");
            assert!(weighting.table(&schedule(&format!(r#"{end}: "v_prediction""#))).is_ok());
        }
    }
}
