//! An activation with one value a sample and channel: the time embedding's bias, or its scale and shift.
//! Called by `nn` (ResNet blocks) and `kernels::group_norm`. Shapes: x, y [N, ..., C]; t, scale, shift N C values.

use crate::error::{Error, Result};
use crate::kernels::{count, none, own};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::broadcast::{
    ADD_CHANNEL_BIAS, PixelParams, SCALE_SHIFT_BACKWARD_INPUT, SCALE_SHIFT_BACKWARD_SCALE, SCALE_SHIFT_FORWARD,
    SUM_PIXELS, SumPixelsParams,
};
use crate::shader::cards::norm::chunk_of;
use crate::shape::Shape;
use crate::tape::{Contribution, Rule, Tape};

fn extents(op: &'static str, x: &Tensor) -> Result<PixelParams> {
    match (x.shape.dims(), x.shape.last()) {
        ([batch, _, ..], channels) if x.elements() > 0 => {
            Ok(PixelParams { batch: *batch, pixels: count(op, x)? / batch / channels, channels })
        }
        _ => Err(Error::shape(op, format!("expected [N, ..., C], got {}", x.shape))),
    }
}

fn check(op: &'static str, name: &str, x: &Tensor, t: &Tensor, p: &PixelParams) -> Result<()> {
    if t.elements() == u64::from(p.batch) * u64::from(p.channels) && t.shape.last() == p.channels {
        return Ok(());
    }
    Err(Error::shape(op, format!("{name} {} for x {}: expected [{}, {}]", t.shape, x.shape, p.batch, p.channels)))
}

/// Sums over the pixels in two stages: `first` has summed chunks of `chunk` pixels, if there are several.
fn finish(rec: &mut Recording, first: Tensor, p: &PixelParams) -> Result<Tensor> {
    let pixels = (first.elements() / u64::from(p.batch) / u64::from(p.channels)) as u32;
    if pixels == 1 {
        return first.reshape("sum_pixels", Shape::new([p.batch, p.channels]));
    }
    let y = rec.transient("sum_pixels", Shape::new([p.batch, p.channels]));
    let p = SumPixelsParams { batch: p.batch, pixels, channels: p.channels, chunk: pixels };
    rec.push(&SUM_PIXELS, &p, &[first], &[y], &[])?;
    Ok(y)
}

fn chunked(p: &PixelParams) -> (SumPixelsParams, Shape) {
    let chunk = chunk_of(p.pixels);
    let shape = Shape::new([p.batch, p.pixels.div_ceil(chunk), p.channels]);
    (SumPixelsParams { batch: p.batch, pixels: p.pixels, channels: p.channels, chunk }, shape)
}

/// x [N, ..., C] -> the sums over all but the first and the last extent [N, C], in a fixed order. No rule.
pub(crate) fn sum_pixels(rec: &mut Recording, x: &Tensor) -> Result<Tensor> {
    let p = extents("sum_pixels", x)?;
    let (chunks, shape) = chunked(&p);
    let first = rec.transient("sum_pixels", shape);
    rec.push(&SUM_PIXELS, &chunks, &[*x], &[first], &[])?;
    finish(rec, first, &p)
}

/// y = x + t, t [N, C]
pub fn add_channel_bias(tape: &mut Tape, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    let p = extents("add_channel_bias", x)?;
    check("add_channel_bias", "t", x, t, &p)?;
    let y = tape.rec.activation("add_channel_bias", x.shape);
    tape.rec.push(&ADD_CHANNEL_BIAS, &p, &[*x, *t], &[y], &[])?;
    tape.push(&[*x, *t], &[y], AddChannelBiasRule);
    Ok(y)
}

/// dx = dy, dt = the sum of dy over the pixels
struct AddChannelBiasRule;

impl Rule for AddChannelBiasRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let dt = if needs[1] { Contribution::Whole(sum_pixels(rec, &dy)?) } else { Contribution::None };
        Ok(vec![Contribution::Whole(dy), dt])
    }
}

/// y = x (1 + scale) + shift, scale and shift [N, C]
pub fn scale_shift(tape: &mut Tape, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let p = extents("scale_shift", x)?;
    check("scale_shift", "scale", x, scale, &p)?;
    check("scale_shift", "shift", x, shift, &p)?;
    let y = tape.rec.activation("scale_shift", x.shape);
    tape.rec.push(&SCALE_SHIFT_FORWARD, &p, &[*x, *scale, *shift], &[y], &[])?;
    tape.push(&[*x, *scale, *shift], &[y], ScaleShiftRule { p, x: *x, scale: *scale });
    Ok(y)
}

/// dx = dy (1 + scale), dscale = the sum of x dy over the pixels, dshift = the sum of dy
struct ScaleShiftRule {
    p: PixelParams,
    x: Tensor,
    scale: Tensor,
}

impl Rule for ScaleShiftRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let mut contributions = none(needs);
        if needs[0] {
            let dx = rec.transient("scale_shift_backward_input", self.x.shape);
            rec.push(&SCALE_SHIFT_BACKWARD_INPUT, &self.p, &[self.scale, dy], &[dx], &[])?;
            contributions[0] = Contribution::Whole(dx);
        }
        if needs[1] {
            let (chunks, shape) = chunked(&self.p);
            let first = rec.transient("scale_shift_backward_scale", shape);
            rec.push(&SCALE_SHIFT_BACKWARD_SCALE, &chunks, &[self.x, dy], &[first], &[])?;
            contributions[1] = Contribution::Whole(finish(rec, first, &self.p)?);
        }
        if needs[2] {
            contributions[2] = Contribution::Whole(sum_pixels(rec, &dy)?);
        }
        Ok(contributions)
    }
}

/// Small calls of every kernel here: channels a multiple of four and not.
pub fn examples() -> Result<Recording> {
    let mut tape = Tape::new(Recording::new("broadcast"));
    let mut seeds = Vec::new();
    for channels in [8, 3] {
        let x = own(&mut tape.rec, &format!("x{channels}"), [2, 5, 4, channels]);
        let t = own(&mut tape.rec, &format!("t{channels}"), [2, channels]);
        tape.watch(&x);
        tape.watch(&t);
        let y = add_channel_bias(&mut tape, &x, &t)?;
        let z = scale_shift(&mut tape, &y, &t, &t)?;
        seeds.push((z, x));
    }
    Ok(tape.backward(&seeds)?.0)
}
