//! The transforms of Winograd's convolution, held to first-order bounds: WGSL's additions are off by at most 2 u of the
//! result, so n of them one after the other by (1 + 2 u)^n - 1 of the sum of the terms' magnitudes, which is the same
//! transform by the matrices' magnitudes. A constant that is no f32 counts as one more. Called by `conformance.rs`; the whole route is in `winograd_route`.

use super::addend;
use super::harness::compare::{Twinned, U};
use super::harness::fault::{Fault, Kind};
use super::harness::{Family, Tolerance};
use deme::kernels::conv2d::{Conv2dSpec, Padding, Route, conv2d_by};
use deme::kernels::winograd::{
    winograd_input, winograd_output, winograd_output_backward, winograd_weight, winograd_weight_backward,
};
use deme::recording::Op;
use deme::reference::winograd::{self, TWO, four};
use deme::shader::card::Params;
use deme::shader::cards::winograd::{Tile, WinogradParams, WinogradWeightParams};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("winograd_weight", Tolerance::Custom(weight_bound)),
    ("winograd_weight_backward", Tolerance::Custom(weight_backward_bound)),
    ("winograd_input", Tolerance::Custom(input_bound)),
    ("winograd_output", Tolerance::Custom(output_bound)),
    ("winograd_output_backward", Tolerance::Custom(output_backward_bound)),
];

pub const TILES: [Tile; 2] = [Tile::Two, Tile::Four];

/// Roundings one after the other in each transform; halving is exact.
pub struct Steps {
    pub weight: u32,
    pub input: u32,
    pub output: u32,
    /// With the addition to dw.
    weight_backward: u32,
    output_backward: u32,
}

pub fn steps(tile: Tile) -> Steps {
    match tile {
        Tile::Two => Steps { weight: 4, input: 2, output: 5, weight_backward: 5, output_backward: 2 },
        // Along one side: weight: product, two sums, product, constant; input and output: product, sum, product, sum;
        // weight_backward: constant, product, product, two sums and the first one.
        Tile::Four => Steps { weight: 10, input: 8, output: 9, weight_backward: 13, output_backward: 8 },
    }
}

pub fn relative(steps: u32) -> f64 {
    (1.0 + 2.0 * U).powi(steps as i32) - 1.0
}

pub fn magnitudes<const R: usize, const C: usize>(matrix: &[[f64; C]; R]) -> [[f64; C]; R] {
    matrix.map(|row| row.map(f64::abs))
}

pub fn abs(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// What flushing each of 36 terms below the normal range may lose, the largest factor of all (3.375^2) after it.
pub const TINY: f64 = 36.0 * 12.0 * f32::MIN_POSITIVE as f64;

fn bound(t: &Twinned, steps: u32, transform: impl FnOnce(&mut [f64])) -> Vec<Vec<f64>> {
    let mut sums = vec![0.0; t.outputs[0].len()];
    transform(&mut sums);
    vec![sums.iter().map(|s| relative(steps) * s + TINY).collect()]
}

fn weight_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradWeightParams::of(&t.op.params);
    let (tile, w) = (Tile::of(p.tile), abs(&t.reads[0]));
    bound(t, steps(tile).weight, |sums| match tile {
        Tile::Two => winograd::weight(p, &magnitudes(&TWO.g), &w, sums),
        Tile::Four => winograd::weight(p, &magnitudes(&four().g), &w, sums),
    })
}

fn input_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradParams::of(&t.op.params);
    let (tile, x) = (Tile::of(p.tile), abs(&t.reads[0]));
    bound(t, steps(tile).input, |sums| match tile {
        Tile::Two => winograd::input(p, &magnitudes(&TWO.b_t), &x, sums),
        Tile::Four => winograd::input(p, &magnitudes(&four().b_t), &x, sums),
    })
}

fn output_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradParams::of(&t.op.params);
    let given = [&t.reads[0], &t.reads[1], &t.reads[2]].map(|r| abs(r));
    let given = given.each_ref().map(Vec::as_slice);
    let tile = Tile::of(p.tile);
    // The addend is one more sum.
    bound(t, steps(tile).output + u32::from(p.addend != 0), |sums| match tile {
        Tile::Two => winograd::output(p, &magnitudes(&TWO.a_t), given, sums),
        Tile::Four => winograd::output(p, &magnitudes(&four().a_t), given, sums),
    })
}

fn weight_backward_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradWeightParams::of(&t.op.params);
    let (tile, du, mut sums) = (Tile::of(p.tile), abs(&t.reads[0]), abs(&t.before[0]));
    match tile {
        Tile::Two => winograd::weight_backward(p, &magnitudes(&TWO.g), &du, &mut sums),
        Tile::Four => winograd::weight_backward(p, &magnitudes(&four().g), &du, &mut sums),
    }
    vec![sums.iter().map(|s| relative(steps(tile).weight_backward) * s + TINY).collect()]
}

fn output_backward_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradParams::of(&t.op.params);
    let (tile, dy) = (Tile::of(p.tile), abs(&t.reads[0]));
    bound(t, steps(tile).output_backward, |sums| match tile {
        Tile::Two => winograd::output_backward(p, &magnitudes(&TWO.a_t), &dy, sums),
        Tile::Four => winograd::output_backward(p, &magnitudes(&four().a_t), &dy, sums),
    })
}

/// Batch, height, width, cin, cout.
pub type Case = [u32; 5];

pub const SHAPES: [Case; 25] = [
    [1, 1, 1, 4, 4],
    [1, 1, 2, 4, 8],
    [1, 2, 1, 8, 4],
    [3, 1, 1, 12, 4],
    [1, 2, 2, 4, 4],
    [1, 3, 3, 8, 12],
    [2, 2, 3, 4, 16],
    [2, 3, 2, 16, 4],
    [1, 4, 4, 32, 32],
    [2, 4, 4, 8, 8],
    [1, 5, 5, 4, 20],
    [2, 5, 4, 20, 4],
    [3, 4, 5, 4, 24],
    [1, 6, 6, 36, 8],
    [2, 6, 7, 8, 36],
    [1, 7, 6, 12, 28],
    [2, 7, 7, 28, 12],
    [1, 8, 8, 64, 32],
    [2, 8, 9, 32, 64],
    [1, 9, 8, 96, 4],
    [2, 9, 9, 4, 96],
    [1, 9, 1, 8, 40],
    [1, 1, 9, 40, 8],
    [1, 7, 9, 5, 7],
    [2, 3, 4, 6, 3],
];

pub fn cases(f: &mut Family) {
    for (case, tile) in SHAPES.into_iter().flat_map(|case| TILES.map(|tile| (case, tile))) {
        let [batch, height, width, cin, cout] = case;
        f.case(&format!("{case:?} by {tile:?}"), |b| {
            let x = b.watched("x", &[batch, height, width, cin]);
            let w = b.parameter("w", &[3, 3, cin, cout]);
            let bias = height.is_multiple_of(2).then(|| b.parameter("bias", &[cout]));
            let y = conv2d_by(&mut b.tape, &x, &w, bias.as_ref(), Conv2dSpec::same(3), Route::Winograd(tile))?;
            b.backward(&y)
        });
    }
    addend::transforms(f);
    for (case, tile) in SHAPES.into_iter().flat_map(|case| TILES.map(|tile| (case, tile))) {
        let [batch, width, height, cout, cin] = case;
        f.case(&format!("gradients of the transforms, {case:?} turned, by {tile:?}"), |b| {
            let dy = b.tensor("dy", &[batch, height, width, cout]);
            let (du, dw) = (b.tensor("du", &[tile.places(), cin, cout]), b.tensor("dw", &[3, 3, cin, cout]));
            winograd_output_backward(&mut b.tape.rec, &dy, tile)?;
            winograd_weight_backward(&mut b.tape.rec, &du, tile, &dw)
        });
    }
    let gradients = [[1, 3, 4, 2, 3], [2, 4, 3, 4, 4], [1, 1, 1, 3, 2], [1, 5, 5, 2, 4]];
    for (case, tile) in gradients.into_iter().flat_map(|case| TILES.map(|tile| (case, tile))) {
        f.gradient(&format!("{case:?} by {tile:?}"), |b| {
            let [batch, height, width, cin, cout] = case;
            let x = b.watched("x", &[batch, height, width, cin]);
            let (w, bias) = (b.parameter("w", &[3, 3, cin, cout]), b.parameter("bias", &[cout]));
            conv2d_by(&mut b.tape, &x, &w, Some(&bias), Conv2dSpec::same(3), Route::Winograd(tile))
        });
    }
    for spec in [
        Conv2dSpec { stride: 2, padding: Padding::Symmetric(1) },
        Conv2dSpec { stride: 1, padding: Padding::Symmetric(0) },
        Conv2dSpec { stride: 1, padding: Padding::RightBottom },
    ] {
        f.rejects(&["conv2d", "3x3 at stride 1", "[1, 5, 4, 8]"], |b| {
            let (x, w) = (b.tensor("x", &[1, 5, 4, 8]), b.tensor("w", &[3, 3, 8, 4]));
            conv2d_by(&mut b.tape, &x, &w, None, spec, Route::Winograd(Tile::Four))
        });
    }
    f.rejects(&["winograd_weight", "[1, 3, 4, 4]"], |b| {
        let w = b.tensor("w", &[1, 3, 4, 4]);
        winograd_weight(&mut b.tape.rec, &w, Tile::Two, false)
    });
    f.rejects(&["winograd_input", "[1, 0, 4, 4]"], |b| {
        let x = b.tensor("x", &[1, 0, 4, 4]);
        winograd_input(&mut b.tape.rec, &x, Tile::Two)
    });
    f.rejects(&["winograd_output", "[16, 5, 4]", "[1, 4, 4, 4]"], |b| {
        let (m, y) = (b.tensor("m", &[16, 5, 4]), b.tensor("y", &[1, 4, 4, 4]));
        winograd_output(&mut b.tape.rec, &m, Tile::Two, None, &y)
    });
    f.rejects(&["winograd_output", "[16, 4, 4]", "[1, 4, 4, 4]"], |b| {
        let (m, y) = (b.tensor("m", &[16, 4, 4]), b.tensor("y", &[1, 4, 4, 4]));
        winograd_output(&mut b.tape.rec, &m, Tile::Four, None, &y)
    });
    f.rejects(&["winograd_output", "bias [5]", "[1, 4, 4, 4]"], |b| {
        let (m, y, bias) = (b.tensor("m", &[16, 4, 4]), b.tensor("y", &[1, 4, 4, 4]), b.tensor("bias", &[5]));
        winograd_output(&mut b.tape.rec, &m, Tile::Two, Some(&bias), &y)
    });
    f.rejects(&["winograd_weight_backward", "du [16, 4, 5]", "[3, 3, 4, 4]"], |b| {
        let (du, dw) = (b.tensor("du", &[16, 4, 5]), b.tensor("dw", &[3, 3, 4, 4]));
        winograd_weight_backward(&mut b.tape.rec, &du, Tile::Two, &dw)
    });
    f.rejects(&["winograd_output_backward", "[1, 0, 4, 4]"], |b| {
        let dy = b.tensor("dy", &[1, 0, 4, 4]);
        winograd_output_backward(&mut b.tape.rec, &dy, Tile::Two)
    });
    for (tile, faults) in [(Tile::Two, FAULTS_OF_TWO), (Tile::Four, FAULTS_OF_FOUR), (Tile::Four, FAULTS)] {
        for fault in faults {
            f.catches(fault, |b| {
                let (w, x) = (b.tensor("w", &[3, 3, 8, 12]), b.tensor("x", &[2, 5, 6, 8]));
                winograd_weight(&mut b.tape.rec, &w, tile, true)?;
                winograd_weight(&mut b.tape.rec, &w, tile, false)?;
                let v = winograd_input(&mut b.tape.rec, &x, tile)?;
                let bias = b.tensor("bias", &[8]);
                winograd_output(&mut b.tape.rec, &v, tile, Some(&bias), &x)?;
                winograd_output_backward(&mut b.tape.rec, &x, tile)?;
                let du = b.tensor("du", &[tile.places(), 8, 12]);
                winograd_weight_backward(&mut b.tape.rec, &du, tile, &w)
            });
        }
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 40);
    }
}

pub const fn planted(name: &'static str, stem: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault::shader(name, stem, stem, from, to)
}

/// Each matrix of F(2x2, 3x3).
const FAULTS_OF_TWO: &[Fault] = &[
    planted("a sign of G", "winograd_weight", "(outer_${a}${k} - ${g}1${k})", "(outer_${a}${k} + ${g}1${k})"),
    planted("not halved", "winograd_weight", "0.5 * (outer_${a}${k} +", "1.0 * (outer_${a}${k} +"),
    planted("a sign of B", "winograd_input", "${d}1${k} + ${d}2${k}", "${d}1${k} - ${d}2${k}"),
    planted("a sign of A", "winograd_output", "${m}2${k} - ${m}3${k}", "${m}2${k} + ${m}3${k}"),
    planted("a sign of A turned", "winograd_output_backward", "= -${d}1${k}", "= ${d}1${k}"),
    planted("a sign of G turned", "winograd_weight_backward", "0.5 * (${u}1${k} - ", "0.5 * (${u}1${k} + "),
];

/// Each matrix of F(4x4, 3x3), by a sign or by one constant.
const FAULTS_OF_FOUR: &[Fault] = &[
    planted("a constant of G", "winograd_weight", "${g}0${k} + 0.5625 *", "${g}0${k} + 0.75 *"),
    planted("one over a product", "winograd_weight", "(32.0 / 243.0)", "(32.0 / 243.1)"),
    planted("a sign of B", "winograd_input", "even_${a}${k} - odd_${a}${k}", "even_${a}${k} + odd_${a}${k}"),
    planted("a constant of B", "winograd_input", "2.8125", "2.8124"),
    planted("a sign of A", "winograd_output", "+ 2.25 *", "- 2.25 *"),
    planted("a constant of A", "winograd_output", "0.421875", "0.4219"),
    planted("a constant of A turned", "winograd_output_backward", "1.5 * (", "1.4999 * ("),
    planted("a constant of G turned", "winograd_weight_backward", "64.0 / 81.0", "64.0 / 80.99"),
];

/// What both tiles share.
const FAULTS: &[Fault] = &[
    planted("taps not turned", "winograd_weight", "${8 - tap}u", "${tap}u"),
    planted("wraps round the edge", "winograd_input", " && left + ${c}u < p.width", ""),
    planted("tiles one further apart", "winograd_input", "across) * ${TILE}u - 1u", "across) * ${TILE + 1}u - 1u"),
    planted("of another sample", "winograd_input", "(n * p.height", "((n + 1u) % p.batch * p.height"),
    planted("bias lost", "winograd_output", "${r}_${c} + offset", "${r}_${c}"),
    planted("without the last row", "winograd_output", "top + ${r}u < p.height", "top + ${r + 1}u < p.height"),
    planted("a pixel beyond the last", "winograd_output_backward", " && left + ${c}u < p.width", ""),
    planted("gradient overwritten", "winograd_weight_backward", "] += w", "] = w"),
    Fault { name: "odd width forgotten", word: "winograd_output", kind: Kind::Call(narrower) },
];

fn narrower(op: &mut Op) {
    let p = WinogradParams::of(&op.params);
    op.params = WinogradParams { width: p.width - 1, ..p }.words();
}
