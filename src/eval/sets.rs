//! Distances that need both sets of features in memory: the kernel inception distance (Binkowski et al. 2018), precision and
//! recall (Kynkaanniemi et al. 2019). Called by `cli::eval_fid`.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use crate::error::{Error, Result};
use crate::rng::{Purpose, stream, uniform};

/// Feature vectors, [D, n] in f64.
pub struct Features(Mat<f64>);

impl Features {
    /// Of whole vectors of `width`, one after the other.
    pub fn new(features: &[f32], width: usize) -> Self {
        Self(Mat::from_fn(width, features.len() / width, |i, row| f64::from(features[row * width + i])))
    }

    pub fn count(&self) -> usize {
        self.0.ncols()
    }

    /// The feature vector of picture `i`.
    pub fn of(&self, i: usize) -> Vec<f64> {
        self.0.col(i).iter().copied().collect()
    }

    fn subset(&self, rows: &[usize]) -> Mat<f64> {
        Mat::from_fn(self.0.nrows(), rows.len(), |i, j| self.0[(i, rows[j])])
    }
}

/// a^T b: the scalar products of all pairs.
fn products(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.ncols(), b.ncols());
    matmul(&mut out, Accum::Replace, a.transpose(), b, 1.0, Par::rayon(0));
    out
}

/// The unbiased squared distance of means under the kernel (x y / D + 1)^3, both sets equally large.
fn kernel_distance(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    let (n, d) = (a.ncols() as f64, a.nrows() as f64);
    let kernel = |a: &Mat<f64>, b: &Mat<f64>, skip: bool| {
        let p = products(a, b);
        let all = (0..p.nrows()).flat_map(|i| (0..p.ncols()).map(move |j| (i, j)));
        all.filter(|(i, j)| !skip || i != j).map(|at| (p[at] / d + 1.0).powi(3)).sum::<f64>()
    };
    (kernel(a, a, true) + kernel(b, b, true)) / (n * (n - 1.0)) - 2.0 * kernel(a, b, false) / (n * n)
}

/// Subsets that are drawn, and pictures in each: torch-fidelity's numbers.
const SUBSETS: u32 = 100;
const SUBSET: usize = 1000;

/// Mean and standard deviation of the kernel distance over random subsets of at most 1,000 pictures. Sets that fit one subset
/// have one value and no deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelDistance {
    pub mean: f64,
    pub deviation: Option<f64>,
}

/// `seed` decides the subsets. Refuses sets of fewer than two.
pub fn kernel_inception_distance(a: &Features, b: &Features, seed: u64) -> Result<KernelDistance> {
    let size = a.count().min(b.count()).min(SUBSET);
    if size < 2 {
        let message = format!("a kernel distance of {} and {} pictures", a.count(), b.count());
        return Err(Error::usage(message, "give two on each side at least"));
    }
    if a.count() == size && b.count() == size {
        return Ok(KernelDistance { mean: kernel_distance(&a.0, &b.0), deviation: None });
    }
    let values: Vec<f64> = (0..SUBSETS)
        .map(|i| {
            let side = |features: &Features, side| features.subset(&chosen(features.count(), size, seed, 2 * i + side));
            kernel_distance(&side(a, 0), &side(b, 1))
        })
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    Ok(KernelDistance { mean, deviation: Some(square.sqrt()) })
}

/// `size` of 0..count without repetition (the first steps of Fisher and Yates).
fn chosen(count: usize, size: usize, seed: u64, number: u32) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for i in 0..size {
        let u = uniform(seed, stream(Purpose::Subsets, number), i as u64);
        all.swap(i, i + (u * (count - i) as f64) as usize);
    }
    all.truncate(size);
    all
}

/// How much of what was generated looks real, and how much of what is real was generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    pub precision: f64,
    pub recall: f64,
}

/// The neighbour whose distance is a picture's radius.
const NEIGHBOUR: usize = 3;

/// Squared distances of all pairs.
fn distances(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let squares = |m: &Mat<f64>| m.col_iter().map(|c| c.iter().map(|v| v * v).sum()).collect::<Vec<f64>>();
    let (p, a, b) = (products(a, b), squares(a), squares(b));
    Mat::from_fn(p.nrows(), p.ncols(), |i, j| (a[i] + b[j] - 2.0 * p[(i, j)]).max(0.0))
}

/// The squared distance of each picture to the third nearest of its own set.
fn radii(features: &Mat<f64>) -> Vec<f64> {
    let distances = distances(features, features);
    let radius = |(i, column): (usize, faer::ColRef<f64>)| {
        let mut others: Vec<f64> = column.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, &d)| d).collect();
        *others.select_nth_unstable_by(NEIGHBOUR - 1, f64::total_cmp).1
    };
    distances.col_iter().enumerate().map(radius).collect()
}

/// Precision: the share of `generated` within the radius of some picture of `real`; recall: the other way round.
pub fn precision_recall(generated: &Features, real: &Features) -> Result<PrecisionRecall> {
    if generated.count().min(real.count()) <= NEIGHBOUR {
        let message = format!("precision and recall of {} and {} pictures", generated.count(), real.count());
        return Err(Error::usage(message, format!("give more than {NEIGHBOUR} on each side")));
    }
    let (of_generated, of_real) = (radii(&generated.0), radii(&real.0));
    let between = distances(&generated.0, &real.0);
    let share = |hits: usize, of: usize| hits as f64 / of as f64;
    let inside = between.row_iter().filter(|row| row.iter().zip(&of_real).any(|(d, r)| d <= r)).count();
    let covered = between.col_iter().filter(|column| column.iter().zip(&of_generated).any(|(d, r)| d <= r)).count();
    Ok(PrecisionRecall { precision: share(inside, between.nrows()), recall: share(covered, between.ncols()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_repeat_nothing() {
        let mut rows = chosen(50, 20, 3, 1);
        assert_ne!(rows, chosen(50, 20, 3, 2));
        rows.sort_unstable();
        rows.dedup();
        assert!(rows.len() == 20 && rows.iter().all(|&row| row < 50));
    }
}
