//! What came out: every row's loss, its paired differences over images and seeds, distances; as text, Markdown and JSON.
//! Called by `cli::reproduce`.

use std::ops::Range;

use serde_json::{Value, json};

use super::lab::Measured;
use super::rows::{Role, Row};
use crate::diffusion::summary::{StandardError, Summary};
use crate::eval::loss::Buckets;

/// A row once it is judged.
pub struct Judged {
    pub row: Row,
    /// For each seed the loss of each pair; of the base there is one.
    pub losses: Vec<Vec<f64>>,
    /// For each seed, where it was measured.
    pub distances: Vec<Measured>,
}

/// A table with all its numbers.
pub struct Results {
    pub title: String,
    pub seeds: Vec<u64>,
    /// The image of each pair.
    pub images: Vec<usize>,
    pub buckets: Buckets,
    /// The base first, then plain continued training, as all tables but a sweep have it.
    pub rows: Vec<Judged>,
}

/// A paired difference: the mean over seeds and pairs with its error over images, and how far the seeds' means spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    pub summary: Summary,
    /// Standard deviation of the seeds' means; none of one seed.
    pub spread: Option<f64>,
}

impl Difference {
    /// Of `a` - `b`, both a list of losses for each seed, on the pairs of `range`. The base's one list stands for all seeds.
    pub fn of(a: &[Vec<f64>], b: &[Vec<f64>], images: &[usize], range: Range<usize>) -> Self {
        let seeds = a.len().max(b.len());
        let of_seed = |s: usize| {
            let (a, b) = (&a[s % a.len()], &b[s % b.len()]);
            range.clone().map(|k| a[k] - b[k]).collect::<Vec<f64>>()
        };
        let each: Vec<Vec<f64>> = (0..seeds).map(of_seed).collect();
        let mean: Vec<f64> = (0..range.len()).map(|k| each.iter().map(|d| d[k]).sum::<f64>() / seeds as f64).collect();
        let means: Vec<f64> = each.iter().map(|d| d.iter().sum::<f64>() / d.len() as f64).collect();
        Self { summary: Summary::of(&mean, &images[range]), spread: deviation(&means) }
    }

    /// Beyond two standard errors over images, and the seeds' spread does not undo it.
    fn verdict(&self) -> &'static str {
        let StandardError(Some(error)) = self.summary.standard_error else { return "" };
        match self.summary.mean {
            mean if mean < -2.0 * error => " better",
            mean if mean > 2.0 * error => " worse",
            _ => "",
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:+.6} ± {:.6}{}", self.summary.mean, self.summary.standard_error, self.verdict())
    }
}

/// The sample's standard deviation.
fn deviation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.len() > 1).then(|| (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    values.clone().sum::<f64>() / values.count() as f64
}

impl Results {
    fn all(&self) -> Range<usize> {
        0..self.images.len()
    }

    /// Against row `other`; none for the row itself.
    pub fn against(&self, row: usize, other: usize, pairs: Range<usize>) -> Option<Difference> {
        let (a, b) = (&self.rows[row].losses, &self.rows[other].losses);
        (row != other).then(|| Difference::of(a, b, &self.images, pairs))
    }

    /// The row that a baseline's difference is asked of: the first baseline.
    fn continued(&self) -> Option<usize> {
        self.rows.iter().position(|r| r.row.role == Role::Baseline)
    }

    fn loss(&self, row: usize) -> f64 {
        mean(self.rows[row].losses.iter().flatten().copied())
    }

    /// The baseline with the lowest loss.
    pub fn best_baseline(&self) -> Option<usize> {
        let baselines = (0..self.rows.len()).filter(|&i| self.rows[i].row.role == Role::Baseline);
        baselines.min_by(|&a, &b| self.loss(a).total_cmp(&self.loss(b)))
    }

    /// The header and the cells of each row.
    fn cells(&self, ranges: bool) -> Vec<Vec<String>> {
        let metric = self.rows.iter().find_map(|r| r.distances.first()).map(|d| d.metric.clone());
        let mut header: Vec<String> = ["model", "updates", "loss", "against the base"].map(String::from).into();
        if ranges {
            header.extend(self.buckets.timesteps.iter().map(|t| format!("{}..{}", t.start, t.end)));
        } else {
            header.push("against continued training".into());
        }
        header.push("seeds' spread".into());
        header.extend(metric.clone());
        let mut table = vec![header];
        for (i, judged) in self.rows.iter().enumerate() {
            let updates = judged.row.subject.training().map_or("-".into(), |t| format!("{} x {}", t.ranges, t.steps));
            let shown = |d: Option<Difference>| d.map_or("-".into(), |d| d.to_string());
            let against_base = self.against(i, 0, self.all());
            let spread = against_base.and_then(|d| d.spread).map_or("-".into(), |s| format!("{s:.6}"));
            let mut cells = vec![judged.row.name.clone(), updates, format!("{:.6}", self.loss(i)), shown(against_base)];
            if ranges {
                cells.extend(self.buckets.pairs.iter().map(|pairs| shown(self.against(i, 0, pairs.clone()))));
            } else {
                let other = self.continued().filter(|_| judged.row.role != Role::Base);
                cells.push(shown(other.and_then(|other| self.against(i, other, self.all()))));
            }
            cells.push(spread);
            cells.extend(metric.as_ref().map(|_| distance(&judged.distances)));
            table.push(cells);
        }
        table
    }

    /// For the screen.
    pub fn text(&self, ranges: bool) -> String {
        let cells = self.cells(ranges);
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        cells.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// For a document: the table with what its columns mean.
    pub fn markdown(&self, ranges: bool, notes: &[String]) -> String {
        let cells = self.cells(ranges);
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(cells[0].len()));
        let mut text = format!("# {}\n\n{}{rule}", self.title, line(&cells[0]));
        cells[1..].iter().for_each(|row| text.push_str(&line(row)));
        text.push_str(
            "\nLoss: mean squared error of the prediction, on images, timesteps and noise that neither training nor the \
             search has seen. Differences are paired, negative is better, ± is one standard error over images; \"better\" and \
             \"worse\" are beyond two.\n",
        );
        notes.iter().for_each(|note| text.push_str(&format!("\n{note}\n")));
        text
    }

    /// Every number, by seed and timestep range too.
    pub fn json(&self) -> Value {
        let difference = |d: Difference| json!({ "mean": d.summary.mean, "standard_error": d.summary.standard_error, "seeds_deviation": d.spread });
        let row = |(i, judged): (usize, &Judged)| {
            let by_range: Vec<Value> = (self.buckets.timesteps.iter().zip(&self.buckets.pairs))
                .map(|(t, pairs)| {
                    let loss = mean(judged.losses.iter().flat_map(|l| &l[pairs.clone()]).copied());
                    let change = self.against(i, 0, pairs.clone()).map(difference);
                    json!({ "timesteps": [t.start, t.end], "loss": loss, "against_base": change })
                })
                .collect();
            let by_seed: Vec<f64> = judged.losses.iter().map(|l| mean(l.iter().copied())).collect();
            let continued = self.continued().and_then(|other| self.against(i, other, self.all()));
            json!({
                "model": judged.row.name, "loss": self.loss(i), "loss_by_seed": by_seed,
                "against_base": self.against(i, 0, self.all()).map(difference),
                "against_continued_training": continued.map(difference),
                "ranges": by_range, "distances": judged.distances,
            })
        };
        json!({
            "title": self.title, "seeds": self.seeds, "pairs": self.images.len(),
            "rows": self.rows.iter().enumerate().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Mean and, of several seeds, their standard deviation.
fn distance(measured: &[Measured]) -> String {
    if measured.is_empty() {
        return "-".into();
    }
    let values: Vec<f64> = measured.iter().map(|m| m.distance).collect();
    let spread = deviation(&values).map_or(String::new(), |s| format!(" ± {s:.2}"));
    format!("{:.2}{spread}", mean(values.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seeds on four pairs of two images.
    #[test]
    fn differences_are_means_over_seeds_with_the_error_of_images() {
        let base = vec![vec![1.0, 1.0, 2.0, 2.0]];
        let ours = vec![vec![0.9, 0.9, 1.7, 1.7], vec![0.8, 0.8, 1.8, 1.8]];
        let d = Difference::of(&ours, &base, &[0, 0, 1, 1], 0..4);
        // Means over seeds: -0.15 of image 0, -0.25 of image 1; over pairs: -0.2 and -0.2 of the seeds' -0.2, -0.2.
        assert!((d.summary.mean + 0.2).abs() < 1e-12);
        assert!((d.summary.standard_error.0.unwrap_or(0.0) - 0.05).abs() < 1e-12);
        assert!(d.spread.is_some_and(|s| s.abs() < 1e-12));
        assert_eq!(d.verdict(), " better");
    }

    #[test]
    fn one_seed_has_no_spread() {
        let d = Difference::of(&[vec![1.0, 2.0]], &[vec![1.0, 2.0]], &[0, 1], 0..2);
        assert_eq!((d.spread, d.verdict(), d.summary.mean), (None, "", 0.0));
    }
}
