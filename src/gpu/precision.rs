//! Which adapters have cooperative matrices for f16, and which precision was asked for.
//! Called by `device`; `autotune` asks for the limits.

use super::adapter::AdapterSummary;
use super::device::Gpu;
use crate::error::{Error, Result};
use crate::shader::{Class, Limits, Precision};

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

/// The precision of plans, from what was asked for (None: the adapter decides) and the edge that is offered.
///
/// # Errors
/// `Usage` where f16 was asked for and no cooperative matrices are offered.
pub(super) fn resolve(asked: Option<Precision>, offered: u32, adapter: &AdapterSummary) -> Result<Precision> {
    match (asked, offered) {
        (Some(Precision::F16), 0) => {
            let message = format!("{adapter} offers no cooperative matrices of f16 with sums in f32");
            Err(Error::usage(message, "use --precision f32, or auto"))
        }
        (Some(precision), _) => Ok(precision),
        (None, 1..) if adapter.class == Class::Gpu => Ok(Precision::F16),
        (None, _) => Ok(Precision::F32),
    }
}

impl Gpu {
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
            (None, 16, &gpu, f16),
            (None, 0, &gpu, f32),
            (None, 8, &cpu, f32),
            (Some(f16), 8, &cpu, f16),
            (Some(f32), 16, &gpu, f32),
            (Some(f32), 0, &cpu, f32),
        ] {
            assert_eq!(resolve(asked, offered, adapter).unwrap(), expected, "{asked:?} {offered} {adapter}");
        }
        let refused = resolve(Some(f16), 0, &gpu).unwrap_err();
        assert!(refused.to_string().contains("a (vulkan, k, d) offers no cooperative matrices"), "{refused}");
    }
}
