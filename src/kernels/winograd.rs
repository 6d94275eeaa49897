//! Winograd's convolutions F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2015): P = 16 products for 2x2 pixels of y, or P = 36 for
//! 4x4, where the sum has 36 and 144.
//! Called by `kernels::conv2d`. Shapes: x [N, H, W, cin], w [3, 3, cin, cout], y [N, H, W, cout]; with tiles of t pixels a
//! side T = N ceil(H/t) ceil(W/t).

use super::matmul::{matmul_backward_weight, matmul_forward};
use super::{count, own};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::gemm::MatmulParams;
use crate::shader::cards::pointwise::{ADD, CountParams, FILL_ZERO};
use crate::shader::cards::winograd::{
    Tile, WINOGRAD_INPUT, WINOGRAD_OUTPUT, WINOGRAD_OUTPUT_BACKWARD, WINOGRAD_WEIGHT, WINOGRAD_WEIGHT_BACKWARD,
    WinogradParams, WinogradWeightParams,
};
use crate::shape::Shape;

/// The parameters of an image, and its tiles.
fn tiled(op: &'static str, x: &Tensor, tile: Tile) -> Result<(WinogradParams, u32)> {
    let [batch, height, width, channels] = x.shape.nhwc(op)?;
    let p = WinogradParams { batch, height, width, channels, tile: tile.pixels(), has_bias: 0, addend: 0 };
    let values = p.tiles().saturating_mul(u64::from(tile.places()) * u64::from(channels));
    match u32::try_from(p.tiles()) {
        Ok(tiles) if values > 0 && values <= u64::from(u32::MAX) => Ok((p, tiles)),
        _ => Err(Error::shape(op, format!("{} is empty or too large", x.shape))),
    }
}

/// U = G g G^T: w [3, 3, cin, cout] -> u [P, cin, cout]; for the input gradient `turned` by 180 degrees, [P, cout, cin].
pub fn winograd_weight(rec: &mut Recording, w: &Tensor, tile: Tile, turned: bool) -> Result<Tensor> {
    let op = "winograd_weight";
    let [3, 3, cin, cout] = w.shape.nhwc(op)? else {
        return Err(Error::shape(op, format!("w must be [3, 3, cin, cout], got {}", w.shape)));
    };
    let places = tile.places();
    let u = rec.transient(op, Shape::new(if turned { [places, cout, cin] } else { [places, cin, cout] }));
    count(op, &u)?;
    let p = WinogradWeightParams { cin, cout, tile: tile.pixels(), turned: u32::from(turned) };
    rec.push(&WINOGRAD_WEIGHT, &p, &[*w], &[u], &[])?;
    Ok(u)
}

/// dw += G^T dU G: du [P, cin, cout] -> dw [3, 3, cin, cout]
pub fn winograd_weight_backward(rec: &mut Recording, du: &Tensor, tile: Tile, dw: &Tensor) -> Result<()> {
    let op = "winograd_weight_backward";
    let [3, 3, cin, cout] = dw.shape.nhwc(op)? else {
        return Err(Error::shape(op, format!("dw must be [3, 3, cin, cout], got {}", dw.shape)));
    };
    if du.shape != Shape::new([tile.places(), cin, cout]) {
        return Err(Error::shape(op, format!("du {} for dw {}", du.shape, dw.shape)));
    }
    count(op, du)?;
    let p = WinogradWeightParams { cin, cout, tile: tile.pixels(), turned: 0 };
    rec.push(&WINOGRAD_WEIGHT_BACKWARD, &p, &[*du], &[], &[*dw])
}

/// V = B^T d B: x [N, H, W, C] with one zero around -> v [P, T, C]
pub fn winograd_input(rec: &mut Recording, x: &Tensor, tile: Tile) -> Result<Tensor> {
    let (p, tiles) = tiled("winograd_input", x, tile)?;
    let v = rec.transient("winograd_input", Shape::new([tile.places(), tiles, p.channels]));
    rec.push(&WINOGRAD_INPUT, &p, &[*x], &[v], &[])?;
    Ok(v)
}

/// y = A^T M A + bias: m [P, T, C], bias [C] -> y [N, H, W, C]
pub fn winograd_output(rec: &mut Recording, m: &Tensor, tile: Tile, bias: Option<&Tensor>, y: &Tensor) -> Result<()> {
    let op = "winograd_output";
    let (p, tiles) = tiled(op, y, tile)?;
    if m.shape != Shape::new([tile.places(), tiles, p.channels]) {
        return Err(Error::shape(op, format!("m {} for y {}", m.shape, y.shape)));
    }
    if let Some(b) = bias.filter(|b| b.elements() != u64::from(p.channels)) {
        return Err(Error::shape(op, format!("bias {} for y {}", b.shape, y.shape)));
    }
    let p = WinogradParams { has_bias: u32::from(bias.is_some()), ..p };
    let absent = rec.absent();
    rec.push(&WINOGRAD_OUTPUT, &p, &[*m, bias.copied().unwrap_or(absent), absent], &[*y], &[])
}

/// dM = A dy A^T: dy [N, H, W, C] -> dm [P, T, C]
pub fn winograd_output_backward(rec: &mut Recording, dy: &Tensor, tile: Tile) -> Result<Tensor> {
    let (p, tiles) = tiled("winograd_output_backward", dy, tile)?;
    let dm = rec.transient("winograd_output_backward", Shape::new([tile.places(), tiles, p.channels]));
    rec.push(&WINOGRAD_OUTPUT_BACKWARD, &p, &[*dy], &[dm], &[])?;
    Ok(dm)
}

/// The layout of the products of v [places, tiles, cin] and u [places, cin, cout].
fn products([places, tiles, cin]: [u32; 3], cout: u32) -> MatmulParams {
    MatmulParams {
        batch_outer: places,
        x_outer: tiles * cin,
        w_outer: cin * cout,
        y_outer: tiles * cout,
        ..MatmulParams::plain(tiles, cout, cin)
    }
}

/// dw += the gradient of y = x * w: dU = V^T dM at each place, then dw += G^T dU G.
pub(super) fn backward_weight(rec: &mut Recording, x: &Tensor, dy: &Tensor, tile: Tile, dw: &Tensor) -> Result<()> {
    let v = winograd_input(rec, x, tile)?;
    let dm = winograd_output_backward(rec, dy, tile)?;
    let &[places, tiles, cin] = v.shape.dims() else { return Err(Error::shape("winograd", format!("v {}", v.shape))) };
    let cout = dy.shape.last();
    let du = rec.transient("winograd_weight_gradient", Shape::new([places, cin, cout]));
    rec.push(&FILL_ZERO, &CountParams { count: count("winograd", &du)? }, &[], &[du], &[])?;
    matmul_backward_weight(rec, &products([places, tiles, cin], cout), &v, &dm, &du)?;
    winograd_weight_backward(rec, &du, tile, dw)
}

/// y = x * w + bias at stride 1 with one zero around; with w `turned`, x is dy and y is dx.
pub(super) fn winograd(
    rec: &mut Recording,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    (tile, turned): (Tile, bool),
    y: &Tensor,
) -> Result<()> {
    let u = winograd_weight(rec, w, tile, turned)?;
    let v = winograd_input(rec, x, tile)?;
    let &[places, tiles, cin] = v.shape.dims() else { return Err(Error::shape("winograd", format!("v {}", v.shape))) };
    let cout = y.shape.last();
    let m = rec.transient("winograd_products", Shape::new([places, tiles, cout]));
    count("winograd", &m)?;
    matmul_forward(rec, &products([places, tiles, cin], cout), &v, &u, None, &m)?;
    winograd_output(rec, &m, tile, bias, y)
}

/// Every kernel of this family: either tile, channels a multiple of four and not, odd and even sizes, taps turned and not.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("winograd");
    for (side, [cin, cout], turned) in [(5, [8, 12], false), (6, [12, 8], true), (7, [6, 7], false), (4, [7, 6], true)]
    {
        for tile in [Tile::Two, Tile::Four] {
            let name = |label: &str| format!("{label}{side} {tile:?}");
            let x = own(&mut rec, &name("x"), [2, side, side + 1, cin]);
            let w_extents = if turned { [3, 3, cout, cin] } else { [3, 3, cin, cout] };
            let w = own(&mut rec, &name("w"), w_extents);
            let bias = own(&mut rec, &name("bias"), [cout]);
            let [residual, z] = ["residual", "z"].map(|l| own(&mut rec, &name(l), [2, side, side + 1, cout]));
            let y = rec.transient("y", z.shape);
            winograd(&mut rec, &x, &w, Some(&bias).filter(|_| !turned), (tile, turned), &y)?;
            rec.push(&ADD, &CountParams { count: count("winograd", &y)? }, &[y, residual], &[z], &[])?;
            if !turned {
                backward_weight(&mut rec, &x, &z, tile, &w)?;
            }
        }
    }
    Ok(rec.fused())
}
