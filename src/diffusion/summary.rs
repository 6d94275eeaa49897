//! Means with their standard errors, and paired differences: how every reported loss is summed up.
//! Called by `train`, `eval`, `deme::search` and the demo. f64 throughout.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// None where fewer than two groups leave no spread to judge by: `null` in JSON, "-" in print.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StandardError(pub Option<f64>);

impl std::fmt::Display for StandardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.pad("-"),
        }
    }
}

/// A mean over `n` values and its standard error. Values of one group (the timesteps of one image) are not independent:
/// the error is the cluster-robust one, sqrt(G / (G - 1) sum_g (sum_i v_i - mean)^2) / n over G groups, the textbook's where
/// every value is its own group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub mean: f64,
    pub standard_error: StandardError,
}

impl Summary {
    /// `groups` says which image each value belongs to.
    pub fn of(values: &[f64], groups: &[usize]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let mut sums: HashMap<usize, f64> = HashMap::new();
        for (value, group) in values.iter().zip(groups) {
            *sums.entry(*group).or_default() += value - mean;
        }
        let mut squares: Vec<f64> = sums.into_values().map(|sum| sum * sum).collect();
        // A map has no order; a sum has.
        squares.sort_by(f64::total_cmp);
        let count = squares.len() as f64;
        let squares: f64 = squares.iter().sum();
        let standard_error = (count > 1.0).then(|| (count / (count - 1.0) * squares).sqrt() / n as f64);
        Self { n, mean, standard_error: StandardError(standard_error) }
    }

    /// Of a - b, element by element: the same images, timesteps and noise on both sides.
    pub fn of_difference(a: &[f64], b: &[f64], groups: &[usize]) -> Self {
        Self::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>(), groups)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6} ± {:.6}", self.mean, self.standard_error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn error(s: &Summary) -> f64 {
        s.standard_error.0.unwrap()
    }

    #[test]
    fn the_standard_error_is_the_textbook_one() {
        let s = Summary::of(&[1.0, 2.0, 3.0, 4.0], &[0, 1, 2, 3]);
        assert_eq!((s.n, s.mean), (4, 2.5));
        assert!((error(&s) - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn one_image_has_no_standard_error() {
        let s = Summary::of(&[1.0, 2.0], &[3, 3]);
        assert_eq!(s.standard_error, StandardError(None));
        assert_eq!(format!("{s} [{:>4.6}]", s.standard_error), "1.500000 ± - [   -]");
        let json = serde_json::to_string(&s.standard_error).unwrap();
        let back: StandardError = serde_json::from_str(&json).unwrap();
        assert_eq!((json.as_str(), back), ("null", s.standard_error));
    }

    #[test]
    fn repeats_of_one_image_add_no_certainty() {
        let once = Summary::of(&[1.0, 2.0, 4.0], &[7, 8, 9]);
        let thrice = Summary::of(&[1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 2.0, 4.0], &[7, 8, 9, 7, 8, 9, 7, 8, 9]);
        assert_eq!((thrice.n, thrice.mean), (9, once.mean));
        assert!((error(&thrice) - error(&once)).abs() < 1e-15);
    }

    #[test]
    fn a_constant_shift_has_no_error() {
        let s = Summary::of_difference(&[1.5, 2.5, 0.5], &[1.0, 2.0, 0.0], &[0, 1, 2]);
        assert_eq!((s.mean, error(&s)), (0.5, 0.0));
    }
}
