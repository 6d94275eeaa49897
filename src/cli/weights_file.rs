//! Merge weights in a file, as a search writes them and `deme merge --weights-file` reads them: one an expert; or rows of them,
//! for each block, layer or timestep range. Called by `cli::merge` and `cli::search`.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, from_value, json};

use crate::deme::blocks::Per;
use crate::deme::merge::Weights;
use crate::deme::ranges::Ranges;
use crate::error::{Error, Result};
use crate::io::json::read_object;

/// What is to be merged.
#[derive(Debug, Clone)]
pub enum MergeWeights {
    One(Weights),
    /// A model for each range of timesteps, in their order.
    PerRange(Vec<(Range<u32>, Weights)>),
}

impl MergeWeights {
    /// `w` holds the weights of the first range, then those of the next.
    pub fn per_range(ranges: &Ranges, w: &[f64]) -> Result<Self> {
        let (n, count) = (w.len(), ranges.len() as usize);
        if n == 0 || n % count != 0 {
            let hint = "give one weight for each expert, in the experts' order, for the first range, then for the next";
            return Err(Error::usage(format!("{n} weights for {count} timestep ranges"), hint));
        }
        let rows = w.chunks(n / count).map(Weights::per_model);
        Ok(Self::PerRange(ranges.iter().zip(rows).collect()))
    }

    /// Reads `weights` alone, or with `blocks` (and `weights_per` layer) or `ranges` beside it.
    pub fn read(file: &Path) -> Result<Self> {
        let found = read_object(file)?;
        let fail =
            |key: &str, problem: &str| Error::format(file, key, problem, "give the weights.json that a search wrote");
        let row = |value: &Value, of: &str| {
            from_value::<Vec<f64>>(value.clone()).map_err(|_| fail(of, "is no list of numbers"))
        };
        let weights = found.get("weights").ok_or_else(|| fail("weights", "is missing"))?;
        let rows = |count: usize, of: &str| {
            let rows = weights.as_array().filter(|rows| rows.len() == count);
            let rows = rows.ok_or_else(|| fail("weights", &format!("has not one list for each {of}")))?;
            rows.iter().enumerate().map(|(i, r)| row(r, &format!("weights of {of} {i}"))).collect::<Result<Vec<_>>>()
        };
        if let Some(ranges) = found.get("ranges") {
            let bounds: Vec<u32> = from_value(ranges.clone()).map_err(|_| fail("ranges", "is no list of timesteps"))?;
            let ranges = Ranges::cut(bounds.last().copied().unwrap_or_default(), &bounds)?;
            return Self::per_range(&ranges, &rows(ranges.len() as usize, "range")?.concat());
        }
        let Some(blocks) = found.get("blocks") else {
            return Ok(Self::One(Weights::per_model(&row(weights, "weights")?)));
        };
        let names: Vec<String> = from_value(blocks.clone()).map_err(|_| fail("blocks", "is no list of names"))?;
        let rows = rows(names.len(), "block")?;
        let per = match found.get("weights_per").and_then(Value::as_str) {
            None | Some("block") => Per::Block,
            Some("layer") => Per::Layer,
            Some(_) => return Err(fail("weights_per", "is neither block nor layer")),
        };
        Weights::by_block(per, names.into_iter().zip(rows).collect()).map(Self::One)
    }

    /// The keys of a weights.json that `read` understands.
    pub fn to_json(&self) -> Map<String, Value> {
        let value = match self {
            Self::One(weights) if weights.per() == Per::Model => json!({ "weights": weights.of("model") }),
            Self::One(weights) => {
                let (blocks, rows): (Vec<_>, Vec<_>) = weights.rows().unzip();
                json!({ "weights": rows, "weights_per": weights.per().name(), "blocks": blocks })
            }
            Self::PerRange(all) => {
                let bounds: Vec<u32> =
                    all.iter().take(1).map(|(t, _)| t.start).chain(all.iter().map(|(t, _)| t.end)).collect();
                let rows: Vec<_> = all.iter().map(|(_, weights)| weights.of("model")).collect();
                json!({ "weights": rows, "weights_per": "range", "ranges": bounds })
            }
        };
        value.as_object().cloned().unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weights.json");
        let rows = vec![("in".to_owned(), vec![0.5, 0.25]), ("out".to_owned(), vec![-1.0, 2.0])];
        let ranges = Ranges::cut(1000, &[0, 100, 400, 1000]).unwrap();
        for weights in [
            MergeWeights::One(Weights::per_model(&[0.1, 0.2])),
            MergeWeights::One(Weights::by_block(Per::Block, rows.clone()).unwrap()),
            MergeWeights::One(Weights::by_block(Per::Layer, rows).unwrap()),
            MergeWeights::per_range(&ranges, &[1.0, 0.0, 0.5, 0.5, 0.0, 1.0]).unwrap(),
        ] {
            let text = Value::Object(weights.to_json()).to_string();
            std::fs::write(&file, &text).unwrap();
            let again = MergeWeights::read(&file).unwrap();
            assert_eq!(format!("{again:?}"), format!("{weights:?}"), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weights.json");
        for (text, message) in [
            (r#"{}"#, "weights: is missing"),
            (r#"{"weights": ["a"]}"#, "weights: is no list of numbers"),
            (r#"{"weights": [[1.0]], "ranges": [0, 5, 10]}"#, "weights: has not one list for each range"),
            (r#"{"weights": [[1.0], [1.0]], "ranges": [0, 10, 5]}"#, "ranges cannot be cut at [0, 10, 5]"),
            (
                r#"{"weights": [[1.0]], "blocks": ["in"], "weights_per": "row"}"#,
                "weights_per: is neither block nor layer",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let found = MergeWeights::read(&file).unwrap_err().to_string();
            assert!(found.ends_with(message), "{found}");
        }
        let ranges = Ranges::even(10, 2).unwrap();
        assert!(MergeWeights::per_range(&ranges, &[1.0, 2.0, 3.0]).is_err());
    }
}
