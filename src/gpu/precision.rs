//! Which adapters have f16, and cooperative matrices for it, and which precision was asked for.
//! Called by `device` and `plan`; `autotune` asks for the limits.

use super::adapter::AdapterSummary;
use super::device::Gpu;
use crate::error::{Error, Result};
use crate::recording::Recording;
use crate::shader::{Class, Limits, Precision};
use crate::shape::DType;

/// What the `_coop` variants need.
pub(super) const COOPERATIVE: wgpu::Features =
    wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_F16).union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// Edge of the largest square cooperative matrices with factors in f16 and sums in f32 that the adapter offers, or 0.
pub(super) fn cooperative_edge(adapter: &wgpu::Adapter) -> u32 {
    use wgpu::CooperativeScalarType::{F16, F32};
    if !adapter.features().contains(COOPERATIVE) {
        return 0;
    }
    let offered = adapter.cooperative_matrix_properties();
    let square = |edge: &u32| {
        let tile = |p: &wgpu::CooperativeMatrixProperties| {
            [p.m_size, p.n_size, p.k_size] == [*edge; 3] && (p.ab_type, p.cr_type) == (F16, F32)
        };
        offered.iter().any(tile)
    };
    [16, 8].into_iter().find(square).unwrap_or(0)
}

fn without_f16(adapter: &AdapterSummary) -> Error {
    Error::usage(format!("{adapter} offers no f16 in shaders"), "use --precision f32, or auto")
}

/// The precision of plans, from what was asked for (None: the adapter decides), whether f16 is offered, and the edge of
/// cooperative matrices.
///
/// # Errors
/// `Usage` where f16 was asked for and is not offered.
pub(super) fn resolve(
    asked: Option<Precision>,
    (half, edge): (bool, u32),
    adapter: &AdapterSummary,
) -> Result<Precision> {
    match (asked, edge) {
        (Some(Precision::F16), _) if !half => Err(without_f16(adapter)),
        (Some(precision), _) => Ok(precision),
        (None, 1..) if adapter.class == Class::Gpu => Ok(Precision::F16),
        (None, _) => Ok(Precision::F32),
    }
}

impl Gpu {
    /// Errors where a recording has f16 elements and the device, as it was opened, has not.
    pub(super) fn check_elements(&self, recording: &Recording) -> Result<()> {
        let stored = recording.buffers.iter().any(|b| b.dtype == DType::F16);
        if stored && !self.has_f16() { Err(without_f16(self.summary())) } else { Ok(()) }
    }

    /// What the choice depends on where no variant is asked for: cooperative matrices are left to f16.
    pub fn usual_limits(&self) -> Limits {
        let limits = self.limits();
        let cooperative = if self.precision() == Precision::F16 { limits.cooperative } else { 0 };
        Limits { cooperative, ..limits }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn f16_is_taken_where_it_is_asked_for_and_offered_and_by_itself_on_gpus_only() {
        let adapter = |class| AdapterSummary {
            name: "a".into(),
            backend: "vulkan".into(),
            kind: "k".into(),
            driver: "d".into(),
            class,
            compiler: None,
        };
        let (gpu, cpu) = (adapter(Class::Gpu), adapter(Class::Cpu));
        let (f32, f16) = (Precision::F32, Precision::F16);
        for (asked, offered, adapter, expected) in [
            (None, (true, 16), &gpu, f16),
            (None, (true, 0), &gpu, f32),
            (None, (false, 0), &gpu, f32),
            (None, (true, 8), &cpu, f32),
            (Some(f16), (true, 8), &cpu, f16),
            (Some(f16), (true, 0), &cpu, f16),
            (Some(f32), (true, 16), &gpu, f32),
            (Some(f32), (false, 0), &cpu, f32),
        ] {
            assert_eq!(resolve(asked, offered, adapter).unwrap(), expected, "{asked:?} {offered:?} {adapter}");
        }
        let refused = resolve(Some(f16), (false, 0), &gpu).unwrap_err();
        assert!(refused.to_string().contains("a (vulkan, k, d) offers no f16 in shaders"), "{refused}");
    }
}
