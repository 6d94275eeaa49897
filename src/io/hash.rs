//! SHA-256 of files and of values, as lower-case hexadecimal text.
//! Called by checkpoints and run files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A hash under way.
#[derive(Default)]
pub struct Hash(Sha256);

impl Hash {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The bits of the values, little endian.
    pub fn values(&mut self, values: &[f32]) {
        values.iter().for_each(|v| self.0.update(v.to_le_bytes()));
    }

    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

pub fn of_bytes(bytes: &[u8]) -> String {
    let mut hash = Hash::default();
    hash.bytes(bytes);
    hash.finish()
}

/// Of a file's contents, read in pieces.
pub fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "read"))?;
    let mut hash = Hash::default();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(Error::io(path, "read"))? {
            0 => return Ok(hash.finish()),
            n => hash.bytes(&piece[..n]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_published_example_comes_out() {
        assert_eq!(of_bytes(b"abc"), ABC);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(of_file(&path).unwrap(), ABC);
    }
}
