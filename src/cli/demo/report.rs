//! The demo's one-page HTML report: losses, pictures, curves, search and settings, with nothing to fetch.
//! Called by `cli::demo`.

use std::path::Path;

use base64::Engine;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde::Serialize;
use serde_json::json;

use super::plots;
use crate::deme::search::Candidate;
use crate::diffusion::summary::Summary;
use crate::error::{Error, Result};

/// One timestep range: the loss of each model, and the paired difference of each but the first to the first.
pub struct LossRow {
    pub range: String,
    pub losses: Vec<Summary>,
    pub differences: Vec<Summary>,
}

/// A curve of the training plot.
pub struct Curve {
    pub name: String,
    /// (update, loss)
    pub points: Vec<(f64, f64)>,
}

pub struct Picture {
    pub caption: String,
    pub png: Vec<u8>,
}

/// Everything that the page shows.
pub struct Report {
    pub title: String,
    pub lead: String,
    /// The base first.
    pub models: Vec<String>,
    /// Ranges in order, then the total.
    pub rows: Vec<LossRow>,
    pub loss_note: String,
    pub pictures: Vec<Picture>,
    pub curves: Vec<Curve>,
    /// The best first.
    pub candidates: Vec<Candidate>,
    pub search_note: String,
    pub settings: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Difference {
    mean: String,
    error: String,
    class: &'static str,
}

#[derive(Serialize)]
struct Row {
    range: String,
    losses: Vec<String>,
    differences: Vec<Difference>,
}

/// Coloured only where the difference is beyond two standard errors.
fn difference(s: &Summary) -> Difference {
    let class = match s.standard_error.0.is_some_and(|error| s.mean.abs() > 2.0 * error) {
        true if s.mean < 0.0 => "better",
        true => "worse",
        false => "",
    };
    Difference { mean: format!("{:+.6}", s.mean), error: format!("{:.6}", s.standard_error), class }
}

impl Report {
    /// The page as text.
    pub fn render(&self) -> Result<String> {
        let row = |r: &LossRow| Row {
            range: r.range.clone(),
            losses: r.losses.iter().map(|s| format!("{:.6}", s.mean)).collect(),
            differences: r.differences.iter().map(difference).collect(),
        };
        let picture = |p: &Picture| {
            let png = base64::engine::general_purpose::STANDARD.encode(&p.png);
            json!({ "caption": p.caption, "png": png })
        };
        let candidate = |c: &Candidate| {
            let w: Vec<String> = c.w.iter().map(|w| format!("{w:.3}")).collect();
            json!({
                "w": w.join("  "), "loss": format!("{:.6}", c.loss), "difference": format!("{:+.6}", c.difference),
                "error": format!("{:.6}", c.difference_error),
            })
        };
        let page = json!({
            "title": self.title,
            "lead": self.lead,
            "models": self.models,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "loss_note": self.loss_note,
            "pictures": self.pictures.iter().map(picture).collect::<Vec<_>>(),
            "plots": [
                {
                    "caption": "Training loss of each expert, the mean of each log interval.",
                    "svg": plots::training(&self.curves)?,
                },
                {
                    "caption": "Change of the held-out loss against the base, in percent of the base's; bars are one standard error.",
                    "svg": plots::changes(&self.models, &self.rows)?,
                },
            ],
            "candidates": self.candidates.iter().map(candidate).collect::<Vec<_>>(),
            "search_note": self.search_note,
            "settings": self.settings,
        });
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_auto_escape_callback(|_| AutoEscape::Html);
        env.render_str(include_str!("report.html"), Value::from(Serde(page)))
            .map_err(|e| Error::Shader { file: "report.html".into(), message: format!("{e:#}") })
    }

    /// Writes the page, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::io::atomic::write(path, self.render()?.as_bytes())
    }
}
