//! The loss as a quadratic in w, fitted to as many candidates as it has coefficients, (n + 1) (n + 2) / 2; its minimum is
//! judged and the next, half as wide fit is made around the best. Called by `deme::search`.

use super::{Bounds, Judging};
use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// How many steps away from its centre the fit's minimum is worth a candidate: in the first round all bounds.
const FAR: f64 = 4.0;

/// A quadratic a + g x + x H x / 2.
struct Model {
    g: DVector<f64>,
    h: DMatrix<f64>,
}

/// Coefficients of a quadratic in n variables.
pub fn coefficients(n: usize) -> usize {
    (n + 1) * (n + 2) / 2
}

/// The centre, both neighbours on every axis, and the corners of every pair of axes, in steps of 1.
fn design(n: usize) -> Vec<Vec<f64>> {
    let at = |set: &[(usize, f64)]| {
        let mut x = vec![0.0; n];
        set.iter().for_each(|&(i, v)| x[i] = v);
        x
    };
    let axes = (0..n).flat_map(|i| [at(&[(i, 1.0)]), at(&[(i, -1.0)])]);
    let corners = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let corners = corners.map(|(i, j)| at(&[(i, 1.0), (j, 1.0)]));
    std::iter::once(at(&[])).chain(axes).chain(corners).collect()
}

/// The least-squares fit to (x, loss).
fn fit(n: usize, points: &[(Vec<f64>, f64)]) -> Result<Model> {
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (i..n).map(move |j| (i, j))).collect();
    let row = |x: &[f64]| {
        let second = pairs.iter().map(|&(i, j)| if i == j { 0.5 * x[i] * x[i] } else { x[i] * x[j] });
        std::iter::once(1.0).chain(x.iter().copied()).chain(second).collect::<Vec<f64>>()
    };
    let values: Vec<f64> = points.iter().flat_map(|(x, _)| row(x)).collect();
    let a = DMatrix::from_row_slice(points.len(), coefficients(n), &values);
    let losses = DVector::from_iterator(points.len(), points.iter().map(|(_, loss)| *loss));
    let failed = |e: &str| Error::usage(format!("the quadratic has no fit: {e}"), "try another --method");
    let found = a.svd(true, true).solve(&losses, 1e-12).map_err(failed)?;
    let mut h = DMatrix::zeros(n, n);
    for (&(i, j), v) in pairs.iter().zip(found.iter().skip(1 + n)) {
        (h[(i, j)], h[(j, i)]) = (*v, *v);
    }
    Ok(Model { g: found.rows(1, n).into_owned(), h })
}

impl Model {
    /// The minimum in a box, by descent along one axis after the other; where an axis bends down, its better end.
    fn minimum(&self, ranges: &[(f64, f64)]) -> Vec<f64> {
        let n = ranges.len();
        let mut x: Vec<f64> = ranges.iter().map(|&(low, high)| 0f64.clamp(low, high)).collect();
        for _ in 0..1000 {
            let before = x.clone();
            for i in 0..n {
                let (low, high) = ranges[i];
                let others: f64 = (0..n).filter(|&j| j != i).map(|j| self.h[(i, j)] * x[j]).sum();
                let (slope, bend) = (self.g[i] + others, self.h[(i, i)]);
                let value = |v: f64| slope * v + 0.5 * bend * v * v;
                x[i] = match bend > 0.0 {
                    true => (-slope / bend).clamp(low, high),
                    false if value(low) < value(high) => low,
                    false => high,
                };
            }
            if x.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-9) {
                break;
            }
        }
        x
    }
}

/// Where the quadratic through these candidates has its minimum within the bounds; `centre` and `step` make numbers that are
/// near 1 of them.
fn minimum(bounds: Bounds, (centre, step): (&[f64], f64), seen: &[(Vec<f64>, f64)]) -> Result<Vec<f64>> {
    let scaled = |w: &[f64]| w.iter().zip(centre).map(|(w, c)| (w - c) / step).collect::<Vec<f64>>();
    let points: Vec<_> = seen.iter().map(|(w, loss)| (scaled(w), *loss)).collect();
    let range = |c: &f64| (((bounds.low - c) / step).max(-FAR), ((bounds.high - c) / step).min(FAR));
    let x = fit(centre.len(), &points)?.minimum(&centre.iter().map(range).collect::<Vec<_>>());
    Ok(centre.iter().zip(&x).map(|(c, x)| c + step * x).collect())
}

/// How many fits end another method's search.
pub(super) const FITS: usize = 2;

/// Judges the minimum of the fit to the best that a method has seen, twice as many as the fit has coefficients, and once more with
/// that one among them; nothing where too few have been seen.
pub(super) fn finish(bounds: Bounds, mut seen: Vec<(Vec<f64>, f64)>, judging: &mut Judging) -> Result<()> {
    let points = 2 * coefficients(judging.best.w.len());
    if seen.len() < points {
        return Ok(());
    }
    for _ in 0..FITS {
        seen.sort_by(|a, b| a.1.total_cmp(&b.1));
        let centre = seen[0].0.clone();
        let w = minimum(bounds, (&centre, 0.25 * (bounds.high - bounds.low)), &seen[..points])?;
        let c = judging.judge(&w)?;
        seen.push((c.w, c.loss));
    }
    Ok(())
}

/// Fits around `start`, in steps of a quarter of the bounds, then of half that, as long as a whole round stays within
/// `candidates`.
pub(super) fn search(bounds: Bounds, start: &[f64], candidates: usize, judging: &mut Judging) -> Result<()> {
    let n = start.len();
    let (mut centre, mut step) = (start.to_vec(), 0.25 * (bounds.high - bounds.low));
    // The base's row comes first.
    judging.planned = candidates + 1;
    let mut seen: Vec<(Vec<f64>, f64)> = Vec::new();
    let mut judged = 0;
    // A whole round: the design's points, and the minimum.
    while judged == 0 || judged + coefficients(n) < candidates {
        centre = centre.iter().map(|c| c.min(bounds.high - step).max(bounds.low + step)).collect();
        for x in design(n) {
            let w: Vec<f64> = centre.iter().zip(&x).map(|(c, x)| c + step * x).collect();
            let c = judging.judge(&w)?;
            seen.push((c.w, c.loss));
            judged += 1;
        }
        let near = |(w, _): &&(Vec<f64>, f64)| w.iter().zip(&centre).all(|(w, c)| (w - c).abs() <= 1.001 * step);
        let w = minimum(bounds, (&centre, step), &seen.iter().filter(near).cloned().collect::<Vec<_>>())?;
        let c = judging.judge(&w)?;
        seen.push((c.w, c.loss));
        judged += 1;
        centre = judging.best.w.clone();
        step *= 0.5;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_quadratic_is_found_exactly_and_its_minimum_stays_in_the_box() {
        let loss = |x: &[f64]| 3.0 + 2.0 * x[0] - x[1] + 2.0 * x[0] * x[0] + x[1] * x[1] + x[0] * x[1];
        for n in 1..6 {
            assert_eq!(design(n).len(), coefficients(n));
        }
        let points: Vec<_> = design(2).into_iter().map(|x| (x.clone(), loss(&x))).collect();
        let model = fit(2, &points).unwrap();
        assert!((model.g[0] - 2.0).abs() < 1e-12 && (model.h[(0, 0)] - 4.0).abs() < 1e-12);
        assert!((model.h[(0, 1)] - 1.0).abs() < 1e-12);
        let free = model.minimum(&[(-2.0, 2.0); 2]);
        assert!((free[0] + 5.0 / 7.0).abs() < 1e-6 && (free[1] - 6.0 / 7.0).abs() < 1e-6, "{free:?}");
        assert_eq!(model.minimum(&[(-0.5, 2.0), (-2.0, 0.5)]), [-0.5, 0.5]);
        let saddle = Model { g: DVector::from_vec(vec![0.1]), h: DMatrix::from_element(1, 1, -1.0) };
        assert_eq!(saddle.minimum(&[(-1.0, 1.0)]), [-1.0]);
    }
}
