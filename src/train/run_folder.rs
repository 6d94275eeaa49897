//! The folder of a run: its settings, and the places of experts, checkpoints and logs. Refusals leave it as it was.
//! Called by `cli::training`.
//!
//! ```text
//! RUN/run.json                         the settings that decide every number of the run
//! RUN/run.toml                         all settings, to be given to another run with --config
//! RUN/expert_0/                        a diffusers folder, there once expert 0 is done
//! RUN/expert_0_best/                   with --keep-best: the average with the lowest held-out loss so far
//! RUN/expert_0_step_00001000/           with --export-every: the average after so many updates
//! RUN/training/expert_0/step_00001200/ checkpoints
//! RUN/training/expert_0/metrics.jsonl  timing.jsonl  events.out.tfevents.*  samples_00001000.png
//! RUN/training/expert_0/tuning.json    the choices of kernels, by device: a run goes on with those that it began with
//! ```
//! A run of one model alone has `model` in the place of each `expert_0`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::io::json::{self, describe};
use crate::io::{atomic, hash};

const SETTINGS: &str = "run.json";
const ECHO: &str = "run.toml";
const TEMPORARY: &str = ".run.json.deme-tmp";

/// What is trained in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The expert with this number.
    Expert(u32),
    /// The only model.
    Whole,
}

impl Part {
    /// The sub-stream of its random numbers.
    pub fn number(self) -> u32 {
        match self {
            Self::Expert(i) => i,
            Self::Whole => 0,
        }
    }

    fn folder(self) -> String {
        match self {
            Self::Expert(i) => format!("expert_{i}"),
            Self::Whole => "model".to_owned(),
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expert(i) => write!(f, "expert {i}"),
            Self::Whole => f.write_str("the model"),
        }
    }
}

pub struct RunFolder {
    root: PathBuf,
    settings: Map<String, Value>,
}

impl RunFolder {
    /// Checks that a run with these settings may be started here, or continued where `resume`. Writes nothing.
    pub fn check(root: &Path, settings: Map<String, Value>, parts: &[Part], resume: bool) -> Result<Self> {
        let run = Self { root: root.to_path_buf(), settings };
        // A kill while the settings are written leaves their temporary file alone in the folder.
        let foreign = |e: std::io::Result<std::fs::DirEntry>| e.is_ok_and(|e| e.file_name() != TEMPORARY);
        let occupied = match std::fs::read_dir(root) {
            Ok(entries) => entries.into_iter().any(foreign),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io(root, "list")(e)),
        };
        if !occupied {
            return Ok(run);
        }
        if !root.join(SETTINGS).exists() {
            let message = format!("{} holds something else than a run", root.display());
            return Err(Error::usage(message, "name a new or empty folder for --out"));
        }
        run.compare()?;
        let begun = parts.iter().find(|&&part| run.model(part).exists() || run.training(part).exists());
        match begun {
            Some(part) if !resume => {
                let message = format!("{} has begun {part} already", root.display());
                Err(Error::usage(message, "continue it with --resume, or name another --out"))
            }
            _ => Ok(run),
        }
    }

    /// Refuses settings that differ from those that the run was started with, by the first that does.
    fn compare(&self) -> Result<()> {
        let path = self.root.join(SETTINGS);
        let saved = json::read_object(&path)?;
        // The images' hash last: how they are cropped may be why it differs.
        let mut keys: Vec<&String> = self.settings.keys().chain(saved.keys()).collect();
        keys.sort_by_key(|key| *key == "data_sha256");
        for key in keys {
            if saved.get(key) != self.settings.get(key) {
                let of = |map: &Map<String, Value>| map.get(key).map_or("absent".to_owned(), describe);
                let (before, now) = (of(&saved), of(&self.settings));
                let message = format!("{}: {key} was {before} when the run began and is {now} now", path.display());
                return Err(Error::usage(message, "give the former value, or name another --out"));
            }
        }
        Ok(())
    }

    /// Makes the folder and writes the settings, if they are not there, and `echo`, what this process was asked for.
    pub fn create(&self, echo: &str) -> Result<()> {
        std::fs::create_dir_all(&self.root).map_err(Error::io(&self.root, "create"))?;
        let path = self.root.join(SETTINGS);
        if !path.exists() {
            atomic::write(&path, json::render(&self.settings).as_bytes())?;
        }
        atomic::write(&self.root.join(ECHO), echo.as_bytes())
    }

    /// Identifies the settings in checkpoints.
    pub fn settings_sha256(&self) -> String {
        hash::of_bytes(json::render(&self.settings).as_bytes())
    }

    /// Where a part is written when it is done.
    pub fn model(&self, part: Part) -> PathBuf {
        self.root.join(part.folder())
    }

    /// Where the average of a part with the lowest held-out loss is kept.
    pub fn best(&self, part: Part) -> PathBuf {
        self.root.join(format!("{}_best", part.folder()))
    }

    /// Where the average of a part after `step` updates is exported.
    pub fn exported(&self, part: Part, step: u64) -> PathBuf {
        self.root.join(format!("{}_step_{step:08}", part.folder()))
    }

    /// Checkpoints and logs of a part.
    pub fn training(&self, part: Part) -> PathBuf {
        self.root.join("training").join(part.folder())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(lr: f64) -> Map<String, Value> {
        json!({"ranges": 4, "lr": lr}).as_object().unwrap().clone()
    }

    fn message(result: Result<RunFolder>) -> String {
        result.map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_run_continues_with_its_own_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let [first, second] = [0, 1].map(Part::Expert);
        let run = RunFolder::check(&root, settings(5e-5), &[first], false).unwrap();
        assert!(!root.exists(), "checking writes nothing");
        run.create("lr = 5e-5").unwrap();
        std::fs::create_dir_all(run.training(first)).unwrap();
        let again = message(RunFolder::check(&root, settings(5e-5), &[first], false));
        assert!(again.contains("has begun expert 0"), "{again}");
        assert!(RunFolder::check(&root, settings(5e-5), &[second], false).is_ok(), "another expert of the same run");
        assert!(RunFolder::check(&root, settings(5e-5), &[first, second], true).is_ok());
        let other = message(RunFolder::check(&root, settings(1e-4), &[first], true));
        assert!(other.contains("lr was 0.00005 when the run began and is 0.0001 now"), "{other}");
        let mut more = settings(5e-5);
        more.insert("flip".into(), true.into());
        assert!(message(RunFolder::check(&root, more, &[first], true)).contains("flip was absent"));
        let fewer = json!({"lr": 5e-5}).as_object().unwrap().clone();
        assert!(message(RunFolder::check(&root, fewer, &[first], true)).contains("ranges was 4"));
    }

    #[test]
    fn a_strangers_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let refused = message(RunFolder::check(dir.path(), settings(1.0), &[Part::Whole], true));
        assert!(refused.contains("something else than a run"), "{refused}");
        let file = dir.path().join("thesis.tex");
        assert!(RunFolder::check(&file, settings(1.0), &[Part::Whole], false).is_err());
    }
}
