//! Sums that a product's epilogue takes over: residuals, the time embedding's bias, and gradients that are added up. One op less
//! each, and two passes over an activation. In f32 the additions are the same, bit for bit; in f16 the product itself is no
//! longer rounded to it before the sum.
//! Called where recordings are complete, before they are planned.

use super::{BufferId, Op, Recording, Role, Tensor};
use crate::shader::card::{Access, Params};
use crate::shader::cards::broadcast::{ADD_CHANNEL_BIAS, PixelParams};
use crate::shader::cards::conv::{CONV2D_FORWARD, Conv2dParams};
use crate::shader::cards::gemm::{MATMUL_FORWARD, MatmulParams};
use crate::shader::cards::pointwise::ADD;
use crate::shader::cards::winograd::{WINOGRAD_OUTPUT, WinogradParams};
use crate::shape::DType;

/// Where the addend stands among the reads of every product that has one.
fn addend_of(op: &Op) -> Option<usize> {
    op.card.bindings.iter().position(|b| b.name == "addend")
}

/// A product's parameters with `rows` of y to a row of the addend, and the columns of that row; None where it has an addend
/// already, or is one of several in y.
fn with_addend(op: &Op, rows: u32) -> Option<(Vec<u32>, u32)> {
    let (taken, words, columns) = if std::ptr::eq(op.card, &MATMUL_FORWARD) {
        let p = MatmulParams::of(&op.params);
        let alone = p.batch() == 1 && p.ldy == p.n;
        (p.addend != 0 || !alone, MatmulParams { addend: rows, ..p }.words(), p.n)
    } else if std::ptr::eq(op.card, &CONV2D_FORWARD) {
        let p = Conv2dParams::of(&op.params);
        (p.addend != 0, Conv2dParams { addend: rows, ..p }.words(), p.cout)
    } else if std::ptr::eq(op.card, &WINOGRAD_OUTPUT) {
        let p = WinogradParams::of(&op.params);
        (p.addend != 0, WinogradParams { addend: rows, ..p }.words(), p.channels)
    } else {
        return None;
    };
    (!taken).then_some((words, columns))
}

/// What a sum adds: candidates for the product with what is added to each, and the rows of y that share a row of it.
fn summands(op: &Op) -> Vec<(Tensor, Tensor, u32)> {
    if std::ptr::eq(op.card, &ADD) {
        vec![(op.reads[0], op.reads[1], 1), (op.reads[1], op.reads[0], 1)]
    } else if std::ptr::eq(op.card, &ADD_CHANNEL_BIAS) {
        vec![(op.reads[0], op.reads[1], PixelParams::of(&op.params).pixels)]
    } else {
        Vec::new()
    }
}

impl Recording {
    /// The same computation with sums in the epilogues of the products before them, where nothing else reads the product.
    pub fn fused(mut self) -> Self {
        let mut dropped = vec![false; self.ops.len()];
        for at in 0..self.ops.len() {
            let found = summands(&self.ops[at]).into_iter().filter_map(|s| self.fusion(at, s)).max_by_key(|f| f.0);
            if let Some((product, op)) = found {
                dropped[product] = true;
                self.ops[at] = op;
            }
        }
        for cut in &mut self.cuts {
            *cut -= dropped[..*cut].iter().filter(|&&d| d).count();
        }
        let mut dropped = dropped.into_iter();
        self.ops.retain(|_| !dropped.next().unwrap_or_default());
        self
    }

    /// The op that stands for the sum at `at` and for the product that makes its summand `y`, and where that product is.
    fn fusion(&self, at: usize, (y, addend, rows): (Tensor, Tensor, u32)) -> Option<(usize, Op)> {
        let sum = &self.ops[at];
        let z = sum.writes[0];
        let kept = &self.buffers[y.buffer.0 as usize];
        let uses = self.ops.iter().flat_map(Op::tensors).filter(|(_, t)| t.buffer == y.buffer).count();
        let alike = kept.dtype == self.buffers[z.buffer.0 as usize].dtype;
        if kept.role != Role::Transient || kept.keep || uses != 2 || !alike {
            return None;
        }
        let product = (0..at).rev().find(|&i| self.ops[i].writes.first().is_some_and(|w| w.buffer == y.buffer))?;
        let op = &self.ops[product];
        let (params, columns) = with_addend(op, rows)?;
        let whole = op.writes[0].offset == y.offset && op.writes[0].elements() == y.elements();
        let shaped = y.elements() == u64::from(columns) * u64::from(rows) * (addend.elements() / u64::from(columns));
        let overwritten =
            self.ops[product + 1..at].iter().any(|between| op.reads.iter().any(|r| between.changes(r.buffer)));
        if !whole || !shaped || overwritten || op.reads.iter().any(|r| r.buffer == z.buffer) {
            return None;
        }
        let mut fused = Op { params, writes: vec![z], ..op.clone() };
        fused.reads[addend_of(op)?] = addend;
        fused.half = self.halves(&fused);
        Some((product, fused))
    }

    /// `Op::half`, by what its buffers hold.
    fn halves(&self, op: &Op) -> u32 {
        let half = |t: &Tensor| self.buffers[t.buffer.0 as usize].dtype == DType::F16;
        (0..).zip(op.tensors()).map(|(i, (_, t))| u32::from(half(t)) << i).sum()
    }
}

impl Op {
    fn changes(&self, buffer: BufferId) -> bool {
        self.tensors().any(|(access, t)| access != Access::Read && t.buffer == buffer)
    }
}
