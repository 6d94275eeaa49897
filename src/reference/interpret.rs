//! Runs a recording on the CPU twins, all of it or up to op k, rounding to f32 or f16 where a buffer is of them.
//! Called by tests, `doctor` and bisecting (CPU up to op k, GPU after it).

use super::{Call, find};
use crate::error::{Error, Result};
use crate::recording::{BufferId, Recording, Role, Tensor};
use crate::shape::DType;
use std::collections::HashMap;
use std::ops::Range;

/// Whether values are rounded when they are stored, as on the GPU, or kept in f64 for difference quotients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    Stored,
    None,
}

/// The buffers of a recording on the CPU.
pub struct State {
    buffers: Vec<Vec<f64>>,
    dtypes: Vec<DType>,
    rounding: Rounding,
}

impl State {
    /// Buffers filled with NaN (a read before a write shows), externals from `externals` by key; the zero buffer is
    /// always there.
    pub fn new(recording: &Recording, externals: &HashMap<String, Vec<f64>>, rounding: Rounding) -> Result<Self> {
        let dtypes: Vec<_> = recording.buffers.iter().map(|b| b.dtype).collect();
        let buffers = recording.buffers.iter().map(|b| match &b.role {
            Role::External(key) if key == crate::recording::ZERO_KEY => Ok(vec![0.0; b.elements as usize]),
            Role::External(key) => externals
                .get(key)
                .filter(|v| v.len() as u64 >= b.elements)
                .map(|v| {
                    v.iter().map(|&v| if b.dtype == DType::F16 { round(v, rounding, b.dtype) } else { v }).collect()
                })
                .ok_or_else(|| Error::shape("interpret", format!("external {key} is missing or too short"))),
            Role::Input | Role::Transient => Ok(vec![f64::NAN; b.elements as usize]),
        });
        Ok(Self { buffers: buffers.collect::<Result<_>>()?, dtypes, rounding })
    }

    pub fn get(&self, tensor: &Tensor) -> Vec<f64> {
        let start = tensor.offset as usize;
        self.buffers[tensor.buffer.0 as usize][start..start + tensor.elements() as usize].to_vec()
    }

    pub fn set(&mut self, tensor: &Tensor, values: &[f64]) {
        let start = tensor.offset as usize;
        let dtype = self.dtypes[tensor.buffer.0 as usize];
        let rounded = values.iter().map(|&v| round(v, self.rounding, dtype)).collect::<Vec<_>>();
        self.buffers[tensor.buffer.0 as usize][start..start + values.len()].copy_from_slice(&rounded);
    }

    pub fn buffer(&self, id: BufferId) -> &[f64] {
        &self.buffers[id.0 as usize]
    }

    /// Runs the ops of `range`.
    pub fn run(&mut self, recording: &Recording, range: Range<usize>) -> Result<()> {
        for op in &recording.ops[range] {
            let twin = find(op.card.word).ok_or_else(|| Error::shape(op.card.word, "has no CPU twin"))?;
            let reads: Vec<_> = op.reads.iter().map(|t| self.get(t)).collect();
            let mut writes: Vec<_> = op.writes.iter().map(|t| vec![f64::NAN; t.elements() as usize]).collect();
            let mut updates: Vec<_> = op.updates.iter().map(|t| self.get(t)).collect();
            twin(&mut Call { params: &op.params, reads: &reads, writes: &mut writes, updates: &mut updates });
            for (t, values) in op.writes.iter().zip(&writes).chain(op.updates.iter().zip(&updates)) {
                self.set(t, values);
            }
        }
        Ok(())
    }
}

/// What becomes of a value that is stored.
fn round(v: f64, rounding: Rounding, dtype: DType) -> f64 {
    match rounding {
        Rounding::Stored if dtype == DType::F16 => half::f16::from_f32(v as f32).to_f64(),
        // Whole numbers of u32 buffers above 2^24 must survive; they are exact in f64 already.
        Rounding::Stored if v.fract() != 0.0 || v.abs() < 16_777_216.0 || v.is_nan() => f64::from(v as f32),
        Rounding::Stored if v > f64::from(u32::MAX) || v < 0.0 => f64::from(v as f32),
        Rounding::Stored | Rounding::None => v,
    }
}
