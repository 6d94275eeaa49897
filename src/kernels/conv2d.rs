//! The two-dimensional convolution and its gradient, by one of two routes with the same result.
//! Called by `nn`. Shapes: x [N, H, W, cin], w [kh, kw, cin, cout], bias [cout], y [N, H', W', cout].

use super::broadcast::add_channel_bias;
use super::matmul::{column_sum, matmul_as, summed_in_chunks, transpose};
use super::own;
use super::winograd::{self, winograd};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::card::Precision;
use crate::shader::cards::conv::{CONV2D_BACKWARD_INPUT, CONV2D_BACKWARD_WEIGHT, CONV2D_FORWARD, Conv2dParams};
use crate::shader::cards::gemm::TransposeParams;
use crate::shader::cards::winograd::Tile;
use crate::shape::{DType, Shape};
use crate::tape::{Contribution, Rule, Tape};

/// Zeros around x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// As many on each side.
    Symmetric(u32),
    /// So many rows above and below, and so many columns left and right: of kernels that are not square.
    Sides([u32; 2]),
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

/// How y, dx and dw are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The sum over taps and channels.
    Direct,
    /// F(2x2, 3x3) or F(4x4, 3x3): half or a quarter of the products, transforms before and after them. For 3x3 at stride 1, one
    /// zero around.
    Winograd(Tile),
}

/// Channels of x and of y from which the transforms cost less than the products that they save. Measured on Mesa 25's
/// lavapipe: with 16 on one side y takes as long by either route.
const WINOGRAD_CHANNELS: u32 = 32;
/// Tiles from which the weight's transform pays: with 16 of them y takes as long by either route.
const WINOGRAD_TILES: u64 = 32;
/// Bytes that each transformed tensor may have: what one binding may hold everywhere.
const TRANSFORMED: u64 = 128 << 20;

impl Route {
    /// What `conv2d` takes in f32.
    pub fn of(x: &Tensor, w: &Tensor, spec: Conv2dSpec) -> Result<Self> {
        Ok(Self::choose(&params(x, w, None, spec)?))
    }

    /// Winograd's where it is possible, is worth its transforms and fits, by the tile with fewer products.
    fn choose(p: &Conv2dParams) -> Self {
        let (least, most) = (p.cin.min(p.cout), u64::from(p.cin.max(p.cout)));
        let products = |tile: &Tile| u64::from(tile.places()) * tile.tiles(p.batch, p.out_h, p.out_w);
        let pays = |tile: &Tile| {
            let tiles = tile.tiles(p.batch, p.out_h, p.out_w);
            let bytes = 4 * u64::from(tile.places()) * tiles.max(u64::from(least)).saturating_mul(most);
            tiles >= WINOGRAD_TILES && bytes <= TRANSFORMED
        };
        let tile = [Tile::Two, Tile::Four].into_iter().filter(pays).min_by_key(products);
        match tile {
            Some(tile) if same_3x3(p) && least >= WINOGRAD_CHANNELS => Self::Winograd(tile),
            _ => Self::Direct,
        }
    }
}

/// The route in this precision. Rounded to f16, the transforms' results would cost more accuracy than the factors themselves
/// (of F(4x4, 3x3) five times as much), so cooperative matrices, which take channels in fours, get the sum as it is.
fn route(p: &Conv2dParams, precision: Precision) -> Route {
    match precision {
        Precision::F16 if (p.cin | p.cout).is_multiple_of(4) => Route::Direct,
        _ => Route::choose(p),
    }
}

/// Whether this is a 3x3 convolution at stride 1 with one zero around.
fn same_3x3(p: &Conv2dParams) -> bool {
    (p.kh, p.kw, p.stride, p.pad_top, p.pad_left) == (3, 3, 1, 1, 1) && (p.out_h, p.out_w) == (p.in_h, p.in_w)
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
    let ([pad_top, pad_left], all) = match spec.padding {
        Padding::Symmetric(pad) => ([pad; 2], [pad.checked_mul(2); 2]),
        Padding::Sides(pads) => (pads, pads.map(|pad| pad.checked_mul(2))),
        Padding::RightBottom => ([0; 2], [Some(1); 2]),
    };
    let extent = |size: u32, kernel: u32, all: Option<u32>| {
        let room = size.checked_add(all?)?.checked_sub(kernel)?;
        room.checked_div(spec.stride).map(|steps| steps + 1)
    };
    let extents = (extent(in_h, kh, all[0]), extent(in_w, kw, all[1]));
    let ((Some(out_h), Some(out_w)), false) = (extents, kh == 0 || kw == 0) else {
        return fail("no window fits");
    };
    // Kernels count in u32, and compare wrapped coordinates with extents.
    let y = Shape::new([batch, out_h, out_w, cout]);
    if [x.shape, w.shape, y].iter().any(|s| s.elements() > u64::from(u32::MAX) || s.elements() == 0)
        || pad_top.max(pad_left) > 1 << 16
    {
        return fail("empty or too large");
    }
    let has_bias = u32::from(bias.is_some());
    let (stride, chunk) = (spec.stride, batch * out_h);
    Ok(Conv2dParams {
        batch,
        in_h,
        in_w,
        cin,
        out_h,
        out_w,
        cout,
        kh,
        kw,
        stride,
        pad_top,
        pad_left,
        has_bias,
        chunk,
        addend: 0,
    })
}

/// y = x * w + bias. A 1x1 convolution is recorded as a matrix product.
pub fn conv2d(tape: &mut Tape, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, spec: Conv2dSpec) -> Result<Tensor> {
    let stored = tape.rec.stored();
    conv2d_as(tape, x, w, bias, spec, stored)
}

/// `conv2d` with y of this element type.
pub fn conv2d_as(
    tape: &mut Tape,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: Conv2dSpec,
    stored: DType,
) -> Result<Tensor> {
    let p = params(x, w, bias, spec)?;
    if (p.kh, p.kw) == (1, 1) && spec == Conv2dSpec::same(1) {
        return matmul_as(tape, x, &w.reshape("conv2d", Shape::new([p.cin, p.cout]))?, bias, stored);
    }
    routed(tape, [x, w], bias, spec, route(&p, tape.rec.precision), stored)
}

/// `conv2d` by a given route, gradients too.
pub fn conv2d_by(
    tape: &mut Tape,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: Conv2dSpec,
    route: Route,
) -> Result<Tensor> {
    let stored = tape.rec.stored();
    routed(tape, [x, w], bias, spec, route, stored)
}

/// `conv2d` by a route, with y of an element type.
fn routed(
    tape: &mut Tape,
    [x, w]: [&Tensor; 2],
    bias: Option<&Tensor>,
    spec: Conv2dSpec,
    route: Route,
    stored: DType,
) -> Result<Tensor> {
    let p = params(x, w, bias, spec)?;
    let y = tape.rec.transient_as("conv2d", Shape::new([p.batch, p.out_h, p.out_w, p.cout]), stored);
    match route {
        Route::Direct => {
            let absent = tape.rec.absent();
            tape.rec.push(&CONV2D_FORWARD, &p, &[*x, *w, bias.copied().unwrap_or(absent), absent], &[y], &[])?;
        }
        Route::Winograd(tile) if same_3x3(&p) => winograd(&mut tape.rec, x, w, bias, (tile, false), &y)?,
        Route::Winograd(_) => {
            let what = format!("Winograd's route is for 3x3 at stride 1, not x {}, w {}, {spec:?}", x.shape, w.shape);
            return Err(Error::shape("conv2d", what));
        }
    }
    let inputs: Vec<_> = [Some(x), Some(w), bias].into_iter().flatten().copied().collect();
    tape.push(&inputs, &[y], Conv2dRule { p, route, x: *x, w: *w });
    Ok(y)
}

/// dx = dy * w transposed
fn backward_input(rec: &mut Recording, p: Conv2dParams, dy: &Tensor, w: &Tensor, dx: &Tensor) -> Result<()> {
    let w_t = rec.transient_as("w_t", Shape::new([p.kh, p.kw, p.cout, p.cin]), rec.dtype(w));
    let matrix = p.cin * p.cout;
    let taps = TransposeParams {
        batch_outer: p.kh * p.kw,
        x_outer: matrix,
        y_outer: matrix,
        ..TransposeParams::plain(p.cin, p.cout)
    };
    transpose(rec, &taps, w, &w_t)?;
    rec.push(&CONV2D_BACKWARD_INPUT, &p, &[*dy, w_t], &[*dx], &[])
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

/// dx and dw as above, dbias += the sum of dy over pixels.
struct Conv2dRule {
    p: Conv2dParams,
    route: Route,
    x: Tensor,
    w: Tensor,
}

impl Rule for Conv2dRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(needs.iter().map(|_| Contribution::None).collect()) };
        let Self { p, route, x, w } = *self;
        let mut contributions = Vec::with_capacity(needs.len());
        contributions.push(if needs[0] {
            let dx = rec.transient("conv2d_backward_input", x.shape);
            match route {
                Route::Direct => backward_input(rec, p, &dy, &w, &dx)?,
                Route::Winograd(tile) => winograd(rec, &dy, &w, None, (tile, true), &dx)?,
            }
            Contribution::Whole(dx)
        } else {
            Contribution::None
        });
        contributions.push(Contribution::Into(Box::new(move |rec, dw| match route {
            Route::Direct => backward_weight(rec, p, &x, &dy, &dw),
            Route::Winograd(tile) => winograd::backward_weight(rec, &x, &dy, tile, &dw),
        })));
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
    // A time embedding's bias, which the convolution takes over.
    let embedding = own(&mut tape.rec, "embedding", [2, 16]);
    let y = add_channel_bias(&mut tape, &y, &embedding)?;
    let y = conv2d(&mut tape, &y, &w3, None, Conv2dSpec { stride: 1, padding: Padding::RightBottom })?;
    let dy = own(&mut tape.rec, "dy", [2, 5, 4, 6]);
    Ok(tape.backward(&[(y, dy)])?.0.fused())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn in_f16_the_sum_itself_is_taken_and_in_f32_the_fewest_products() {
        for (precision, cin, [forward, backward]) in [
            (Precision::F32, 64, ["winograd_weight", "winograd_weight"]),
            (Precision::F16, 64, ["conv2d_forward", "transpose"]),
            (Precision::F16, 62, ["winograd_weight", "winograd_weight"]),
        ] {
            let mut tape = Tape::new(Recording::new("test").at(precision));
            let [x, w] = [[2, 16, 16, cin], [3, 3, cin, 64]].map(|e| tape.rec.transient("t", Shape::new(e)));
            tape.watch(&x);
            let y = conv2d(&mut tape, &x, &w, None, Conv2dSpec::same(3)).unwrap();
            assert_eq!(tape.rec.ops[0].card.word, forward);
            let (dy, before) = (tape.rec.transient("dy", y.shape), tape.rec.ops.len());
            let rec = tape.backward(&[(y, dy)]).unwrap().0;
            assert_eq!(rec.ops[before].card.word, backward, "{precision} {cin}");
        }
    }

    fn chosen(x: [u32; 4], cout: u32, kernel: u32, stride: u32, padding: Padding) -> Route {
        let mut rec = Recording::default();
        let w = rec.transient("w", Shape::new([kernel, kernel, x[3], cout]));
        let x = rec.transient("x", Shape::new(x));
        Route::choose(&params(&x, &w, None, Conv2dSpec { stride, padding }).unwrap())
    }

    #[test]
    fn the_route_follows_from_the_shape() {
        let same = Padding::Symmetric(1);
        let [two, four] = [Tile::Two, Tile::Four].map(Route::Winograd);
        assert_eq!(chosen([8, 32, 32, 64], 64, 3, 1, same), four);
        assert_eq!(chosen([8, 31, 33, 32], 64, 3, 1, same), four);
        // As many products by either tile.
        assert_eq!(chosen([16, 6, 6, 64], 64, 3, 1, same), two);
        // 8 tiles of 4x4, 32 of 2x2.
        assert_eq!(chosen([2, 7, 8, 64], 64, 3, 1, same), two);
        assert_eq!(chosen([8, 7, 8, 64], 64, 3, 1, same), four);
        for (x, cout, kernel, stride, padding) in [
            ([8, 32, 32, 4], 64, 3, 1, same),
            ([8, 32, 32, 64], 4, 3, 1, same),
            ([8, 32, 32, 64], 64, 3, 2, same),
            ([8, 32, 32, 64], 64, 3, 1, Padding::Symmetric(0)),
            ([8, 32, 32, 64], 64, 3, 1, Padding::RightBottom),
            ([8, 32, 32, 64], 64, 5, 1, Padding::Symmetric(2)),
            ([8, 32, 32, 28], 64, 3, 1, same),
            ([1, 8, 8, 64], 64, 3, 1, same),
            // 36 x 3641 x 256 values are 128 MiB; then a strip of tiles more, and a weight of more.
            ([1, 244, 244, 256], 64, 3, 1, same),
            ([1, 16, 16, 2048], 2048, 3, 1, same),
        ] {
            assert_eq!(chosen(x, cout, kernel, stride, padding), Route::Direct, "{x:?} {cout} {kernel} {stride}");
        }
        assert_eq!(chosen([1, 240, 240, 256], 64, 3, 1, same), four);
    }
}
