//! The two-dimensional convolution and its gradient.
//! Called by `nn`. Shapes: x [N, H, W, cin], w [kh, kw, cin, cout], bias [cout], y [N, H', W', cout].

use super::matmul::{column_sum, matmul, summed_in_chunks, transpose};
use super::own;
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::conv::{CONV2D_BACKWARD_INPUT, CONV2D_BACKWARD_WEIGHT, CONV2D_FORWARD, Conv2dParams};
use crate::shader::cards::gemm::TransposeParams;
use crate::shape::Shape;
use crate::tape::{Contribution, Rule, Tape};

/// Zeros around x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// As many on each side.
    Symmetric(u32),
    /// One column on the right, one row below: what the downsampling of google's DDPM checkpoints does.
    RightBottom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dSpec {
    pub stride: u32,
    pub padding: Padding,
}

impl Conv2dSpec {
    /// Stride 1, the output as large as the input, for an odd kernel.
    pub fn same(kernel: u32) -> Self {
        Self { stride: 1, padding: Padding::Symmetric(kernel / 2) }
    }
}

fn params(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, spec: Conv2dSpec) -> Result<Conv2dParams> {
    let fail = |what: &str| Err(Error::shape("conv2d", format!("{what}: x {}, w {}, {spec:?}", x.shape, w.shape)));
    let ([batch, in_h, in_w, cin], [kh, kw, w_cin, cout]) = (x.shape.nhwc("conv2d")?, w.shape.nhwc("conv2d")?);
    if cin != w_cin {
        return fail("channels of x and w differ");
    }
    if let Some(b) = bias.filter(|b| b.elements() != u64::from(cout)) {
        return Err(Error::shape("conv2d", format!("bias {} for w {}", b.shape, w.shape)));
    }
    let (pad, all) = match spec.padding {
        Padding::Symmetric(pad) => (pad, pad.checked_mul(2)),
        Padding::RightBottom => (0, Some(1)),
    };
    let extent = |size: u32, kernel: u32| {
        let room = size.checked_add(all?)?.checked_sub(kernel)?;
        room.checked_div(spec.stride).map(|steps| steps + 1)
    };
    let (Some(out_h), Some(out_w), false) = (extent(in_h, kh), extent(in_w, kw), kh == 0 || kw == 0) else {
        return fail("no window fits");
    };
    // Kernels count in u32, and compare wrapped coordinates with extents.
    let y = Shape::new([batch, out_h, out_w, cout]);
    if [x.shape, w.shape, y].iter().any(|s| s.elements() > u64::from(u32::MAX) || s.elements() == 0) || pad > 1 << 16 {
        return fail("empty or too large");
    }
    let has_bias = u32::from(bias.is_some());
    let (pad_top, pad_left, chunk) = (pad, pad, batch * out_h);
    let stride = spec.stride;
    Ok(Conv2dParams { batch, in_h, in_w, cin, out_h, out_w, cout, kh, kw, stride, pad_top, pad_left, has_bias, chunk })
}

/// y = x * w + bias. A 1x1 convolution is recorded as a matrix product.
pub fn conv2d(tape: &mut Tape, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, spec: Conv2dSpec) -> Result<Tensor> {
    let p = params(x, w, bias, spec)?;
    if (p.kh, p.kw) == (1, 1) && spec == Conv2dSpec::same(1) {
        return matmul(tape, x, &w.reshape("conv2d", Shape::new([p.cin, p.cout]))?, bias);
    }
    let y = tape.rec.transient("conv2d", Shape::new([p.batch, p.out_h, p.out_w, p.cout]));
    let or_zeros = bias.copied().unwrap_or_else(|| tape.rec.absent());
    tape.rec.push(&CONV2D_FORWARD, &p, &[*x, *w, or_zeros], &[y], &[])?;
    let inputs: Vec<_> = [Some(x), Some(w), bias].into_iter().flatten().copied().collect();
    tape.push(&inputs, &[y], Conv2dRule { p, x: *x, w: *w });
    Ok(y)
}

/// dw += the sum over pixels of x dy. A small weight's sums are cut in chunks, so that a GPU has enough to do.
fn backward_weight(rec: &mut Recording, p: Conv2dParams, x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let rows = p.batch * p.out_h;
    let chunks = summed_in_chunks(p.out_pixels(), p.terms(), p.cout);
    let p = Conv2dParams { chunk: rows.div_ceil(chunks.min(rows)), ..p };
    super::matmul::through_chunks(rec, p.chunks(), dw, |rec, dw| {
        rec.push(&CONV2D_BACKWARD_WEIGHT, &p, &[*x, *dy], &[], &[*dw])
    })
}

/// dx = dy * w transposed, dw as above, dbias += the sum of dy over pixels.
struct Conv2dRule {
    p: Conv2dParams,
    x: Tensor,
    w: Tensor,
}

impl Rule for Conv2dRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(needs.iter().map(|_| Contribution::None).collect()) };
        let Self { p, x, w } = *self;
        let mut contributions = Vec::with_capacity(needs.len());
        contributions.push(if needs[0] {
            let w_t = rec.transient("w_t", Shape::new([p.kh, p.kw, p.cout, p.cin]));
            let matrix = p.cin * p.cout;
            let taps = TransposeParams {
                batch_outer: p.kh * p.kw,
                x_outer: matrix,
                y_outer: matrix,
                ..TransposeParams::plain(p.cin, p.cout)
            };
            transpose(rec, &taps, &w, &w_t)?;
            let dx = rec.transient("conv2d_backward_input", x.shape);
            rec.push(&CONV2D_BACKWARD_INPUT, &p, &[dy, w_t], &[dx], &[])?;
            Contribution::Whole(dx)
        } else {
            Contribution::None
        });
        contributions.push(Contribution::Into(Box::new(move |rec, dw| backward_weight(rec, p, &x, &dy, &dw))));
        if needs.len() == 3 {
            contributions.push(Contribution::Into(Box::new(move |rec, db| column_sum(rec, &dy, &db))));
        }
        Ok(contributions)
    }
}

/// Every kernel of this family, in tiles of every width: 4 -> 32 -> 16 -> 6 channels, at strides 1 and 2.
pub fn examples() -> Result<Recording> {
    let mut tape = Tape::new(Recording::new("conv2d"));
    let x = own(&mut tape.rec, "x", [2, 9, 8, 4]);
    let [w1, dw1] = ["w1", "dw1"].map(|label| own(&mut tape.rec, label, [3, 3, 4, 32]));
    let [b1, db1] = ["b1", "db1"].map(|label| own(&mut tape.rec, label, [32]));
    let [w2, dw2] = ["w2", "dw2"].map(|label| own(&mut tape.rec, label, [3, 3, 32, 16]));
    let [w3, dw3] = ["w3", "dw3"].map(|label| own(&mut tape.rec, label, [2, 2, 16, 6]));
    for (theta, gradient) in [(w1, dw1), (b1, db1), (w2, dw2), (w3, dw3)] {
        tape.parameter(theta, gradient);
    }
    tape.watch(&x);
    let y = conv2d(&mut tape, &x, &w1, Some(&b1), Conv2dSpec::same(3))?;
    let y = conv2d(&mut tape, &y, &w2, None, Conv2dSpec { stride: 2, padding: Padding::Symmetric(1) })?;
    let y = conv2d(&mut tape, &y, &w3, None, Conv2dSpec { stride: 1, padding: Padding::RightBottom })?;
    let dy = own(&mut tape.rec, "dy", [2, 5, 4, 6]);
    Ok(tape.backward(&[(y, dy)])?.0)
}
