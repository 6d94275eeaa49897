//! Training states on disk: `step_00001200/` folders that are there whole or not at all, each with a manifest of sizes and
//! hashes written last. Called by `train::run`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::atomic::{self, AtomicFolder};
use crate::io::hash;

const MANIFEST: &str = "manifest.json";
const PREFIX: &str = "step_";
/// What `AtomicFolder` names a folder that is being written.
const UNFINISHED: &str = ".deme-tmp";

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// What a checkpoint holds beside its tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Updates done.
    pub step: u64,
    /// Of the settings that the run was started with.
    pub settings_sha256: String,
    /// Adapter, driver and shaders: another of these may give other bits.
    pub device: String,
    /// Length of metrics.jsonl at this step.
    pub metrics_bytes: u64,
    /// Losses summed since the last line of the log, as bits of f32.
    pub loss_sums: Vec<u32>,
    /// The optimizer's report (`kernels::optim`), as bits of f32. None in checkpoints from before losses were scaled: they
    /// continue with the first scale, which in f32 is the only one.
    #[serde(default)]
    pub status: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    state: State,
    files: BTreeMap<String, Entry>,
}

/// A checkpoint that was found whole.
#[derive(Debug)]
pub struct Found {
    pub folder: PathBuf,
    pub state: State,
}

fn folder_of(root: &Path, step: u64) -> PathBuf {
    root.join(format!("{PREFIX}{step:08}"))
}

/// Writes a checkpoint: `write` fills a folder, the manifest follows, and one rename makes it exist.
pub fn save(root: &Path, state: &State, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let target = folder_of(root, state.step);
    let folder = AtomicFolder::create(&target)?;
    write(folder.path())?;
    let mut files = BTreeMap::new();
    for name in names(folder.path())? {
        files.insert(name.clone(), describe(&folder.path().join(name))?);
    }
    let manifest = Manifest { state: state.clone(), files };
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::io(&target, "write")(e.into()))?;
    atomic::write(&folder.path().join(MANIFEST), text.as_bytes())?;
    folder.commit()?;
    Ok(target)
}

/// The newest whole checkpoint. `skipped` gets one sentence for each newer one that is not.
pub fn latest(root: &Path, skipped: &mut Vec<String>) -> Result<Option<Found>> {
    for (_, folder) in list(root)?.into_iter().rev() {
        match open(&folder) {
            Ok(state) => return Ok(Some(Found { folder, state })),
            Err(e) => skipped.push(format!("skipped a damaged checkpoint: {e}")),
        }
    }
    Ok(None)
}

/// Reads a checkpoint's manifest and compares every file with it.
pub fn open(folder: &Path) -> Result<State> {
    let path = folder.join(MANIFEST);
    let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
    let refuse = |thing: &str, problem: String| {
        Error::format(&path, thing, problem, "remove the folder; an older checkpoint is used in its place")
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| refuse("manifest", e.to_string()))?;
    if folder_of(Path::new(""), manifest.state.step).as_os_str() != folder.file_name().unwrap_or_default() {
        return Err(refuse("step", format!("is {}, which is not the folder's name", manifest.state.step)));
    }
    for (name, entry) in &manifest.files {
        if describe(&folder.join(name))? != *entry {
            return Err(refuse(name, "is not the file that was saved".into()));
        }
    }
    Ok(manifest.state)
}

/// Removes all but the newest `keep` checkpoints. Each is renamed first, so that a kill leaves no half of one.
pub fn prune(root: &Path, keep: usize) -> Result<()> {
    let all = list(root)?;
    for (step, folder) in &all[..all.len().saturating_sub(keep.max(1))] {
        let doomed = root.join(format!(".{PREFIX}{step:08}{UNFINISHED}"));
        fs::rename(folder, &doomed).map_err(Error::io(folder, "move away"))?;
        fs::remove_dir_all(&doomed).map_err(Error::io(folder, "remove"))?;
    }
    Ok(())
}

/// Removes what killed runs left behind.
pub fn clean(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    for name in names(root)? {
        let path = root.join(&name);
        if name.ends_with(UNFINISHED) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io(&path, "remove"))?;
        }
    }
    for name in names(root)? {
        if let Some(stem) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".deme-old")) {
            atomic::recover(&root.join(stem))?;
        }
    }
    Ok(())
}

/// Checkpoint folders by step, ascending, whole or not.
fn list(root: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let step = |name: &str| name.strip_prefix(PREFIX).filter(|n| n.len() >= 8).and_then(|n| n.parse::<u64>().ok());
    let mut found: Vec<_> =
        names(root)?.into_iter().filter_map(|name| Some((step(&name)?, root.join(&name)))).collect();
    found.sort();
    Ok(found)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder, "list"))?;
    let name = |e: std::io::Result<fs::DirEntry>| e.map(|e| e.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<std::io::Result<_>>().map_err(Error::io(folder, "list"))
}

fn describe(path: &Path) -> Result<Entry> {
    let bytes = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
    Ok(Entry { bytes, sha256: hash::of_file(path)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn state(step: u64) -> State {
        State {
            step,
            settings_sha256: "s".into(),
            device: "d".into(),
            metrics_bytes: 10 * step,
            loss_sums: vec![1, 0x7FC0_0000],
            status: vec![0x3F80_0000, 3],
        }
    }

    fn save_text(root: &Path, step: u64) -> PathBuf {
        save(root, &state(step), |dir| {
            fs::write(dir.join("theta.safetensors"), format!("weights of {step}")).map_err(Error::io(dir, "write"))
        })
        .unwrap()
    }

    fn found(root: &Path) -> (Option<u64>, usize) {
        let mut skipped = Vec::new();
        (latest(root, &mut skipped).unwrap().map(|f| f.state.step), skipped.len())
    }

    #[test]
    fn the_newest_whole_one_is_found_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("training");
        assert_eq!(found(&root), (None, 0));
        let [first, second, third, fourth] = [5, 10, 15, 99_999_999].map(|step| save_text(&root, step));
        assert_eq!(open(&third).unwrap(), state(15));
        assert_eq!(found(&root), (Some(99_999_999), 0));
        fs::write(fourth.join("theta.safetensors"), "weights of 99999998").unwrap();
        assert_eq!(found(&root), (Some(15), 1));
        fs::remove_file(third.join("theta.safetensors")).unwrap();
        assert_eq!(found(&root), (Some(10), 2));
        fs::remove_file(second.join(MANIFEST)).unwrap();
        assert_eq!(found(&root), (Some(5), 3));
        let manifest = fs::read(first.join(MANIFEST)).unwrap();
        for cut in 0..manifest.len() {
            fs::write(first.join(MANIFEST), &manifest[..cut]).unwrap();
            assert_eq!(found(&root), (None, 4), "cut at {cut}");
        }
        fs::write(first.join(MANIFEST), &manifest).unwrap();
        fs::rename(&first, root.join("step_00000007")).unwrap();
        assert_eq!(found(&root), (None, 4));
    }

    #[test]
    fn the_last_k_stay_and_litter_goes() {
        let dir = tempfile::tempdir().unwrap();
        for step in 1..=5 {
            save_text(dir.path(), step);
        }
        fs::create_dir(dir.path().join(".step_00000006.deme-tmp")).unwrap();
        fs::rename(dir.path().join("step_00000005"), dir.path().join(".step_00000005.deme-old")).unwrap();
        fs::write(dir.path().join("metrics.jsonl"), "{}\n").unwrap();
        clean(dir.path()).unwrap();
        prune(dir.path(), 2).unwrap();
        let mut left = names(dir.path()).unwrap();
        left.sort();
        assert_eq!(left, ["metrics.jsonl", "step_00000004", "step_00000005"]);
        prune(dir.path(), 0).unwrap();
        assert_eq!(found(dir.path()), (Some(5), 0), "the newest one always stays");
    }

    #[test]
    fn a_save_that_fails_leaves_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        save_text(dir.path(), 3);
        let failed = save(dir.path(), &state(4), |folder| {
            fs::write(folder.join("theta.safetensors"), "half").unwrap();
            Err(Error::shape("test", "stop"))
        });
        assert!(failed.is_err());
        assert_eq!(names(dir.path()).unwrap(), ["step_00000003"]);
        assert_eq!(found(dir.path()), (Some(3), 0));
    }
}
