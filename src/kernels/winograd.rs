//! Winograd's convolution F(2x2, 3x3) (Lavin and Gray 2015): 16 products for 2x2 pixels of y where the sum has 36.
//! Called by `kernels::conv2d`. Shapes: x [N, H, W, cin], w [3, 3, cin, cout], y [N, H, W, cout], T = N ceil(H/2) ceil(W/2).

use super::matmul::{matmul_backward_weight, matmul_forward};
use super::{count, own};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::gemm::MatmulParams;
use crate::shader::cards::pointwise::{CountParams, FILL_ZERO};
use crate::shader::cards::winograd::{
    PLACES, WINOGRAD_INPUT, WINOGRAD_OUTPUT, WINOGRAD_OUTPUT_BACKWARD, WINOGRAD_WEIGHT, WINOGRAD_WEIGHT_BACKWARD,
    WinogradParams, WinogradWeightParams,
};
use crate::shape::Shape;

/// The parameters of an image, and its tiles.
fn tiled(op: &'static str, x: &Tensor) -> Result<(WinogradParams, u32)> {
    let [batch, height, width, channels] = x.shape.nhwc(op)?;
    let p = WinogradParams { batch, height, width, channels, has_bias: 0 };
    let values = p.tiles().saturating_mul(u64::from(PLACES) * u64::from(channels));
    match u32::try_from(p.tiles()) {
        Ok(tiles) if values > 0 && values <= u64::from(u32::MAX) => Ok((p, tiles)),
        _ => Err(Error::shape(op, format!("{} is empty or too large", x.shape))),
    }
}

/// U = G g G^T: w [3, 3, cin, cout] -> u [16, cin, cout]; for the input gradient `turned` by 180 degrees, [16, cout, cin].
pub fn winograd_weight(rec: &mut Recording, w: &Tensor, turned: bool) -> Result<Tensor> {
    let op = "winograd_weight";
    let [3, 3, cin, cout] = w.shape.nhwc(op)? else {
        return Err(Error::shape(op, format!("w must be [3, 3, cin, cout], got {}", w.shape)));
    };
    let u = rec.transient(op, Shape::new(if turned { [PLACES, cout, cin] } else { [PLACES, cin, cout] }));
    count(op, &u)?;
    rec.push(&WINOGRAD_WEIGHT, &WinogradWeightParams { cin, cout, turned: u32::from(turned) }, &[*w], &[u], &[])?;
    Ok(u)
}

/// dw += G^T dU G: du [16, cin, cout] -> dw [3, 3, cin, cout]
pub fn winograd_weight_backward(rec: &mut Recording, du: &Tensor, dw: &Tensor) -> Result<()> {
    let op = "winograd_weight_backward";
    let [3, 3, cin, cout] = dw.shape.nhwc(op)? else {
        return Err(Error::shape(op, format!("dw must be [3, 3, cin, cout], got {}", dw.shape)));
    };
    if du.shape != Shape::new([PLACES, cin, cout]) {
        return Err(Error::shape(op, format!("du {} for dw {}", du.shape, dw.shape)));
    }
    count(op, du)?;
    rec.push(&WINOGRAD_WEIGHT_BACKWARD, &WinogradWeightParams { cin, cout, turned: 0 }, &[*du], &[], &[*dw])
}

/// V = B^T d B: x [N, H, W, C] with one zero around -> v [16, T, C]
pub fn winograd_input(rec: &mut Recording, x: &Tensor) -> Result<Tensor> {
    let (p, tiles) = tiled("winograd_input", x)?;
    let v = rec.transient("winograd_input", Shape::new([PLACES, tiles, p.channels]));
    rec.push(&WINOGRAD_INPUT, &p, &[*x], &[v], &[])?;
    Ok(v)
}

/// y = A^T M A + bias: m [16, T, C], bias [C] -> y [N, H, W, C]
pub fn winograd_output(rec: &mut Recording, m: &Tensor, bias: Option<&Tensor>, y: &Tensor) -> Result<()> {
    let op = "winograd_output";
    let (p, tiles) = tiled(op, y)?;
    if m.shape != Shape::new([PLACES, tiles, p.channels]) {
        return Err(Error::shape(op, format!("m {} for y {}", m.shape, y.shape)));
    }
    if let Some(b) = bias.filter(|b| b.elements() != u64::from(p.channels)) {
        return Err(Error::shape(op, format!("bias {} for y {}", b.shape, y.shape)));
    }
    let p = WinogradParams { has_bias: u32::from(bias.is_some()), ..p };
    let bias = bias.copied().unwrap_or_else(|| rec.absent());
    rec.push(&WINOGRAD_OUTPUT, &p, &[*m, bias], &[*y], &[])
}

/// dM = A dy A^T: dy [N, H, W, C] -> dm [16, T, C]
pub fn winograd_output_backward(rec: &mut Recording, dy: &Tensor) -> Result<Tensor> {
    let (p, tiles) = tiled("winograd_output_backward", dy)?;
    let dm = rec.transient("winograd_output_backward", Shape::new([PLACES, tiles, p.channels]));
    rec.push(&WINOGRAD_OUTPUT_BACKWARD, &p, &[*dy], &[dm], &[])?;
    Ok(dm)
}

/// The layout of 16 products of v [16, tiles, cin] and u [16, cin, cout].
fn products(tiles: u32, cout: u32, cin: u32) -> MatmulParams {
    MatmulParams {
        batch_outer: PLACES,
        x_outer: tiles * cin,
        w_outer: cin * cout,
        y_outer: tiles * cout,
        ..MatmulParams::plain(tiles, cout, cin)
    }
}

/// dw += the gradient of y = x * w: dU = V^T dM at each place, then dw += G^T dU G.
pub(super) fn backward_weight(rec: &mut Recording, x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let v = winograd_input(rec, x)?;
    let dm = winograd_output_backward(rec, dy)?;
    let [_, tiles, cin] = v.shape.dims() else { return Err(Error::shape("winograd", format!("v {}", v.shape))) };
    let (tiles, cin, cout) = (*tiles, *cin, dy.shape.last());
    let du = rec.transient("winograd_weight_gradient", Shape::new([PLACES, cin, cout]));
    rec.push(&FILL_ZERO, &CountParams { count: count("winograd", &du)? }, &[], &[du], &[])?;
    matmul_backward_weight(rec, &products(tiles, cout, cin), &v, &dm, &du)?;
    winograd_weight_backward(rec, &du, dw)
}

/// y = x * w + bias at stride 1 with one zero around; with w `turned`, x is dy and y is dx.
pub(super) fn winograd(
    rec: &mut Recording,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    turned: bool,
    y: &Tensor,
) -> Result<()> {
    let u = winograd_weight(rec, w, turned)?;
    let v = winograd_input(rec, x)?;
    let [_, tiles, cin] = v.shape.dims() else { return Err(Error::shape("winograd", format!("v {}", v.shape))) };
    let (tiles, cin, cout) = (*tiles, *cin, y.shape.last());
    let m = rec.transient("winograd_products", Shape::new([PLACES, tiles, cout]));
    count("winograd", &m)?;
    matmul_forward(rec, &products(tiles, cout, cin), &v, &u, None, &m)?;
    winograd_output(rec, &m, bias, y)
}

/// Every kernel of this family: channels a multiple of four and not, odd and even sizes, taps turned and not.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("winograd");
    for (side, [cin, cout], turned) in [(5, [8, 12], false), (6, [12, 8], true), (7, [6, 7], false), (4, [7, 6], true)]
    {
        let x = own(&mut rec, &format!("x{side}"), [2, side, side + 1, cin]);
        let w_extents = if turned { [3, 3, cout, cin] } else { [3, 3, cin, cout] };
        let w = own(&mut rec, &format!("w{side}"), w_extents);
        let bias = own(&mut rec, &format!("bias{side}"), [cout]);
        let y = own(&mut rec, &format!("y{side}"), [2, side, side + 1, cout]);
        winograd(&mut rec, &x, &w, Some(&bias).filter(|_| !turned), turned, &y)?;
        if !turned {
            backward_weight(&mut rec, &x, &y, &w)?;
        }
    }
    Ok(rec)
}
