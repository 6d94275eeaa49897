//! The search for merge weights w: a grid, coarse then fine, judged by the denoising loss with common random numbers.
//! Every candidate goes into a table on disk, from which a stopped search continues. Called by `cli::search` and the demo.

use crate::diffusion::summary::{StandardError, Summary};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A grid over w in [low, high]^N.
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

/// Weights are multiples of this, so that equal candidates are equal bit for bit.
const QUANTUM: f64 = 1e-6;

fn quantised(w: f64) -> f64 {
    (w / QUANTUM).round() * QUANTUM
}

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

fn axis(low: f64, high: f64, step: f64) -> Vec<f64> {
    let count = steps(high - low, step) as usize + 1;
    (0..count).map(|i| quantised(low + i as f64 * step)).collect()
}

impl Grid {
    pub fn check(&self, n: usize) -> Result<()> {
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
        let coarse = steps(self.high - self.low, self.step) + 1.0;
        let fine = if self.fine < self.step { 2.0 * steps(self.step, self.fine) + 1.0 } else { 0.0 };
        for (points, option) in [(coarse, "--step"), (fine, "--fine")] {
            if points.powi(n as i32) > MOST_CANDIDATES {
                let message = format!("{points}^{n} candidates by {option}");
                return Err(Error::usage(message, format!("take a larger {option}, or a narrower range")));
            }
        }
        Ok(())
    }

    /// The first pass. The base, w = 0, is always in it.
    pub fn coarse(&self, n: usize) -> Vec<Vec<f64>> {
        let mut points = product(&vec![axis(self.low, self.high, self.step); n]);
        let base = vec![0.0; n];
        if !points.contains(&base) {
            points.insert(0, base);
        }
        points
    }

    /// The second pass: within one coarse step of `best`, in fine steps, inside the range.
    pub fn refine(&self, best: &[f64]) -> Vec<Vec<f64>> {
        if self.fine >= self.step {
            return Vec::new();
        }
        let around = |&w: &f64| {
            let steps = steps(self.step, self.fine) as i64;
            let points = (-steps..=steps).map(|i| quantised(w + i as f64 * self.fine));
            points.filter(|&w| w >= self.low - QUANTUM && w <= self.high + QUANTUM).collect::<Vec<_>>()
        };
        product(&best.iter().map(around).collect::<Vec<_>>())
    }
}

/// One judged candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub w: Vec<f64>,
    /// Mean denoising loss over the search pairs.
    pub loss: f64,
    /// Mean of loss(w) - loss(0), pair by pair, and its standard error.
    pub difference: f64,
    pub difference_error: StandardError,
}

/// What makes two searches the same: the first line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// SHA-256 of base and experts, settings of the pairs, seed.
    pub identity: String,
}

/// The candidates judged so far, appended to a JSON-lines file one by one.
pub struct Table {
    path: PathBuf,
    file: std::fs::File,
    pub rows: Vec<Candidate>,
    known: HashMap<Vec<u64>, usize>,
}

fn bits(w: &[f64]) -> Vec<u64> {
    // -0 and 0 are one candidate.
    w.iter().map(|w| (w + 0.0).to_bits()).collect()
}

impl Table {
    /// Opens or creates the table. A table of another search is refused; a torn last line is dropped.
    pub fn open(path: &Path, header: &Header) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(path, "read")(e)),
        };
        let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
        let hint = "remove the file, or give another --out, to search anew";
        let mut lines = complete.lines();
        if let Some(first) = lines.next() {
            let found: Header = serde_json::from_str(first)
                .map_err(|e| Error::format(path, "line 1", format!("is not a search's header: {e}"), hint))?;
            if found != *header {
                return Err(Error::format(path, "line 1", "belongs to a search with other inputs or settings", hint));
            }
        }
        let mut rows = Vec::new();
        for (i, line) in lines.enumerate() {
            let row: Candidate = serde_json::from_str(line).map_err(|e| {
                Error::format(path, format!("line {}", i + 2), format!("is not a candidate: {e}"), hint)
            })?;
            rows.push(row);
        }
        let options = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut file = options.map_err(Error::io(path, "open"))?;
        file.set_len(complete.len() as u64).map_err(Error::io(path, "truncate"))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(Error::io(path, "seek"))?;
        let known = rows.iter().enumerate().map(|(i, r)| (bits(&r.w), i)).collect();
        let mut table = Self { path: path.to_path_buf(), file, rows, known };
        if complete.is_empty() {
            table.append(header)?;
        }
        Ok(table)
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|e| Error::format(&self.path, "a new line", e.to_string(), "please report this"))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path, "write"))
    }

    fn find(&self, w: &[f64]) -> Option<&Candidate> {
        self.known.get(&bits(w)).map(|&i| &self.rows[i])
    }

    fn add(&mut self, row: Candidate) -> Result<()> {
        self.append(&row)?;
        self.known.insert(bits(&row.w), self.rows.len());
        self.rows.push(row);
        Ok(())
    }

    /// The lowest loss; ties go to the weights that are closest to the base, then to the earlier row.
    pub fn best(&self) -> Option<&Candidate> {
        let norm = |c: &Candidate| c.w.iter().map(|w| w * w).sum::<f64>();
        self.rows.iter().min_by(|a, b| a.loss.total_cmp(&b.loss).then(norm(a).total_cmp(&norm(b))))
    }
}

/// Losses per pair of the merged model with weights w; the pairs and their noise are the same in every call.
pub type Judge<'a> = &'a mut dyn FnMut(&[f64]) -> Result<Vec<f64>>;

/// What a progress line shows: candidates done and planned in this pass, and the best so far.
pub type OnCandidate<'a> = &'a mut dyn FnMut(usize, usize, &Candidate) -> Result<()>;

/// Runs the grid over n weights; `images` says which image each pair is of. Returns the best candidate; all are in the table.
pub fn grid(
    n: usize,
    grid: &Grid,
    images: &[usize],
    table: &mut Table,
    judge: Judge,
    on_candidate: OnCandidate,
) -> Result<Candidate> {
    grid.check(n)?;
    let base = Base { losses: judge(&vec![0.0; n])?, images };
    pass(&grid.coarse(n), &base, table, judge, on_candidate)?;
    let nothing = || Error::usage("the grid has no candidates", "widen its range");
    let best = table.best().cloned().ok_or_else(nothing)?;
    pass(&grid.refine(&best.w), &base, table, judge, on_candidate)?;
    table.best().cloned().ok_or_else(nothing)
}

/// What candidates are compared with, pair by pair.
struct Base<'a> {
    losses: Vec<f64>,
    images: &'a [usize],
}

fn pass(points: &[Vec<f64>], base: &Base, table: &mut Table, judge: Judge, on_candidate: OnCandidate) -> Result<()> {
    for (i, w) in points.iter().enumerate() {
        if table.find(w).is_none() {
            let losses = judge(w)?;
            let difference = Summary::of_difference(&losses, &base.losses, base.images);
            table.add(Candidate {
                w: w.clone(),
                loss: Summary::of(&losses, base.images).mean,
                difference: difference.mean,
                difference_error: difference.standard_error,
            })?;
        }
        if let Some(best) = table.best() {
            on_candidate(i + 1, points.len(), &best.clone())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GRID: Grid = Grid { low: -0.5, high: 1.0, step: 0.5, fine: 0.25 };

    fn bowl(w: &[f64]) -> Vec<f64> {
        let at = [0.3, -0.2];
        let loss: f64 = w.iter().zip(at).map(|(w, a)| (w - a).powi(2)).sum();
        (0..4).map(|i| loss + f64::from(i)).collect()
    }

    fn header() -> Header {
        Header { identity: "a".into() }
    }

    #[test]
    fn coarse_then_fine_finds_the_nearest_point() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = Table::open(&dir.path().join("t.jsonl"), &header()).unwrap();
        let best = grid(2, &GRID, &[0, 1, 2, 3], &mut table, &mut |w| Ok(bowl(w)), &mut |_, _, _| Ok(())).unwrap();
        assert_eq!(best.w, [0.25, -0.25]);
        assert!(best.difference < 0.0 && best.difference_error.0.unwrap() < 1e-12);
        assert_eq!(GRID.coarse(2).len(), 16);
    }

    #[test]
    fn a_stopped_search_continues_and_a_torn_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let mut calls = 0;
        let mut table = Table::open(&path, &header()).unwrap();
        let stopped = grid(2, &GRID, &[0, 1, 2, 3], &mut table, &mut |w| Ok(bowl(w)), &mut |i, _, _| {
            if i == 5 { Err(Error::usage("stop", "")) } else { Ok(()) }
        });
        assert!(stopped.is_err());
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"w\": [0.");
        std::fs::write(&path, text).unwrap();
        let mut table = Table::open(&path, &header()).unwrap();
        assert_eq!(table.rows.len(), 5);
        let judge = &mut |w: &[f64]| {
            calls += 1;
            Ok(bowl(w))
        };
        grid(2, &GRID, &[0, 1, 2, 3], &mut table, judge, &mut |_, _, _| Ok(())).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let fresh = dir.path().join("fresh.jsonl");
        let mut again = Table::open(&fresh, &header()).unwrap();
        grid(2, &GRID, &[0, 1, 2, 3], &mut again, &mut |w| Ok(bowl(w)), &mut |_, _, _| Ok(())).unwrap();
        assert_eq!(whole, std::fs::read_to_string(&fresh).unwrap());
        assert_eq!(calls, again.rows.len() - 5 + 1);
        assert!(Table::open(&path, &Header { identity: "b".into() }).is_err());
    }

    #[test]
    fn senseless_grids_are_refused() {
        for g in [Grid { step: 0.0, ..GRID }, Grid { low: 2.0, ..GRID }, Grid { fine: f64::NAN, ..GRID }] {
            assert!(g.check(2).is_err());
        }
        assert!(Grid { step: 1e-3, ..GRID }.check(4).is_err());
    }
}
