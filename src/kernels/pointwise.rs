//! Pointwise builders: add, scale, SiLU.
//! Called by `nn` and `model`. Shapes: any, equal on both sides.

use super::{count, own, same_shape};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::pointwise::{
    ACCUMULATE, ADD, CENTER, CenterParams, CountParams, FILL_ZERO, SCALE, SILU_BACKWARD, SILU_FORWARD, ScaleParams,
};
use crate::tape::{Contribution, Rule, Tape};

/// z = x + y
pub fn add(tape: &mut Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    same_shape("add", x, y)?;
    let z = tape.rec.activation("add", x.shape);
    tape.rec.push(&ADD, &CountParams { count: count("add", x)? }, &[*x, *y], &[z], &[])?;
    tape.push(&[*x, *y], &[z], AddRule);
    Ok(z)
}

/// dx = dy = dz
struct AddRule;

impl Rule for AddRule {
    fn backward(&self, _: &mut Recording, dz: &[Option<Tensor>], _: &[bool]) -> Result<Vec<Contribution>> {
        let whole = || dz[0].map_or(Contribution::None, Contribution::Whole);
        Ok(vec![whole(), whole()])
    }
}

/// total += x, outside of any tape.
pub fn accumulate(rec: &mut Recording, x: &Tensor, total: &Tensor) -> Result<()> {
    same_shape("accumulate", x, total)?;
    rec.push(&ACCUMULATE, &CountParams { count: count("accumulate", x)? }, &[*x], &[], &[*total])
}

/// y = 0, outside of any tape.
pub fn fill_zero(rec: &mut Recording, y: &Tensor) -> Result<()> {
    rec.push(&FILL_ZERO, &CountParams { count: count("fill_zero", y)? }, &[], &[*y], &[])
}

/// y = x in y's element type, outside of any tape.
pub fn convert(rec: &mut Recording, x: &Tensor, y: &Tensor) -> Result<()> {
    same_shape("convert", x, y)?;
    rec.push(&SCALE, &ScaleParams { count: count("convert", x)?, factor: 1.0 }, &[*x], &[*y], &[])
}

fn scaled(rec: &mut Recording, x: &Tensor, factor: f32) -> Result<Tensor> {
    let y = rec.activation("scale", x.shape);
    rec.push(&SCALE, &ScaleParams { count: count("scale", x)?, factor }, &[*x], &[y], &[])?;
    Ok(y)
}

/// y = factor x
pub fn scale(tape: &mut Tape, x: &Tensor, factor: f32) -> Result<Tensor> {
    let y = scaled(&mut tape.rec, x, factor)?;
    tape.push(&[*x], &[y], ScaleRule { factor });
    Ok(y)
}

/// dx = factor dy
struct ScaleRule {
    factor: f32,
}

impl Rule for ScaleRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], _: &[bool]) -> Result<Vec<Contribution>> {
        Ok(vec![match &dy[0] {
            Some(dy) => Contribution::Whole(scaled(rec, dy, self.factor)?),
            None => Contribution::None,
        }])
    }
}

/// y = 2 x - 1 (`center_input_sample`); x [..., stored channels], of which the first `channels` are real.
pub fn center(tape: &mut Tape, x: &Tensor, channels: u32) -> Result<Tensor> {
    let stride = x.shape.last();
    if channels > stride {
        return Err(Error::shape("center", format!("{channels} channels in {}", x.shape)));
    }
    let y = tape.rec.transient("center", x.shape);
    tape.rec.push(&CENTER, &CenterParams { count: count("center", x)?, channels, stride }, &[*x], &[y], &[])?;
    tape.push(&[*x], &[y], ScaleRule { factor: 2.0 });
    Ok(y)
}

/// y = x sigmoid(x)
pub fn silu(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let y = tape.rec.activation("silu", x.shape);
    tape.rec.push(&SILU_FORWARD, &CountParams { count: count("silu", x)? }, &[*x], &[y], &[])?;
    tape.push(&[*x], &[y], SiluRule { x: *x });
    Ok(y)
}

/// dx = dy s (1 + x (1 - s)), s = sigmoid(x)
struct SiluRule {
    x: Tensor,
}

impl Rule for SiluRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], _: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(vec![Contribution::None]) };
        let dx = rec.transient("silu_backward", self.x.shape);
        rec.push(&SILU_BACKWARD, &CountParams { count: count("silu", &dx)? }, &[self.x, dy], &[dx], &[])?;
        Ok(vec![Contribution::Whole(dx)])
    }
}

/// Every kernel of this family once: z = (2 silu(theta + x) - 1) / 2, with theta a parameter.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("pointwise");
    let [x, theta, dz] = ["x", "theta", "dz"].map(|label| own(&mut rec, label, [3, 50]));
    let d_theta = rec.transient("d theta", theta.shape);
    rec.push(&FILL_ZERO, &CountParams { count: 150 }, &[], &[d_theta], &[])?;
    let mut tape = Tape::new(rec);
    tape.parameter(theta, d_theta);
    let y = add(&mut tape, &theta, &x)?;
    let y = silu(&mut tape, &y)?;
    let y = center(&mut tape, &y, 47)?;
    let z = scale(&mut tape, &y, 0.5)?;
    Ok(tape.backward(&[(z, dz)])?.0)
}
