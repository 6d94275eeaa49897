//! The transforms of Winograd's convolution, held to first-order bounds: WGSL's additions are off by at most 2 u of the
//! result, so n of them one after the other by (1 + 2 u)^n - 1 of the sum of the terms' magnitudes, which is the same
//! transform by the matrices' magnitudes. Called by `conformance.rs`; the whole route is in `winograd_route`.

use super::harness::compare::{Twinned, U};
use super::harness::fault::{Fault, Kind};
use super::harness::{Family, Tolerance};
use deme::kernels::conv2d::{Conv2dSpec, Padding, Route, conv2d_by};
use deme::kernels::winograd::{
    winograd_input, winograd_output, winograd_output_backward, winograd_weight, winograd_weight_backward,
};
use deme::recording::Op;
use deme::reference::winograd::{self, A_T, B_T, G};
use deme::shader::card::Params;
use deme::shader::cards::winograd::{WinogradParams, WinogradWeightParams};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("winograd_weight", Tolerance::Custom(weight_bound)),
    ("winograd_weight_backward", Tolerance::Custom(weight_backward_bound)),
    ("winograd_input", Tolerance::Custom(input_bound)),
    ("winograd_output", Tolerance::Custom(output_bound)),
    ("winograd_output_backward", Tolerance::Custom(output_backward_bound)),
];

/// Operations one after the other: halving is exact.
pub const WEIGHT_STEPS: u32 = 4;
pub const INPUT_STEPS: u32 = 2;
pub const OUTPUT_STEPS: u32 = 5;
/// Two sums of three terms, and the addition to dw.
pub const WEIGHT_BACKWARD_STEPS: u32 = 5;
pub const OUTPUT_BACKWARD_STEPS: u32 = 2;

pub fn relative(steps: u32) -> f64 {
    (1.0 + 2.0 * U).powi(steps as i32) - 1.0
}

pub fn magnitudes<const R: usize, const C: usize>(matrix: &[[f64; C]; R]) -> [[f64; C]; R] {
    matrix.map(|row| row.map(f64::abs))
}

pub fn abs(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// What flushing each of 16 terms below the normal range may lose.
pub const TINY: f64 = 16.0 * f32::MIN_POSITIVE as f64;

fn bound(t: &Twinned, steps: u32, transform: impl FnOnce(&mut [f64])) -> Vec<Vec<f64>> {
    let mut sums = vec![0.0; t.outputs[0].len()];
    transform(&mut sums);
    vec![sums.iter().map(|s| relative(steps) * s + TINY).collect()]
}

fn weight_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradWeightParams::of(&t.op.params);
    bound(t, WEIGHT_STEPS, |sums| winograd::weight(p, &magnitudes(&G), &abs(&t.reads[0]), sums))
}

fn input_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradParams::of(&t.op.params);
    bound(t, INPUT_STEPS, |sums| winograd::input(p, &magnitudes(&B_T), &abs(&t.reads[0]), sums))
}

fn output_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradParams::of(&t.op.params);
    let [m, bias] = [&t.reads[0], &t.reads[1]].map(|r| abs(r));
    bound(t, OUTPUT_STEPS, |sums| winograd::output(p, &magnitudes(&A_T), &m, &bias, sums))
}

fn weight_backward_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradWeightParams::of(&t.op.params);
    let mut sums = abs(&t.before[0]);
    winograd::weight_backward(p, &magnitudes(&G), &abs(&t.reads[0]), &mut sums);
    vec![sums.iter().map(|s| relative(WEIGHT_BACKWARD_STEPS) * s + TINY).collect()]
}

fn output_backward_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WinogradParams::of(&t.op.params);
    bound(t, OUTPUT_BACKWARD_STEPS, |sums| winograd::output_backward(p, &magnitudes(&A_T), &abs(&t.reads[0]), sums))
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
    for case in SHAPES {
        let [batch, height, width, cin, cout] = case;
        f.case(&format!("{case:?}"), |b| {
            let x = b.watched("x", &[batch, height, width, cin]);
            let w = b.parameter("w", &[3, 3, cin, cout]);
            let bias = height.is_multiple_of(2).then(|| b.parameter("bias", &[cout]));
            let y = conv2d_by(&mut b.tape, &x, &w, bias.as_ref(), Conv2dSpec::same(3), Route::Winograd)?;
            b.backward(&y)
        });
    }
    for case in SHAPES {
        let [batch, width, height, cout, cin] = case;
        f.case(&format!("gradients of the transforms, {case:?} turned"), |b| {
            let (dy, du) = (b.tensor("dy", &[batch, height, width, cout]), b.tensor("du", &[16, cin, cout]));
            let dw = b.tensor("dw", &[3, 3, cin, cout]);
            winograd_output_backward(&mut b.tape.rec, &dy)?;
            winograd_weight_backward(&mut b.tape.rec, &du, &dw)
        });
    }
    for case in [[1, 3, 4, 2, 3], [2, 4, 3, 4, 4], [1, 1, 1, 3, 2], [1, 5, 5, 2, 4]] {
        f.gradient(&format!("{case:?}"), |b| {
            let [batch, height, width, cin, cout] = case;
            let x = b.watched("x", &[batch, height, width, cin]);
            let (w, bias) = (b.parameter("w", &[3, 3, cin, cout]), b.parameter("bias", &[cout]));
            conv2d_by(&mut b.tape, &x, &w, Some(&bias), Conv2dSpec::same(3), Route::Winograd)
        });
    }
    for spec in [
        Conv2dSpec { stride: 2, padding: Padding::Symmetric(1) },
        Conv2dSpec { stride: 1, padding: Padding::Symmetric(0) },
        Conv2dSpec { stride: 1, padding: Padding::RightBottom },
    ] {
        f.rejects(&["conv2d", "3x3 at stride 1", "[1, 5, 4, 8]"], |b| {
            let (x, w) = (b.tensor("x", &[1, 5, 4, 8]), b.tensor("w", &[3, 3, 8, 4]));
            conv2d_by(&mut b.tape, &x, &w, None, spec, Route::Winograd)
        });
    }
    f.rejects(&["winograd_weight", "[1, 3, 4, 4]"], |b| {
        let w = b.tensor("w", &[1, 3, 4, 4]);
        winograd_weight(&mut b.tape.rec, &w, false)
    });
    f.rejects(&["winograd_input", "[1, 0, 4, 4]"], |b| {
        let x = b.tensor("x", &[1, 0, 4, 4]);
        winograd_input(&mut b.tape.rec, &x)
    });
    f.rejects(&["winograd_output", "[16, 5, 4]", "[1, 4, 4, 4]"], |b| {
        let (m, y) = (b.tensor("m", &[16, 5, 4]), b.tensor("y", &[1, 4, 4, 4]));
        winograd_output(&mut b.tape.rec, &m, None, &y)
    });
    f.rejects(&["winograd_output", "bias [5]", "[1, 4, 4, 4]"], |b| {
        let (m, y, bias) = (b.tensor("m", &[16, 4, 4]), b.tensor("y", &[1, 4, 4, 4]), b.tensor("bias", &[5]));
        winograd_output(&mut b.tape.rec, &m, Some(&bias), &y)
    });
    f.rejects(&["winograd_weight_backward", "du [16, 4, 5]", "[3, 3, 4, 4]"], |b| {
        let (du, dw) = (b.tensor("du", &[16, 4, 5]), b.tensor("dw", &[3, 3, 4, 4]));
        winograd_weight_backward(&mut b.tape.rec, &du, &dw)
    });
    f.rejects(&["winograd_output_backward", "[1, 0, 4, 4]"], |b| {
        let dy = b.tensor("dy", &[1, 0, 4, 4]);
        winograd_output_backward(&mut b.tape.rec, &dy)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let (w, x) = (b.tensor("w", &[3, 3, 8, 12]), b.tensor("x", &[2, 5, 6, 8]));
            winograd_weight(&mut b.tape.rec, &w, true)?;
            winograd_weight(&mut b.tape.rec, &w, false)?;
            let v = winograd_input(&mut b.tape.rec, &x)?;
            let bias = b.tensor("bias", &[8]);
            winograd_output(&mut b.tape.rec, &v, Some(&bias), &x)?;
            winograd_output_backward(&mut b.tape.rec, &x)?;
            let du = b.tensor("du", &[16, 8, 12]);
            winograd_weight_backward(&mut b.tape.rec, &du, &w)
        });
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 40);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader("taps not turned", "winograd_weight", "winograd_weight", "${8 - tap}u", "${tap}u"),
    Fault::shader("a sign of G", "winograd_weight", "winograd_weight", "(both${r} - a${r}1)", "(both${r} + a${r}1)"),
    Fault::shader("not halved", "winograd_weight", "winograd_weight", "0.5 * (outer${c} +", "1.0 * (outer${c} +"),
    Fault::shader("a sign of B", "winograd_input", "winograd_input", "d1${c} + d2${c}", "d1${c} - d2${c}"),
    Fault::shader("wraps round the edge", "winograd_input", "winograd_input", " && left + ${c}u < p.width", ""),
    Fault::shader("tiles three apart", "winograd_input", "winograd_input", "across) * 2u - 1u", "across) * 3u - 1u"),
    Fault::shader(
        "of another sample",
        "winograd_input",
        "winograd_input",
        "(n * p.height",
        "((n + 1u) % p.batch * p.height",
    ),
    Fault::shader("a sign of A", "winograd_output", "winograd_output", "m2${c} - m3${c}", "m2${c} + m3${c}"),
    Fault::shader("bias lost", "winograd_output", "winograd_output", "a03 + offset", "a03"),
    Fault::shader("past the last row", "winograd_output", "winograd_output", "top + 1u < p.height", "top < p.height"),
    Fault::shader(
        "a sign of A turned",
        "winograd_output_backward",
        "winograd_output_backward",
        "= -d1${c}",
        "= d1${c}",
    ),
    Fault::shader(
        "a pixel beyond the last",
        "winograd_output_backward",
        "winograd_output_backward",
        "], below);",
        "], true);",
    ),
    Fault::shader(
        "a sign of G turned",
        "winograd_weight_backward",
        "winograd_weight_backward",
        "0.5 * (u1${c} - u2${c})",
        "0.5 * (u1${c} + u2${c})",
    ),
    Fault::shader("gradient overwritten", "winograd_weight_backward", "winograd_weight_backward", "] += a", "] = a"),
    Fault { name: "odd width forgotten", word: "winograd_output", kind: Kind::Call(narrower) },
];

fn narrower(op: &mut Op) {
    let p = WinogradParams::of(&op.params);
    op.params = WinogradParams { width: p.width - 1, ..p }.words();
}
