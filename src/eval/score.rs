//! The Inception score (Salimans et al. 2016): how sure the network is of each picture's class, and how many classes there are.
//! Called by `cli::eval_fid`. As torch-fidelity computes it: logits without the last layer's bias, ten parts.

use super::sets::Features;
use crate::error::{Error, Result};

/// Parts of the pictures, in their order, that are scored by themselves.
const SPLITS: usize = 10;

/// The network's last layer without its bias.
pub struct Head {
    /// [classes, features]
    weight: Vec<f32>,
    features: usize,
}

/// Mean and standard deviation (divisor n) over the parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InceptionScore {
    pub mean: f64,
    pub deviation: f64,
}

impl Head {
    /// `weight` [classes, features]; none where that is not its size.
    pub fn new(weight: Vec<f32>, features: usize) -> Option<Self> {
        let fits = !weight.is_empty() && weight.len().is_multiple_of(features) && weight.iter().all(|w| w.is_finite());
        fits.then_some(Self { weight, features })
    }

    /// ln p(class | picture).
    fn log_probabilities(&self, picture: &[f64]) -> Vec<f64> {
        let product = |row: &[f32]| row.iter().zip(picture).map(|(&w, &f)| f64::from(w) * f).sum::<f64>();
        let logits: Vec<f64> = self.weight.chunks_exact(self.features).map(product).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
        logits.iter().map(|l| l - largest - sum.ln()).collect()
    }

    /// exp of the mean KL divergence of p(class | picture) from p(class), part by part. Refuses fewer pictures than parts.
    pub fn score(&self, pictures: &Features) -> Result<InceptionScore> {
        let n = pictures.count();
        if n < SPLITS {
            let message = format!("an Inception score of {n} pictures in {SPLITS} parts");
            return Err(Error::usage(message, format!("give at least {SPLITS} pictures")));
        }
        let classes = self.weight.len() / self.features;
        let part = |i: usize| {
            let log: Vec<Vec<f64>> =
                (i * n / SPLITS..(i + 1) * n / SPLITS).map(|k| self.log_probabilities(&pictures.of(k))).collect();
            let count = log.len() as f64;
            let marginal = |class: usize| log.iter().map(|p| p[class].exp()).sum::<f64>() / count;
            let marginals: Vec<f64> = (0..classes).map(|class| marginal(class).ln()).collect();
            let divergence = |p: &Vec<f64>| p.iter().zip(&marginals).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            (log.iter().map(divergence).sum::<f64>() / count).exp()
        };
        let scores: Vec<f64> = (0..SPLITS).map(part).collect();
        let mean = scores.iter().sum::<f64>() / SPLITS as f64;
        let square = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / SPLITS as f64;
        Ok(InceptionScore { mean, deviation: square.sqrt() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Twenty pictures, each surely of one of two classes in turn: two classes in every part.
    #[test]
    fn sure_and_evenly_spread_pictures_score_as_many_as_there_are_classes() {
        let head = Head::new(vec![1.0, 0.0, 0.0, 1.0], 2).unwrap();
        let sure: Vec<f32> = (0..20).flat_map(|i| if i % 2 == 0 { [100.0, 0.0] } else { [0.0, 100.0] }).collect();
        let score = head.score(&Features::new(&sure, 2)).unwrap();
        assert!((score.mean - 2.0).abs() < 1e-12 && score.deviation < 1e-12, "{score:?}");
        let same = head.score(&Features::new(&[1.0; 40], 2)).unwrap();
        assert!((same.mean - 1.0).abs() < 1e-12, "{same:?}");
        assert!(head.score(&Features::new(&[1.0; 18], 2)).is_err());
    }
}
