//! Shader text to module, the driver's cache, and leave for experiments: the one file with `unsafe`, for what wgpu cannot
//! check. Called by `pipeline`, `pipeline_cache` and `device`.

/// Compiles WGSL. Checked modules clamp indices and bound loops; unchecked ones do neither.
#[expect(unsafe_code, reason = "create_shader_module_trusted is unsafe; release builds drop run-time checks")]
pub(super) fn compile(device: &wgpu::Device, label: &str, wgsl: String, checked: bool) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
    if checked {
        return device.create_shader_module(descriptor);
    }
    // SAFETY: all shader text is compiled into this binary. Every index in it is guarded against the parameter struct's
    // extents, which the recording checks against the buffers' sizes; every loop ends; no divisor is zero. The
    // conformance tests run each variant both ways, with guard words around all buffers.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// The driver's pipeline cache with what an earlier run left in it.
#[expect(unsafe_code, reason = "create_pipeline_cache is unsafe: it trusts the data")]
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("deme"), data, fallback: true };
    // SAFETY: the data is a file that only this program writes, whole or not at all, under a name made of adapter, driver and
    // shaders; wgpu and the driver check its header, and start an empty cache where it is not theirs.
    unsafe { device.create_pipeline_cache(&descriptor) }
}

/// Leave to ask for cooperative matrices, which wgpu 30 counts among its experimental features.
#[expect(unsafe_code, reason = "ExperimentalFeatures::enabled is unsafe: such features may have holes")]
pub(super) fn experimental(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: cooperative matrices are the only such feature that is requested. wgpu does not check that their loads and
    // stores stay within an array; the shaders make them in workgroup memory alone, at places that follow from constants and from
    // the subgroup's number, which `busy` bounds.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}
