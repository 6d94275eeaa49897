//! Which timesteps a sampler visits, and where each step lands: diffusers' three spacings and the DDIM paper's `quad`.
//! Called by sampling; a step is (t, t_prev), t_prev = None for the final step to a clean image.

use std::fmt;
use std::str::FromStr;

use super::schedule::Schedule;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// 0, r, 2r, ... with r = T / n rounded down, plus steps_offset.
    Leading,
    /// T - 1, T - 1 - T/n, ... rounded.
    Trailing,
    /// n points from 0 to T - 1, both ends included, rounded.
    Linspace,
    /// tau_i = floor(c i^2), i = 0 .. n - 1 (Song et al. 2020, appendix D.2), with the c of its authors' runs, tau_{n-1} = 0.8 T.
    Quad,
}

/// One step of the sampler, from x_t to x_{t_prev}.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub t: usize,
    /// None: the schedule's `final_alpha_bar` takes the place of alpha_bar_{t_prev}.
    pub t_prev: Option<usize>,
}

impl Spacing {
    pub const ALL: [Self; 4] = [Self::Leading, Self::Trailing, Self::Linspace, Self::Quad];

    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
            Self::Quad => "quad",
        }
    }
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            Error::usage(format!("unknown spacing {name}"), "choose one of leading, trailing, linspace, quad")
        })
    }
}

impl Schedule {
    /// The steps of an n-step sampler, from noise to image. As in diffusers, t_prev is t - T/n (rounded down) for its
    /// three spacings, even where that is not the next t. `quad` goes to the next t; its first timesteps may coincide,
    /// and a step from t to itself changes nothing, so it may return fewer than n steps.
    ///
    /// # Errors
    /// `Usage` if n is 0 or above T, or if a timestep would not exist (steps_offset with almost T steps).
    pub fn steps(&self, spacing: Spacing, n: usize) -> Result<Vec<Step>> {
        let total = self.timesteps();
        if n == 0 || n > total {
            return Err(Error::usage(
                format!("{n} sampling steps, but the model has {total} timesteps"),
                format!("choose --steps between 1 and {total}"),
            ));
        }
        let stride = (total / n) as i64;
        let timesteps: Vec<i64> = match spacing {
            Spacing::Leading => (0..n as i64).rev().map(|i| i * stride + self.steps_offset as i64).collect(),
            Spacing::Trailing => trailing(total, n),
            Spacing::Linspace => linspace(total, n),
            Spacing::Quad => quad(total, n),
        };
        if let Some(t) = timesteps.iter().find(|&&t| t < 0 || t >= total as i64) {
            return Err(Error::usage(
                format!("{n} steps with spacing {spacing} would visit timestep {t}; the model has 0..{total}"),
                "choose fewer --steps or another --spacing",
            ));
        }
        let step = |(i, &t): (usize, &i64)| {
            let t_prev = match spacing {
                Spacing::Quad => timesteps.get(i + 1).copied(),
                _ => Some(t - stride).filter(|&t_prev| t_prev >= 0),
            };
            Step { t: t as usize, t_prev: t_prev.map(|t_prev| t_prev as usize) }
        };
        Ok(timesteps.iter().enumerate().map(step).collect())
    }
}

/// numpy.round(numpy.arange(T, 0, -T/n)) - 1, with numpy's arithmetic: the increment is what is left of T/n after one
/// subtraction from T, and halves round to even. For some n (61 of T = 1000) arange's own rounding lets it go on to a
/// timestep of -1, where diffusers reads the wrong end of its table; that one is left out.
fn trailing(total: usize, n: usize) -> Vec<i64> {
    let start = total as f64;
    let increment = (start - start / n as f64) - start;
    (0..n).map(|i| (start + i as f64 * increment).round_ties_even() as i64 - 1).collect()
}

/// numpy.linspace(0, T - 1, n).round(), reversed.
fn linspace(total: usize, n: usize) -> Vec<i64> {
    let end = (total - 1) as f64;
    let increment = end / (n.max(2) - 1) as f64;
    let at = |i: usize| if i > 0 && i == n - 1 { end } else { i as f64 * increment };
    (0..n).rev().map(|i| at(i).round_ties_even() as i64).collect()
}

/// floor(0.8 T i^2 / (n - 1)^2) in exact integers, reversed, each once.
fn quad(total: usize, n: usize) -> Vec<i64> {
    let span = (n.max(2) - 1) as u128;
    let tau = |i: usize| (4 * total as u128 * (i as u128).pow(2) / (5 * span * span)) as i64;
    let mut timesteps: Vec<i64> = (0..n).rev().map(tau).collect();
    timesteps.dedup();
    timesteps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn timesteps(spacing: Spacing, n: usize) -> Vec<usize> {
        let schedule = Schedule::from_json(std::path::Path::new("test"), &serde_json::Map::new()).unwrap();
        schedule.steps(spacing, n).unwrap().iter().map(|step| step.t).collect()
    }

    #[test]
    fn quad_is_the_square_law_and_lands_on_its_own_next_timestep() {
        assert_eq!(timesteps(Spacing::Quad, 10), [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]);
        assert_eq!(timesteps(Spacing::Quad, 1), [0]);
        let schedule = Schedule::from_json(std::path::Path::new("test"), &serde_json::Map::new()).unwrap();
        let steps = schedule.steps(Spacing::Quad, 100).unwrap();
        assert!(steps.len() < 100 && steps.windows(2).all(|w| w[0].t_prev == Some(w[1].t) && w[1].t < w[0].t));
        assert_eq!(steps.last().unwrap(), &Step { t: 0, t_prev: None });
    }

    #[test]
    fn every_spacing_gives_descending_timesteps_for_every_count() {
        for n in 1..=1000 {
            for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
                let list = timesteps(spacing, n);
                assert_eq!(list.len(), n);
                assert!(list.windows(2).all(|w| w[1] < w[0]) && list[0] < 1000, "{spacing} {n}");
            }
        }
    }

    #[test]
    fn counts_and_offsets_that_leave_the_schedule_are_refused() {
        let json = serde_json::from_str(r#"{"steps_offset": 1}"#).unwrap();
        let schedule = Schedule::from_json(std::path::Path::new("test"), &json).unwrap();
        for n in [0, 1000, 1001] {
            assert!(matches!(schedule.steps(Spacing::Leading, n), Err(Error::Usage { .. })), "{n}");
        }
        assert_eq!(schedule.steps(Spacing::Leading, 500).unwrap()[0], Step { t: 999, t_prev: Some(997) });
    }

    #[test]
    fn names_round_trip() {
        for spacing in Spacing::ALL {
            assert_eq!(spacing.name().parse::<Spacing>().unwrap(), spacing);
        }
        assert!("karras".parse::<Spacing>().is_err());
    }
}
