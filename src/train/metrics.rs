//! Logs of a run as lines of JSON. metrics.jsonl holds only what is a function of the settings, so that a resumed run
//! writes the same bytes; what the clock says goes to timing.jsonl. Called by `train::run`.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A log that grows at its end.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens or makes the file and drops everything after its first `keep` bytes: what a killed run wrote after the
    /// checkpoint that is continued from.
    pub fn open(path: &Path, keep: u64) -> Result<Self> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
        let mut file = options.open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        if length < keep {
            let problem = format!("{length} bytes, and the checkpoint was made when it had {keep}");
            return Err(Error::format(path, "length", problem, "put the log back, or start anew without --resume"));
        }
        let cut = file.set_len(keep).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(Error::io(path, "cut"))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Opens the file to append to whatever is there.
    pub fn append(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path).map_or(0, |m| m.len());
        Self::open(path, length)
    }

    pub fn line(&mut self, map: Map<String, Value>) -> Result<()> {
        let text = format!("{}\n", Value::Object(map));
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path, "write"))
    }

    /// Makes all lines durable; gives the file's length.
    pub fn sync(&mut self) -> Result<u64> {
        let synced = self.file.sync_all().and_then(|()| self.file.stream_position());
        synced.map_err(Error::io(&self.path, "flush"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn line(step: u64) -> Map<String, Value> {
        Map::from_iter([("step".to_string(), step.into())])
    }

    #[test]
    fn a_resumed_log_is_cut_where_the_checkpoint_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        log.line(line(1)).unwrap();
        let length = log.sync().unwrap();
        log.line(line(2)).unwrap();
        drop(log);
        let mut log = Log::open(&path, length).unwrap();
        log.line(line(3)).unwrap();
        drop(log);
        Log::append(&path).unwrap().line(line(4)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":3}\n{\"step\":4}\n");
        assert!(Log::open(&path, 1000).is_err());
    }
}
