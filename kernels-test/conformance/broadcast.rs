//! An activation with one value a sample and channel, and sums over pixels.
//! Called by `conformance.rs`.

use super::harness::fault::{Fault, Kind};
use super::harness::{Family, Tolerance};
use deme::kernels::broadcast::{add_channel_bias, scale_shift};
use deme::kernels::pointwise::add;
use deme::recording::Op;
use deme::shader::card::Params;
use deme::shader::cards::broadcast::SumPixelsParams;

fn chunk(op: &Op) -> u64 {
    u64::from(SumPixelsParams::of(&op.params).chunk)
}

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("add_channel_bias", Tolerance::Ulp(1.0)),
    ("sum_pixels", Tolerance::Sum(chunk)),
    ("scale_shift_forward", Tolerance::Sum(|_| 3)),
    ("scale_shift_backward_input", Tolerance::Sum(|_| 2)),
    ("scale_shift_backward_scale", Tolerance::Sum(|op| chunk(op) + 1)),
];

/// Samples, pixels, channels.
const SHAPES: [[u32; 3]; 20] = [
    [1, 1, 1],
    [1, 1, 4],
    [2, 1, 3],
    [1, 2, 8],
    [3, 5, 7],
    [2, 16, 4],
    [2, 17, 4],
    [1, 15, 5],
    [4, 64, 32],
    [1, 64, 256],
    [2, 63, 12],
    [2, 65, 20],
    [1, 255, 4],
    [1, 256, 1],
    [1, 257, 6],
    [8, 49, 36],
    [1, 1024, 32],
    [1, 2048, 3],
    [31, 3, 31],
    [2, 400, 64],
];

pub fn cases(f: &mut Family) {
    for [n, p, c] in SHAPES {
        f.case(&format!("bias, scale and shift of {n}x{p}x{c}"), |b| {
            let x = b.watched("x", &[n, p, c]);
            let t = b.watched("t", &[n, c]);
            let (scale, shift) = (b.watched("scale", &[n, c]), b.watched("shift", &[n, c]));
            let y = add_channel_bias(&mut b.tape, &x, &t)?;
            let y = scale_shift(&mut b.tape, &y, &scale, &shift)?;
            b.backward(&y)
        });
    }
    f.gradient("bias", |b| {
        let (x, t) = (b.watched("x", &[2, 3, 4, 5]), b.watched("t", &[2, 5]));
        add_channel_bias(&mut b.tape, &x, &t)
    });
    f.gradient("x + x, one pixel", |b| {
        let x = b.watched("x", &[3, 1, 4]);
        add_channel_bias(&mut b.tape, &x, &x)
    });
    f.gradient("scale and shift by the same, and a skip", |b| {
        let (x, t) = (b.watched("x", &[2, 20, 4]), b.watched("t", &[2, 1, 4]));
        let y = scale_shift(&mut b.tape, &x, &t, &t)?;
        add(&mut b.tape, &x, &y)
    });
    f.gradient("x scaled by x", |b| {
        let x = b.watched("x", &[3, 1, 7]);
        scale_shift(&mut b.tape, &x, &x, &x)
    });
    f.rejects(&["add_channel_bias", "[2, 3, 4, 5]", "[5, 2]"], |b| {
        let (x, t) = (b.tensor("x", &[2, 3, 4, 5]), b.tensor("t", &[5, 2]));
        add_channel_bias(&mut b.tape, &x, &t)
    });
    f.rejects(&["scale_shift", "shift", "[2, 3, 4]", "[1, 4]"], |b| {
        let (x, s, t) = (b.tensor("x", &[2, 3, 4]), b.tensor("s", &[2, 4]), b.tensor("t", &[1, 4]));
        scale_shift(&mut b.tape, &x, &s, &t)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let x = b.watched("x", &[2, 40, 8]);
            let (t, s) = (b.watched("t", &[2, 8]), b.watched("s", &[2, 8]));
            let y = add_channel_bias(&mut b.tape, &x, &t)?;
            let y = scale_shift(&mut b.tape, &y, &s, &t)?;
            b.backward(&y)
        });
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 20);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader("another sample's bias", "add_channel_bias", "add_channel_bias", "t[n * width + c]", "t[c]"),
    Fault::shader("last pixel of a chunk lost", "sum_pixels", "sum_pixels", "p < count", "p + 1u < count"),
    Fault::shader("without the 1", "scale_shift_forward", "scale_shift_forward", "1.0 + scale", "scale"),
    Fault::shader(
        "scale for factor",
        "scale_shift_backward_input",
        "scale_shift_backward_input",
        "1.0 + scale",
        "scale",
    ),
    Fault {
        name: "x exchanged with x",
        word: "scale_shift_backward_scale",
        kind: Kind::Call(|op| op.reads[1] = op.reads[0]),
    },
];
