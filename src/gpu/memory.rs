//! Which transient tensors share storage: whole buffers by lifetime, largest first. Needs no GPU, so the peak is known
//! before anything is allocated.
//! Called by `plan` and by `--dry-run`.

use crate::error::{Error, Result};
use crate::recording::{BufferId, Op, Recording, Role};
use crate::shader::Access;
use std::collections::HashMap;

/// Params of one op in the uniform arena; what every adapter accepts as an offset.
pub const PARAMS_STRIDE: u64 = 256;
/// Inputs within the step buffer start at multiples of this many words.
const INPUT_ALIGN: u64 = 64;
/// Steps that may be in flight at once: each has its own copy of the inputs.
pub const STAGING_SLOTS: usize = 3;

/// Where every buffer of a recording goes.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Index into `slots` of each transient buffer that is used.
    pub slot_of: Vec<Option<usize>>,
    /// Bytes of each shared buffer.
    pub slots: Vec<u64>,
    /// First and last op of each transient buffer that is used.
    pub lifetime: Vec<Option<(usize, usize)>>,
}

impl Memory {
    /// Bytes of all shared buffers: the activations' peak.
    pub fn transient_bytes(&self) -> u64 {
        self.slots.iter().sum()
    }
}

/// The step buffer: where each input is in it, and its length, in words.
pub fn inputs(recording: &Recording) -> (HashMap<BufferId, u64>, u64) {
    let mut at = HashMap::new();
    let mut words = 0;
    for (i, b) in (0..).zip(&recording.buffers).filter(|(_, b)| b.role == Role::Input) {
        at.insert(BufferId(i), words);
        words += b.elements.next_multiple_of(INPUT_ALIGN);
    }
    (at, words.max(INPUT_ALIGN))
}

/// Dispatches of an op: by the variant that has most.
fn passes(op: &Op) -> u64 {
    let windows = op.card.variants.iter().filter_map(|variant| (variant.windows)(&op.params));
    let taken = windows.filter(|windows| op.card.takes(windows, op.half));
    taken.map(|windows| windows.starts.len() as u64).max().unwrap_or(1)
}

/// Bytes that a plan of this recording takes beside external storage.
pub fn plan_bytes(recording: &Recording) -> Result<u64> {
    Ok(transient_bytes(recording)? + host_bytes(recording))
}

/// Of these, those of activations.
pub fn transient_bytes(recording: &Recording) -> Result<u64> {
    Ok(assign(recording)?.transient_bytes())
}

/// Of these, those that the host writes: inputs with their staging, params of ops.
pub fn host_bytes(recording: &Recording) -> u64 {
    let staged = 4 * inputs(recording).1 * (1 + STAGING_SLOTS as u64);
    let passes: u64 = recording.ops.iter().map(passes).sum();
    staged + PARAMS_STRIDE * passes.max(1)
}

/// Bytes of the buffer through which `largest` bytes are read back.
pub fn readback_bytes(largest: u64) -> u64 {
    largest.next_power_of_two()
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

/// Assigns shared buffers of bytes, largest tensor first, each into the first buffer that is free for its whole lifetime.
pub fn assign(recording: &Recording) -> Result<Memory> {
    let lifetime = lifetimes(recording)?;
    let mut order: Vec<usize> = (0..recording.buffers.len()).filter(|&i| lifetime[i].is_some()).collect();
    // Ties by number, so that the assignment is a function of the recording alone.
    let size = |i: usize| recording.buffers[i].dtype.size(recording.buffers[i].elements);
    order.sort_by_key(|&i| (std::cmp::Reverse(size(i)), i));
    let mut slots: Vec<u64> = Vec::new();
    let mut taken: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut slot_of = vec![None; recording.buffers.len()];
    for i in order {
        let Some((first, last)) = lifetime[i] else { continue };
        let free = taken.iter().position(|spans| spans.iter().all(|&(f, l)| last < f || l < first));
        let slot = free.unwrap_or_else(|| {
            slots.push(size(i));
            taken.push(Vec::new());
            slots.len() - 1
        });
        taken[slot].push((first, last));
        slot_of[i] = Some(slot);
    }
    Ok(Memory { slot_of, slots, lifetime })
}
