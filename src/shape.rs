//! Shapes and element types; all size arithmetic that could overflow lives here.
//! Used by every room to its right.

use crate::error::{Error, Result};

/// Up to four extents, row-major and contiguous; activations are [N, H, W, C], channels last.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [u32; 4],
    rank: u8,
}

impl Shape {
    /// Panics never: a rank above four is cut by the type of the argument.
    pub fn new<const R: usize>(extents: [u32; R]) -> Self {
        const { assert!(R <= 4, "a shape has at most four extents") };
        let mut dims = [1; 4];
        dims[..R].copy_from_slice(&extents);
        Self { dims, rank: R as u8 }
    }

    /// From extents read at run time.
    pub fn from_slice(op: &'static str, extents: &[u32]) -> Result<Self> {
        if extents.len() > 4 {
            return Err(Error::shape(op, format!("{} extents, at most 4 are supported", extents.len())));
        }
        let mut dims = [1; 4];
        dims[..extents.len()].copy_from_slice(extents);
        Ok(Self { dims, rank: extents.len() as u8 })
    }

    pub fn dims(&self) -> &[u32] {
        &self.dims[..usize::from(self.rank)]
    }

    /// Number of elements; 1 for rank 0. Four u32 extents may overflow u64 only when absurd: saturates, and the
    /// plan's memory check refuses the result.
    pub fn elements(&self) -> u64 {
        self.dims().iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)))
    }

    /// The four extents of an activation, or an error that names `op`.
    pub fn nhwc(&self, op: &'static str) -> Result<[u32; 4]> {
        if self.rank == 4 { Ok(self.dims) } else { Err(Error::shape(op, format!("expected [N, H, W, C], got {self}"))) }
    }

    /// The last extent (channels, columns); 1 for rank 0.
    pub fn last(&self) -> u32 {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The product of all extents but the last: rows of the matrix that the shape is when flattened.
    pub fn rows(&self) -> u64 {
        let n = self.dims().len().saturating_sub(1);
        self.dims()[..n].iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)))
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// Element type of a buffer on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    U32,
    /// Storage alone: shaders widen what they load and round what they store.
    F16,
}

impl DType {
    /// Of one element.
    pub fn bytes(self) -> u64 {
        if self == Self::F16 { 2 } else { 4 }
    }

    /// Of so many elements, in whole words: what buffers, bindings and copies are made of.
    pub fn size(self, elements: u64) -> u64 {
        elements.saturating_mul(self.bytes()).next_multiple_of(4)
    }
}

/// Channels as stored: images (1 to 3 channels) are padded to 4, everything else is as it is.
pub fn padded_channels(channels: u32) -> u32 {
    if channels < 4 { 4 } else { channels }
}
