//! Twins of the transforms of Winograd's convolutions F(2x2, 3x3) and F(4x4, 3x3) (`shader::cards::winograd`).
//! Found through `reference::find`; tests call the transforms with other matrices, for bounds.

use std::array::from_fn;

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::winograd::{Tile, WinogradParams, WinogradWeightParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("winograd_weight", winograd_weight),
    ("winograd_weight_backward", winograd_weight_backward),
    ("winograd_input", winograd_input),
    ("winograd_output", winograd_output),
    ("winograd_output_backward", winograd_output_backward),
];

/// G, B^T and A^T of F(M x M, 3x3), which has N = M + 2 points.
pub struct Matrices<const M: usize, const N: usize> {
    pub g: [[f64; 3]; N],
    pub b_t: [[f64; N]; N],
    pub a_t: [[f64; N]; M],
}

/// Lavin and Gray 2015, section 4.1.
pub const TWO: Matrices<2, 4> = Matrices {
    g: [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]],
    b_t: [[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0]],
    a_t: [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, -1.0]],
};

/// The points of F(4x4, 3x3) but for infinity.
const POINTS: [f64; 5] = [0.0, 0.75, -0.75, 1.5, -1.5];

/// Toom and Cook's construction: A^T has the powers of the points, G those over the product of a point's distances to the others,
/// B^T the coefficients of the product of (x - p) over the other points p, and infinity stands for the highest power.
pub fn four() -> Matrices<4, 6> {
    let others = |i: usize| (0..5).filter(move |&k| k != i).map(|k| POINTS[k]);
    let mut m = Matrices { g: [[0.0; 3]; 6], b_t: [[0.0; 6]; 6], a_t: [[0.0; 6]; 4] };
    for (i, point) in POINTS.into_iter().enumerate() {
        let distances: f64 = others(i).map(|p| point - p).product();
        m.g[i] = from_fn(|power| point.powi(power as i32) / distances);
        m.b_t[i] = coefficients(others(i));
        (0..4).for_each(|power| m.a_t[power][i] = point.powi(power as i32));
    }
    m.g[5][2] = 1.0;
    m.b_t[5] = coefficients(POINTS.into_iter());
    m.a_t[3][5] = 1.0;
    m
}

/// Of the product of (x - root), from the lowest power.
fn coefficients(roots: impl Iterator<Item = f64>) -> [f64; 6] {
    roots.fold([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], |c, root| from_fn(|i| if i > 0 { c[i - 1] } else { 0.0 } - root * c[i]))
}

/// t x t^T
fn transformed<const R: usize, const C: usize>(t: &[[f64; C]; R], x: [[f64; C]; C]) -> [[f64; R]; R] {
    let entry = |i: usize, j: usize| (0..C * C).map(|k| t[i][k / C] * x[k / C][k % C] * t[j][k % C]).sum();
    from_fn(|i| from_fn(|j| entry(i, j)))
}

/// t^T
fn turned<const R: usize, const C: usize>(t: &[[f64; C]; R]) -> [[f64; R]; C] {
    from_fn(|i| from_fn(|j| t[j][i]))
}

/// u of w, with `g` in place of G.
pub fn weight<const N: usize>(p: WinogradWeightParams, g: &[[f64; 3]; N], w: &[f64], u: &mut [f64]) {
    let (cin, cout, turned) = (p.cin as usize, p.cout as usize, p.turned != 0);
    for (i, o) in (0..cin).flat_map(|i| (0..cout).map(move |o| (i, o))) {
        let tap = |k: usize| w[(if turned { 8 - k } else { k } * cin + i) * cout + o];
        let entries = transformed(g, from_fn(|r| from_fn(|c| tap(3 * r + c))));
        let to = if turned { o * cin + i } else { i * cout + o };
        entries.as_flattened().iter().enumerate().for_each(|(place, e)| u[place * cin * cout + to] = *e);
    }
}

/// What du, by `g` in place of G, adds to dw.
pub fn weight_backward<const N: usize>(p: WinogradWeightParams, g: &[[f64; 3]; N], du: &[f64], dw: &mut [f64]) {
    let size = (p.cin * p.cout) as usize;
    for i in 0..size {
        let entries = transformed(&turned(g), from_fn(|r| from_fn(|c| du[(N * r + c) * size + i])));
        entries.as_flattened().iter().enumerate().for_each(|(tap, e)| dw[tap * size + i] += e);
    }
}

/// Where pixel (r, c) of tile `tile` is in the image, as its place among all pixels.
fn pixel(p: WinogradParams, tile: usize, r: i64, c: i64) -> Option<usize> {
    let [height, width, side] = [p.height, p.width, p.tile].map(i64::from);
    let [down, across] = [(height + side - 1) / side, (width + side - 1) / side];
    let tile = tile as i64;
    let (n, y, x) = (tile / (down * across), tile / across % down * side + r, tile % across * side + c);
    ((0..height).contains(&y) && (0..width).contains(&x)).then_some(((n * height + y) * width + x) as usize)
}

/// v of x, with `b_t` in place of B^T.
pub fn input<const N: usize>(p: WinogradParams, b_t: &[[f64; N]; N], x: &[f64], v: &mut [f64]) {
    let (channels, tiles) = (p.channels as usize, p.tiles() as usize);
    for (tile, channel) in (0..tiles).flat_map(|t| (0..channels).map(move |c| (t, c))) {
        let at =
            |r: usize, c: usize| pixel(p, tile, r as i64 - 1, c as i64 - 1).map_or(0.0, |i| x[i * channels + channel]);
        let entries = transformed(b_t, from_fn(|r| from_fn(|c| at(r, c))));
        for (place, e) in entries.as_flattened().iter().enumerate() {
            v[(place * tiles + tile) * channels + channel] = *e;
        }
    }
}

/// y of m, bias and addend, with `a_t` in place of A^T.
pub fn output<const M: usize, const N: usize>(
    p: WinogradParams,
    a_t: &[[f64; N]; M],
    [m, bias, addend]: [&[f64]; 3],
    y: &mut [f64],
) {
    let (channels, tiles) = (p.channels as usize, p.tiles() as usize);
    for (tile, channel) in (0..tiles).flat_map(|t| (0..channels).map(move |c| (t, c))) {
        let at = |r: usize, c: usize| m[((N * r + c) * tiles + tile) * channels + channel];
        let entries = transformed(a_t, from_fn(|r| from_fn(|c| at(r, c))));
        let offset = if p.has_bias != 0 { bias[channel] } else { 0.0 };
        for (k, e) in entries.as_flattened().iter().enumerate() {
            if let Some(i) = pixel(p, tile, (k / M) as i64, (k % M) as i64) {
                y[i * channels + channel] = e + offset + super::addend(addend, p.addend, [i, channel], channels);
            }
        }
    }
}

/// dm of dy, with `a_t` in place of A^T.
pub fn output_backward<const M: usize, const N: usize>(
    p: WinogradParams,
    a_t: &[[f64; N]; M],
    dy: &[f64],
    dm: &mut [f64],
) {
    let (channels, tiles) = (p.channels as usize, p.tiles() as usize);
    for (tile, channel) in (0..tiles).flat_map(|t| (0..channels).map(move |c| (t, c))) {
        let at = |r: usize, c: usize| pixel(p, tile, r as i64, c as i64).map_or(0.0, |i| dy[i * channels + channel]);
        let entries = transformed(&turned(a_t), from_fn(|r| from_fn(|c| at(r, c))));
        for (place, e) in entries.as_flattened().iter().enumerate() {
            dm[(place * tiles + tile) * channels + channel] = *e;
        }
    }
}

fn winograd_weight(c: &mut Call) {
    let p = WinogradWeightParams::of(c.params);
    match Tile::of(p.tile) {
        Tile::Two => weight(p, &TWO.g, &c.reads[0], &mut c.writes[0]),
        Tile::Four => weight(p, &four().g, &c.reads[0], &mut c.writes[0]),
    }
}

fn winograd_weight_backward(c: &mut Call) {
    let p = WinogradWeightParams::of(c.params);
    match Tile::of(p.tile) {
        Tile::Two => weight_backward(p, &TWO.g, &c.reads[0], &mut c.updates[0]),
        Tile::Four => weight_backward(p, &four().g, &c.reads[0], &mut c.updates[0]),
    }
}

fn winograd_input(c: &mut Call) {
    let p = WinogradParams::of(c.params);
    match Tile::of(p.tile) {
        Tile::Two => input(p, &TWO.b_t, &c.reads[0], &mut c.writes[0]),
        Tile::Four => input(p, &four().b_t, &c.reads[0], &mut c.writes[0]),
    }
}

fn winograd_output(c: &mut Call) {
    let (p, given) = (WinogradParams::of(c.params), [&c.reads[0], &c.reads[1], &c.reads[2]].map(Vec::as_slice));
    match Tile::of(p.tile) {
        Tile::Two => output(p, &TWO.a_t, given, &mut c.writes[0]),
        Tile::Four => output(p, &four().a_t, given, &mut c.writes[0]),
    }
}

fn winograd_output_backward(c: &mut Call) {
    let p = WinogradParams::of(c.params);
    match Tile::of(p.tile) {
        Tile::Two => output_backward(p, &TWO.a_t, &c.reads[0], &mut c.writes[0]),
        Tile::Four => output_backward(p, &four().a_t, &c.reads[0], &mut c.writes[0]),
    }
}
