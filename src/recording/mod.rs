//! What a computation is before it runs: a list of plain ops over virtual buffers. Building one needs no GPU.
//! `gpu::Plan` replays it, `reference::interpret` runs it on the CPU twins, `cost` counts its FLOPs and bytes.

pub mod cost;
mod fuse;
mod recompute;

use crate::error::{Error, Result};
use crate::shader::card::{Access, Card, Params, Precision};
use crate::shape::{DType, Shape};

/// Index into `Recording::buffers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Where a virtual buffer's storage comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Written by the host before each run; small; all inputs of a recording travel in one upload.
    Input,
    /// Lives between its first write and its last use; shares storage with others by lifetime.
    Transient,
    /// Storage that outlives the plan (parameter slabs, state), found by its key.
    External(String),
}

/// A virtual buffer.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub label: String,
    pub elements: u64,
    pub dtype: DType,
    pub role: Role,
    /// Transient buffers only: readable after the run, so the storage is nobody else's afterwards.
    pub keep: bool,
}

/// A contiguous range of a buffer seen as a shape. `offset` is in elements, at a multiple of 256 bytes, what every
/// adapter can bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tensor {
    pub buffer: BufferId,
    pub offset: u64,
    pub shape: Shape,
}

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.shape.elements()
    }

    /// The same elements under another shape.
    pub fn reshape(&self, op: &'static str, shape: Shape) -> Result<Self> {
        if shape.elements() != self.elements() {
            return Err(Error::shape(op, format!("cannot view {} as {shape}", self.shape)));
        }
        Ok(Self { shape, ..*self })
    }
}

/// Where tensors within a buffer may start, in elements: at 256 bytes, of f16 too.
pub const ALIGN: u64 = 128;
/// The same of any one buffer.
const ALIGN_BYTES: u64 = 256;

/// Key of the buffer of zeros that stands in for an absent optional input.
pub const ZERO_KEY: &str = "zero";
/// Elements of that buffer.
pub const ZERO_ELEMENTS: u64 = 64;

/// One kernel call.
#[derive(Debug, Clone)]
pub struct Op {
    pub card: &'static Card,
    /// The parameter struct's words.
    pub params: Vec<u32>,
    /// In the order of the card's bindings.
    pub reads: Vec<Tensor>,
    pub writes: Vec<Tensor>,
    pub updates: Vec<Tensor>,
    /// Bit i is set where the elements of binding i, counted from 0, are f16.
    pub half: u32,
}

impl Op {
    /// All tensors in binding order, with their access.
    pub fn tensors(&self) -> impl Iterator<Item = (Access, &Tensor)> {
        let reads = self.reads.iter().map(|t| (Access::Read, t));
        let writes = self.writes.iter().map(|t| (Access::Write, t));
        reads.chain(writes).chain(self.updates.iter().map(|t| (Access::Update, t)))
    }

    /// Bytes of an element of binding i, counted from 0.
    pub fn width(&self, i: usize) -> u64 {
        if self.half >> i & 1 == 1 { 2 } else { 4 }
    }

    /// `<word>/<shape of the first output>`: label in profiles and error messages.
    pub fn label(&self) -> String {
        let out = self.writes.first().or(self.updates.first());
        out.map_or_else(|| self.card.word.to_string(), |t| format!("{}/{}", self.card.word, t.shape))
    }
}

/// The list itself.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    pub name: String,
    pub buffers: Vec<Buffer>,
    pub ops: Vec<Op>,
    /// What plans of it store activations in and round the factors of products to: builders choose their route by it.
    pub precision: Precision,
    /// Whether gradients are being recorded: the tape says so.
    pub backward: bool,
    /// Where parts of the forward pass end, in op numbers; the last is where the gradients begin.
    pub cuts: Vec<usize>,
}

impl Recording {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The same, to be planned in this precision.
    pub fn at(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    fn buffer(&mut self, label: String, elements: u64, dtype: DType, role: Role) -> BufferId {
        self.buffers.push(Buffer { label, elements, dtype, role, keep: false });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// A fresh transient f32 tensor, to be written by an op.
    pub fn transient(&mut self, label: &str, shape: Shape) -> Tensor {
        self.transient_as(label, shape, DType::F32)
    }

    /// A fresh transient tensor of this element type.
    pub fn transient_as(&mut self, label: &str, shape: Shape, dtype: DType) -> Tensor {
        let buffer = self.buffer(label.to_string(), shape.elements(), dtype, Role::Transient);
        Tensor { buffer, offset: 0, shape }
    }

    /// What activations are stored in: f16 where the precision is, gradients f32.
    pub fn stored(&self) -> DType {
        if self.backward { DType::F32 } else { self.precision.stored() }
    }

    /// A fresh transient tensor, stored so.
    pub fn activation(&mut self, label: &str, shape: Shape) -> Tensor {
        self.transient_as(label, shape, self.stored())
    }

    /// The element type behind a tensor.
    pub fn dtype(&self, tensor: &Tensor) -> DType {
        self.buffers[tensor.buffer.0 as usize].dtype
    }

    /// A small buffer that the host fills before each run.
    pub fn input(&mut self, label: &str, shape: Shape, dtype: DType) -> Tensor {
        let buffer = self.buffer(label.to_string(), shape.elements(), dtype, Role::Input);
        Tensor { buffer, offset: 0, shape }
    }

    /// f32 storage that outlives the plan; asking twice for a key gives the same buffer.
    pub fn external(&mut self, key: &str, elements: u64) -> BufferId {
        self.external_as(key, elements, DType::F32)
    }

    /// The same of this element type.
    pub fn external_as(&mut self, key: &str, elements: u64, dtype: DType) -> BufferId {
        let known = self.buffers.iter().position(|b| matches!(&b.role, Role::External(k) if k == key));
        match known {
            Some(i) => BufferId(i as u32),
            None => self.buffer(key.to_string(), elements, dtype, Role::External(key.to_string())),
        }
    }

    /// What a kernel reads in place of an optional input that is absent.
    pub fn absent(&mut self) -> Tensor {
        let buffer = self.external(ZERO_KEY, ZERO_ELEMENTS);
        Tensor { buffer, offset: 0, shape: Shape::new([ZERO_ELEMENTS as u32]) }
    }

    /// Ends a part of the forward pass: networks call it between layers, the tape where gradients begin. What `recomputed` makes
    /// again is what lives within a part.
    pub fn cut(&mut self) {
        self.cuts.push(self.ops.len());
    }

    /// Marks a transient tensor as readable after the run.
    pub fn keep(&mut self, tensor: &Tensor) {
        self.buffers[tensor.buffer.0 as usize].keep = true;
    }

    /// Appends one kernel call after checking it against the card: counts, ranges, alignment, element types, aliasing.
    pub fn push<P: Params>(
        &mut self,
        card: &'static Card,
        params: &P,
        reads: &[Tensor],
        writes: &[Tensor],
        updates: &[Tensor],
    ) -> Result<()> {
        let (word, words) = (card.word, params.words());
        for (access, given) in
            [(Access::Read, reads.len()), (Access::Write, writes.len()), (Access::Update, updates.len())]
        {
            if card.count(access) != given {
                let expected = card.count(access);
                return Err(Error::shape(word, format!("{given} {access:?} tensors, its card has {expected}")));
            }
        }
        if card.params.len() != words.len() {
            return Err(Error::shape(word, format!("{} parameters, its card has {}", words.len(), card.params.len())));
        }
        let mut half = 0;
        for (i, t) in reads.iter().chain(writes).chain(updates).enumerate() {
            let b = &self.buffers[t.buffer.0 as usize];
            if t.elements() == 0 {
                return Err(Error::shape(word, format!("{} is empty: {}", b.label, t.shape)));
            }
            if b.dtype == DType::F16 {
                if !card.bindings[i].half {
                    return Err(Error::shape(word, format!("{} is in f16, {} is not", b.label, card.bindings[i].name)));
                }
                half |= 1 << i;
            }
            if !(t.offset * b.dtype.bytes()).is_multiple_of(ALIGN_BYTES) || t.offset + t.elements() > b.elements {
                let range = t.offset..t.offset + t.elements();
                return Err(Error::shape(word, format!("{} has {} elements, not {range:?}", b.label, b.elements)));
            }
        }
        for (i, out) in writes.iter().chain(updates).enumerate() {
            let others = writes.iter().chain(updates).enumerate().filter(|(j, _)| *j != i).map(|(_, t)| t);
            // One buffer bound both ways in a dispatch is an error in WebGPU, whatever the ranges.
            if reads.iter().any(|r| r.buffer == out.buffer) || others.into_iter().any(|o| o.buffer == out.buffer) {
                let label = &self.buffers[out.buffer.0 as usize].label;
                return Err(Error::shape(word, format!("{label} is bound twice, once for writing")));
            }
        }
        self.ops.push(Op {
            card,
            params: words,
            reads: reads.to_vec(),
            writes: writes.to_vec(),
            updates: updates.to_vec(),
            half,
        });
        Ok(())
    }
}
