//! Pointwise kernels, and the harness's own planted faults, which need nothing more than an addition.
//! Called by `conformance.rs`.

use super::harness::case::POISON;
use super::harness::compare::{Twinned, U};
use super::harness::device::{GUARD, Words};
use super::harness::fault::{Fault, Kind};
use super::harness::{Family, Tolerance};
use deme::kernels::pointwise::{add, center, scale, silu};
use deme::recording::Op;
use deme::shader::cards::pointwise::{ACCUMULATE, CountParams, FILL_ZERO};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("add", Tolerance::Ulp(1.0)),
    ("accumulate", Tolerance::Ulp(1.0)),
    ("scale", Tolerance::Ulp(1.0)),
    ("fill_zero", Tolerance::Exact),
    ("center", Tolerance::Ulp(1.0)),
    ("silu_forward", Tolerance::Custom(silu_bound)),
    ("silu_backward", Tolerance::Custom(silu_backward_bound)),
];

/// sigmoid(x), and its relative error by WGSL's own bounds: exp is off by at most 3 + 2 |x| ULP, of which the sum passes on
/// the share that is not 1; the sum by 1, the quotient by 2.5.
fn sigmoid(x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-x).exp());
    (s, 2.0 * U * ((3.0 + 2.0 * x.abs()) * (1.0 - s) + 3.5))
}

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

fn silu_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let bound = |&x: &f64| {
        let (s, error) = sigmoid(x);
        (x * s).abs() * error + SMALLEST
    };
    vec![t.reads[0].iter().map(bound).collect()]
}

/// dy s f with f = 1 + x (1 - s): the error of s counts in the product and, absolute, in f; five roundings more.
fn silu_backward_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let bound = |(&x, &dy): (&f64, &f64)| {
        let (s, error) = sigmoid(x);
        let term = x * (1.0 - s);
        let of_f = x.abs() * s * error + 2.0 * U * (2.0 * term.abs() + (1.0 + term).abs());
        (dy * s).abs() * ((1.0 + term).abs() * (error + 4.0 * U) + of_f) + SMALLEST
    };
    vec![t.reads[0].iter().zip(&t.reads[1]).map(bound).collect()]
}

/// One element, primes, one less and one more than workgroups and vectors, four extents.
const SHAPES: &[&[u32]] = &[
    &[1],
    &[2],
    &[3],
    &[7],
    &[63],
    &[64],
    &[65],
    &[127],
    &[255],
    &[256],
    &[257],
    &[1009],
    &[5, 13],
    &[3, 5, 7, 11],
    &[2, 8, 8, 4],
    &[1, 16, 16, 32],
];

/// Pixels, channels stored.
const CENTRED: [[u32; 2]; 16] = [
    [1, 1],
    [1, 4],
    [2, 4],
    [3, 4],
    [7, 4],
    [15, 4],
    [16, 4],
    [17, 4],
    [64, 4],
    [255, 4],
    [256, 4],
    [257, 4],
    [63, 1],
    [5, 7],
    [33, 8],
    [100, 3],
];

pub fn cases(f: &mut Family) {
    for shape in SHAPES {
        f.case(&format!("silu(a + x) / 2 {shape:?}"), |b| {
            let x = b.watched("x", shape);
            let theta = b.parameter("theta", shape);
            let d_fresh = b.tape.rec.transient("fresh", x.shape);
            b.tape.rec.push(&FILL_ZERO, &CountParams { count: x.elements() as u32 }, &[], &[d_fresh], &[])?;
            let y = add(&mut b.tape, &x, &theta)?;
            let y = silu(&mut b.tape, &y)?;
            let y = scale(&mut b.tape, &y, 0.5)?;
            b.backward(&y)
        });
    }
    for (i, &[pixels, stride]) in CENTRED.iter().enumerate() {
        f.case(&format!("2 x - 1 of {pixels} x {stride}"), |b| {
            let x = b.watched("x", &[pixels, stride]);
            let y = center(&mut b.tape, &x, 1 + i as u32 % stride)?;
            b.backward(&y)
        });
    }
    f.rejects(&["center", "5 channels", "[2, 4]"], |b| {
        let x = b.tensor("x", &[2, 4]);
        center(&mut b.tape, &x, 5).map(drop)
    });
    // Above 65,535 workgroups the grid folds into two dimensions.
    f.case("folded grid", |b| {
        let x = b.tensor("x", &[1_050_000, 4]);
        center(&mut b.tape, &x, 3).map(drop)
    });
    f.gradient("silu(a + x) / 2, x used twice", |b| {
        let x = b.watched("x", &[5, 9]);
        let theta = b.parameter("theta", &[5, 9]);
        let y = add(&mut b.tape, &x, &theta)?;
        let y = silu(&mut b.tape, &y)?;
        let y = add(&mut b.tape, &y, &x)?;
        let z = scale(&mut b.tape, &y, 0.5)?;
        add(&mut b.tape, &z, &z)
    });
    f.rejects(&["add", "[2, 3]", "[3, 2]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 3]), b.tensor("y", &[3, 2]));
        add(&mut b.tape, &x, &y)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let (x, y) = (b.tensor("x", &[300]), b.tensor("y", &[300]));
            let z = scale(&mut b.tape, &x, -0.5)?;
            let z = add(&mut b.tape, &z, &y)?;
            silu(&mut b.tape, &z)?;
            b.tape.rec.push(&ACCUMULATE, &CountParams { count: 300 }, &[x], &[], &[y])?;
            let fresh = b.tape.rec.transient("fresh", x.shape);
            b.tape.rec.push(&FILL_ZERO, &CountParams { count: 300 }, &[], &[fresh], &[])
        });
    }
    for word in ["add", "accumulate", "scale", "fill_zero", "silu_forward", "silu_backward", "center"] {
        f.floor(word, 16);
    }
}

/// The words of the op's first output, guards excluded, and where it starts.
fn output<'a>(op: &Op, words: &'a mut Words) -> &'a mut [u32] {
    let t = op.writes.first().unwrap_or_else(|| &op.updates[0]);
    let start = GUARD + t.offset as usize;
    &mut words.get_mut(&(t.buffer.0 as usize)).unwrap()[start..start + t.elements() as usize]
}

const fn result(name: &'static str, change: ResultChange) -> Fault {
    Fault { name, word: "add", kind: Kind::Result(change) }
}

type ResultChange = fn(usize, &Op, &mut Words);

const FAULTS: &[Fault] = &[
    Fault::shader("off by one in the bound", "add", "add", "first + 512u, count)", "first + 512u, count - 1u)"),
    Fault::shader("off by one in the index", "add", "add", "y[i]", "y[max(i, 1u) - 1u]"),
    Fault::shader("one lane of each group idle", "add", "add", "512u + lane;", "512u + min(lane, 62u);"),
    Fault::shader("second round lost", "add", "add", "i += 64u", "i += 128u"),
    Fault::shader("x 0.999", "scale", "scale", "params.factor * x[i]", "params.factor * x[i] * 0.999"),
    Fault::shader("x (1 + 2^-20)", "scale", "scale", "params.factor * x[i]", "params.factor * x[i] * 1.00000095"),
    Fault::shader("sign lost", "scale", "scale", "params.factor * x[i]", "abs(params.factor * x[i])"),
    Fault::shader("minus for plus", "add", "add", "x[i] + y[i]", "x[i] - y[i]"),
    Fault::shader("operand lost", "add", "add", "x[i] + y[i]", "x[i]"),
    Fault::shader("rounded to f16", "add", "add", "x[i] + y[i]", "quantizeToF16(x[i] + y[i])"),
    Fault::shader("lost accumulation", "accumulate", "accumulate", "y[i] +=", "y[i] ="),
    Fault::shader("accumulated twice", "accumulate", "accumulate", "+= x[i]", "+= 2.0 * x[i]"),
    Fault::shader(
        "infinity",
        "silu_forward",
        "silu_forward",
        "v / (1.0 + exp(-v))",
        "v / (exp(-v) * f32(params.count - params.count))",
    ),
    Fault::shader("sigmoid for SiLU", "silu_forward", "silu_forward", "v / (1.0", "1.0 / (1.0"),
    Fault::shader("coarse exp", "silu_forward", "silu_forward", "exp(-v)", "pow(1.0 - v / 64.0, Lanes(64.0))"),
    Fault::shader("nothing written", "fill_zero", "fill_zero", "y[i] = Lanes();", ""),
    Fault::shader("minus zero", "fill_zero", "fill_zero", "y[i] = Lanes();", "y[i] = Lanes(-0.0);"),
    Fault {
        name: "swapped inputs",
        word: "accumulate",
        kind: Kind::Call(|op| std::mem::swap(&mut op.reads[0], &mut op.updates[0])),
    },
    Fault { name: "a load of f16 taken for f32", word: "silu_forward", kind: Kind::Elements(|op| op.half &= !1) },
    Fault { name: "a store of f16 left in f32", word: "silu_forward", kind: Kind::Elements(|op| op.half &= !2) },
    Fault { name: "f32 loaded as f16", word: "add", kind: Kind::Elements(|op| op.half ^= 2) },
    Fault { name: "same input twice", word: "add", kind: Kind::Call(|op| op.reads[1] = op.reads[0]) },
    Fault { name: "one element fewer", word: "add", kind: Kind::Call(|op| op.params[0] -= 1) },
    Fault { name: "another factor", word: "scale", kind: Kind::Call(|op| op.params[1] = 0.5f32.to_bits()) },
    result("one NaN", |_, op, words| output(op, words)[17] = f32::NAN.to_bits()),
    result("one element still poisoned", |_, op, words| output(op, words)[299] = POISON),
    result("one element infinite", |_, op, words| output(op, words)[0] = f32::INFINITY.to_bits()),
    result("two elements swapped", |_, op, words| output(op, words).swap(3, 4)),
    result("shifted by one", |_, op, words| output(op, words).rotate_left(1)),
    result("last bits differ in a rerun", |run, op, words| {
        if run == 2 {
            output(op, words)[5] ^= 1;
        }
    }),
    result("stray write before", |_, op, words| {
        let t = op.writes[0];
        words.get_mut(&(t.buffer.0 as usize)).unwrap()[GUARD - 1] = 0;
    }),
    result("stray write behind", |_, op, words| {
        let t = op.writes[0];
        words.get_mut(&(t.buffer.0 as usize)).unwrap()[GUARD + 300] = 0;
    }),
    result("write to an input", |_, op, words| {
        let t = op.reads[0];
        words.get_mut(&(t.buffer.0 as usize)).unwrap()[GUARD + 7] ^= 1;
    }),
    result("buffer cut short", |_, op, words| {
        let t = op.writes[0];
        words.get_mut(&(t.buffer.0 as usize)).unwrap().pop();
    }),
];
