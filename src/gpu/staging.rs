//! A ring of mapped buffers that carry a step's inputs to the GPU without creating anything.
//! Called by `plan::run`.

use super::device::Gpu;
use super::memory::STAGING_SLOTS;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Slot {
    buffer: wgpu::Buffer,
    mapped: Arc<AtomicBool>,
    submission: Option<wgpu::SubmissionIndex>,
}

pub(super) struct Staging {
    slots: Vec<Slot>,
    next: usize,
}

impl Staging {
    pub fn new(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let slot = |_| {
            let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
            let buffer = gpu.create_buffer("step staging", bytes, usage)?;
            Ok(Slot { buffer, mapped: Arc::new(AtomicBool::new(true)), submission: None })
        };
        Ok(Self { slots: (0..STAGING_SLOTS).map(slot).collect::<Result<_>>()?, next: 0 })
    }

    /// Fills the next slot, waiting until the step that used it last is done.
    pub fn fill(&mut self, gpu: &Gpu, words: &[u32], seconds: f64) -> Result<&wgpu::Buffer> {
        let slot = &mut self.slots[self.next];
        if let Some(index) = slot.submission.take() {
            gpu.wait_for(&index, seconds, "an earlier step")?;
        }
        let refused = |message: String| Error::Validation {
            adapter: gpu.summary().name.clone(),
            what: "step staging".into(),
            message,
        };
        if !slot.mapped.swap(false, Ordering::AcqRel) {
            return Err(refused("the buffer was not mapped again".into()));
        }
        let mut view = slot.buffer.get_mapped_range_mut(..).map_err(|e| refused(e.to_string()))?;
        view.copy_from_slice(bytemuck::cast_slice(words));
        drop(view);
        slot.buffer.unmap();
        Ok(&slot.buffer)
    }

    /// Asks for the slot back once `submission` is done.
    pub fn submitted(&mut self, submission: wgpu::SubmissionIndex) {
        let slot = &mut self.slots[self.next];
        let mapped = Arc::clone(&slot.mapped);
        slot.buffer.map_async(wgpu::MapMode::Write, .., move |result| {
            mapped.store(result.is_ok(), Ordering::Release);
        });
        slot.submission = Some(submission);
        self.next = (self.next + 1) % STAGING_SLOTS;
    }
}
