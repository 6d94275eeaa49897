//! One process at a time in a folder: a lock that the system lets go when its holder ends, however it ends.
//! Called by `train`, `cli::search` and `gpu`.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Locks `folder` (an empty file `lock` in it) until the file is dropped.
///
/// # Errors
/// `Usage` where another process holds the lock. A file system without locks is used without one.
pub fn exclusive(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(Error::io(&path, "open"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(Error::io(&path, "lock")(e)),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{}: another deme works here", folder.display());
            Err(Error::usage(message, "wait until it ends, or name another --out"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = exclusive(dir.path()).unwrap();
        let message = exclusive(dir.path()).unwrap_err().to_string();
        assert!(message.contains("another deme works here"), "{message}");
        drop(held);
        exclusive(dir.path()).unwrap();
    }
}
