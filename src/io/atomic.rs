//! Files and folders that are there whole or not at all: written beside their place, flushed to the disk, renamed.
//! Called by everything that writes weights, configurations, checkpoints, reports and pictures.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes a small file atomically.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(Error::io(path, "write"))?;
    file.commit()
}

/// A file that takes its name when it is complete. Dropped before `commit`, it leaves nothing behind; killed, it leaves
/// a hidden `.NAME.deme-tmp` that the next attempt replaces. The mode follows the umask.
pub struct AtomicFile {
    file: BufWriter<File>,
    temp: Leftover,
    target: PathBuf,
}

impl AtomicFile {
    pub fn create(target: &Path) -> Result<Self> {
        let temp = sibling(target, "deme-tmp")?;
        remove_file(&temp)?;
        let file = File::options().write(true).create_new(true).open(&temp).map_err(Error::io(target, "create"))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            temp: Leftover(Some(temp)),
            target: target.to_path_buf(),
        })
    }

    pub fn commit(mut self) -> Result<()> {
        let target = &self.target;
        self.file.flush().map_err(Error::io(target, "write"))?;
        self.file.get_ref().sync_all().map_err(Error::io(target, "flush"))?;
        if let Some(temp) = &self.temp.0 {
            fs::rename(temp, target).map_err(Error::io(target, "rename into place"))?;
        }
        self.temp.0 = None;
        sync_folder(parent(target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A folder that takes its name when it is complete; fill `path()`, then `commit`.
///
/// Where the target exists it is replaced as a whole: moved to `.NAME.deme-old`, and removed after the new one is in
/// place. A kill between the two renames leaves only the old one under that name; `recover` puts it back.
pub struct AtomicFolder {
    temp: Leftover,
    target: PathBuf,
}

impl AtomicFolder {
    pub fn create(target: &Path) -> Result<Self> {
        recover(target)?;
        let temp = sibling(target, "deme-tmp")?;
        remove_folder(&temp)?;
        fs::create_dir_all(&temp).map_err(Error::io(target, "create"))?;
        Ok(Self { temp: Leftover(Some(temp)), target: target.to_path_buf() })
    }

    /// Where to write the folder's files; it moves at `commit`.
    pub fn path(&self) -> &Path {
        self.temp.0.as_deref().unwrap_or(&self.target)
    }

    pub fn commit(mut self) -> Result<()> {
        let target = &self.target;
        let Some(temp) = &self.temp.0 else { return Ok(()) };
        sync_tree(temp)?;
        let old = sibling(target, "deme-old")?;
        if target.exists() {
            fs::rename(target, &old).map_err(Error::io(target, "move the former version away"))?;
        }
        fs::rename(temp, target).map_err(Error::io(target, "rename into place"))?;
        self.temp.0 = None;
        sync_folder(parent(&self.target))?;
        remove_folder(&old)
    }
}

/// Puts back a folder whose replacement was cut short, and removes one that was replaced. Called before a folder that
/// `AtomicFolder` may have written is read.
pub fn recover(target: &Path) -> Result<()> {
    let Ok(old) = sibling(target, "deme-old") else { return Ok(()) };
    match (old.exists(), target.exists()) {
        (true, false) => fs::rename(&old, target).map_err(Error::io(target, "restore the former version")),
        (true, true) => remove_folder(&old),
        (false, _) => Ok(()),
    }
}

/// A temporary file or folder, removed when dropped.
struct Leftover(Option<PathBuf>);

impl Drop for Leftover {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // An error is under way already; this is tidying, and the next attempt tidies again.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// `.NAME.SUFFIX` in the folder of `target`: the same file system, so that a rename is atomic.
fn sibling(target: &Path, suffix: &str) -> Result<PathBuf> {
    let Some(name) = target.file_name() else {
        let message = format!("{} has no name to write to", target.display());
        return Err(Error::usage(message, "name a file or folder, such as out/model"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(parent(target).join(hidden))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn remove_file(path: &Path) -> Result<()> {
    absent_is_fine(fs::remove_file(path)).map_err(Error::io(path, "remove"))
}

fn remove_folder(path: &Path) -> Result<()> {
    absent_is_fine(fs::remove_dir_all(path)).map_err(Error::io(path, "remove"))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a rename in `folder` durable. Windows has no such call and needs none.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder, "flush"))?;
    }
    Ok(())
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            let file = File::options().read(true).write(cfg!(windows)).open(&path);
            file.and_then(|f| f.sync_all()).map_err(Error::io(&path, "flush"))?;
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_is_replaced_whole_and_an_abandoned_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"one").unwrap();
        let mut abandoned = AtomicFile::create(&path).unwrap();
        abandoned.write_all(b"half").unwrap();
        drop(abandoned);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_folder_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for text in ["one", "two"] {
            let folder = AtomicFolder::create(&target).unwrap();
            fs::create_dir(folder.path().join("unet")).unwrap();
            fs::write(folder.path().join("unet/x"), text).unwrap();
            folder.commit().unwrap();
            assert_eq!(fs::read_to_string(target.join("unet/x")).unwrap(), text);
        }
        let abandoned = AtomicFolder::create(&target).unwrap();
        fs::write(abandoned.path().join("y"), "half").unwrap();
        drop(abandoned);
        assert_eq!(names(&target), ["unet"]);
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_replacement_that_was_cut_short_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        fs::create_dir(dir.path().join(".out.deme-old")).unwrap();
        recover(&target).unwrap();
        assert_eq!(names(dir.path()), ["out"]);
        fs::create_dir(dir.path().join(".out.deme-old")).unwrap();
        recover(&target).unwrap();
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_target_without_a_name_is_refused() {
        assert!(write(Path::new(".."), b"").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn the_mode_follows_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
        write(&ours, b"x").unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
