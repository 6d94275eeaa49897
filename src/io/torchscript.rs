//! The storages of a TorchScript archive, by number: a zip whose entries `ROOT/data/N` are raw little-endian f32.
//! Called by `eval::weights`; the archive's code is never looked at.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::error::{Error, Result};

const HINT: &str = "the download may be incomplete: fetch the file again";

pub struct Storages {
    path: PathBuf,
    archive: ZipArchive<File>,
    root: String,
}

impl Storages {
    /// None where the file is no TorchScript archive: those hold `ROOT/code/`, state dicts do not.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let Ok(archive) = ZipArchive::new(file) else { return Ok(None) };
        let mut names = archive.file_names().flatten();
        let root = names.find_map(|name| name.split_once("/code/").map(|(root, _)| root.to_owned()));
        drop(names);
        Ok(root.map(|root| Self { path: path.to_path_buf(), archive, root }))
    }

    /// Refuses an archive with another number of storages.
    pub fn count(&self, expected: usize) -> Result<()> {
        let data = format!("{}/data/", self.root);
        let found = self.archive.file_names().flatten().filter(|name| name.starts_with(&data)).count();
        if found == expected {
            return Ok(());
        }
        let problem = format!("has {found} storages, expected {expected}");
        Err(Error::format(&self.path, data, problem, "this is another network's archive"))
    }

    /// All values of storage `i`.
    pub fn read(&mut self, i: usize) -> Result<Vec<f32>> {
        let name = format!("{}/data/{i}", self.root);
        let fail = |problem: String| Error::format(&self.path, name.clone(), problem, HINT);
        let mut entry = self.archive.by_name(&name).map_err(|e| fail(e.to_string()))?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
        let (values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(fail(format!("{} bytes are not whole f32", bytes.len())));
        }
        Ok(values.iter().map(|&v| f32::from_le_bytes(v)).collect())
    }
}
