//! Reads state dicts that `torch.save` wrote, in the zip format and in the older one, without running anything: the
//! pickle is read by `pickle`, storages are read one tensor at a time. Called through `shards::open`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Storage, TensorView, Unpickled, Value, unpickle};
use super::safetensors::ReadSeek;
use super::source::{Dtype, TensorInfo, TensorSource, missing, read_elements};
use crate::error::{Error, Result};

/// A state dict's pickle holds names and shapes only: about 200 bytes a tensor.
const MAX_PICKLE_BYTES: u64 = 4 << 20;
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;
const HINT: &str = "the file is damaged or was not written by torch.save; copy or download it again";

/// An open file of `torch.save`.
pub struct TorchFile {
    path: PathBuf,
    container: Container,
    names: Vec<String>,
    tensors: HashMap<String, Tensor>,
}

enum Container {
    Zip(Mutex<ZipArchive<Box<dyn ReadSeek>>>),
    Legacy(Mutex<Box<dyn ReadSeek>>),
}

struct Tensor {
    info: TensorInfo,
    strides: Vec<u64>,
    /// First element in the storage.
    offset: u64,
    /// Index of the zip entry, or byte offset in a file of the older format.
    place: u64,
}

impl TorchFile {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "read"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        Self::from_reader(path, Box::new(file), length)
    }

    /// From any reader of `length` bytes that stands at its start.
    pub fn from_reader(path: &Path, mut reader: Box<dyn ReadSeek>, length: u64) -> Result<Self> {
        let mut head = Vec::new();
        (&mut reader).take(MAX_PICKLE_BYTES).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
        let head = head.as_slice();
        if head.starts_with(b"version ") {
            let hint = "fetch the weights with `git lfs pull`";
            return Err(Error::format(path, "start", "is a Git LFS pointer, not the weights", hint));
        }
        if head.starts_with(b"PK\x03\x04") {
            Self::from_zip(path, reader, length)
        } else if head.starts_with(b"\x80") {
            Self::from_legacy(path, reader, head, length)
        } else {
            Err(refuse(path, "start", "is neither a zip archive nor a pickle"))
        }
    }

    // === Zip: NAME/data.pkl, NAME/data/KEY, NAME/byteorder ===

    fn from_zip(path: &Path, reader: Box<dyn ReadSeek>, length: u64) -> Result<Self> {
        let bad = |e: zip::result::ZipError| refuse(path, "zip archive", e.to_string());
        let mut archive = ZipArchive::new(reader).map_err(bad)?;
        if archive.has_duplicate_names() {
            return Err(refuse(path, "zip archive", "has two entries of the same name"));
        }
        let names: Vec<String> = archive
            .file_names()
            .map(|n| n.map(|n| n.into_owned()))
            .collect::<std::result::Result<_, _>>()
            .map_err(bad)?;
        let mut roots = names.iter().filter_map(|n| n.strip_suffix("/data.pkl"));
        let (Some(root), None) = (roots.next(), roots.next()) else {
            return Err(refuse(path, "data.pkl", "is not in the archive exactly once"));
        };
        if let Some(order) = archive.index_for_name(&format!("{root}/byteorder"))
            && entry_bytes(path, &mut archive, order, length, "byteorder")? != b"little"
        {
            return Err(refuse(path, "byteorder", "is not little; re-save the model on an ordinary machine"));
        }
        let pickle = archive.index_for_name(&format!("{root}/data.pkl")).unwrap_or_default();
        let pickle = entry_bytes(path, &mut archive, pickle, length, "data.pkl")?;
        let unpickled = unpickle(path, &pickle, 0)?;
        let place = |storage: &Storage| {
            let name = format!("{root}/data/{}", storage.key);
            let thing = || format!("storage {}", storage.key);
            let index = archive.index_for_name(&name);
            let index = index.ok_or_else(|| refuse(path, thing(), "is not in the archive"))?;
            let entry = archive.by_index_data(index).map_err(|e| refuse(path, thing(), e.to_string()))?;
            check_entry(&entry, length).map_err(|problem| refuse(path, thing(), problem))?;
            if Some(entry.size()) != storage_bytes(storage) {
                let problem = format!("has {} bytes, expected {} {}", entry.size(), storage.elements, storage.dtype);
                return Err(refuse(path, thing(), problem));
            }
            Ok(index as u64)
        };
        let (names, tensors) = state_dict(path, &unpickled, place)?;
        Ok(Self { path: path.to_path_buf(), container: Container::Zip(Mutex::new(archive)), names, tensors })
    }

    // === Before torch 1.6: magic, protocol, system, state dict, keys (pickles), then (elements, data) of each key ===

    fn from_legacy(path: &Path, mut reader: Box<dyn ReadSeek>, head: &[u8], length: u64) -> Result<Self> {
        let mut at = 0;
        let mut next = || -> Result<Unpickled> {
            let pickle = unpickle(path, &head[at..], at)?;
            at += pickle.length;
            Ok(pickle)
        };
        let is = |p: &Unpickled, n: i128| matches!(p.values[p.root], Value::Int(m) if m == n);
        if !is(&next()?, MAGIC) {
            return Err(refuse(path, "start", "is a pickle, but not one of torch.save"));
        }
        if !is(&next()?, PROTOCOL) {
            return Err(refuse(path, "protocol", "is not 1001, the only one of torch.save"));
        }
        let system = next()?;
        if !is_little_endian(&system) {
            return Err(refuse(path, "system", "is not little endian; re-save the model on an ordinary machine"));
        }
        let unpickled = next()?;
        let keys = next()?;
        let places = legacy_places(path, &mut reader, &unpickled, &keys, at as u64, length)?;
        let place = |storage: &Storage| {
            let known = places.get(&storage.key).filter(|(s, _)| s == storage);
            let known = known.ok_or_else(|| refuse(path, format!("storage {}", storage.key), "is not in the file"));
            known.map(|(_, place)| *place)
        };
        let (names, tensors) = state_dict(path, &unpickled, place)?;
        Ok(Self { path: path.to_path_buf(), container: Container::Legacy(Mutex::new(reader)), names, tensors })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| missing(&self.path, name))
    }
}

impl TensorSource for TorchFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name).map(|t| &t.info)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        let path = self.path.as_path();
        let span = TensorInfo { dtype: tensor.info.dtype, shape: vec![tensor.span()] };
        let skip = tensor.offset * bytes_of(tensor.info.dtype);
        let values = match &self.container {
            Container::Zip(archive) => {
                let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
                let thing = || format!("tensor {name}");
                let entry = archive.by_index(tensor.place as usize);
                let mut entry = entry.map_err(|e| refuse(path, thing(), e.to_string()))?;
                let damaged = |e: io::Error| refuse(path, thing(), e.to_string());
                io::copy(&mut (&mut entry).take(skip), &mut io::sink()).map_err(damaged)?;
                let values = read_elements(&mut entry, path, name, &span)?;
                // To the end of the entry, where its checksum is compared.
                io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
                values
            }
            Container::Legacy(reader) => {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                reader.seek(SeekFrom::Start(tensor.place + skip)).map_err(Error::io(path, "read"))?;
                read_elements(&mut *reader, path, name, &span)?
            }
        };
        Ok(tensor.gather(values))
    }
}

impl Tensor {
    /// Elements from the first to the last, both included, in the storage.
    fn span(&self) -> u64 {
        let steps = self.info.shape.iter().zip(&self.strides).map(|(&d, &s)| d.saturating_sub(1) * s);
        if self.info.elements() == 0 { 0 } else { 1 + steps.sum::<u64>() }
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.info.shape.iter().zip(&self.strides).rev().all(|(&d, &s)| {
            let fits = d == 1 || s == expected;
            expected *= d;
            fits
        })
    }

    /// Row-major elements from the span.
    fn gather(&self, span: Vec<f32>) -> Vec<f32> {
        if span.is_empty() || self.is_contiguous() {
            return span;
        }
        let mut index = vec![0u64; self.info.shape.len()];
        let mut out = Vec::with_capacity(self.info.elements() as usize);
        loop {
            let at: u64 = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            out.push(span[at as usize]);
            let Some(axis) = (0..index.len()).rev().find(|&a| index[a] + 1 < self.info.shape[a]) else { return out };
            index[axis] += 1;
            index[axis + 1..].fill(0);
        }
    }
}

/// The names and tensors of a state dict, each checked against its storage.
fn state_dict(
    path: &Path,
    pickle: &Unpickled,
    mut place: impl FnMut(&Storage) -> Result<u64>,
) -> Result<(Vec<String>, HashMap<String, Tensor>)> {
    let hint = "save the UNet's state dict alone: torch.save(unet.state_dict(), ...)";
    let Value::Dict(pairs) = &pickle.values[pickle.root] else {
        return Err(Error::format(path, "state dict", "is not a dictionary", hint));
    };
    let (mut names, mut tensors) = (Vec::with_capacity(pairs.len()), HashMap::with_capacity(pairs.len()));
    let mut places: HashMap<Id, u64> = HashMap::new();
    for &(key, value) in pairs {
        let Value::Text(name) = &pickle.values[key] else {
            return Err(Error::format(path, "state dict", "has a key that is not a text", hint));
        };
        let thing = || format!("tensor {name}");
        let Value::Tensor(view) = &pickle.values[value] else {
            return Err(Error::format(path, format!("entry {name}"), "is not a tensor", hint));
        };
        let Value::Storage(storage) = &pickle.values[view.storage] else {
            return Err(refuse(path, thing(), "has no storage"));
        };
        check_view(view, storage).map_err(|problem| refuse(path, thing(), problem))?;
        let place = match places.get(&view.storage) {
            Some(&place) => place,
            None => *places.entry(view.storage).or_insert(place(storage)?),
        };
        let info = TensorInfo { dtype: storage.dtype, shape: view.shape.clone() };
        let tensor = Tensor { info, strides: view.strides.clone(), offset: view.offset, place };
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(refuse(path, thing(), "is there twice"));
        }
        names.push(name.clone());
    }
    Ok((names, tensors))
}

/// A view must lie in its storage and have no more elements than it (an expanded tensor would).
fn check_view(view: &TensorView, storage: &Storage) -> std::result::Result<(), String> {
    let elements = view.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if elements.is_none_or(|n| n > storage.elements) {
        return Err(format!("is {:?}, its storage has {} elements", view.shape, storage.elements));
    }
    let mut steps = view.shape.iter().zip(&view.strides);
    let last = steps.try_fold(view.offset, |at, (&d, &s)| d.saturating_sub(1).checked_mul(s)?.checked_add(at));
    let outside =
        if elements == Some(0) { view.offset > storage.elements } else { last.is_none_or(|l| l >= storage.elements) };
    if outside {
        return Err(format!(
            "offset {} and strides {:?} lead outside its storage of {} elements",
            view.offset, view.strides, storage.elements
        ));
    }
    Ok(())
}

/// Where each storage of an older file begins: walks the (elements, data) blocks that follow the pickles.
fn legacy_places(
    path: &Path,
    reader: &mut Box<dyn ReadSeek>,
    pickle: &Unpickled,
    keys: &Unpickled,
    mut at: u64,
    length: u64,
) -> Result<HashMap<String, (Storage, u64)>> {
    let mut known: HashMap<&str, &Storage> = HashMap::new();
    for value in &pickle.values {
        if let Value::Storage(s) = value
            && known.insert(&s.key, s).is_some_and(|other| other != &**s)
        {
            return Err(refuse(path, format!("storage {}", s.key), "is described in two ways"));
        }
    }
    let Value::List(keys_list) = &keys.values[keys.root] else {
        return Err(refuse(path, "storage keys", "are not a list"));
    };
    let mut places = HashMap::new();
    for &key in keys_list {
        let Value::Text(key) = &keys.values[key] else {
            return Err(refuse(path, "storage keys", "hold something that is not a text"));
        };
        let thing = || format!("storage {key}");
        let storage = *known.get(key.as_str()).ok_or_else(|| refuse(path, thing(), "belongs to no tensor"))?;
        let end = storage_bytes(storage).and_then(|n| n.checked_add(at)?.checked_add(8));
        let Some(end) = end.filter(|&end| end <= length) else {
            return Err(refuse(path, thing(), format!("goes beyond the file's end at byte {length}")));
        };
        let mut elements = [0; 8];
        reader.seek(SeekFrom::Start(at)).map_err(Error::io(path, "read"))?;
        reader.read_exact(&mut elements).map_err(Error::io(path, "read"))?;
        let elements = u64::from_le_bytes(elements);
        if elements != storage.elements {
            let problem = format!("has {elements} elements, its tensors say {}", storage.elements);
            return Err(refuse(path, thing(), problem));
        }
        if places.insert(key.clone(), (storage.clone(), at + 8)).is_some() {
            return Err(refuse(path, thing(), "is there twice"));
        }
        at = end;
    }
    if at != length {
        return Err(refuse(path, "end", format!("{} bytes follow the last storage", length - at)));
    }
    Ok(places)
}

fn is_little_endian(system: &Unpickled) -> bool {
    let Value::Dict(pairs) = &system.values[system.root] else { return false };
    pairs.iter().any(|&(key, value)| {
        matches!(&system.values[key], Value::Text(t) if t == "little_endian")
            && matches!(system.values[value], Value::Bool(true))
    })
}

/// The whole of a small entry.
fn entry_bytes(
    path: &Path,
    archive: &mut ZipArchive<Box<dyn ReadSeek>>,
    index: usize,
    length: u64,
    thing: &str,
) -> Result<Vec<u8>> {
    let mut entry = archive.by_index(index).map_err(|e| refuse(path, thing, e.to_string()))?;
    check_entry(&entry.entry(), length.min(MAX_PICKLE_BYTES)).map_err(|problem| refuse(path, thing, problem))?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| refuse(path, thing, e.to_string()))?;
    Ok(bytes)
}

/// torch stores entries as they are; so no size can exceed the file's.
fn check_entry(entry: &zip::read::ZipFileEntry, limit: u64) -> std::result::Result<(), String> {
    if entry.encrypted() || entry.compression() != CompressionMethod::Stored {
        return Err("is compressed or encrypted, which torch.save never does".into());
    }
    if entry.size() != entry.compressed_size() || entry.size() > limit {
        return Err(format!("claims {} bytes, at most {limit} are possible", entry.size()));
    }
    Ok(())
}

fn storage_bytes(storage: &Storage) -> Option<u64> {
    storage.elements.checked_mul(bytes_of(storage.dtype))
}

fn bytes_of(dtype: Dtype) -> u64 {
    dtype.bitsize() as u64 / 8
}

fn refuse(path: &Path, thing: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::format(path, thing, problem, HINT)
}
