//! Repeated runs and their statistics, and today's date.
//! Called by everything in `bench` that times something.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::error::Result;

/// How long to look at each thing.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seconds of wall time for each row.
    pub seconds: f64,
    /// Run everything once only.
    pub smoke: bool,
}

/// What repeated runs took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    pub median: f64,
    pub best: f64,
    /// (upper quartile - lower quartile) / median
    pub spread: f64,
    pub runs: usize,
}

/// Runs of which there are at least so many, and at most.
const LEAST: usize = 3;
const MOST: usize = 1001;
/// A warm-up that takes longer is not repeated thrice.
const SLOW: f64 = 3.0;

impl Stats {
    /// Of at least one number; zeros of none.
    pub fn of(seconds: &[f64]) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let at = q * sorted.len().saturating_sub(1) as f64;
            let value = |i: f64| sorted.get(i as usize).copied().unwrap_or_default();
            value(at.floor()) + (value(at.ceil()) - value(at.floor())) * at.fract()
        };
        let median = quantile(0.5);
        let spread = if median > 0.0 { (quantile(0.75) - quantile(0.25)) / median } else { 0.0 };
        Self { median, best: quantile(0.0), spread, runs: sorted.len() }
    }
}

/// Calls `run`, which gives seconds (or several, summed up elsewhere), until the effort is spent. The first calls compile
/// and warm up: a twentieth of the effort, at least once.
pub fn repeat<T>(effort: Effort, mut run: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    let start = Instant::now();
    let first = run()?;
    if effort.smoke {
        return Ok(vec![first]);
    }
    let least = if start.elapsed().as_secs_f64() > SLOW { 1 } else { LEAST };
    while start.elapsed().as_secs_f64() < effort.seconds / 20.0 {
        run()?;
    }
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < least || (start.elapsed().as_secs_f64() < effort.seconds && all.len() < MOST) {
        all.push(run()?);
    }
    Ok(all)
}

/// Now, as 2026-01-31T12:34:56Z.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds)
}

fn date(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let [h, m, s] = [time / 3600, time / 60 % 60, time % 60];
    format!("{year}-{month:02}-{:02}T{h:02}:{m:02}:{s:02}Z", days + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn quartiles_and_median_of_few_and_many() {
        let s = Stats::of(&[3.0, 1.0, 2.0, 5.0, 4.0]);
        assert_eq!((s.median, s.best, s.runs), (3.0, 1.0, 5));
        assert!((s.spread - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Stats::of(&[7.0]), Stats { median: 7.0, best: 7.0, spread: 0.0, runs: 1 });
        assert_eq!(Stats::of(&[1.0, 2.0]).median, 1.5);
        assert_eq!(Stats::of(&[]).median, 0.0);
    }

    #[test]
    fn warm_up_runs_do_not_count_and_a_smoke_run_is_one() {
        let mut calls = 0;
        let mut run = || {
            calls += 1;
            Ok(calls)
        };
        assert_eq!(repeat(Effort { seconds: 0.0, smoke: false }, &mut run).unwrap(), [2, 3, 4]);
        assert_eq!(repeat(Effort { seconds: 9.0, smoke: true }, &mut run).unwrap(), [5]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(date(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
