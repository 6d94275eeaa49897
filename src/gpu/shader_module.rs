//! Shader text to module: the one file with `unsafe`, for shaders without run-time checks.
//! Called by `pipeline`.

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
