//! The table of all judged candidates: lines of JSON on disk, from which a stopped search continues bit for bit.
//! Called by the methods of `deme::search` through `Judging`, and by `cli::search`.

use crate::diffusion::summary::StandardError;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One judged candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Block by block, in each the experts'.
    pub w: Vec<f64>,
    /// Mean denoising loss over the search pairs.
    pub loss: f64,
    /// Mean of loss(w) - loss(0), pair by pair, and its standard error.
    pub difference: f64,
    pub difference_error: StandardError,
    /// dL/dw where a backward pass has been made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<Vec<f64>>,
    /// Judged on timesteps and noise that the search has not seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

impl Candidate {
    /// Forward passes of a pair that it cost, a backward pass counted as two.
    pub fn passes(&self) -> u64 {
        if self.gradient.is_some() { 3 } else { 1 }
    }

    /// By loss; ties go to the weights that are closest to the base.
    pub(super) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let norm = |c: &Self| c.w.iter().map(|w| w * w).sum::<f64>();
        self.loss.total_cmp(&other.loss).then(norm(self).total_cmp(&norm(other)))
    }
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
    known: HashMap<(bool, Vec<u64>), usize>,
}

fn key(fresh: bool, w: &[f64]) -> (bool, Vec<u64>) {
    // -0 and 0 are one candidate.
    (fresh, w.iter().map(|w| (w + 0.0).to_bits()).collect())
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
        let mut rows: Vec<Candidate> = Vec::new();
        for (i, line) in lines.enumerate() {
            let row = serde_json::from_str(line).map_err(|e| {
                Error::format(path, format!("line {}", i + 2), format!("is not a candidate: {e}"), hint)
            })?;
            rows.push(row);
        }
        let options = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut file = options.map_err(Error::io(path, "open"))?;
        file.set_len(complete.len() as u64).map_err(Error::io(path, "truncate"))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(Error::io(path, "seek"))?;
        let known = rows.iter().enumerate().map(|(i, r)| (key(r.fresh, &r.w), i)).collect();
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

    pub(super) fn find(&self, fresh: bool, w: &[f64]) -> Option<&Candidate> {
        self.known.get(&key(fresh, w)).map(|&i| &self.rows[i])
    }

    pub(super) fn add(&mut self, row: Candidate) -> Result<()> {
        self.append(&row)?;
        self.known.insert(key(row.fresh, &row.w), self.rows.len());
        self.rows.push(row);
        Ok(())
    }

    /// The rows of the search itself, or those with fresh noise, best first; ties go to the earlier row.
    pub fn ranked(&self, fresh: bool) -> Vec<&Candidate> {
        let mut rows: Vec<&Candidate> = self.rows.iter().filter(|r| r.fresh == fresh).collect();
        rows.sort_by(|a, b| a.order(b));
        rows
    }

    /// Forward passes of a pair in all, a backward pass counted as two: of the search itself, and with fresh noise.
    pub fn passes(&self) -> [u64; 2] {
        [false, true].map(|fresh| self.rows.iter().filter(|r| r.fresh == fresh).map(Candidate::passes).sum())
    }
}
