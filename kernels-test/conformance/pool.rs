//! Pooling, clamping and depthwise convolution of the networks that judge images.
//! Called by `conformance.rs`.

use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::kernels::pool::{Window, average_pool, clamp_values, depthwise_conv2d, max_pool};
use deme::shader::card::Params;
use deme::shader::cards::pool::PoolParams;

fn taps(op: &deme::recording::Op) -> u64 {
    u64::from(PoolParams::of(&op.params).kernel).pow(2)
}

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("max_pool", Tolerance::Exact),
    ("average_pool", Tolerance::Sum(|op| taps(op) + 1)),
    ("clamp_values", Tolerance::Exact),
    ("depthwise_conv2d", Tolerance::Sum(|op| taps(op) + 1)),
];

/// Images, and (kernel, stride, pad).
const CASES: [([u32; 4], [u32; 3]); 18] = [
    ([1, 1, 1, 1], [1, 1, 0]),
    ([1, 1, 1, 4], [3, 1, 1]),
    ([2, 3, 3, 5], [3, 2, 0]),
    ([1, 5, 7, 8], [3, 2, 1]),
    ([3, 4, 4, 3], [2, 2, 0]),
    ([1, 8, 8, 16], [8, 1, 0]),
    ([2, 7, 7, 12], [7, 7, 0]),
    ([1, 17, 17, 4], [3, 2, 0]),
    ([1, 35, 35, 8], [3, 1, 1]),
    ([2, 6, 5, 7], [5, 1, 2]),
    ([1, 2, 9, 32], [2, 1, 1]),
    ([1, 9, 2, 31], [3, 3, 1]),
    ([4, 3, 1, 4], [3, 1, 2]),
    ([1, 14, 14, 24], [3, 2, 1]),
    ([1, 1, 33, 6], [1, 4, 0]),
    ([5, 8, 8, 64], [3, 1, 1]),
    ([1, 12, 11, 2], [4, 3, 1]),
    ([2, 10, 10, 20], [3, 2, 1]),
];

pub fn cases(f: &mut Family) {
    for ([n, h, w, c], [kernel, stride, pad]) in CASES {
        let window = Window { kernel, stride, pad };
        f.case(&format!("{n}x{h}x{w}x{c} by {kernel}s{stride}p{pad}"), |b| {
            let x = b.tensor("x", &[n, h, w, c]);
            let (weights, bias) = (b.tensor("w", &[kernel * kernel, c]), b.tensor("bias", &[c]));
            let rec = &mut b.tape.rec;
            max_pool(rec, &x, window)?;
            average_pool(rec, &x, window)?;
            clamp_values(rec, &x, [-0.25, 0.5])?;
            depthwise_conv2d(rec, &x, &weights, &bias, window).map(drop)
        });
    }
    f.rejects(&["max_pool", "[1, 2, 2, 4]", "kernel: 3"], |b| {
        let x = b.tensor("x", &[1, 2, 2, 4]);
        max_pool(&mut b.tape.rec, &x, Window { kernel: 3, stride: 1, pad: 0 })
    });
    f.rejects(&["average_pool", "pad: 2"], |b| {
        let x = b.tensor("x", &[1, 4, 4, 4]);
        average_pool(&mut b.tape.rec, &x, Window { kernel: 2, stride: 1, pad: 2 })
    });
    f.rejects(&["max_pool", "stride: 0"], |b| {
        let x = b.tensor("x", &[1, 4, 4, 4]);
        max_pool(&mut b.tape.rec, &x, Window { kernel: 2, stride: 0, pad: 0 })
    });
    f.rejects(&["depthwise_conv2d", "[9, 8]", "[1, 4, 4, 4]"], |b| {
        let x = b.tensor("x", &[1, 4, 4, 4]);
        let (w, bias) = (b.tensor("w", &[9, 8]), b.tensor("bias", &[8]));
        depthwise_conv2d(&mut b.tape.rec, &x, &w, &bias, Window { kernel: 3, stride: 1, pad: 1 })
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let (x, w, bias) = (b.tensor("x", &[2, 6, 5, 8]), b.tensor("w", &[9, 8]), b.tensor("bias", &[8]));
            let (rec, window) = (&mut b.tape.rec, Window { kernel: 3, stride: 2, pad: 1 });
            max_pool(rec, &x, window)?;
            average_pool(rec, &x, window)?;
            clamp_values(rec, &x, [-0.25, 0.5])?;
            depthwise_conv2d(rec, &x, &w, &bias, window).map(drop)
        });
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 18);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader("zeros around count", "max_pool", "max_pool", "Lanes(-3.4028234e38)", "Lanes(0.0)"),
    Fault::shader("samples mixed", "max_pool", "max_pool", "let sample = line / p.out_h", "let sample = 0u"),
    Fault::shader("padding counts", "average_pool", "average_pool", "f32(held)", "f32(p.kernel * p.kernel)"),
    Fault::shader("stride lost", "average_pool", "average_pool", "* p.stride - p.pad;", "- p.pad;"),
    Fault::shader("no upper end", "clamp_values", "clamp_values", "params.high)", "3e38)"),
    Fault::shader("bias lost", "depthwise_conv2d", "depthwise_conv2d", "bias[window.lane]", "Lanes(0.0)"),
    Fault::shader(
        "taps transposed",
        "depthwise_conv2d",
        "depthwise_conv2d",
        "(r * p.kernel + c)",
        "(c * p.kernel + r)",
    ),
    Fault::shader(
        "rows of one column",
        "depthwise_conv2d",
        "depthwise_conv2d",
        "row < p.in_h && column < p.in_w",
        "row < p.in_h && column < p.in_h",
    ),
];
