//! Nearest upsampling by two, concatenation and slices of channels, with their gradients.
//! Called by `nn` and `model` (up blocks, skips, the two halves of a time embedding).

use crate::error::{Error, Result};
use crate::kernels::{count, none, own};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::resample::{
    CONCAT_CHANNELS, ConcatParams, SLICE_CHANNELS_BACKWARD, SLICE_CHANNELS_FORWARD, SliceParams,
    UPSAMPLE_NEAREST_BACKWARD, UPSAMPLE_NEAREST_FORWARD, UpsampleParams,
};
use crate::shape::Shape;
use crate::tape::{Contribution, Rule, Tape};

/// x [N, H, W, C] -> y [N, 2H, 2W, C], each pixel four times
pub fn upsample_nearest(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let [batch, height, width, channels] = x.shape.nhwc("upsample_nearest")?;
    let p = UpsampleParams { batch, height, width, channels };
    let y = tape.rec.activation("upsample_nearest", Shape::new([batch, 2 * height, 2 * width, channels]));
    count("upsample_nearest", &y)?;
    tape.rec.push(&UPSAMPLE_NEAREST_FORWARD, &p, &[*x], &[y], &[])?;
    tape.push(&[*x], &[y], UpsampleNearestRule { p });
    Ok(y)
}

/// dx = the sum of the four
struct UpsampleNearestRule {
    p: UpsampleParams,
}

impl Rule for UpsampleNearestRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let p = self.p;
        let dx = rec.transient("upsample_nearest_backward", Shape::new([p.batch, p.height, p.width, p.channels]));
        rec.push(&UPSAMPLE_NEAREST_BACKWARD, &p, &[dy], &[dx], &[])?;
        Ok(vec![Contribution::Whole(dx)])
    }
}

/// The shape with another last extent.
fn with_channels(op: &'static str, shape: &Shape, channels: u32) -> Result<Shape> {
    let (_, front) = shape.dims().split_last().ok_or_else(|| Error::shape(op, "expected [..., C], got []"))?;
    Shape::from_slice(op, &[front, &[channels]].concat())
}

/// a [..., A], b [..., B] -> y [..., A + B]
pub fn concat_channels(tape: &mut Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = "concat_channels";
    let (a_channels, b_channels) = (a.shape.last(), b.shape.last());
    let channels = a_channels.checked_add(b_channels).ok_or_else(|| Error::shape(op, "over 2^32 channels"))?;
    let shape = with_channels(op, &a.shape, channels)?;
    if shape != with_channels(op, &b.shape, channels)? || a.elements() == 0 || b.elements() == 0 {
        return Err(Error::shape(op, format!("{} and {} differ in more than channels", a.shape, b.shape)));
    }
    let y = tape.rec.activation(op, shape);
    let rows = count(op, &y)? / channels;
    tape.rec.push(&CONCAT_CHANNELS, &ConcatParams { rows, a_channels, b_channels }, &[*a, *b], &[y], &[])?;
    tape.push(&[*a, *b], &[y], ConcatChannelsRule { a: a.shape, b: b.shape });
    Ok(y)
}

/// da, db = dy's first and last channels
struct ConcatChannelsRule {
    a: Shape,
    b: Shape,
}

impl Rule for ConcatChannelsRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let a_channels = self.a.last();
        [(0, self.a), (a_channels, self.b)]
            .into_iter()
            .zip(needs)
            .map(|((first, shape), needed)| match needed {
                true => Ok(Contribution::Whole(sliced(rec, &dy, first, shape)?)),
                false => Ok(Contribution::None),
            })
            .collect()
    }
}

fn sliced(rec: &mut Recording, x: &Tensor, first: u32, shape: Shape) -> Result<Tensor> {
    let y = rec.activation("slice_channels", shape);
    let (channels, kept) = (x.shape.last(), shape.last());
    let p = SliceParams { rows: count("slice_channels", x)? / channels, channels, first, count: kept };
    rec.push(&SLICE_CHANNELS_FORWARD, &p, &[*x], &[y], &[])?;
    Ok(y)
}

/// x [..., C] -> y [..., kept], the channels first .. first + kept
pub fn slice_channels(tape: &mut Tape, x: &Tensor, first: u32, kept: u32) -> Result<Tensor> {
    let op = "slice_channels";
    if kept == 0 || x.elements() == 0 || u64::from(first) + u64::from(kept) > u64::from(x.shape.last()) {
        return Err(Error::shape(op, format!("channels {first} .. {first} + {kept} of {}", x.shape)));
    }
    let y = sliced(&mut tape.rec, x, first, with_channels(op, &x.shape, kept)?)?;
    tape.push(&[*x], &[y], SliceChannelsRule { x: x.shape, first });
    Ok(y)
}

/// x [..., C] -> its halves [..., C / 2]: the scale and the shift of a time embedding
pub fn split_channels(tape: &mut Tape, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let half = x.shape.last() / 2;
    if !x.shape.last().is_multiple_of(2) {
        return Err(Error::shape("split_channels", format!("{} has an odd number of channels", x.shape)));
    }
    Ok((slice_channels(tape, x, 0, half)?, slice_channels(tape, x, half, half)?))
}

/// dx = dy at its channels, 0 elsewhere
struct SliceChannelsRule {
    x: Shape,
    first: u32,
}

impl Rule for SliceChannelsRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let dx = rec.transient("slice_channels_backward", self.x);
        let channels = self.x.last();
        let p = SliceParams {
            rows: count("slice_channels", &dx)? / channels,
            channels,
            first: self.first,
            count: dy.shape.last(),
        };
        rec.push(&SLICE_CHANNELS_BACKWARD, &p, &[dy], &[dx], &[])?;
        Ok(vec![Contribution::Whole(dx)])
    }
}

/// Small calls of every kernel here: channels a multiple of four and not.
pub fn examples() -> Result<Recording> {
    let mut tape = Tape::new(Recording::new("resample"));
    let mut seeds = Vec::new();
    for channels in [8, 6] {
        let x = own(&mut tape.rec, &format!("x{channels}"), [2, 3, 5, channels]);
        let dy = own(&mut tape.rec, &format!("dy{channels}"), [2, 6, 10, channels]);
        tape.watch(&x);
        let (a, b) = split_channels(&mut tape, &x)?;
        let y = concat_channels(&mut tape, &b, &a)?;
        let z = upsample_nearest(&mut tape, &y)?;
        seeds.push((z, dy));
    }
    Ok(tape.backward(&seeds)?.0)
}
