//! Builders of the kernels that measure an adapter's ceilings.
//! Called by `bench`. Shapes: x, y of any equal shape, a multiple of 4 elements.

use super::{count, own, same_shape};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::peak::{PEAK_COPY, PEAK_FMA, PeakFmaParams};
use crate::shader::cards::pointwise::CountParams;

fn fours(op: &'static str, x: &Tensor, y: &Tensor) -> Result<u32> {
    same_shape(op, x, y)?;
    let n = count(op, x)?;
    if n.is_multiple_of(4) { Ok(n) } else { Err(Error::shape(op, format!("{n} elements are no multiple of 4"))) }
}

/// Chains of multiply-adds in registers that end near 2 x each: `rounds` sets the arithmetic an element.
pub fn peak_fma(rec: &mut Recording, x: &Tensor, y: &Tensor, rounds: u32) -> Result<()> {
    // Halving is exact, so the sum rounds once a step, fused or not.
    let params = PeakFmaParams { count: fours("peak_fma", x, y)?, rounds, factor: 0.5 };
    rec.push(&PEAK_FMA, &params, &[*x], &[*y], &[])
}

/// y = x
pub fn peak_copy(rec: &mut Recording, x: &Tensor, y: &Tensor) -> Result<()> {
    rec.push(&PEAK_COPY, &CountParams { count: fours("peak_copy", x, y)? }, &[*x], &[*y], &[])
}

/// Both kernels once.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("peak");
    let [x, y, z] = ["x", "y", "z"].map(|label| own(&mut rec, label, [4200]));
    peak_fma(&mut rec, &x, &y, 3)?;
    peak_copy(&mut rec, &x, &z)?;
    Ok(rec)
}
