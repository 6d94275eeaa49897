//! Translates a shader as wgpu 30 does for Vulkan, Metal and Direct3D 12, without a GPU.
//! Called by the shader tests, and by `deme doctor --dump-shaders` for the makers' own compilers.

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage};

use crate::error::{Error, Result};
use crate::shader::card::{COOP, DEFAULT_LIMITS, Limits};

/// For which adapters shaders are translated: what every one grants, and subgroups and cooperative matrices of 8
/// as CPU rasterisers have them.
pub const LIMITS: Limits = Limits { subgroup: 8, cooperative: 8, ..DEFAULT_LIMITS };

const RESTRICT: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    binding_array: BoundsCheckPolicy::Unchecked,
};
/// What wgpu asks of Vulkan; all but the first two where subgroup operations, f16, integers of 64 bits and
/// cooperative matrices are enabled.
const CAPABILITIES: [spv::Capability; 11] = [
    spv::Capability::Shader,
    spv::Capability::Matrix,
    spv::Capability::GroupNonUniform,
    spv::Capability::GroupNonUniformBallot,
    spv::Capability::GroupNonUniformShuffle,
    spv::Capability::Float16,
    spv::Capability::Int64,
    spv::Capability::StorageBuffer16BitAccess,
    spv::Capability::UniformAndStorageBuffer16BitAccess,
    spv::Capability::VulkanMemoryModel,
    spv::Capability::CooperativeMatrixKHR,
];
/// Vulkan with robustBufferAccess2.
const ROBUST: BoundsCheckPolicies = BoundsCheckPolicies { buffer: BoundsCheckPolicy::Unchecked, ..RESTRICT };
const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// (binding, writable, uniform) of every resource.
fn resources(module: &Module) -> Vec<(ResourceBinding, bool, bool)> {
    let globals = module.global_variables.iter().filter_map(|(_, g)| g.binding.map(|b| (b, g.space)));
    globals
        .map(|(b, space)| {
            let writable =
                matches!(space, AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE));
            (b, writable, space == AddressSpace::Uniform)
        })
        .collect()
}

/// One shader in one language and mode.
pub struct Translation {
    /// checked, robust or unchecked, and for HLSL the shader model.
    pub mode: String,
    /// spv, metal or hlsl: what a file of it ends in.
    pub extension: &'static str,
    pub bytes: Vec<u8>,
}

impl Translation {
    fn new(mode: impl Into<String>, extension: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { mode: mode.into(), extension, bytes: bytes.into() }
    }
}

fn fail(entry: &str, stage: &str, problem: impl std::fmt::Display) -> Error {
    Error::Shader { file: format!("{entry}.wgsl"), message: format!("{stage}: {problem}") }
}

/// Parses and validates WGSL; `stem` is named in errors.
pub fn parse(stem: &str, wgsl: &str) -> Result<(Module, ModuleInfo)> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| fail(stem, "WGSL", e.emit_to_string(wgsl)))?;
    // Variants that need subgroup operations, or more, say so by the word.
    let mut needed = Capabilities::empty();
    needed.set(Capabilities::SUBGROUP, wgsl.contains("subgroup"));
    needed.set(Capabilities::SHADER_FLOAT16, wgsl.contains("enable f16"));
    needed.set(Capabilities::SHADER_INT64, wgsl.contains("u64"));
    needed.set(Capabilities::COOPERATIVE_MATRIX, wgsl.contains("enable wgpu_cooperative_matrix"));
    let mut validator = Validator::new(ValidationFlags::all(), needed);
    let info = validator.validate(&module).map_err(|e| fail(stem, "validation", e.emit_to_string(wgsl)))?;
    Ok((module, info))
}

fn to_spirv(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Vec<Translation>> {
    let mut made = Vec::new();
    let bindings = resources(module)
        .into_iter()
        .map(|(b, ..)| (b, spv::BindingInfo { descriptor_set: b.group, binding: b.binding, binding_array_size: None }));
    let binding_map: spv::BindingMap = bindings.collect();
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_string() };
    for (mode, policies, checked) in
        [("checked", RESTRICT, true), ("robust", ROBUST, true), ("unchecked", UNCHECKED, false)]
    {
        let options = spv::Options {
            lang_version: (1, 3),
            flags: spv::WriterFlags::FORCE_POINT_SIZE | spv::WriterFlags::LABEL_VARYINGS,
            fake_missing_bindings: false,
            binding_map: binding_map.clone(),
            capabilities: Some(CAPABILITIES.iter().copied().collect()),
            bounds_check_policies: policies,
            zero_initialize_workgroup_memory: if checked {
                spv::ZeroInitializeWorkgroupMemoryMode::Polyfill
            } else {
                spv::ZeroInitializeWorkgroupMemoryMode::None
            },
            force_loop_bounding: checked,
            emit_int_div_checks: checked,
            use_storage_input_output_16: false,
            ..spv::Options::default()
        };
        let words = spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| fail(entry, "SPIR-V", e))?;
        made.push(Translation::new(mode, "spv", bytemuck::cast_slice(&words)));
    }
    Ok(made)
}

fn to_msl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Vec<Translation>> {
    let mut made = Vec::new();
    let resources = resources(module);
    let slot = |b: &ResourceBinding| b.binding as u8;
    let map = resources.iter().map(|(b, writable, _)| {
        (*b, msl::BindTarget { buffer: Some(slot(b)), mutable: *writable, ..Default::default() })
    });
    let targets = msl::EntryPointResources {
        resources: map.collect(),
        immediates_buffer: None,
        sizes_buffer: Some(resources.len() as u8),
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.to_string())),
        ..msl::PipelineOptions::default()
    };
    for (mode, policies, checked) in [("checked", RESTRICT, true), ("unchecked", UNCHECKED, false)] {
        let options = msl::Options {
            lang_version: (2, 4),
            per_entry_point_map: [(entry.to_string(), targets.clone())].into_iter().collect(),
            fake_missing_bindings: false,
            bounds_check_policies: policies,
            zero_initialize_workgroup_memory: checked,
            force_loop_bounding: checked,
            emit_int_div_checks: checked,
            ..msl::Options::default()
        };
        let (text, report) = msl::write_string(module, info, &options, &pipeline).map_err(|e| fail(entry, "MSL", e))?;
        for result in report.entry_point_names {
            result.map_err(|e| fail(entry, "MSL", e))?;
        }
        made.push(Translation::new(mode, "metal", text));
    }
    Ok(made)
}

fn to_hlsl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Vec<Translation>> {
    let mut made = Vec::new();
    let half = module.types.iter().any(|(_, t)| t.inner.scalar().is_some_and(|s| s == naga::Scalar::F16));
    // Registers count up by kind: b for the uniform, t for read-only, u for writable.
    let mut next = [0u32; 3];
    let mut binding_map = hlsl::BindingMap::new();
    for (binding, writable, uniform) in resources(module) {
        let counter = &mut next[if uniform { 0 } else { 1 + usize::from(writable) }];
        let target = hlsl::BindTarget { register: *counter, restrict_indexing: true, ..Default::default() };
        binding_map.insert(binding, target);
        *counter += 1;
    }
    let special = hlsl::BindTarget { space: 1, ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.to_string())) };
    for (mode, checked) in [("checked", true), ("unchecked", false)] {
        // FXC takes 5.1, DXC 6.0 and above; f16 begins with 6.2.
        let models: &[_] = match half {
            false => &[(hlsl::ShaderModel::V5_1, "sm51"), (hlsl::ShaderModel::V6_0, "sm60")],
            true => &[(hlsl::ShaderModel::V6_2, "sm62")],
        };
        for &(model, tag) in models {
            let options = hlsl::Options {
                shader_model: model,
                binding_map: binding_map.clone(),
                fake_missing_bindings: false,
                special_constants_binding: Some(special),
                zero_initialize_workgroup_memory: checked,
                restrict_indexing: checked,
                force_loop_bounding: checked,
                ..hlsl::Options::default()
            };
            let mut text = String::new();
            let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
            let report = writer.write(module, info, None).map_err(|e| fail(entry, "HLSL", e))?;
            for result in report.entry_point_names {
                result.map_err(|e| fail(entry, "HLSL", e))?;
            }
            made.push(Translation::new(format!("{mode}.{tag}"), "hlsl", text));
        }
    }
    Ok(made)
}

/// All three languages, checked and unchecked; without HLSL those with cooperative matrices, which naga 30 cannot write and
/// Direct3D 12 does not offer.
pub fn translate(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Vec<Translation>> {
    let mut made = to_spirv(module, info, entry)?;
    made.extend(to_msl(module, info, entry)?);
    if !entry.ends_with(COOP) {
        made.extend(to_hlsl(module, info, entry)?);
    }
    Ok(made)
}
