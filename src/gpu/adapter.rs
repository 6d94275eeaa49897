//! Which GPU: the adapters of this machine, in the order of preference, and the one that the user asked for.
//! Called by `device` and `doctor`.

use crate::error::{Error, Result};
use crate::shader::{Class, Precision};

/// What the user asked for; empty fields fall back to WGPU_ADAPTER_NAME and WGPU_BACKEND, then to the best adapter.
#[derive(Debug, Clone, Default)]
pub struct AdapterChoice {
    /// A part of the adapter's name (case does not matter), or its index in `deme doctor`'s list.
    pub adapter: Option<String>,
    /// vulkan, metal, dx12 or gl.
    pub backend: Option<String>,
    /// None: f16 on a hardware GPU that has cooperative matrices, else f32.
    pub precision: Option<Precision>,
}

/// One adapter as `deme doctor` lists it.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    pub name: String,
    pub backend: String,
    pub kind: String,
    pub driver: String,
    pub class: Class,
    /// The HLSL compiler in use, on DX12.
    pub compiler: Option<&'static str>,
}

impl std::fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.backend, self.kind, self.driver)
    }
}

pub(super) fn summary(info: &wgpu::AdapterInfo) -> AdapterSummary {
    AdapterSummary {
        name: info.name.clone(),
        backend: info.backend.to_string(),
        kind: format!("{:?}", info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        class: if info.device_type == wgpu::DeviceType::Cpu { Class::Cpu } else { Class::Gpu },
        compiler: (info.backend == wgpu::Backend::Dx12).then(hlsl_compiler),
    }
}

/// Whether a driver loads once what is the same for all lanes of a subgroup, known by what `summary` says of it: llvmpipe of Mesa
/// 26 does, that of 25.0 does so outside loops only.
pub(super) fn uniform_loads(driver: &str) -> bool {
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let version = driver.strip_prefix("llvmpipe Mesa ").and_then(major);
    version.is_some_and(|major| major >= 26)
}

/// DXC where its library can be loaded from beside the executable or from the search path, else FXC.
fn dxc_present() -> bool {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(std::path::Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(std::env::split_paths(&path)).any(|dir| dir.join("dxcompiler.dll").is_file())
}

fn hlsl_compiler() -> &'static str {
    if dxc_present() { "DXC" } else { "FXC (put dxcompiler.dll beside deme for the faster DXC)" }
}

fn backends(choice: &AdapterChoice) -> Result<wgpu::Backends> {
    let Some(name) = &choice.backend else {
        return Ok(wgpu::Backends::PRIMARY.with_env());
    };
    match name.to_lowercase().as_str() {
        "vulkan" => Ok(wgpu::Backends::VULKAN),
        "metal" => Ok(wgpu::Backends::METAL),
        "dx12" => Ok(wgpu::Backends::DX12),
        "gl" => Ok(wgpu::Backends::GL),
        _ => Err(Error::usage(format!("--backend {name} is not known"), "use vulkan, metal, dx12 or gl")),
    }
}

/// Lower is better: hardware before software, discrete before integrated, Vulkan and Metal before DX12 before GL.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        wgpu::Backend::Vulkan | wgpu::Backend::Metal => 0,
        wgpu::Backend::Dx12 => 1,
        _ => 2,
    };
    (kind, backend)
}

/// All adapters of the chosen backends, best first.
pub(super) fn enumerate(choice: &AdapterChoice) -> Result<Vec<wgpu::Adapter>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends(choice)?;
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    descriptor.backend_options = wgpu::BackendOptions::from_env_or_default();
    if std::env::var_os("WGPU_DX12_COMPILER").is_none() {
        descriptor.backend_options.dx12.shader_compiler =
            if dxc_present() { wgpu::Dx12Compiler::default_dynamic_dxc() } else { wgpu::Dx12Compiler::Fxc };
    }
    let enabled = descriptor.backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(enabled));
    adapters.sort_by_key(|a| rank(&a.get_info()));
    Ok(adapters)
}

/// The adapters of this machine, best first; the index in the list is what `--adapter` takes.
pub fn adapters(choice: &AdapterChoice) -> Result<Vec<AdapterSummary>> {
    Ok(enumerate(choice)?.iter().map(|a| summary(&a.get_info())).collect())
}

/// The adapter that the user asked for, or the best.
pub(super) fn choose(choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    let adapters = enumerate(choice)?;
    let listed = || {
        let lines = adapters.iter().enumerate().map(|(i, a)| format!("{i}: {}", summary(&a.get_info())));
        lines.collect::<Vec<_>>().join("; ")
    };
    if adapters.is_empty() {
        let from_env = std::env::var("WGPU_BACKEND").ok().filter(|names| !names.is_empty());
        let message = match (&choice.backend, from_env) {
            (Some(b), _) => format!("no {b} driver answers"),
            (None, Some(b)) => format!("no driver answers for WGPU_BACKEND={b}"),
            (None, None) => "no Vulkan, Metal or DX12 driver answers".to_string(),
        };
        return Err(Error::NoAdapter { message });
    }
    let from_env = std::env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty());
    let Some(wanted) = choice.adapter.clone().or(from_env) else {
        return adapters.into_iter().next().ok_or(Error::NoAdapter { message: String::new() });
    };
    // A number that is no index may be part of a name: 4090.
    let index = wanted.parse::<usize>().ok().filter(|&i| i < adapters.len());
    let by_name = || adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&wanted.to_lowercase()));
    let position = index.or_else(by_name);
    match position {
        Some(i) => Ok(adapters.into_iter().nth(i).ok_or(Error::NoAdapter { message: String::new() })?),
        None => Err(Error::usage(format!("no adapter matches {wanted}"), format!("this machine has {}", listed()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_with_uniform_loads_are_known_by_their_version() {
        assert!(uniform_loads("llvmpipe Mesa 26.1.6-1~bpo13+1 (LLVM 19.1.7)"));
        assert!(!uniform_loads("llvmpipe Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6)"));
        assert!(!uniform_loads("radv Mesa 26.1.6"));
        assert!(!uniform_loads("llvmpipe Mesa devel"));
    }
}
