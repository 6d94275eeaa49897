//! Card + constants -> compute pipeline, made once a device and kept.
//! Called by `plan`.

use super::device::Gpu;
use super::shader_module;
use crate::error::Result;
use crate::shader::card::{Access, Card, Constants, Variant};
use crate::shader::{Class, elements, template};
use std::collections::HashMap;
use std::sync::Arc;

/// A pipeline and the layout of its only bind group.
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// (address of the WGSL text, stem, constants, bindings in f16, checked); the address tells a test's faulty shader from the sound
/// one.
type Key = (usize, &'static str, Constants, u32, bool);

#[derive(Default)]
pub(super) struct Pipelines {
    made: HashMap<Key, Arc<Pipeline>>,
}

/// What pairs (`elements::in_pairs`) need, on the adapters that gain by them.
pub(super) fn pairs(class: Class) -> wgpu::Features {
    if class == Class::Cpu { wgpu::Features::SHADER_INT64 } else { wgpu::Features::empty() }
}

/// Storage bindings, but for the one that is taken in windows.
fn layout(device: &wgpu::Device, card: &Card, windowed: Option<usize>) -> wgpu::BindGroupLayout {
    let storage = card.bindings.iter().enumerate().map(|(i, b)| match windowed == Some(i) {
        true => wgpu::BufferBindingType::Uniform,
        false => wgpu::BufferBindingType::Storage { read_only: b.access == Access::Read },
    });
    let types = std::iter::once(wgpu::BufferBindingType::Uniform).chain(storage);
    let entries: Vec<_> = (0..)
        .zip(types)
        .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();
    let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(card.word), entries: &entries };
    device.create_bind_group_layout(&descriptor)
}

/// The pipeline of a variant with these constants, and these bindings in f16 (as `Op::half`).
pub(super) fn pipeline(
    gpu: &Gpu,
    card: &Card,
    variant: &Variant,
    (constants, half): (Constants, u32),
    windowed: Option<usize>,
    checked: bool,
) -> Result<Arc<Pipeline>> {
    let stem = variant.stem;
    let key: Key = (variant.source.as_ptr().addr(), stem, constants, half, checked);
    if let Some(made) = gpu.pipelines().made.get(&key) {
        return Ok(Arc::clone(made));
    }
    let mut wgsl = elements::in_f16(stem, &template::render(variant, &key.2)?, card.bindings, half)?;
    // Checked texts stay what GPUs run, so that the tests of a CPU rasteriser see both.
    if gpu.device().features().contains(wgpu::Features::SHADER_INT64) && !checked {
        wgsl = elements::in_pairs(stem, &wgsl, card.bindings)?;
    }
    let made = gpu.scoped(stem, 0, || {
        let device = gpu.device();
        let module = shader_module::compile(device, stem, wgsl, checked);
        let layout = layout(device, card, windowed);
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(stem),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(stem),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(stem),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: checked,
                ..Default::default()
            },
            cache: gpu.pipeline_cache(),
        });
        Arc::new(Pipeline { pipeline, layout })
    })?;
    gpu.pipelines().made.insert(key, Arc::clone(&made));
    Ok(made)
}
