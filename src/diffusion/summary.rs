//! Means with their standard errors, and paired differences: how every reported loss is summed up.
//! Called by `train`, `eval`, `deme::search` and the demo. f64 throughout.

/// A mean over `n` values and its standard error (n - 1 in the variance; NaN for n < 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub mean: f64,
    pub standard_error: f64,
}

impl Summary {
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self { n, mean, standard_error: (squares / (n as f64 - 1.0) / n as f64).sqrt() }
    }

    /// Of a - b, element by element: the same images, timesteps and noise on both sides.
    pub fn of_difference(a: &[f64], b: &[f64]) -> Self {
        Self::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6} ± {:.6}", self.mean, self.standard_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_the_textbook_one() {
        let s = Summary::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((s.n, s.mean), (4, 2.5));
        assert!((s.standard_error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert!(Summary::of(&[1.0]).standard_error.is_nan());
    }

    #[test]
    fn a_constant_shift_has_no_error() {
        let s = Summary::of_difference(&[1.5, 2.5, 0.5], &[1.0, 2.0, 0.0]);
        assert_eq!((s.mean, s.standard_error), (0.5, 0.0));
    }
}
