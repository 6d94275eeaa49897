//! The folder of a run: its settings, and the places of experts, checkpoints and logs. Refusals leave it as it was.
//! Called by `cli::finetune`.
//!
//! ```text
//! RUN/run.json                         the settings that decide every number of the run
//! RUN/expert_0/                        a diffusers folder, there once expert 0 is done
//! RUN/training/expert_0/step_00001200/ checkpoints
//! RUN/training/expert_0/metrics.jsonl  timing.jsonl  samples_00001000.png
//! RUN/training/expert_0/tuning.json    the choices of kernels, by device: a run goes on with those that it began with
//! ```

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::io::json::{self, describe};
use crate::io::{atomic, hash};

const SETTINGS: &str = "run.json";
const TEMPORARY: &str = ".run.json.deme-tmp";

pub struct RunFolder {
    root: PathBuf,
    settings: Map<String, Value>,
}

impl RunFolder {
    /// Checks that a run with these settings may be started here, or continued where `resume`. Writes nothing.
    pub fn check(root: &Path, settings: Map<String, Value>, experts: &[u32], resume: bool) -> Result<Self> {
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
        let begun = experts.iter().find(|&&i| run.expert(i).exists() || run.training(i).exists());
        match begun {
            Some(i) if !resume => {
                let message = format!("{} has begun expert {i} already", root.display());
                Err(Error::usage(message, "continue it with --resume, or name another --out"))
            }
            _ => Ok(run),
        }
    }

    /// Refuses settings that differ from those that the run was started with, by the first that does.
    fn compare(&self) -> Result<()> {
        let path = self.root.join(SETTINGS);
        let saved = json::read_object(&path)?;
        for key in self.settings.keys().chain(saved.keys()) {
            let of = |map: &Map<String, Value>| map.get(key).map_or("absent".to_owned(), describe);
            let (before, now) = (of(&saved), of(&self.settings));
            if before != now {
                let message = format!("{}: {key} was {before} when the run began and is {now} now", path.display());
                return Err(Error::usage(message, "give the former value, or name another --out"));
            }
        }
        Ok(())
    }

    /// Makes the folder and writes the settings, if they are not there.
    pub fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.root).map_err(Error::io(&self.root, "create"))?;
        let path = self.root.join(SETTINGS);
        if path.exists() { Ok(()) } else { atomic::write(&path, json::render(&self.settings).as_bytes()) }
    }

    /// Identifies the settings in checkpoints.
    pub fn settings_sha256(&self) -> String {
        hash::of_bytes(json::render(&self.settings).as_bytes())
    }

    /// Where expert `i` is written when it is done.
    pub fn expert(&self, i: u32) -> PathBuf {
        self.root.join(format!("expert_{i}"))
    }

    /// Checkpoints and logs of expert `i`.
    pub fn training(&self, i: u32) -> PathBuf {
        self.root.join("training").join(format!("expert_{i}"))
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
        let run = RunFolder::check(&root, settings(5e-5), &[0], false).unwrap();
        assert!(!root.exists(), "checking writes nothing");
        run.create().unwrap();
        std::fs::create_dir_all(run.training(0)).unwrap();
        let again = message(RunFolder::check(&root, settings(5e-5), &[0], false));
        assert!(again.contains("has begun expert 0"), "{again}");
        assert!(RunFolder::check(&root, settings(5e-5), &[1], false).is_ok(), "another expert of the same run");
        assert!(RunFolder::check(&root, settings(5e-5), &[0, 1], true).is_ok());
        let other = message(RunFolder::check(&root, settings(1e-4), &[0], true));
        assert!(other.contains("lr was 0.00005 when the run began and is 0.0001 now"), "{other}");
        let mut more = settings(5e-5);
        more.insert("flip".into(), true.into());
        assert!(message(RunFolder::check(&root, more, &[0], true)).contains("flip was absent"));
        let fewer = json!({"lr": 5e-5}).as_object().unwrap().clone();
        assert!(message(RunFolder::check(&root, fewer, &[0], true)).contains("ranges was 4"));
    }

    #[test]
    fn a_strangers_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let refused = message(RunFolder::check(dir.path(), settings(1.0), &[0], true));
        assert!(refused.contains("something else than a run"), "{refused}");
        let file = dir.path().join("thesis.tex");
        assert!(RunFolder::check(&file, settings(1.0), &[0], false).is_err());
    }
}
