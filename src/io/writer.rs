//! Writes safetensors files as a stream: the header is declared first, then tensors follow one by one, so that a model
//! never needs to be in memory as a whole. Called by the folder writer, checkpoints, merging and `--save-tensor`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::atomic::AtomicFile;
use crate::error::{Error, Result};

/// An f32 safetensors file under way. It takes its name at `finish`, whole and flushed; dropped before, it is gone.
pub struct SafetensorsWriter {
    path: PathBuf,
    file: AtomicFile,
    /// (name, elements) still to come, last first.
    left: Vec<(String, u64)>,
}

impl SafetensorsWriter {
    /// Declares all tensors (name, extents), in the order in which they will come. `format = pt`, which Python's loaders
    /// ask for, is added to the metadata.
    pub fn create(path: &Path, tensors: &[(String, Vec<u64>)], metadata: &BTreeMap<String, String>) -> Result<Self> {
        let mut texts = metadata.clone();
        texts.insert("format".into(), "pt".into());
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!(texts));
        let mut left = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for (name, shape) in tensors {
            let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            let Some(end) = elements.and_then(|n| n.checked_mul(4)).and_then(|n| n.checked_add(offset)) else {
                return Err(mistake(format!("{name} {shape:?} is too large")));
            };
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] });
            if header.insert(name.clone(), entry).is_some() {
                return Err(mistake(format!("{name} is declared twice")));
            }
            left.push((name.clone(), (end - offset) / 4));
            offset = end;
        }
        left.reverse();
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut file = AtomicFile::create(path)?;
        let io = Error::io(path, "write");
        file.write_all(&(text.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&text)).map_err(io)?;
        Ok(Self { path: path.to_path_buf(), file, left })
    }

    /// The next tensor, row-major. Its name must be the next one that was declared.
    pub fn append(&mut self, name: &str, values: &[f32]) -> Result<()> {
        match self.left.pop() {
            Some((next, elements)) if next == name && elements == values.len() as u64 => {}
            Some((next, elements)) => {
                return Err(mistake(format!("{name} ({} values) came, expected {next} ({elements})", values.len())));
            }
            None => return Err(mistake(format!("{name} came after the last tensor"))),
        }
        let mut bytes = [0u8; 1 << 14];
        for chunk in values.chunks(bytes.len() / 4) {
            for (b, x) in bytes.chunks_exact_mut(4).zip(chunk) {
                b.copy_from_slice(&x.to_le_bytes());
            }
            self.file.write_all(&bytes[..4 * chunk.len()]).map_err(Error::io(&self.path, "write"))?;
        }
        Ok(())
    }

    /// Flushes the file to the disk and gives it its name. An error if a declared tensor has not come.
    pub fn finish(self) -> Result<()> {
        match self.left.last() {
            Some((name, _)) => Err(mistake(format!("{name} is still to come"))),
            None => self.file.commit(),
        }
    }
}

/// Writes a few tensors (name, extents, elements) at once.
pub fn write(path: &Path, tensors: &[(&str, &[u64], &[f32])], metadata: &BTreeMap<String, String>) -> Result<()> {
    let declared: Vec<_> = tensors.iter().map(|(name, shape, _)| ((*name).to_owned(), shape.to_vec())).collect();
    let mut writer = SafetensorsWriter::create(path, &declared, metadata)?;
    for (name, _, values) in tensors {
        writer.append(name, values)?;
    }
    writer.finish()
}

fn mistake(message: String) -> Error {
    Error::shape("safetensors writer", message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::io::safetensors::SafetensorsFile;
    use crate::io::source::TensorSource;

    #[test]
    fn what_is_written_is_read_bit_for_bit_by_us_and_by_the_library() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE / 4.0, f32::INFINITY, f32::from_bits(0x7FC1_2345), 3.0];
        let long: Vec<f32> = (0..10_000).map(|i| i as f32 * 0.1).collect();
        let metadata = BTreeMap::from([("deme".to_owned(), "test".to_owned())]);
        write(&path, &[("b", &[2, 3], &values), ("scalar", &[], &[7.0]), ("a", &[10_000], &long)], &metadata).unwrap();
        let ours = SafetensorsFile::open(&path).unwrap();
        assert_eq!(ours.names(), ["b", "scalar", "a"]);
        assert_eq!(ours.metadata()["format"], "pt");
        assert_eq!(ours.metadata()["deme"], "test");
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&ours.read_f32("b").unwrap()), bits(&values));
        assert_eq!(bits(&ours.read_f32("a").unwrap()), bits(&long));
        let bytes = std::fs::read(&path).unwrap();
        let library = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(library.tensor("b").unwrap().shape(), [2, 3]);
        assert_eq!(library.tensor("scalar").unwrap().data(), 7f32.to_le_bytes());
    }

    #[test]
    fn a_wrong_order_length_or_count_is_an_error_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let declared = [("a".to_owned(), vec![2]), ("b".to_owned(), vec![1])];
        let create = || SafetensorsWriter::create(&path, &declared, &BTreeMap::new()).unwrap();
        let text = |r: Result<()>| r.unwrap_err().to_string();
        assert_eq!(text(create().append("b", &[0.0])), "safetensors writer: b (1 values) came, expected a (2)");
        assert_eq!(text(create().append("a", &[0.0])), "safetensors writer: a (1 values) came, expected a (2)");
        assert_eq!(text(create().finish()), "safetensors writer: a is still to come");
        let twice = [("a".to_owned(), vec![1]), ("a".to_owned(), vec![1])];
        let error = SafetensorsWriter::create(&path, &twice, &BTreeMap::new()).map(drop);
        assert_eq!(text(error), "safetensors writer: a is declared twice");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
