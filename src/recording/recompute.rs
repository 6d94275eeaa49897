//! Activations that the backward pass makes again instead of keeping them (Chen et al. 2016, "Training deep nets with sublinear
//! memory cost"). Of the forward pass only what crosses its parts stays. Before the first gradient op that reads a value which
//! did not stay, the ops that make it are repeated, into new buffers: the same kernels on the same numbers, hence the same
//! gradients, bit for bit.
//! Called by `train::step` on recordings that are complete and fused: the epilogues are then the same in both passes.

use std::collections::HashMap;

use super::{BufferId, Op, Recording, Role};
use crate::shader::card::Access;

/// A value smaller than the recording's largest by this factor stays: statistics of norms, projections of the time embedding.
/// Making them again would cost kernels and save nothing to speak of.
const SMALL: u64 = 256;

impl Recording {
    /// The same computation, in which the backward pass makes again what does not cross a part of the forward pass. Without
    /// parts, or without a backward pass, the recording as it is.
    pub fn recomputed(mut self) -> Self {
        let Some(&backward) = self.cuts.last() else { return self };
        let dropped = self.dropped(backward);
        let gradient_ops = self.ops.split_off(backward);
        let mut again = HashMap::new();
        for mut op in gradient_ops {
            for read in &mut op.reads {
                read.buffer = self.make_again(read.buffer, &dropped, &mut again);
            }
            self.ops.push(op);
        }
        self
    }

    /// Where `buffer`'s values are in the backward pass. The first time, the op that makes them is repeated, and before it those
    /// that make what it reads.
    fn make_again(
        &mut self,
        buffer: BufferId,
        dropped: &HashMap<BufferId, usize>,
        again: &mut HashMap<BufferId, BufferId>,
    ) -> BufferId {
        let Some(&maker) = dropped.get(&buffer) else { return buffer };
        if let Some(&made) = again.get(&buffer) {
            return made;
        }
        let mut op = self.ops[maker].clone();
        for read in &mut op.reads {
            read.buffer = self.make_again(read.buffer, dropped, again);
        }
        for write in &mut op.writes {
            self.buffers.push(self.buffers[write.buffer.0 as usize].clone());
            let made = BufferId(self.buffers.len() as u32 - 1);
            again.insert(write.buffer, made);
            write.buffer = made;
        }
        self.ops.push(op);
        again.get(&buffer).copied().unwrap_or(buffer)
    }

    /// The values that do not stay until the backward pass, which begins at op `backward`, and the op that makes each: those
    /// that one part of the forward pass makes and only the same part reads. The last part's stay: the backward pass begins with it.
    fn dropped(&self, backward: usize) -> HashMap<BufferId, usize> {
        let part = |op: usize| self.cuts.partition_point(|&cut| cut <= op);
        let changes = self.changes();
        let size = |id: BufferId| self.buffers[id.0 as usize].dtype.size(self.buffers[id.0 as usize].elements);
        let ids = || self.ops.iter().flat_map(Op::tensors).map(|(_, t)| t.buffer);
        let transient = |id: &BufferId| self.buffers[id.0 as usize].role == Role::Transient;
        let largest = ids().filter(transient).map(size).max().unwrap_or(0);
        let mut dropped = HashMap::new();
        for (i, op) in self.ops[..backward].iter().enumerate().filter(|(i, _)| part(*i) + 1 < self.cuts.len()) {
            if self.repeats(op, &changes) {
                let large = |id: &BufferId| size(*id) * SMALL >= largest && !self.buffers[id.0 as usize].keep;
                dropped.extend(op.writes.iter().map(|w| w.buffer).filter(large).map(|id| (id, i)));
            }
        }
        for (i, op) in self.ops[..backward].iter().enumerate() {
            for read in &op.reads {
                if dropped.get(&read.buffer).is_some_and(|&maker| part(maker) != part(i)) {
                    dropped.remove(&read.buffer);
                }
            }
        }
        dropped
    }

    /// How many ops change each buffer.
    fn changes(&self) -> Vec<usize> {
        let mut changes = vec![0; self.buffers.len()];
        for (access, tensor) in self.ops.iter().flat_map(Op::tensors) {
            changes[tensor.buffer.0 as usize] += usize::from(access != Access::Read);
        }
        changes
    }

    /// Whether `op` gives the same values whenever it is repeated: it alone makes them, and what it reads never changes.
    fn repeats(&self, op: &Op, changes: &[usize]) -> bool {
        let role = |id: BufferId| &self.buffers[id.0 as usize].role;
        let changed = |id: BufferId| changes[id.0 as usize];
        let steady = |id: BufferId| changed(id) == usize::from(*role(id) == Role::Transient);
        let alone = |id: BufferId| changed(id) == 1 && *role(id) == Role::Transient;
        op.updates.is_empty() && op.reads.iter().all(|r| steady(r.buffer)) && op.writes.iter().all(|w| alone(w.buffer))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::gpu::memory;
    use crate::kernels::pointwise::{add, silu};
    use crate::recording::Tensor;
    use crate::reference::interpret::{Rounding, State};
    use crate::shape::Shape;
    use crate::tape::Tape;

    /// Parts of two SiLU and a sum over their input; the gradient at x is kept.
    fn parts(count: usize) -> (Recording, Tensor) {
        let mut tape = Tape::new(Recording::new("test"));
        let shape = Shape::new([4, 256]);
        let x = Tensor { buffer: tape.rec.external("x", 1024), offset: 0, shape };
        let seed = Tensor { buffer: tape.rec.external("seed", 1024), offset: 0, shape };
        tape.watch(&x);
        let mut y = x;
        for _ in 0..count {
            let h = silu(&mut tape, &y).unwrap();
            let h = silu(&mut tape, &h).unwrap();
            y = add(&mut tape, &y, &h).unwrap();
            tape.rec.cut();
        }
        let y = silu(&mut tape, &y).unwrap();
        let (mut rec, gradients) = tape.backward(&[(y, seed)]).unwrap();
        let dx = gradients.get(&x).unwrap();
        rec.keep(&dx);
        (rec, dx)
    }

    fn values(rec: &Recording, at: &Tensor) -> Vec<f64> {
        let given = |from: u32| (0..1024).map(|i| f64::from((i * 37 + from) % 101) / 25.0 - 2.0).collect();
        let externals = [("x".to_owned(), given(0)), ("seed".to_owned(), given(5))];
        let mut state = State::new(rec, &externals.into(), Rounding::None).unwrap();
        state.run(rec, 0..rec.ops.len()).unwrap();
        state.get(at)
    }

    #[test]
    fn what_stays_inside_a_part_is_made_again_and_gradients_are_the_same() {
        let (rec, dx) = parts(6);
        let again = rec.clone().recomputed();
        // Of the first SiLU in each part the backward pass reads the result; what the second gives only the sum reads.
        assert_eq!(again.ops.len(), rec.ops.len() + 6);
        assert_eq!(values(&rec, &dx), values(&again, &dx));
        let peak = |rec: &Recording| memory::assign(rec).unwrap().transient_bytes();
        assert!(peak(&again) < peak(&rec), "{} of {}", peak(&again), peak(&rec));
    }

    #[test]
    fn what_changes_later_or_has_no_parts_is_not_repeated() {
        let (mut rec, _) = parts(2);
        let x = rec.external("x", 1024);
        let whole = Tensor { buffer: x, offset: 0, shape: Shape::new([4, 256]) };
        let seed = Tensor { buffer: rec.external("seed", 1024), ..whole };
        let before = rec.ops.len();
        crate::kernels::pointwise::accumulate(&mut rec, &seed, &whole).unwrap();
        // The first part reads x, which the last op now changes.
        assert_eq!(rec.recomputed().ops.len(), before + 1 + 1);
        let (mut rec, _) = parts(2);
        rec.cuts.clear();
        assert_eq!(rec.clone().recomputed().ops.len(), rec.ops.len());
    }
}
