//! The grid over w, coarse then fine, and the line search along its axes.
//! Called by `deme::search`.

use super::{Judging, QUANTUM, quantised};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A grid over w in [low, high]^n.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub low: f64,
    pub high: f64,
    /// Step of the first pass over the whole range.
    pub step: f64,
    /// Step of the second pass, around the best of the first; none if it is not below `step`.
    pub fine: f64,
}

/// More candidates than this are a mistake in the settings.
const MOST_CANDIDATES: f64 = 1e6;

/// All points of {values}^n, the last index fastest.
fn product(axes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    axes.iter().fold(vec![Vec::new()], |points, axis| {
        let extend = |p: &Vec<f64>| axis.iter().map(|&w| [p.as_slice(), &[w]].concat()).collect::<Vec<_>>();
        points.iter().flat_map(extend).collect()
    })
}

/// Whole steps in `length`, as a number that cannot overflow.
fn steps(length: f64, step: f64) -> f64 {
    (length / step + 1e-9).floor()
}

impl Grid {
    /// Refuses ranges and steps that make no sense for any method.
    pub fn check(&self) -> Result<()> {
        let finite = [self.low, self.high, self.step, self.fine].iter().all(|v| v.is_finite());
        if !finite || self.high < self.low || self.step <= 0.0 || self.fine <= 0.0 {
            let message =
                format!("a grid from {} to {} in steps of {} and {}", self.low, self.high, self.step, self.fine);
            return Err(Error::usage(message, "low must not be above high, and steps must be positive"));
        }
        if self.step < QUANTUM || self.fine < QUANTUM {
            let message = format!("steps of {} and {}", self.step, self.fine);
            return Err(Error::usage(message, format!("weights are multiples of {QUANTUM}: take larger steps")));
        }
        Ok(())
    }

    /// Refuses more candidates than anybody waits for: `lines` along each of n axes, or all their combinations.
    pub fn check_size(&self, n: usize, lines: bool) -> Result<()> {
        let coarse = steps(self.high - self.low, self.step) + 1.0;
        let fine = if self.fine < self.step { 2.0 * steps(self.step, self.fine) + 1.0 } else { 0.0 };
        for (points, option) in [(coarse, "--step"), (fine, "--fine")] {
            let all = if lines { points * n as f64 } else { points.powi(n as i32) };
            if all > MOST_CANDIDATES {
                let message = if lines { format!("{n} x {points}") } else { format!("{points}^{n}") };
                let hint = format!("take a larger {option}, or a narrower range");
                return Err(Error::usage(format!("{message} candidates by {option}"), hint));
            }
        }
        Ok(())
    }

    /// The weights that the first pass gives an expert.
    fn axis(&self) -> Vec<f64> {
        let count = steps(self.high - self.low, self.step) as usize + 1;
        (0..count).map(|i| quantised(self.low + i as f64 * self.step)).collect()
    }

    /// Within one coarse step of `w`, in fine steps, inside the range.
    fn around(&self, w: f64) -> Vec<f64> {
        let steps = steps(self.step, self.fine) as i64;
        let points = (-steps..=steps).map(|i| quantised(w + i as f64 * self.fine));
        points.filter(|&w| w >= self.low - QUANTUM && w <= self.high + QUANTUM).collect()
    }

    /// The first pass.
    pub fn coarse(&self, n: usize) -> Vec<Vec<f64>> {
        product(&vec![self.axis(); n])
    }

    /// The second pass, around `best`.
    pub fn refine(&self, best: &[f64]) -> Vec<Vec<f64>> {
        if self.fine >= self.step {
            return Vec::new();
        }
        product(&best.iter().map(|&w| self.around(w)).collect::<Vec<_>>())
    }
}

/// Judges the whole grid.
pub(super) fn search(grid: &Grid, n: usize, judging: &mut Judging) -> Result<()> {
    let coarse = grid.coarse(n);
    judging.planned = coarse.len();
    coarse.iter().try_for_each(|w| judging.judge(w).map(drop))?;
    let fine = grid.refine(&judging.best.w);
    judging.planned += fine.len();
    fine.iter().try_for_each(|w| judging.judge(w).map(drop))
}

/// One weight after the other along the grid's axis, from the base, until no weight moves; then in fine steps.
pub(super) fn coordinate(grid: &Grid, n: usize, judging: &mut Judging) -> Result<()> {
    let axis = grid.axis();
    judging.planned = n * axis.len();
    descend(n, judging, &|_| axis.clone())?;
    if grid.fine < grid.step {
        judging.planned = judging.judged + n * grid.around(grid.low).len();
        descend(n, judging, &|w| grid.around(w))?;
    }
    Ok(())
}

/// Cycles over the weights from the best so far; `line` says what to try where a weight is now.
fn descend(n: usize, judging: &mut Judging, line: &dyn Fn(f64) -> Vec<f64>) -> Result<()> {
    let mut still = 0;
    for i in (0..n).cycle() {
        let before = judging.best.clone();
        for w in line(before.w[i]) {
            let mut moved = before.w.clone();
            moved[i] = w;
            judging.judge(&moved)?;
        }
        still = if judging.best.w == before.w { still + 1 } else { 0 };
        if still == n {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GRID: Grid = Grid { low: -0.5, high: 1.0, step: 0.5, fine: 0.25 };

    #[test]
    fn points_are_where_they_should() {
        assert_eq!(GRID.coarse(2).len(), 16);
        assert_eq!(GRID.refine(&[0.5, 1.0]).len(), 5 * 3);
        assert!(GRID.refine(&[0.5, 1.0]).contains(&vec![0.25, 0.75]));
        assert!(Grid { fine: 0.5, ..GRID }.refine(&[0.5]).is_empty());
    }

    #[test]
    fn senseless_grids_are_refused() {
        for g in [Grid { step: 0.0, ..GRID }, Grid { low: 2.0, ..GRID }, Grid { fine: f64::NAN, ..GRID }] {
            assert!(g.check().is_err());
        }
        let small = Grid { step: 1e-3, ..GRID };
        assert!(small.check_size(4, false).is_err() && small.check_size(4, true).is_ok());
    }
}
