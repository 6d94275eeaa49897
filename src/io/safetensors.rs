//! Reads safetensors files: the header is checked in full against the file's true length before anything is allocated,
//! then tensors are read one by one. Called by the folder reader and wherever a tensor file is given.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo as HeaderInfo};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::source::{TensorInfo, TensorSource, missing, read_elements};
use crate::error::{Error, Result};

/// The limit of the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const HINT: &str = "the file is damaged, cut short or not safetensors; copy or download it again";

/// What weights are read from: a file, or bytes in a test.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// An open safetensors file.
pub struct SafetensorsFile {
    path: PathBuf,
    reader: Mutex<Box<dyn ReadSeek>>,
    header: Header,
}

/// The checked contents of a header.
pub struct Header {
    /// Bytes before the first tensor: eight and the header.
    data_start: u64,
    names: Vec<String>,
    /// Name -> what it is and where it begins after `data_start`.
    tensors: HashMap<String, (TensorInfo, u64)>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "read"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        Self::from_reader(path, Box::new(file), length)
    }

    /// From any reader of `length` bytes that stands at its start.
    pub fn from_reader(path: &Path, mut reader: Box<dyn ReadSeek>, length: u64) -> Result<Self> {
        let refuse = |thing: &str, problem: String| Error::format(path, thing, problem, HINT);
        let mut size = [0; 8];
        if length < 8 {
            return Err(refuse("header", format!("the file has {length} bytes, at least 8 are needed")));
        }
        reader.read_exact(&mut size).map_err(Error::io(path, "read"))?;
        if &size == b"version " {
            let hint = "fetch the weights with `git lfs pull`";
            return Err(Error::format(path, "header", "is a Git LFS pointer, not the weights", hint));
        }
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER_BYTES {
            return Err(refuse("header", format!("claims {size} bytes, at most {MAX_HEADER_BYTES} are allowed")));
        }
        let Some(data_bytes) = (length - 8).checked_sub(size) else {
            return Err(refuse("header", format!("claims {size} bytes, the file has {} after its length", length - 8)));
        };
        let mut bytes = vec![0; size as usize];
        reader.read_exact(&mut bytes).map_err(Error::io(path, "read"))?;
        let header = parse_header(path, &bytes, data_bytes)?;
        Ok(Self { path: path.to_path_buf(), reader: Mutex::new(reader), header })
    }

    /// The free texts of the header (`__metadata__`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    fn entry(&self, name: &str) -> Result<&(TensorInfo, u64)> {
        self.header.tensors.get(name).ok_or_else(|| missing(&self.path, name))
    }
}

impl TensorSource for SafetensorsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> &[String] {
        &self.header.names
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.entry(name).map(|(info, _)| info)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let (info, begin) = self.entry(name)?;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let start = SeekFrom::Start(self.header.data_start + begin);
        reader.seek(start).map_err(Error::io(&self.path, "read"))?;
        read_elements(&mut *reader, &self.path, name, info)
    }
}

/// Checks a header (without its eight bytes of length) against the number of bytes that follow it.
pub fn parse_header(path: &Path, bytes: &[u8], data_bytes: u64) -> Result<Header> {
    let refuse = |thing: String, problem: String| Error::format(path, thing, problem, HINT);
    let header = || "header".to_owned();
    if bytes.first() != Some(&b'{') {
        return Err(refuse(header(), "does not begin with {".into()));
    }
    let entries: Entries = serde_json::from_slice(bytes).map_err(|e| refuse(header(), e.to_string()))?;
    let mut names = Vec::with_capacity(entries.tensors.len());
    let mut tensors = HashMap::with_capacity(entries.tensors.len());
    let mut by_offset = Vec::with_capacity(entries.tensors.len());
    for (name, info) in entries.tensors {
        let thing = || format!("tensor {name}");
        let (begin, end) = info.data_offsets;
        let held = end.checked_sub(begin).ok_or_else(|| refuse(thing(), format!("ends at {end}, before it begins")))?;
        if end as u64 > data_bytes {
            return Err(refuse(thing(), format!("ends at byte {end} of the data, the file has {data_bytes}")));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &d| n.checked_mul(d));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != held) {
            let problem = format!("is {} {:?} and has {held} bytes", info.dtype, info.shape);
            return Err(refuse(thing(), problem));
        }
        let ours = TensorInfo { dtype: info.dtype, shape: info.shape.iter().map(|&d| d as u64).collect() };
        if tensors.insert(name.clone(), (ours, begin as u64)).is_some() {
            return Err(refuse(thing(), "is there twice".into()));
        }
        names.push(name.clone());
        by_offset.push((name, info));
    }
    by_offset.sort_by_key(|(_, info)| info.data_offsets);
    let end = by_offset.last().map_or(0, |(_, info)| info.data_offsets.1 as u64);
    // The library's own rules: no gaps, no overlaps, no overflow.
    Metadata::new(None, by_offset).map_err(|e| refuse(header(), e.to_string()))?;
    if end != data_bytes {
        return Err(refuse("data".into(), format!("{} bytes follow the last tensor", data_bytes - end)));
    }
    Ok(Header { data_start: 8 + bytes.len() as u64, names, tensors, metadata: entries.metadata })
}

/// The header's object in its own order; repeated names are kept, so that they can be refused by name.
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, HeaderInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Entries { metadata: BTreeMap::new(), tensors: Vec::new() };
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        entries.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        entries.tensors.push((key, map.next_value()?));
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Object)
    }
}
