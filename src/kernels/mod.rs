//! The builders: check shapes, append ops to a recording, push the rule on the tape.
//! Called by `nn`, `model`, `train` and `deme`.

pub mod conv2d;
pub mod matmul;
pub mod attention;
pub mod broadcast;
pub mod channel_projection;
pub mod group_norm;
pub mod ddim;
pub mod loss;
pub mod merge;
pub mod noise;
pub mod optim;
pub mod peak;
pub mod pointwise;
pub mod pool;
pub mod resample;
pub mod winograd;

use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shape::Shape;

/// Small recordings that call every kernel of a family at least once, in shapes that between them fit every variant.
/// The shader tests render each card's variants for these parameters, and `doctor` runs them as its self-test.
pub const EXAMPLES: &[fn() -> Result<Recording>] = &[
    loss::examples,
    noise::examples,
    optim::examples,
    merge::examples,
    pointwise::examples,
    group_norm::examples,
    broadcast::examples,
    resample::examples,
    attention::examples,
    matmul::examples,
    conv2d::examples,
    winograd::examples,
    peak::examples,
    pool::examples,
];

/// A tensor with storage of its own, found by its label: the inputs of examples.
pub(crate) fn own<const R: usize>(rec: &mut Recording, label: &str, extents: [u32; R]) -> Tensor {
    let shape = Shape::new(extents);
    Tensor { buffer: rec.external(label, shape.elements()), offset: 0, shape }
}
use crate::tape::Contribution;

/// Errors unless both shapes are equal.
pub(crate) fn same_shape(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.shape == b.shape {
        Ok(())
    } else {
        Err(Error::shape(op, format!("shapes differ: {} and {}", a.shape, b.shape)))
    }
}

/// Element count as the kernels take it, or an error that names `op`.
pub(crate) fn count(op: &'static str, x: &Tensor) -> Result<u32> {
    u32::try_from(x.elements()).map_err(|_| Error::shape(op, format!("{} has over 2^32 elements", x.shape)))
}

/// No contribution to any input: nothing depends on the op's output.
pub(crate) fn none(needs: &[bool]) -> Vec<Contribution> {
    needs.iter().map(|_| Contribution::None).collect()
}
