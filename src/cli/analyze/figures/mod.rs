//! The figures of the report: each a plot, what it shows, how it was measured, and what is seen, said from the numbers.
//! Called by `page`.

mod activations;
mod gradients;
mod landscape;
mod vectors;

use serde::Serialize;

use super::parts::Found;
use crate::deme::ranges::Ranges;
use crate::error::Result;

/// A table under a figure.
#[derive(Serialize)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

#[derive(Serialize)]
pub struct Figure {
    pub title: String,
    /// What is seen.
    pub seen: String,
    /// How it was measured.
    pub how: String,
    pub svgs: Vec<String>,
    pub table: Option<Table>,
}

/// All figures of what has been measured, in the paper's order.
pub fn figures(found: &Found, ranges: &Ranges) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    if let Some(g) = &found.gradients {
        all.extend([gradients::similarity(g)?, gradients::critical_point(g)?]);
    }
    if let Some(a) = &found.activations {
        all.push(activations::activations(a, ranges)?);
    }
    if let Some(around) = &found.landscape {
        all.push(landscape::random_plane(&around.random, ranges)?);
        if !around.lines.is_empty() {
            all.push(landscape::along(around, ranges)?);
        }
    }
    if let Some(plane) = &found.plane {
        all.push(landscape::task_plane(plane, ranges)?);
    }
    if let Some(v) = &found.vectors {
        all.extend([vectors::magnitudes(v, ranges)?, vectors::cosines(v, ranges)?]);
    }
    Ok(all)
}

/// 0 where there are none.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// With a sign, and as many digits as say something.
fn percent(value: f64) -> String {
    if value == 0.0 {
        return "0 %".into();
    }
    let digits = (1 - value.abs().max(1e-12).log10().floor() as i32).clamp(0, 4) as usize;
    format!("{value:+.digits$} %").replace('-', "−")
}

/// A block's or part's name as an axis has room for it.
fn short_name(name: &str) -> String {
    name.replace("_blocks.", " ").replace("_block", "").replace('_', " ")
}
