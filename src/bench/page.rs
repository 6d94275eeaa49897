//! The results of `deme bench kernels` as one self-contained HTML page: roofline, ladders, table; nothing to fetch.
//! Called by `cli::bench`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde_json::json;

use super::plots::{self, Ladder};
use super::results::{DEFAULT, Moved, Results, Row};
use crate::error::{Error, Result};
use crate::io::atomic;

/// Kernels at shapes that were timed in several variants; the naive variant (else the slowest) is the first rung.
fn ladders(rows: &[Row]) -> Vec<Ladder<'_>> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.variant != DEFAULT && row.median_s > 0.0) {
        groups.entry((&row.case, &row.pass)).or_default().push(row);
    }
    let mut ladders = Vec::new();
    for ((case, pass), mut rungs) in groups.into_iter().filter(|(_, rungs)| rungs.len() > 1) {
        rungs.sort_by(|a, b| (b.kind() == "v1").cmp(&(a.kind() == "v1")).then(b.median_s.total_cmp(&a.median_s)));
        ladders.push(Ladder { label: format!("{case}  {pass}"), rungs });
    }
    ladders
}

/// The chosen kernels by the first word of their case.
fn families(rows: &[Row]) -> Vec<(String, Vec<&Row>)> {
    let mut families: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.chosen) {
        families.entry(row.case.split('/').next().unwrap_or_default()).or_default().push(row);
    }
    families.into_iter().map(|(name, rows)| (name.to_owned(), rows)).collect()
}

fn cells(row: &Row, change: Option<f64>) -> serde_json::Value {
    let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.1}"));
    let percent = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.0} %"));
    json!({
        "case": row.case, "pass": row.pass, "variant": row.variant, "chosen": row.chosen || row.variant == DEFAULT,
        "median": format!("{:.4}", 1e3 * row.median_s), "best": format!("{:.4}", 1e3 * row.best_s),
        "spread": format!("{:.1} %", 100.0 * row.spread), "runs": row.runs,
        "gflop_s": number(row.gflop_s), "fma": percent(row.fma_percent),
        "gb_s": number(row.gb_s), "copy": percent(row.copy_percent),
        "change": change.map_or(String::new(), |c| format!("{:+.0} %", 100.0 * (c - 1.0))),
        "class": match change { Some(c) if c > 1.0 => "worse", Some(_) => "better", None => "" },
    })
}

/// The page as text. `moved`: the rows that differ from a baseline.
pub fn render(results: &Results, moved: &[Moved]) -> Result<String> {
    let changes: BTreeMap<usize, f64> = moved.iter().map(|m| (m.row, m.now / m.before)).collect();
    let ladders = ladders(&results.rows);
    let variants: BTreeSet<&str> = ladders.iter().flat_map(|l| l.rungs.iter().map(|row| row.kind())).collect();
    let variants: Vec<&str> = variants.into_iter().collect();
    let mut figures = Vec::new();
    if let Some(ceilings) = &results.ceilings {
        figures.push(json!({
            "caption": "The kernels that deme chooses, under this adapter's own measured ceilings.",
            "svg": plots::roofline(&families(&results.rows), ceilings)?,
        }));
    }
    if !ladders.is_empty() {
        figures.push(json!({
            "caption": "From the naive variant (or the slowest measured) to the best; full dots are those that deme chooses.",
            "svg": plots::ladders(&ladders, &variants)?,
        }));
    }
    let settings: Vec<_> = results.settings.iter().map(|(k, v)| (k, v.to_string())).collect();
    let page = json!({
        "title": format!("deme bench kernels on {}", results.device),
        "lead": results.ceilings.as_ref().map_or(String::new(), |c| c.describe()),
        "figures": figures,
        "rows": results.rows.iter().enumerate().map(|(i, row)| cells(row, changes.get(&i).copied())).collect::<Vec<_>>(),
        "facts": [
            ("device", &results.device), ("driver", &results.driver), ("deme", &results.version),
            ("date", &results.date), ("command", &results.command),
        ],
        "settings": settings,
    });
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.render_str(include_str!("page.html"), Value::from(Serde(page)))
        .map_err(|e| Error::Shader { file: "page.html".into(), message: format!("{e:#}") })
}

/// Writes the page, whole or not at all.
pub fn write(path: &Path, results: &Results, moved: &[Moved]) -> Result<()> {
    atomic::write(path, render(results, moved)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(variant: &str, median_s: f64) -> Row {
        Row { case: "a".into(), pass: "add".into(), variant: variant.into(), median_s, ..Row::default() }
    }

    #[test]
    fn a_ladder_starts_at_the_naive_variant_and_ends_at_the_best() {
        let rows = [row("add_fast", 1.0), row("add_v1", 3.0), row("add_slow", 9.0), row(DEFAULT, 1.0)];
        let found = ladders(&rows);
        let rungs: Vec<_> = found.iter().map(|l| l.rungs.iter().map(|r| r.kind()).collect::<Vec<_>>()).collect();
        assert_eq!(rungs, [["v1", "slow", "fast"]]);
        assert!(ladders(&rows[..1]).is_empty());
    }
}
