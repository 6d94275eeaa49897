//! Where weights come from: tensors by name, read one at a time, whatever the file format.
//! Implemented by the safetensors and torch readers; called by models, merging and everything that loads weights.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

pub use safetensors::Dtype;

use super::names::{self, Names};
use crate::error::{Error, Result};

/// What a file says of a tensor before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    /// Extents in the file's layout (OIHW for convolutions); empty for a scalar.
    pub shape: Vec<u64>,
}

impl TensorInfo {
    /// Number of elements; saturates, and the readers compare with the file's length before they allocate.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n, &d| n.saturating_mul(d))
    }
}

/// Named tensors of one or more files. Reading holds one tensor in memory, not the file.
/// Every error names the file and the tensor.
pub trait TensorSource: Send + Sync {
    /// The file that errors about the whole set should name.
    fn path(&self) -> &Path;

    /// All names, in the file's order.
    fn names(&self) -> &[String];

    fn info(&self, name: &str) -> Result<&TensorInfo>;

    /// All elements in row-major order. F16 and BF16 become f32 exactly, F64 is rounded to nearest; integers are refused.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>>;

    fn contains(&self, name: &str) -> bool {
        self.info(name).is_ok()
    }
}

/// The error for a name that a source lacks.
pub(super) fn missing(path: &Path, name: &str) -> Error {
    Error::format(path, format!("tensor {name}"), "is not in the file", "the file belongs to another model")
}

/// Reads `elements` values of `dtype` (little endian). The caller has made sure that the file holds that many.
pub(super) fn read_elements(reader: &mut impl Read, path: &Path, name: &str, info: &TensorInfo) -> Result<Vec<f32>> {
    let elements = usize::try_from(info.elements()).map_err(|_| too_large(path, name))?;
    match info.dtype {
        Dtype::F32 => convert(reader, path, elements, f32::from_le_bytes),
        Dtype::F16 => convert(reader, path, elements, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(reader, path, elements, |b| half::bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => convert(reader, path, elements, |b| f64::from_le_bytes(b) as f32),
        other => Err(Error::format(
            path,
            format!("tensor {name}"),
            format!("has the type {other}, expected a floating-point type"),
            "only F32, F16, BF16 and F64 weights can be used",
        )),
    }
}

fn too_large(path: &Path, name: &str) -> Error {
    Error::format(path, format!("tensor {name}"), "is too large for this machine's address space", "use a 64-bit build")
}

fn convert<const B: usize>(
    reader: &mut impl Read,
    path: &Path,
    elements: usize,
    value: impl Fn([u8; B]) -> f32,
) -> Result<Vec<f32>> {
    const CHUNK: usize = 1 << 14;
    let mut bytes = vec![[0u8; B]; CHUNK.min(elements)];
    let mut out = Vec::with_capacity(elements);
    while out.len() < elements {
        let chunk = &mut bytes[..CHUNK.min(elements - out.len())];
        reader.read_exact(chunk.as_flattened_mut()).map_err(Error::io(path, "read"))?;
        out.extend(chunk.iter().map(|&b| value(b)));
    }
    Ok(out)
}

/// A source seen through canonical names (see `names`); errors of the file still speak of the file's names.
pub struct Canonical {
    inner: Box<dyn TensorSource>,
    names: Vec<String>,
    in_file: HashMap<String, String>,
    style: Names,
}

impl Canonical {
    pub fn new(inner: Box<dyn TensorSource>) -> Result<Self> {
        let style = Names::of(inner.names().iter().map(String::as_str));
        let names: Vec<String> = inner.names().iter().map(|n| names::canonical(n)).collect();
        let mut in_file = HashMap::with_capacity(names.len());
        for (canonical, file) in names.iter().zip(inner.names()) {
            if let Some(other) = in_file.insert(canonical.clone(), file.clone()) {
                let problem = format!("is there twice, also as {other}");
                let hint = "the file mixes old and new names of the same tensor";
                return Err(Error::format(inner.path(), format!("tensor {file}"), problem, hint));
            }
        }
        Ok(Self { inner, names, in_file, style })
    }

    /// How the file spells attention tensors.
    pub fn style(&self) -> Names {
        self.style
    }

    fn file_name<'a>(&'a self, name: &str) -> Result<&'a str> {
        self.in_file.get(name).map(String::as_str).ok_or_else(|| missing(self.inner.path(), &self.style.in_file(name)))
    }
}

impl TensorSource for Canonical {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.inner.info(self.file_name(name)?)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.inner.read_f32(self.file_name(name)?)
    }
}

/// Tensors in memory, for tests and for weights that are made rather than read.
pub struct InMemory {
    path: std::path::PathBuf,
    names: Vec<String>,
    tensors: HashMap<String, (TensorInfo, Vec<f32>)>,
}

impl InMemory {
    /// `path` is what errors call the set. Tensors are (name, extents, elements); a wrong count of elements is an error.
    pub fn new(path: impl Into<std::path::PathBuf>, tensors: Vec<(String, Vec<u64>, Vec<f32>)>) -> Result<Self> {
        let path = path.into();
        let mut out = Self { path, names: Vec::new(), tensors: HashMap::new() };
        for (name, shape, values) in tensors {
            let info = TensorInfo { dtype: Dtype::F32, shape };
            if info.elements() != values.len() as u64 {
                let message = format!("tensor {name} {:?} was given {} values", info.shape, values.len());
                return Err(Error::shape("tensors in memory", message));
            }
            out.names.push(name.clone());
            out.tensors.insert(name, (info, values));
        }
        Ok(out)
    }
}

impl TensorSource for InMemory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).map(|(info, _)| info).ok_or_else(|| missing(&self.path, name))
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.tensors.get(name).map(|(_, values)| values.clone()).ok_or_else(|| missing(&self.path, name))
    }
}
