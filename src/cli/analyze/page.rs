//! The report of an analysis: one HTML page with nothing to fetch. Called by `analyze`.

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde_json::json;

use super::describe;
use super::figures::figures;
use super::measure::Analysis;
use super::parts::Found;
use crate::error::{Error, Result};
use crate::io::atomic;

/// Writes the page, whole or not at all.
pub fn write(path: &Path, analysis: &Analysis, found: &Found) -> Result<()> {
    let figures = figures(found, analysis.ranges)?;
    let args = analysis.args;
    let bounds: Vec<String> = analysis.ranges.bounds().iter().map(u32::to_string).collect();
    let settings = [
        ("base", describe(analysis.base)),
        ("experts", analysis.experts.iter().map(describe).collect::<Vec<_>>().join(", ")),
        ("images", format!("{}, {} of the split", args.data.data.display(), analysis.images.len())),
        ("ranges", bounds.join(", ")),
        ("pairs a range", args.pairs.to_string()),
        ("seed", args.seed.to_string()),
        ("deme", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let page = json!({
        "title": "deme analyze",
        "lead": "The figures of Decouple-then-Merge, measured on these models. Beside each plot: what is seen, then how it was measured. \
                 The numbers are in the JSON and CSV files beside this page.",
        "figures": figures,
        "settings": settings,
    });
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    let text = env
        .render_str(include_str!("page.html"), Value::from(Serde(page)))
        .map_err(|e| Error::Shader { file: "page.html".into(), message: format!("{e:#}") })?;
    atomic::write(path, text.as_bytes())
}
