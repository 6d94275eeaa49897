//! Where to cut the timesteps into ranges: how alike the gradients of the denoising loss are at different timesteps (paper fig. 1a),
//! and the cuts that put the most alike together, by dynamic programming over intervals as in ANT (Go et al. 2023).
//! Called by `cli::cuts`.

use std::ops::Range;

use super::timesteps::{Coin, TimestepDraw};
use crate::error::{Error, Result};
use crate::train::feed::Feeder;
use crate::train::step::Trainer;

/// The gradients of K buckets of timesteps, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarity {
    /// Where each bucket begins, and T: K + 1 numbers.
    pub bounds: Vec<u32>,
    /// Norm of each bucket's gradient.
    pub norms: Vec<f64>,
    /// [K][K], cosine of the angle between two buckets' gradients.
    pub cosines: Vec<Vec<f64>>,
}

/// Measures the gradients of the trainer's weights, `micro_batches` of them averaged in each bucket. All buckets see the same images,
/// noise and places within the bucket, so that they differ by their timesteps alone. All gradients are in host memory at once.
///
/// # Errors
/// `NonFinite` for a bucket whose gradient is not finite or zero.
pub fn similarity(
    trainer: &mut Trainer,
    feeder: &Feeder,
    [seed, micro_batches]: [u64; 2],
    bounds: &[u32],
    done: &mut dyn FnMut() -> Result<()>,
) -> Result<Similarity> {
    let total = bounds.last().map_or(0, |&t| t as usize);
    let mut gradients: Vec<Vec<f32>> = Vec::new();
    let mut norms = Vec::new();
    for pair in bounds.windows(2) {
        let own = pair[0] as usize..pair[1] as usize;
        let draw =
            TimestepDraw { seed, expert: 0, own: own.clone(), total, p: 0.0, coin: Coin::Sample, antithetic: true };
        for micro in 0..micro_batches {
            trainer.micro_batch(
                &feeder.feed(micro * trainer.batch() as u64, &draw.micro_batch(micro, trainer.batch()))?,
            )?;
            done()?;
        }
        let gradient = trainer.take_gradient()?;
        let norm = dot(&gradient, &gradient).sqrt();
        if !norm.is_finite() || norm == 0.0 {
            return Err(Error::NonFinite {
                what: format!("the direction of the gradient of timesteps {own:?}"),
                step: 0,
            });
        }
        gradients.push(gradient);
        norms.push(norm);
    }
    let cosine = |j: usize, k: usize| dot(&gradients[j], &gradients[k]) / (norms[j] * norms[k]);
    let cosines = (0..norms.len()).map(|j| (0..norms.len()).map(|k| cosine(j, k)).collect()).collect();
    Ok(Similarity { bounds: bounds.to_vec(), norms, cosines })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

impl Similarity {
    /// The sum of all cosines between the buckets of a range, over their number: its buckets times their mean similarity, which is
    /// the squared length of the sum of their unit gradients over their number. Splitting never lowers the total.
    fn worth(&self, range: Range<usize>) -> f64 {
        let sum: f64 = self.cosines[range.clone()].iter().map(|row| row[range.clone()].iter().sum::<f64>()).sum();
        sum / range.len() as f64
    }

    /// The bounds, from 0 to T, of the `n` ranges of whole buckets with the largest total worth.
    ///
    /// # Errors
    /// `Usage` for more ranges than buckets.
    pub fn cuts(&self, n: usize) -> Result<Vec<u32>> {
        let k = self.norms.len();
        if n == 0 || n > k {
            let message = format!("{n} ranges cannot be made of {k} buckets");
            return Err(Error::usage(message, "measure more buckets with --buckets"));
        }
        // best[i][b]: the largest worth of the first b buckets in i + 1 ranges, and where the last of these begins.
        let mut best: Vec<Vec<(f64, usize)>> = vec![(0..=k).map(|b| (self.worth(0..b.max(1)), 0)).collect()];
        for i in 1..n {
            let last = &best[i - 1];
            let choose = |b: usize| {
                let options = (i..b).map(|a| (last[a].0 + self.worth(a..b), a));
                options.fold((f64::NEG_INFINITY, 0), |best, option| if option.0 > best.0 { option } else { best })
            };
            let row = (0..=k).map(choose).collect();
            best.push(row);
        }
        let mut cuts = vec![self.bounds[k]];
        let mut b = k;
        for row in best.iter().rev() {
            b = row[b].1;
            cuts.push(self.bounds[b]);
        }
        cuts.reverse();
        Ok(cuts)
    }

    /// Mean similarity of two timesteps of one range, of ranges between these bounds (each a bucket's), weighed by their widths.
    pub fn within(&self, cuts: &[u32]) -> f64 {
        let at = |bound: &u32| self.bounds.partition_point(|b| b < bound);
        let worth = cuts.windows(2).map(|pair| self.worth(at(&pair[0])..at(&pair[1]).max(at(&pair[0]) + 1)));
        worth.sum::<f64>() / self.norms.len() as f64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::rng;

    /// Similarities of made gradients of three numbers each.
    fn made(gradients: &[[f64; 3]]) -> Similarity {
        let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norms: Vec<f64> = gradients.iter().map(|g| dot(g, g).sqrt()).collect();
        let row = |(a, x): (&[f64; 3], &f64)| gradients.iter().zip(&norms).map(|(b, y)| dot(a, b) / (x * y)).collect();
        let cosines = gradients.iter().zip(&norms).map(row).collect();
        Similarity { bounds: (0..=gradients.len() as u32).map(|b| 10 * b).collect(), norms, cosines }
    }

    #[test]
    fn groups_of_one_direction_are_found() {
        let [a, b, c] = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.1], [0.3, 0.0, -1.0]];
        let similarity = made(&[a, b, b, b, b, c, c]);
        assert_eq!(similarity.cuts(1).unwrap(), [0, 70]);
        assert_eq!(similarity.cuts(3).unwrap(), [0, 10, 50, 70]);
        assert_eq!(similarity.cuts(7).unwrap(), [0, 10, 20, 30, 40, 50, 60, 70]);
        assert!((similarity.within(&[0, 10, 50, 70]) - 1.0).abs() < 1e-12);
        assert!(similarity.within(&[0, 30, 50, 70]) < 0.95);
        assert!(similarity.cuts(8).is_err() && similarity.cuts(0).is_err());
    }

    /// Against every way to cut.
    #[test]
    fn no_other_cuts_are_better() {
        const K: usize = 9;
        for seed in 0..20 {
            let gradient = |k: u64| [0, 1, 2].map(|i| rng::normal4(seed, k, i)[0]);
            let similarity = made(&(0..K as u64).map(gradient).collect::<Vec<_>>());
            for n in 1..=K {
                let chosen = similarity.within(&similarity.cuts(n).unwrap());
                // Each set of inner bounds as bits.
                for set in (0u32..1 << (K - 1)).filter(|set| set.count_ones() as usize == n - 1) {
                    let inner = (1..K).filter(|b| set >> (b - 1) & 1 == 1);
                    let cuts: Vec<u32> = std::iter::once(0).chain(inner).chain([K]).map(|b| 10 * b as u32).collect();
                    assert!(similarity.within(&cuts) <= chosen + 1e-12, "{seed} {n}: {cuts:?}");
                }
            }
        }
    }
}
