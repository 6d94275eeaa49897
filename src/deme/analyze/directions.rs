//! Where the loss is looked at: random directions with the norms of the model's filters (Li et al. 2018, as the paper's fig. 4), and
//! the plane of two task vectors in an orthonormal basis (Garipov et al. 2018, as fig. 7a). Called by `landscape` and `cli::analyze`.

use crate::io::layout::Layout;
use crate::rng::{self, Purpose, stream};

/// Sub-streams of a direction, one a tensor.
const TENSORS: u32 = 1 << 20;

/// A random direction at one tensor, in the file's layout: normal numbers, each output's filter scaled to the norm of the base's.
/// Vectors (biases, norms' weights) do not move, as in Li et al.
pub fn filter_normalised(theta: &[f32], layout: Layout, seed: u64, [direction, tensor]: [u32; 2]) -> Vec<f32> {
    let shape = layout.file_shape();
    if shape.len() < 2 || theta.is_empty() {
        return vec![0.0; theta.len()];
    }
    let draws = stream(Purpose::Direction, direction * TENSORS + tensor);
    let mut values = Vec::with_capacity(theta.len() + 3);
    for block in 0..theta.len().div_ceil(4) as u64 {
        values.extend(rng::normal4(seed, draws, block));
    }
    let filter = theta.len() / shape[0] as usize;
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let mut scaled = Vec::with_capacity(theta.len());
    for (own, base) in values.chunks(filter).zip(theta.chunks(filter)) {
        let scale = length(&mut base.iter().map(|&v| f64::from(v))) / length(&mut own.iter().copied());
        scaled.extend(own[..base.len()].iter().map(|v| (v * scale) as f32));
    }
    scaled
}

/// An orthonormal basis of the plane of tau_1 and tau_2: x along tau_1, y along what tau_2 has beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneBasis {
    /// |tau_1|
    first: f64,
    /// tau_2 in the basis.
    second: [f64; 2],
}

impl PlaneBasis {
    /// From <tau_i, tau_j>; none where the two span no plane.
    pub fn new(products: [[f64; 2]; 2]) -> Option<Self> {
        let first = products[0][0].sqrt();
        let x = products[0][1] / first;
        let y = (products[1][1] - x * x).max(0.0).sqrt();
        (first > 0.0 && y > 1e-6 * first).then_some(Self { first, second: [x, y] })
    }

    /// Where the two experts lie, the base being at [0, 0].
    pub fn experts(&self) -> [[f64; 2]; 2] {
        [[self.first, 0.0], self.second]
    }

    /// The weights of tau_1 and tau_2 that lead to a point.
    pub fn weights(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let second = y / self.second[1];
        [(x - second * self.second[0]) / self.first, second]
    }

    /// `n` places on each axis, evenly over base and experts with a margin around them.
    pub fn grid(&self, n: usize) -> [Vec<f64>; 2] {
        const MARGIN: f64 = 0.35;
        [0, 1].map(|axis| {
            let places = [0.0, self.experts()[0][axis], self.second[axis]];
            let low = places.into_iter().fold(f64::INFINITY, f64::min);
            let high = places.into_iter().fold(f64::NEG_INFINITY, f64::max);
            even(low - MARGIN * (high - low), high + MARGIN * (high - low), n)
        })
    }
}

/// `n` numbers from `low` to `high`.
pub fn even(low: f64, high: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| low + (high - low) * i as f64 / (n - 1).max(1) as f64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn filters_keep_their_norms_and_vectors_stay() {
        let conv = Layout::of("a.weight", &[3, 2, 3, 3]).unwrap();
        let theta: Vec<f32> = (0..54).map(|i| if i < 18 { 0.0 } else { i as f32 }).collect();
        let d = filter_normalised(&theta, conv, 1, [0, 4]);
        let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
        for f in 0..3 {
            let at = 18 * f..18 * (f + 1);
            let (own, base) = (norm(&d[at.clone()]), norm(&theta[at]));
            assert!((own - base).abs() <= 1e-5 * base, "{own} {base}");
        }
        assert_eq!(d, filter_normalised(&theta, conv, 1, [0, 4]));
        for other in [[1, 4], [0, 5]] {
            assert_ne!(d[18..], filter_normalised(&theta, conv, 1, other)[18..]);
        }
        let bias = Layout::of("a.bias", &[54]).unwrap();
        assert_eq!(filter_normalised(&theta, bias, 1, [0, 4]), [0.0; 54]);
    }

    #[test]
    fn points_of_the_plane_are_weights() {
        // tau_1 = (2, 0), tau_2 = (1, 3).
        let basis = PlaneBasis::new([[4.0, 2.0], [2.0, 10.0]]).unwrap();
        assert_eq!(basis.experts(), [[2.0, 0.0], [1.0, 3.0]]);
        assert_eq!(basis.weights([2.0, 0.0]), [1.0, 0.0]);
        assert_eq!(basis.weights([1.0, 3.0]), [0.0, 1.0]);
        assert_eq!(basis.weights([0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(basis.weights([1.5, 1.5]), [0.5, 0.5]);
        let [x, y] = basis.grid(5);
        assert!(x[0] < 0.0 && x[4] > 2.0 && y[0] < 0.0 && y[4] > 3.0);
        assert!((x[2] - 1.0).abs() < 1e-12 && x.is_sorted() && x.len() == 5);
        assert!(PlaneBasis::new([[4.0, 8.0], [8.0, 16.0]]).is_none(), "one line is no plane");
        assert!(PlaneBasis::new([[0.0, 0.0], [0.0, 1.0]]).is_none());
    }
}
