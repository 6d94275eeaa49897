//! Which transient tensors share storage: whole buffers by lifetime, largest first. Needs no GPU, so the peak is known
//! before anything is allocated.
//! Called by `plan` and by `--dry-run`.

use crate::error::{Error, Result};
use crate::recording::{Recording, Role};
use crate::shader::Access;

/// Where every buffer of a recording goes.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Index into `slots` of each transient buffer that is used.
    pub slot_of: Vec<Option<usize>>,
    /// Elements of each shared buffer.
    pub slots: Vec<u64>,
    /// First and last op of each transient buffer that is used.
    pub lifetime: Vec<Option<(usize, usize)>>,
}

impl Memory {
    /// Bytes of all shared buffers: the activations' peak.
    pub fn transient_bytes(&self) -> u64 {
        4 * self.slots.iter().sum::<u64>()
    }
}

/// First write to last use, in op numbers; a read before the first write is an error.
fn lifetimes(recording: &Recording) -> Result<Vec<Option<(usize, usize)>>> {
    let mut lifetimes: Vec<Option<(usize, usize)>> = vec![None; recording.buffers.len()];
    for (i, op) in recording.ops.iter().enumerate() {
        for (access, tensor) in op.tensors() {
            let id = tensor.buffer.0 as usize;
            if recording.buffers[id].role != Role::Transient {
                continue;
            }
            match &mut lifetimes[id] {
                Some((_, last)) => *last = i,
                None if access == Access::Write => lifetimes[id] = Some((i, i)),
                None => {
                    let label = &recording.buffers[id].label;
                    return Err(Error::shape(op.card.word, format!("op {i} reads {label} before it is written")));
                }
            }
        }
    }
    for (lifetime, buffer) in lifetimes.iter_mut().zip(&recording.buffers) {
        if let (Some((_, last)), true) = (lifetime, buffer.keep) {
            *last = recording.ops.len();
        }
    }
    Ok(lifetimes)
}

/// Assigns shared buffers, largest tensor first, each into the first buffer that is free for its whole lifetime.
pub fn assign(recording: &Recording) -> Result<Memory> {
    let lifetime = lifetimes(recording)?;
    let mut order: Vec<usize> = (0..recording.buffers.len()).filter(|&i| lifetime[i].is_some()).collect();
    // Ties by number, so that the assignment is a function of the recording alone.
    order.sort_by_key(|&i| (std::cmp::Reverse(recording.buffers[i].elements), i));
    let mut slots: Vec<u64> = Vec::new();
    let mut taken: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut slot_of = vec![None; recording.buffers.len()];
    for i in order {
        let Some((first, last)) = lifetime[i] else { continue };
        let free = taken.iter().position(|spans| spans.iter().all(|&(f, l)| last < f || l < first));
        let slot = free.unwrap_or_else(|| {
            slots.push(recording.buffers[i].elements);
            taken.push(Vec::new());
            slots.len() - 1
        });
        taken[slot].push((first, last));
        slot_of[i] = Some(slot);
    }
    Ok(Memory { slot_of, slots, lifetime })
}
