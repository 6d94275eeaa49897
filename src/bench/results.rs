//! What was measured, as a file that other engines write too; and what moved between two of them.
//! Called by `cli::bench` and the page.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ceilings::Ceilings;
use super::measure::{self, Stats};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::{atomic, json};
use crate::recording::cost::Cost;

/// The variant's name in rows of a whole pass: each kernel in the variant that deme chooses.
pub const DEFAULT: &str = "default";

/// One thing measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    pub case: String,
    /// forward, backward, ..., or the word of one kernel.
    pub pass: String,
    #[serde(default)]
    pub variant: String,
    pub median_s: f64,
    #[serde(default)]
    pub best_s: f64,
    #[serde(default)]
    pub spread: f64,
    #[serde(default)]
    pub runs: usize,
    #[serde(default)]
    pub gflop_s: Option<f64>,
    #[serde(default)]
    pub gb_s: Option<f64>,
    #[serde(default)]
    pub note: Option<String>,
    /// Of this run's own ceilings, unless they are void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fma_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_percent: Option<f64>,
    /// One kernel's variant that deme chooses on this adapter.
    #[serde(default)]
    pub chosen: bool,
    /// Of a network's step: images a second, bytes on the device, dispatches, seconds of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatches: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_s: Option<f64>,
}

impl Row {
    pub fn new(case: &str, pass: &str, variant: &str, stats: Stats, cost: Cost) -> Self {
        let rate = |amount: u64| (stats.median > 0.0 && amount > 0).then(|| amount as f64 / stats.median / 1e9);
        Self {
            case: case.to_owned(),
            pass: pass.to_owned(),
            variant: variant.to_owned(),
            median_s: stats.median,
            best_s: stats.best,
            spread: stats.spread,
            runs: stats.runs,
            gflop_s: rate(cost.flops),
            gb_s: rate(cost.bytes),
            ..Self::default()
        }
    }

    /// With its percentages of the ceilings.
    pub fn against(self, ceilings: &Ceilings) -> Self {
        let percent = |rate: Option<f64>, most: f64| rate.filter(|_| !ceilings.void).map(|r| 100.0 * r / most);
        Self {
            fma_percent: percent(self.gflop_s, ceilings.fma_gflop_s),
            copy_percent: percent(self.gb_s, ceilings.copy_gb_s),
            ..self
        }
    }

    /// `v1`, `tiled`, ...: the variant without its kernel's word, or the word where there is nothing else.
    pub fn kind(&self) -> &str {
        let word = self.pass.split(' ').next().unwrap_or(&self.pass);
        let rest = self.variant.strip_prefix(word).unwrap_or(&self.variant).trim_start_matches('_');
        if rest.is_empty() { &self.variant } else { rest }
    }

    pub fn key(&self) -> [&str; 3] {
        [&self.case, &self.pass, &self.variant]
    }
}

/// A run of one engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    pub engine: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub device: String,
    #[serde(default)]
    pub driver: String,
    #[serde(default)]
    pub date: String,
    #[serde(default)]
    pub command: String,
    /// What the factors of products are rounded to where no variant is named.
    #[serde(default)]
    pub precision: String,
    #[serde(default)]
    pub settings: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    pub rows: Vec<Row>,
}

impl Results {
    /// Nothing measured yet, on this adapter.
    pub fn new(gpu: &Gpu, command: String, settings: Map<String, Value>) -> Self {
        let adapter = gpu.summary();
        Self {
            engine: "deme".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            device: adapter.name.clone(),
            driver: format!("{}, {}", adapter.backend, adapter.driver),
            date: measure::now(),
            command,
            precision: gpu.precision().to_string(),
            settings,
            ceilings: None,
            rows: Vec::new(),
        }
    }

    /// # Errors
    /// `Format` where the file is no such object.
    pub fn read(path: &Path) -> Result<Self> {
        let map = json::read_object(path)?;
        let hint = "give a file that `deme bench --out` or one of the scripts in benches/ wrote";
        serde_json::from_value(Value::Object(map)).map_err(|e| Error::format(path, "results", e.to_string(), hint))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let problem = |e: serde_json::Error| Error::format(path, "results", e.to_string(), "please report this");
        let text = serde_json::to_string_pretty(self).map_err(problem)?;
        atomic::write(path, format!("{text}\n").as_bytes())
    }
}

/// A row that differs from an earlier one by more than both their noises.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// Index into the later rows.
    pub row: usize,
    pub before: f64,
    pub now: f64,
}

/// Clocks, caches and neighbours move a median by this much in any case.
const FLOOR: f64 = 0.02;

/// The rows of `now` that are in `before` too, and moved: |difference| above both interquartile ranges and 2 %.
pub fn moved(before: &[Row], now: &[Row]) -> Vec<Moved> {
    let known: BTreeMap<_, _> = before.iter().map(|row| (row.key(), row)).collect();
    let compare = |(i, row): (usize, &Row)| {
        let old = known.get(&row.key())?;
        let noise = row.spread * row.median_s + old.spread * old.median_s + FLOOR * old.median_s;
        let difference = (row.median_s - old.median_s).abs();
        (difference > noise).then_some(Moved { row: i, before: old.median_s, now: row.median_s })
    };
    now.iter().enumerate().filter_map(compare).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, median_s: f64, spread: f64) -> Row {
        Row { case: case.into(), pass: "forward".into(), median_s, spread, ..Row::default() }
    }

    #[test]
    fn only_rows_beyond_both_spreads_moved() {
        let before = [row("a", 1.0, 0.1), row("b", 1.0, 0.01), row("c", 1.0, 0.0), row("d", 2.0, 0.0)];
        let now =
            [row("a", 1.15, 0.1), row("b", 1.2, 0.01), row("c", 1.019, 0.0), row("d", 1.0, 0.0), row("e", 9.0, 0.0)];
        let found: Vec<_> = moved(&before, &now).into_iter().map(|m| (m.row, m.before, m.now)).collect();
        assert_eq!(found, [(1, 1.0, 1.2), (3, 2.0, 1.0)]);
    }

    #[test]
    fn a_foreign_row_needs_case_pass_and_median_only() {
        let row: serde_json::Result<Row> =
            serde_json::from_str(r#"{"case": "a", "pass": "run", "median_s": 0.5, "more": 1}"#);
        assert!(row.is_ok_and(|r| r.median_s == 0.5 && r.gflop_s.is_none() && r.variant.is_empty()));
    }
}
