//! CMA-ES over w (Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; the library's defaults, with active
//! weights), then the minimum of a quadratic fitted to the best of what it has judged. A candidate outside the bounds is judged
//! where it leaves them: on problems as small as these the optimum is often there, where reflected candidates never are. A
//! resumed search draws the same candidates and finds their losses in the table. Called by `deme::search`.

use super::{Bounds, Judging, quadratic};
use crate::error::{Error, Result};

/// How CMA-ES starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cma {
    /// Initial standard deviation of each weight.
    pub sigma: f64,
    /// Candidates a generation; the library's 4 + floor(3 ln n) if none.
    pub population: Option<usize>,
    pub seed: u64,
}

/// Whole generations, of at most `candidates` with the minima of two fits (but one generation at least).
pub(super) fn search(cma: Cma, bounds: Bounds, start: &[f64], candidates: usize, judging: &mut Judging) -> Result<()> {
    let mut options = cmaes::CMAESOptions::new(start.to_vec(), cma.sigma).seed(cma.seed);
    if let Some(population) = cma.population {
        options = options.population_size(population);
    }
    let population = options.population_size;
    let generations = (candidates.saturating_sub(quadratic::FITS) / population).max(1);
    judging.planned = 1 + generations * population + quadratic::FITS;
    let (mut seen, mut failure) = (Vec::new(), None);
    {
        let loss = |x: &cmaes::DVector<f64>| {
            let w: Vec<f64> = x.iter().map(|&x| bounds.clamp(x)).collect();
            match judging.judge(&w) {
                Ok(c) => {
                    seen.push((c.w, c.loss));
                    c.loss
                }
                Err(e) => {
                    failure = Some(e);
                    // Makes the library stop.
                    f64::NAN
                }
            }
        };
        let hint = "take --sigma above 0 and a --population of at least 2";
        let refused = |e| Error::usage(format!("CMA-ES refuses its settings: {e:?}"), hint);
        let mut evolution = options.build(loss).map_err(refused)?;
        for _ in 0..generations {
            if evolution.next().is_some() {
                break;
            }
        }
    }
    failure.map_or_else(|| quadratic::finish(bounds, seen, judging), Err)
}
