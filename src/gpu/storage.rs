//! Storage on the GPU: made, written, read and copied by the host, which sees f32 whatever the elements are.
//! Called by `plan` and by everything that owns GPU storage.

use super::device::Gpu;
use crate::error::{Error, Result};
use crate::recording;
use crate::shape::DType;

/// Storage on the GPU that outlives plans; clones share it. The host writes and reads f32, whatever the elements are.
#[derive(Clone)]
pub struct Storage {
    pub(super) buffer: wgpu::Buffer,
    pub elements: u64,
    pub dtype: DType,
}

impl Storage {
    /// Whether it can be what a recording calls this buffer: as long, and of elements as wide.
    pub(super) fn holds(&self, buffer: &recording::Buffer) -> bool {
        self.elements >= buffer.elements && (self.dtype == DType::F16) == (buffer.dtype == DType::F16)
    }
}

/// The first `count` elements in `bytes`, widened where they are f16.
pub(super) fn values(bytes: &[u8], dtype: DType, count: u64) -> Vec<f32> {
    match dtype {
        DType::F32 | DType::U32 => bytemuck::pod_collect_to_vec(bytes),
        DType::F16 => {
            let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(bytes);
            halves[..count as usize].iter().map(|h| h.to_f32()).collect()
        }
    }
}

impl Gpu {
    /// Storage of `elements` zeros in f32.
    pub fn storage(&self, label: &str, elements: u64) -> Result<Storage> {
        self.storage_as(label, elements, DType::F32)
    }

    /// Storage of `elements` zeros.
    pub fn storage_as(&self, label: &str, elements: u64, dtype: DType) -> Result<Storage> {
        // UNIFORM, because some kernels read a binding in windows.
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        Ok(Storage { buffer: self.create_buffer(label, dtype.size(elements), usage)?, elements, dtype })
    }

    /// Host to GPU, outside of replays (weights at the start); rounded where the elements are f16, of which whole words are
    /// written.
    pub fn write(&self, storage: &Storage, offset: u64, values: &[f32]) -> Result<()> {
        let (width, last) = (storage.dtype.bytes(), offset + values.len() as u64);
        let words =
            (width * offset).is_multiple_of(4) && ((width * last).is_multiple_of(4) || last == storage.elements);
        if last > storage.elements || !words {
            return Err(Error::shape("write", format!("{} values at {offset} of {}", values.len(), storage.elements)));
        }
        // In pieces, because the driver's staging copy of a slab would double the host's memory.
        const PIECE: usize = 4 << 20;
        for (i, piece) in values.chunks(PIECE).enumerate() {
            let at = width * (offset + (i * PIECE) as u64);
            if storage.dtype == DType::F16 {
                let mut halves: Vec<half::f16> = piece.iter().map(|&v| half::f16::from_f32(v)).collect();
                halves.resize(halves.len().next_multiple_of(2), half::f16::ZERO);
                self.queue().write_buffer(&storage.buffer, at, bytemuck::cast_slice(&halves));
            } else {
                self.queue().write_buffer(&storage.buffer, at, bytemuck::cast_slice(piece));
            }
            if values.len() > PIECE {
                let index = self.queue().submit([]);
                self.wait_for(&index, 60.0, "upload")?;
            }
        }
        self.check("upload")
    }

    /// Makes the first elements zero.
    pub(super) fn clear(&self, storage: &Storage, elements: u64) -> Result<()> {
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(&storage.buffer, 0, Some(storage.dtype.size(elements)));
        self.queue().submit([encoder.finish()]);
        self.check("clear")
    }

    /// GPU to host; waits for everything submitted before. `offset` is at a whole word.
    pub fn read(&self, storage: &Storage, offset: u64, count: u64) -> Result<Vec<f32>> {
        let dtype = storage.dtype;
        let bytes = self.read_bytes(&storage.buffer, dtype.bytes() * offset, dtype.size(count), 60.0)?;
        Ok(values(&bytes, dtype, count))
    }

    /// Copies one storage to another of the same size.
    pub fn copy(&self, from: &Storage, to: &Storage) -> Result<()> {
        if (from.elements, from.dtype) != (to.elements, to.dtype) {
            let what = format!("{} of {:?} to {} of {:?}", from.elements, from.dtype, to.elements, to.dtype);
            return Err(Error::shape("copy", what));
        }
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let bytes = from.dtype.size(from.elements);
        encoder.copy_buffer_to_buffer(&from.buffer, 0, &to.buffer, 0, Some(bytes));
        self.queue().submit([encoder.finish()]);
        self.check("copy")
    }
}
