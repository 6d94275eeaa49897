//! Where every weight lives: tensors at 256-byte offsets in slabs of at most 128 MiB, one set of slabs a role.
//! Called by `layers` (recordings bind ranges), `slabs` (storage) and whatever runs over whole slabs (optimizer, merge).

use crate::error::{Error, Result};
use crate::io::layout::Layout;
use crate::recording::{ALIGN, Recording, Tensor};
use crate::shape::{DType, Shape};
use std::collections::HashMap;

/// Elements of a full slab: 128 MiB of f32, the largest binding that every adapter grants.
pub const SLAB_ELEMENTS: u64 = 32 << 20;

/// What a set of slabs holds; all sets have the same layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The weights that are trained, and run: theta.
    Theta,
    /// Theta in f16, which runs in its place: refreshed after each update.
    Half,
    Gradient,
    /// AdamW's first moment.
    FirstMoment,
    /// AdamW's second moment.
    SecondMoment,
    Ema,
    /// The frozen start model of the consistency loss.
    Teacher,
}

impl Role {
    pub fn key(self) -> &'static str {
        match self {
            Self::Theta => "theta",
            Self::Half => "theta_f16",
            Self::Gradient => "gradient",
            Self::FirstMoment => "first_moment",
            Self::SecondMoment => "second_moment",
            Self::Ema => "ema",
            Self::Teacher => "teacher",
        }
    }

    /// External key of slab `i`.
    pub fn slab_key(self, i: usize) -> String {
        format!("{}.{i}", self.key())
    }
}

/// One weight tensor.
#[derive(Debug, Clone)]
pub struct Param {
    /// Canonical name.
    pub name: String,
    pub layout: Layout,
    pub slab: usize,
    /// In elements, within the slab.
    pub offset: u64,
    /// Engine extents.
    pub shape: Shape,
}

/// The places of all weights of a model.
#[derive(Debug, Clone)]
pub struct ParamLayout {
    pub params: Vec<Param>,
    /// Elements of each slab, a multiple of `ALIGN`; gaps between tensors stay zero in every role.
    pub slabs: Vec<u64>,
    index: HashMap<String, usize>,
}

impl ParamLayout {
    /// Lays out tensors given as (canonical name, extents in the file), in order.
    pub fn new<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> Result<Self> {
        let mut out = Self { params: Vec::new(), slabs: Vec::new(), index: HashMap::new() };
        let mut used = SLAB_ELEMENTS;
        for (name, file_shape) in tensors {
            let layout = Layout::of(name, file_shape)?;
            let shape = Shape::from_slice("weight layout", &layout.engine_shape())?;
            let room = shape.elements().next_multiple_of(ALIGN);
            if room > SLAB_ELEMENTS {
                return Err(Error::shape("weight layout", format!("{name} {shape} is above 128 MiB")));
            }
            if used + room > SLAB_ELEMENTS {
                out.slabs.push(0);
                used = 0;
            }
            let slab = out.slabs.len() - 1;
            out.index.insert(name.to_string(), out.params.len());
            out.params.push(Param { name: name.to_string(), layout, slab, offset: used, shape });
            used += room;
            out.slabs[slab] = used;
        }
        Ok(out)
    }

    pub fn find(&self, name: &str) -> Option<&Param> {
        self.index.get(name).map(|&i| &self.params[i])
    }

    /// The tensor of a role in a recording, whose slabs hold these elements.
    pub fn tensor(&self, rec: &mut Recording, (role, stored): (Role, DType), name: &str) -> Result<Tensor> {
        let p = self.find(name).ok_or_else(|| Error::shape("weights", format!("the model has no {name}")))?;
        let buffer = rec.external_as(&role.slab_key(p.slab), self.slabs[p.slab], stored);
        Ok(Tensor { buffer, offset: p.offset, shape: p.shape })
    }

    /// Slab `i` of `role` as one flat tensor of f32.
    pub fn slab(&self, rec: &mut Recording, role: Role, i: usize) -> Tensor {
        self.slab_as(rec, (role, DType::F32), i)
    }

    /// The same of these elements.
    pub fn slab_as(&self, rec: &mut Recording, (role, stored): (Role, DType), i: usize) -> Tensor {
        let elements = self.slabs[i];
        let buffer = rec.external_as(&role.slab_key(i), elements, stored);
        Tensor { buffer, offset: 0, shape: Shape::new([elements as u32]) }
    }

    /// Number of weights as the files count them (no padding).
    pub fn count(&self) -> u64 {
        self.params.iter().map(|p| p.layout.file_elements() as u64).sum()
    }

    /// Bytes of one set of slabs of these elements.
    pub fn bytes(&self, stored: DType) -> u64 {
        stored.size(self.slabs.iter().sum())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_a_full_slab_starts_the_next() {
        let big: &[u64] = &[4096, 4096];
        let layout = ParamLayout::new([("a", big), ("b", &[3u64][..]), ("c", big), ("d", &[5u64][..])]).unwrap();
        let places: Vec<_> = layout.params.iter().map(|p| (p.slab, p.offset)).collect();
        assert_eq!(places, [(0, 0), (0, 16 << 20), (1, 0), (1, 16 << 20)]);
        assert!(layout.params.iter().all(|p| p.offset % ALIGN == 0));
        assert_eq!(layout.slabs, [(16 << 20) + ALIGN, (16 << 20) + ALIGN]);
        assert_eq!(layout.count(), 2 * (16 << 20) + 8);
    }
}
