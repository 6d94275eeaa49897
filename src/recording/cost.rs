//! FLOPs and bytes of a recording: deadlines of waits, splitting into submissions, rooflines.
//! Called by `gpu::plan`, `cli` and the benches.

use super::{Op, Recording};

/// What an op does at least: arithmetic, and bytes bound (each binding counted once).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub flops: u64,
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |a, b| a + b)
    }
}

impl Op {
    pub fn cost(&self) -> Cost {
        let bytes = self.tensors().enumerate().map(|(i, (access, t))| {
            let passes = if access == crate::shader::Access::Update { 2 } else { 1 };
            self.width(i) * passes * t.elements()
        });
        Cost { flops: (self.card.flops)(&self.params), bytes: bytes.sum() }
    }
}

impl Recording {
    pub fn cost(&self) -> Cost {
        self.ops.iter().map(Op::cost).sum()
    }
}
