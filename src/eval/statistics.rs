//! Mean and covariance of features in f64, kept as pictures pass by, and the Frechet distance between two sets of them
//! (Heusel et al. 2017). `.npz` files with `mu` and `sigma` are read and written as pytorch-fid and clean-fid do.
//! Called by `cli::eval_fid`.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};
use npyz::WriterBuilder;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::error::{Error, Result};
use crate::io::atomic;

/// Mean [D] and covariance [D, D] of a set.
#[derive(Debug, Clone)]
pub struct Statistics {
    pub mu: Vec<f64>,
    pub sigma: Mat<f64>,
}

/// Sums over the features seen so far.
pub struct Moments {
    count: u64,
    /// The first feature vector: sums of differences from it lose fewer digits.
    origin: Vec<f64>,
    sum: Vec<f64>,
    /// Sum of d d^T.
    products: Mat<f64>,
}

impl Moments {
    pub fn new(width: usize) -> Self {
        Self { count: 0, origin: Vec::new(), sum: vec![0.0; width], products: Mat::zeros(width, width) }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes whole feature vectors, one after the other.
    pub fn push(&mut self, features: &[f32]) {
        let width = self.sum.len();
        if self.origin.is_empty() {
            self.origin = features[..width].iter().map(|&f| f64::from(f)).collect();
        }
        let rows = features.len() / width;
        let batch = Mat::from_fn(width, rows, |i, row| f64::from(features[row * width + i]) - self.origin[i]);
        for column in batch.col_iter() {
            self.sum.iter_mut().zip(column.iter()).for_each(|(sum, d)| *sum += d);
        }
        matmul(&mut self.products, Accum::Add, &batch, batch.transpose(), 1.0, Par::Seq);
        self.count += rows as u64;
    }

    /// The covariance's divisor is n - 1, as numpy's. Refuses fewer than two pictures.
    pub fn statistics(&self) -> Result<Statistics> {
        if self.count < 2 {
            let message = format!("{} pictures have no covariance", self.count);
            return Err(Error::usage(message, "give two at least; thousands for figures that others can compare"));
        }
        let n = self.count as f64;
        let mean: Vec<f64> = self.sum.iter().map(|s| s / n).collect();
        let width = mean.len();
        let sigma = Mat::from_fn(width, width, |i, j| (self.products[(i, j)] - n * mean[i] * mean[j]) / (n - 1.0));
        Ok(Statistics { mu: mean.iter().zip(&self.origin).map(|(d, o)| d + o).collect(), sigma })
    }
}

/// The roots of a symmetric matrix's eigenvalues, of which those that are rounding are 0: fewer pictures than features leave
/// many, and the root of a rounding error is none.
fn roots(values: &[f64]) -> Vec<f64> {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let rounding = values.len() as f64 * f64::EPSILON * largest;
    values.iter().map(|&v| if v > rounding { v.sqrt() } else { 0.0 }).collect()
}

/// The square root of a covariance.
fn root(sigma: &Mat<f64>) -> Result<Mat<f64>> {
    let eigen = sigma.self_adjoint_eigen(Side::Lower).map_err(|_| not_converged())?;
    let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
    let roots = roots(&values);
    let u = eigen.U();
    let scaled = Mat::from_fn(u.nrows(), u.ncols(), |i, j| u[(i, j)] * roots[j]);
    Ok(&scaled * u.transpose())
}

fn not_converged() -> Error {
    Error::NonFinite { what: "an eigenvalue of the covariance".into(), step: 0 }
}

/// |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2). The last trace is the sum of the roots of the eigenvalues of
/// S_a^1/2 S_b S_a^1/2, which is symmetric, so that no complex number and no added diagonal is needed.
pub fn frechet_distance(a: &Statistics, b: &Statistics) -> Result<f64> {
    if a.mu.len() != b.mu.len() {
        let message = format!("statistics of {} and of {} features", a.mu.len(), b.mu.len());
        return Err(Error::usage(message, "both sides must come from one network"));
    }
    let between: f64 = a.mu.iter().zip(&b.mu).map(|(a, b)| (a - b).powi(2)).sum();
    let root = root(&a.sigma)?;
    let product = &root * &b.sigma * &root;
    let values = product.self_adjoint_eigenvalues(Side::Lower).map_err(|_| not_converged())?;
    let trace = |m: &Mat<f64>| (0..m.nrows()).map(|i| m[(i, i)]).sum::<f64>();
    let shared: f64 = roots(&values).iter().sum();
    Ok(between + trace(&a.sigma) + trace(&b.sigma) - 2.0 * shared)
}

impl Statistics {
    /// Reads `mu` [D] and `sigma` [D, D], f32 or f64.
    pub fn read_npz(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let hint = "a statistics file is a .npz with mu and sigma, as pytorch-fid --save-stats writes";
        let fail = |thing: &str, problem: String| Error::format(path, thing, problem, hint);
        let mut archive = ZipArchive::new(file).map_err(|e| fail("archive", e.to_string()))?;
        let (mu, mu_shape) = array(&mut archive, "mu").map_err(|problem| fail("mu", problem))?;
        let (sigma, sigma_shape) = array(&mut archive, "sigma").map_err(|problem| fail("sigma", problem))?;
        let d = mu.len();
        if mu_shape.len() != 1 || sigma_shape != [d as u64; 2] {
            return Err(fail("sigma", format!("is {sigma_shape:?} beside a mu of {mu_shape:?}, expected [{d}, {d}]")));
        }
        if let Some(value) = mu.iter().chain(&sigma).find(|v| !v.is_finite()) {
            return Err(fail("values", format!("one is {value}")));
        }
        Ok(Self { mu, sigma: Mat::from_fn(d, d, |i, j| sigma[i * d + j]) })
    }

    /// Writes `mu` and `sigma` in f64.
    pub fn write_npz(&self, path: &Path) -> Result<()> {
        let d = self.mu.len() as u64;
        let sigma = self.sigma.row_iter().flat_map(|row| row.iter().copied().collect::<Vec<_>>());
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let mut add = |name: &str, shape: &[u64], values: &mut dyn Iterator<Item = f64>| -> std::io::Result<()> {
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
            zip.start_file(npyz::npz::file_name_from_array_name(name), options)?;
            let mut bytes = Vec::new();
            let mut array = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd()?;
            array.extend(values)?;
            array.finish()?;
            zip.write_all(&bytes)
        };
        let written = add("mu", &[d], &mut self.mu.iter().copied())
            .and_then(|()| add("sigma", &[d, d], &mut { sigma }))
            .and_then(|()| zip.finish().map_err(std::io::Error::from));
        let bytes = written.map_err(Error::io(path, "pack"))?.into_inner();
        atomic::write(path, &bytes)
    }
}

/// An array of floats by its name, row-major, and its shape.
fn array(archive: &mut ZipArchive<File>, name: &str) -> std::result::Result<(Vec<f64>, Vec<u64>), String> {
    let mut entry = archive.by_name(&npyz::npz::file_name_from_array_name(name)).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let open = || npyz::NpyFile::new(&bytes[..]).map_err(|e| e.to_string());
    let file = open()?;
    let shape = file.shape().to_vec();
    let fortran = file.order() == npyz::Order::Fortran && shape.len() == 2;
    let values = match file.into_vec::<f64>() {
        Ok(values) => values,
        Err(_) => open()?.into_vec::<f32>().map_err(|e| e.to_string())?.into_iter().map(f64::from).collect(),
    };
    if fortran {
        let (rows, columns) = (shape[0] as usize, shape[1] as usize);
        let at = |i: usize| values[i % columns * rows + i / columns];
        return Ok(((0..values.len()).map(at).collect(), shape));
    }
    Ok((values, shape))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Correlated features of `n` pictures that no generator is needed for.
    fn features(n: usize, width: usize, shift: f32) -> Vec<f32> {
        let value = |i: usize| ((i * 7919 % 1009) as f32 / 1009.0) + ((i / width * 31 % 17) as f32 / 17.0);
        (0..n * width).map(|i| value(i) * (1.0 + shift) + shift).collect()
    }

    fn statistics(n: usize, width: usize, shift: f32) -> Statistics {
        let mut moments = Moments::new(width);
        features(n, width, shift).chunks(5 * width).for_each(|batch| moments.push(batch));
        moments.statistics().unwrap()
    }

    #[test]
    fn moments_are_the_textbooks() {
        let (n, width) = (23, 6);
        let all = features(n, width, 0.5);
        let column = |i: usize| all.iter().skip(i).step_by(width).map(|&v| f64::from(v)).collect::<Vec<_>>();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let s = statistics(n, width, 0.5);
        for i in 0..width {
            let (a, mean_a) = (column(i), mean(&column(i)));
            assert!((s.mu[i] - mean_a).abs() < 1e-12);
            for j in 0..width {
                let (b, mean_b) = (column(j), mean(&column(j)));
                let sum: f64 = a.iter().zip(&b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
                assert!((s.sigma[(i, j)] - sum / (n - 1) as f64).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn distances_are_zero_to_oneself_and_symmetric() {
        let (a, b) = (statistics(40, 8, 0.0), statistics(40, 8, 0.3));
        assert!(frechet_distance(&a, &a).unwrap().abs() < 1e-9);
        let (ab, ba) = (frechet_distance(&a, &b).unwrap(), frechet_distance(&b, &a).unwrap());
        assert!(ab > 0.0 && (ab - ba).abs() < 1e-9 * ab.max(1.0));
    }

    /// Fewer pictures than features: covariances of low rank have a root all the same.
    #[test]
    fn diagonal_covariances_have_the_closed_form() {
        let diagonal = |d: [f64; 3], mu: f64| Statistics {
            mu: vec![mu; 3],
            sigma: Mat::from_fn(3, 3, |i, j| if i == j { d[i] } else { 0.0 }),
        };
        let (a, b) = (diagonal([4.0, 1.0, 0.0], 0.0), diagonal([1.0, 9.0, 2.0], 2.0));
        let expected = 12.0 + (5.0 + 12.0) - 2.0 * (2.0 + 3.0);
        assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn statistics_survive_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.npz");
        let s = statistics(10, 4, 0.1);
        s.write_npz(&path).unwrap();
        let back = Statistics::read_npz(&path).unwrap();
        assert_eq!(s.mu, back.mu);
        assert_eq!(s.sigma, back.sigma);
        assert!(Moments::new(4).statistics().is_err());
        std::fs::write(&path, "no archive").unwrap();
        assert!(Statistics::read_npz(&path).unwrap_err().to_string().contains("s.npz"));
    }
}
