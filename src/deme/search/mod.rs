//! The search for merge weights w: candidates chosen by one of five methods, judged with common random numbers, the best few
//! judged again on fresh noise. Every candidate goes into a table on disk; all methods are functions of what is in it, so a
//! stopped search continues bit for bit. Called by `cli::search` and the demo.

mod cma;
mod gradient;
mod grid;
mod quadratic;
mod table;

use crate::diffusion::summary::Summary;
use crate::error::{Error, Result};
pub use cma::Cma;
pub use grid::Grid;
pub use table::{Candidate, Header, Table};

/// Weights are multiples of this, so that equal candidates are equal bit for bit.
const QUANTUM: f64 = 1e-6;

fn quantised(w: f64) -> f64 {
    // A quotient by a whole number is the double that is written with six decimals; a product with QUANTUM need not be.
    (w * 1e6).round() / 1e6
}

/// What candidates are judged by. Nothing in it may depend on what was judged before.
pub trait Objective {
    /// One loss a pair; the pairs and their noise are the same in every call.
    fn losses(&mut self, w: &[f64]) -> Result<Vec<f64>>;

    /// The same, and the derivative of their mean by each weight.
    fn losses_and_gradient(&mut self, w: &[f64]) -> Result<(Vec<f64>, Vec<f64>)>;
}

/// How many of the best are judged again, unless told.
pub const ELITE: usize = 4;

/// How candidates are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Grid,
    Coordinate,
    Cma,
    Quadratic,
    Gradient,
}

/// Between which weights a search may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub low: f64,
    pub high: f64,
}

impl Bounds {
    fn clamp(self, w: f64) -> f64 {
        w.min(self.high).max(self.low)
    }

    fn check_room(self) -> Result<()> {
        if self.high - self.low > 2.0 * QUANTUM {
            return Ok(());
        }
        let message = format!("there is nothing between {} and {}", self.low, self.high);
        Err(Error::usage(message, "take a larger --high, or a lower --low"))
    }
}

/// A search's method and its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub method: Method,
    /// Bounds of all methods; steps of the grid and of the coordinates.
    pub grid: Grid,
    /// At most so many candidates, where the method has no end of its own.
    pub candidates: usize,
    pub cma: Cma,
}

impl Settings {
    /// Refuses numbers that make no sense for n weights.
    pub fn check(&self, n: usize) -> Result<()> {
        self.grid.check()?;
        match self.method {
            Method::Grid => self.grid.check_size(n, false),
            Method::Coordinate => self.grid.check_size(n, true),
            Method::Cma | Method::Quadratic | Method::Gradient => {
                Bounds { low: self.grid.low, high: self.grid.high }.check_room()
            }
        }
    }
}

/// How many candidates CMA-ES, the quadratic and the gradient take for n weights, unless told: two rounds of the quadratic, and
/// what reaches or beats the best of 5^4 candidates within a tenth of their cost (docs/search.md).
pub fn usual_candidates(method: Method, n: usize) -> usize {
    match method {
        Method::Quadratic => 2 * (quadratic::coefficients(n) + 1),
        Method::Gradient => (10 + 2 * n).min(40),
        Method::Cma | Method::Grid | Method::Coordinate => 15 * n,
    }
}

/// What a progress line shows: candidates done and planned, and the best so far.
pub type OnCandidate<'a> = &'a mut dyn FnMut(usize, usize, &Candidate) -> Result<()>;

/// Judges candidates once each: what the table has is not judged again, but found again in the same order.
pub struct Judging<'a> {
    objective: &'a mut dyn Objective,
    /// Which image each pair is of.
    images: &'a [usize],
    table: &'a mut Table,
    on_candidate: OnCandidate<'a>,
    /// Losses of w = 0, pair by pair.
    base: Vec<f64>,
    derivative: bool,
    fresh: bool,
    /// The best of those that were asked for: of a table that is being continued, the rest is not known yet.
    best: Candidate,
    judged: usize,
    /// How many candidates there may be in all, for progress.
    planned: usize,
}

impl<'a> Judging<'a> {
    /// Judges the base, w = 0 in n dimensions, which is the first row of a new table.
    fn new(
        n: usize,
        [derivative, fresh]: [bool; 2],
        objective: &'a mut dyn Objective,
        images: &'a [usize],
        table: &'a mut Table,
        on_candidate: OnCandidate<'a>,
    ) -> Result<Self> {
        let w = vec![0.0; n];
        let (base, gradient) = evaluate(objective, derivative, &w)?;
        let best = candidate(w, &base, &base, images, gradient, fresh);
        if table.find(fresh, &best.w).is_none() {
            table.add(best.clone())?;
        }
        on_candidate(1, 1, &best)?;
        Ok(Self { objective, images, table, on_candidate, base, derivative, fresh, best, judged: 1, planned: 1 })
    }

    /// The row of w, rounded to multiples of `QUANTUM`.
    fn judge(&mut self, w: &[f64]) -> Result<Candidate> {
        let w: Vec<f64> = w.iter().map(|&w| quantised(w)).collect();
        let row = match self.table.find(self.fresh, &w) {
            Some(row) => row.clone(),
            None => {
                let (losses, gradient) = evaluate(self.objective, self.derivative, &w)?;
                let row = candidate(w, &losses, &self.base, self.images, gradient, self.fresh);
                self.table.add(row.clone())?;
                row
            }
        };
        if row.order(&self.best).is_lt() {
            self.best = row.clone();
        }
        self.judged += 1;
        (self.on_candidate)(self.judged, self.planned.max(self.judged), &self.best)?;
        Ok(row)
    }
}

fn evaluate(objective: &mut dyn Objective, derivative: bool, w: &[f64]) -> Result<(Vec<f64>, Option<Vec<f64>>)> {
    if derivative {
        let (losses, gradient) = objective.losses_and_gradient(w)?;
        return Ok((losses, Some(gradient)));
    }
    Ok((objective.losses(w)?, None))
}

/// The row of a candidate with these losses, beside those of the base.
fn candidate(
    w: Vec<f64>,
    losses: &[f64],
    base: &[f64],
    images: &[usize],
    gradient: Option<Vec<f64>>,
    fresh: bool,
) -> Candidate {
    let difference = Summary::of_difference(losses, base, images);
    let (difference, difference_error) = (difference.mean, difference.standard_error);
    Candidate { w, loss: Summary::of(losses, images).mean, difference, difference_error, gradient, fresh }
}

/// Runs a method over n weights of `experts` experts, block by block. Returns the best candidate; all are in the table.
pub fn search(
    settings: &Settings,
    [n, experts]: [usize; 2],
    objective: &mut dyn Objective,
    images: &[usize],
    table: &mut Table,
    on_candidate: OnCandidate,
) -> Result<Candidate> {
    let Settings { method, grid, candidates, cma } = *settings;
    settings.check(n)?;
    let bounds = Bounds { low: grid.low, high: grid.high };
    // The uniform soup, where the bounds have it.
    let soup = vec![bounds.clamp(1.0 / experts as f64); n];
    let judging = &mut Judging::new(n, [method == Method::Gradient, false], objective, images, table, on_candidate)?;
    match method {
        Method::Grid => grid::search(&grid, n, judging)?,
        Method::Coordinate => grid::coordinate(&grid, n, judging)?,
        Method::Cma => cma::search(cma, bounds, &soup, candidates, judging)?,
        Method::Quadratic => quadratic::search(bounds, &soup, candidates, judging)?,
        Method::Gradient => gradient::search(bounds, &vec![0.0; n], candidates, judging)?,
    }
    Ok(judging.best.clone())
}

/// Judges the base and the `count` best rows by another objective, that of fresh noise: what they gained by chance on the
/// search's noise, they lose. Returns the best by that, the base among them; its rows are in the table too.
pub fn elite(
    count: usize,
    objective: &mut dyn Objective,
    images: &[usize],
    table: &mut Table,
    on_candidate: OnCandidate,
) -> Result<Candidate> {
    let best: Vec<Vec<f64>> = table.ranked(false).into_iter().take(count).map(|c| c.w.clone()).collect();
    let nothing = || Error::usage("there is no elite of 0", "judge one candidate at least");
    let n = best.first().ok_or_else(nothing)?.len();
    let judging = &mut Judging::new(n, [false, true], objective, images, table, on_candidate)?;
    judging.planned = 1 + best.len();
    best.iter().try_for_each(|w| judging.judge(w).map(drop))?;
    // Rows of an earlier, larger elite have no say.
    let ranked = judging.table.ranked(true);
    let winner = ranked.into_iter().find(|c| best.contains(&c.w) || c.w.iter().all(|w| *w == 0.0));
    winner.cloned().ok_or_else(nothing)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
