//! Twins of the transforms of Winograd's convolution F(2x2, 3x3) (`shader::cards::winograd`).
//! Found through `reference::find`; tests call the transforms with other matrices, for bounds.

use std::array::from_fn;

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::winograd::{WinogradParams, WinogradWeightParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("winograd_weight", winograd_weight),
    ("winograd_weight_backward", winograd_weight_backward),
    ("winograd_input", winograd_input),
    ("winograd_output", winograd_output),
    ("winograd_output_backward", winograd_output_backward),
];

/// Lavin and Gray 2015, section 4.1.
pub const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
pub const B_T: [[f64; 4]; 4] =
    [[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0]];
pub const A_T: [[f64; 4]; 2] = [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, -1.0]];

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
pub fn weight(p: WinogradWeightParams, g: &[[f64; 3]; 4], w: &[f64], u: &mut [f64]) {
    let (cin, cout, turned) = (p.cin as usize, p.cout as usize, p.turned != 0);
    for (i, o) in (0..cin).flat_map(|i| (0..cout).map(move |o| (i, o))) {
        let tap = |k: usize| w[(if turned { 8 - k } else { k } * cin + i) * cout + o];
        let entries = transformed(g, from_fn(|r| from_fn(|c| tap(3 * r + c))));
        let to = if turned { o * cin + i } else { i * cout + o };
        entries.as_flattened().iter().enumerate().for_each(|(place, e)| u[place * cin * cout + to] = *e);
    }
}

/// What du, by `g` in place of G, adds to dw.
pub fn weight_backward(p: WinogradWeightParams, g: &[[f64; 3]; 4], du: &[f64], dw: &mut [f64]) {
    let size = (p.cin * p.cout) as usize;
    for i in 0..size {
        let entries = transformed(&turned(g), from_fn(|r| from_fn(|c| du[(4 * r + c) * size + i])));
        entries.as_flattened().iter().enumerate().for_each(|(tap, e)| dw[tap * size + i] += e);
    }
}

/// Where pixel (r, c) of tile `tile` is in the image, as its place among all pixels.
fn pixel(p: WinogradParams, tile: usize, r: i64, c: i64) -> Option<usize> {
    let [height, width] = [p.height, p.width].map(i64::from);
    let [down, across] = [(height + 1) / 2, (width + 1) / 2];
    let tile = tile as i64;
    let (n, y, x) = (tile / (down * across), tile / across % down * 2 + r, tile % across * 2 + c);
    ((0..height).contains(&y) && (0..width).contains(&x)).then_some(((n * height + y) * width + x) as usize)
}

/// v of x, with `b_t` in place of B^T.
pub fn input(p: WinogradParams, b_t: &[[f64; 4]; 4], x: &[f64], v: &mut [f64]) {
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

/// y of m and bias, with `a_t` in place of A^T.
pub fn output(p: WinogradParams, a_t: &[[f64; 4]; 2], m: &[f64], bias: &[f64], y: &mut [f64]) {
    let (channels, tiles) = (p.channels as usize, p.tiles() as usize);
    for (tile, channel) in (0..tiles).flat_map(|t| (0..channels).map(move |c| (t, c))) {
        let at = |r: usize, c: usize| m[((4 * r + c) * tiles + tile) * channels + channel];
        let entries = transformed(a_t, from_fn(|r| from_fn(|c| at(r, c))));
        let offset = if p.has_bias != 0 { bias[channel] } else { 0.0 };
        for (k, e) in entries.as_flattened().iter().enumerate() {
            if let Some(i) = pixel(p, tile, k as i64 / 2, k as i64 % 2) {
                y[i * channels + channel] = e + offset;
            }
        }
    }
}

/// dm of dy, with `a_t` in place of A^T.
pub fn output_backward(p: WinogradParams, a_t: &[[f64; 4]; 2], dy: &[f64], dm: &mut [f64]) {
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
    weight(WinogradWeightParams::of(c.params), &G, &c.reads[0], &mut c.writes[0]);
}

fn winograd_weight_backward(c: &mut Call) {
    weight_backward(WinogradWeightParams::of(c.params), &G, &c.reads[0], &mut c.updates[0]);
}

fn winograd_input(c: &mut Call) {
    input(WinogradParams::of(c.params), &B_T, &c.reads[0], &mut c.writes[0]);
}

fn winograd_output(c: &mut Call) {
    output(WinogradParams::of(c.params), &A_T, &c.reads[0], &c.reads[1], &mut c.writes[0]);
}

fn winograd_output_backward(c: &mut Call) {
    output_backward(WinogradParams::of(c.params), &A_T, &c.reads[0], &mut c.writes[0]);
}
