//! Descent along the exact gradient dL/dw_i = <dL/dtheta, tau_i> within bounds: BFGS on the weights that are free to move
//! (Nocedal and Wright, "Numerical Optimization", procedure 18.2 for the damping), each evaluation a backward pass.
//! Called by `deme::search`.

use super::{Bounds, Candidate, Judging};
use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// Least fraction of the predicted descent that a step must bring.
const ARMIJO: f64 = 1e-4;
/// Longest step of a weight at once.
const LONGEST: f64 = 0.5;
/// Descents below this part of the loss are lost in f32.
const NOISE: f64 = 1e-7;

/// A candidate and its gradient.
struct Point {
    w: DVector<f64>,
    loss: f64,
    g: DVector<f64>,
}

impl Point {
    fn of(c: Candidate) -> Result<Self> {
        let missing = || Error::shape("gradient search", "a candidate was judged without its gradient".to_string());
        Ok(Self { g: DVector::from_vec(c.gradient.ok_or_else(missing)?), loss: c.loss, w: DVector::from_vec(c.w) })
    }
}

/// The second derivatives as BFGS knows them: none before the first pair.
struct Bend(Option<DMatrix<f64>>);

impl Bend {
    /// Learns from a step s and the change y of the gradient.
    fn update(&mut self, s: &DVector<f64>, y: &DVector<f64>) {
        let along = s.dot(y);
        if self.0.is_none() {
            if along <= 0.0 {
                return;
            }
            self.0 = Some(DMatrix::identity(s.len(), s.len()) * (y.dot(y) / along));
        }
        let Some(b) = &mut self.0 else { return };
        let bs = &*b * s;
        let sbs = s.dot(&bs);
        if sbs <= 0.0 {
            return;
        }
        // Damped, so that b stays positive definite where the loss bends down.
        let theta = if along >= 0.2 * sbs { 1.0 } else { 0.8 * sbs / (sbs - along) };
        let r = y * theta + &bs * (1.0 - theta);
        *b += &r * r.transpose() / s.dot(&r) - &bs * bs.transpose() / sbs;
    }

    /// Where to go from `at`: zero for weights that are held by a bound; `first` is the first step's longest part.
    fn step(&self, at: &Point, free: &[usize], first: f64) -> DVector<f64> {
        let g = at.g.select_rows(free);
        let solved = self.0.as_ref().and_then(|b| b.select_rows(free).select_columns(free).cholesky());
        let mut d = solved.map_or_else(|| -&g * (first / g.amax()), |c| -c.solve(&g));
        let longest = d.amax();
        if longest > LONGEST {
            d *= LONGEST / longest;
        }
        let mut step = DVector::zeros(at.w.len());
        free.iter().zip(d.iter()).for_each(|(&i, v)| step[i] = *v);
        step
    }
}

/// From `start`, until nothing is left to gain, or `candidates` have been judged.
pub(super) fn search(bounds: Bounds, start: &[f64], candidates: usize, judging: &mut Judging) -> Result<()> {
    // Nothing is known of the curvature before the first step: an eighth of the bounds for the weight that moves most.
    let first = 0.125 * (bounds.high - bounds.low);
    judging.planned = candidates;
    let mut at = Point::of(judging.judge(&start.iter().map(|&w| bounds.clamp(w)).collect::<Vec<_>>())?)?;
    let mut bend = Bend(None);
    let mut judged = 1;
    while judged < candidates {
        let held = |i: usize| (at.w[i] <= bounds.low && at.g[i] > 0.0) || (at.w[i] >= bounds.high && at.g[i] < 0.0);
        let free: Vec<usize> = (0..at.w.len()).filter(|&i| !held(i)).collect();
        if free.iter().all(|&i| at.g[i] == 0.0) {
            break;
        }
        let step = bend.step(&at, &free, first);
        let mut fraction = 1.0;
        let next = loop {
            let w = (&at.w + &step * fraction).map(|w| bounds.clamp(w));
            let predicted = at.g.dot(&(&w - &at.w));
            if -predicted < NOISE * at.loss || judged >= candidates {
                break None;
            }
            let tried = Point::of(judging.judge(w.as_slice())?)?;
            judged += 1;
            // What a step teaches that went too far is not lost either.
            bend.update(&(&tried.w - &at.w), &(&tried.g - &at.g));
            let gained = tried.loss - at.loss;
            if gained <= ARMIJO * predicted {
                break Some(tried);
            }
            // The minimum of the parabola through both losses and the slope.
            fraction *= (-predicted / (2.0 * (gained - predicted))).clamp(0.1, 0.5);
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(())
}
