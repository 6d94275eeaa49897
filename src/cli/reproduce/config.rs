//! What an experiment's file says: the model, the images, how experts are trained, merged and judged, and what is varied.
//! Called by `cli::reproduce`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::cli::run_file;
use crate::error::{Error, Result};

/// The whole file. Tables of options (`finetune`, `search`, `options` of `distance`) hold long options of the command that they
/// are given to.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The base model's folder
    pub model: PathBuf,
    /// The images, their tiles' side where they are one atlas, and which are kept out of training
    pub data: PathBuf,
    pub tile: Option<u32>,
    pub holdout: u32,
    /// Every model but the base is made once for each of them
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    pub deme: Deme,
    #[serde(default)]
    pub baselines: Baselines,
    /// Options of `deme finetune` for everything that is trained
    #[serde(default)]
    pub finetune: Table,
    /// Options of `deme search`
    #[serde(default)]
    pub search: Table,
    #[serde(default)]
    pub judge: JudgeTable,
    pub distance: Option<Distance>,
    #[serde(default)]
    pub table3: Table3,
    #[serde(default)]
    pub fig9: Fig9,
    pub sweep: Option<Sweep>,
}

/// The method's own numbers.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Deme {
    /// N
    pub ranges: u32,
    /// Updates of each expert; a baseline takes N times as many
    pub steps: u64,
    pub lr: f64,
    #[serde(default = "usual_p")]
    pub p: f64,
    #[serde(default = "one")]
    pub consistency: f64,
    #[serde(default = "no_projection")]
    pub projection: String,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Baselines {
    /// Learning rate of continued training and of the loss weightings, where it is not the experts'
    pub lr: Option<f64>,
}

/// On what every model is judged: odd held-out images, which neither training nor the search has seen.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeTable {
    /// At most so many, evenly over all of them; 0 for all
    pub images: usize,
    /// Timestep ranges of equal width, and timesteps of each image in each of them
    pub buckets: u32,
    pub repeats: usize,
    pub seed: u64,
    pub batch: u32,
}

impl Default for JudgeTable {
    fn default() -> Self {
        Self { images: 0, buckets: 4, repeats: 1, seed: 1, batch: 16 }
    }
}

/// How far drawn pictures are from the images (`deme eval fid`).
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Distance {
    /// Of all rows of a table, or of the base, the best baseline and the merged model
    #[serde(default)]
    pub of: DistanceOf,
    /// Options of `deme eval fid`
    pub options: Table,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DistanceOf {
    All,
    #[default]
    Main,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Table3 {
    /// N of the ablation; its experts take as many updates altogether as those of `deme`
    pub ranges: u32,
}

impl Default for Table3 {
    fn default() -> Self {
        Self { ranges: 8 }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fig9 {
    pub ranges: Vec<u32>,
    pub p: Vec<f64>,
}

impl Default for Fig9 {
    fn default() -> Self {
        Self { ranges: vec![1, 2, 4, 8], p: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0] }
    }
}

/// What learning rate, p, updates and N come from: every combination, judged on even held-out images.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    pub lr: Vec<f64>,
    pub p: Vec<f64>,
    pub steps: Vec<u64>,
    pub ranges: Vec<u32>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

fn usual_p() -> f64 {
    0.4
}

fn one() -> f64 {
    1.0
}

fn no_projection() -> String {
    "none".into()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// `Io` and `Format` for a file that cannot be read, is not TOML, has a key that nothing reads or a value that makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let config: Self = toml::from_str(&text).map_err(|e| run_file::broken(path, &text, &e))?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |key: &str, problem: &str, hint: &str| Err(Error::format(path, key, problem, hint));
        let some = "give at least one value";
        if self.seeds.is_empty() {
            return refuse("seeds", "is empty", some);
        }
        if self.holdout < 2 {
            return refuse("holdout", "keeps every image out of training", "10 keeps every tenth out");
        }
        if self.deme.ranges == 0 || self.table3.ranges == 0 || self.fig9.ranges.contains(&0) {
            return refuse("ranges", "is 0", "1 is continued training");
        }
        if self.fig9.ranges.is_empty() || self.fig9.p.is_empty() {
            return refuse("fig9", "varies nothing", some);
        }
        if self.deme.steps == 0 {
            return refuse("deme.steps", "is 0", "give the updates of each expert");
        }
        if let Some(sweep) = &self.sweep
            && (sweep.lr.is_empty() || sweep.p.is_empty() || sweep.steps.is_empty() || sweep.ranges.is_empty())
        {
            return refuse("sweep", "has an empty list", some);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    const SHORT: &str = "model = 'm'\ndata = 'd'\nholdout = 10\n[deme]\nranges = 4\nsteps = 60\nlr = 1e-5\n";

    #[test]
    fn a_short_file_has_the_paper_s_defaults() {
        let config = read(SHORT).unwrap();
        assert_eq!((config.deme.p, config.deme.consistency, config.deme.projection.as_str()), (0.4, 1.0, "none"));
        assert_eq!((config.seeds, config.table3.ranges, config.judge.buckets), (vec![0], 8, 4));
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        let error = read(&format!("{SHORT}stepps = 3\n")).unwrap_err().to_string();
        assert!(error.contains("line 8") && error.contains("stepps"), "{error}");
        let error = read(&SHORT.replace("steps = 60", "steps = 0")).unwrap_err().to_string();
        assert!(error.contains("deme.steps"), "{error}");
    }
}
