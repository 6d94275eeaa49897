//! The convolution and its gradients with respect to input, weight and bias.
//! Called by `conformance.rs`. Sums are held to 2 K u sum |terms|.

use super::addend;
use super::harness::case::Bench;
use super::harness::fault::{Fault, Kind};
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::conv2d::{Conv2dSpec, Padding, conv2d};
use deme::kernels::pointwise::add;
use deme::recording::{Op, Tensor};
use deme::shader::card::Params;
use deme::shader::cards::conv::Conv2dParams;

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    // The bias and the addend are one more term each.
    ("conv2d_forward", Tolerance::Sum(|op| u64::from(Conv2dParams::of(&op.params).terms()) + 1 + addend::terms(op))),
    ("conv2d_backward_input", Tolerance::Sum(input_terms)),
    ("conv2d_backward_weight", Tolerance::Sum(weight_terms)),
];

fn input_terms(op: &Op) -> u64 {
    let p = Conv2dParams::of(&op.params);
    u64::from(p.kh * p.kw * p.cout)
}

fn weight_terms(op: &Op) -> u64 {
    let p = Conv2dParams::of(&op.params);
    u64::from(p.chunk.min(p.batch * p.out_h) * p.out_w) + 1
}

/// Batch, height, width, cin, cout, kernel, stride, padding (RIGHT for right and bottom).
pub type Case = [u32; 8];
pub const RIGHT: u32 = u32::MAX;

const SHAPES: [Case; 61] = [
    [1, 1, 1, 1, 1, 3, 1, 1],
    [1, 1, 1, 4, 4, 3, 1, 1],
    [1, 2, 3, 1, 5, 3, 1, 1],
    [1, 3, 3, 4, 8, 3, 1, 1],
    [2, 4, 4, 8, 4, 3, 1, 1],
    [1, 5, 7, 3, 7, 3, 1, 1],
    [2, 8, 8, 4, 32, 3, 1, 1],
    [1, 8, 8, 32, 4, 3, 1, 1],
    [1, 8, 8, 32, 32, 3, 1, 1],
    [3, 8, 8, 16, 16, 3, 1, 1],
    [1, 9, 9, 12, 20, 3, 1, 1],
    [2, 7, 11, 20, 12, 3, 1, 1],
    [1, 13, 5, 24, 40, 3, 1, 1],
    [1, 16, 16, 36, 28, 3, 1, 1],
    [1, 8, 8, 64, 64, 3, 1, 1],
    [2, 4, 4, 64, 128, 3, 1, 1],
    [1, 2, 2, 128, 64, 3, 1, 1],
    [5, 1, 4, 8, 8, 3, 1, 1],
    [1, 17, 3, 8, 36, 3, 1, 1],
    [1, 6, 31, 4, 12, 3, 1, 1],
    [1, 4, 5, 96, 32, 3, 1, 1],
    [1, 7, 7, 11, 13, 3, 1, 1],
    [1, 33, 2, 6, 10, 3, 1, 1],
    [1, 16, 17, 3, 3, 3, 1, 1],
    [1, 8, 8, 4, 8, 3, 2, 1],
    [2, 8, 8, 32, 32, 3, 2, 1],
    [1, 7, 9, 8, 16, 3, 2, 1],
    [1, 8, 6, 12, 20, 3, 2, 1],
    [3, 5, 4, 4, 36, 3, 2, 1],
    [1, 2, 2, 64, 64, 3, 2, 1],
    [1, 1, 8, 8, 8, 3, 2, 1],
    [1, 9, 6, 5, 7, 3, 2, 1],
    [1, 8, 8, 4, 8, 3, 2, RIGHT],
    [2, 8, 8, 32, 32, 3, 2, RIGHT],
    [1, 7, 9, 8, 16, 3, 2, RIGHT],
    [1, 16, 4, 12, 20, 3, 2, RIGHT],
    [1, 2, 2, 64, 64, 3, 2, RIGHT],
    [3, 4, 10, 36, 4, 3, 2, RIGHT],
    [1, 6, 5, 3, 2, 3, 2, RIGHT],
    [1, 8, 8, 8, 8, 1, 2, 0],
    [1, 7, 5, 4, 12, 1, 2, 0],
    [2, 6, 6, 8, 4, 1, 1, 1],
    [1, 9, 8, 4, 16, 5, 1, 2],
    [1, 10, 7, 8, 4, 4, 3, 1],
    [1, 9, 9, 16, 8, 3, 3, 1],
    [1, 6, 8, 12, 4, 2, 1, RIGHT],
    [1, 12, 12, 4, 4, 7, 2, 3],
    [1, 5, 5, 8, 24, 3, 1, 0],
    [2, 3, 3, 28, 44, 3, 1, 2],
    [1, 257, 2, 4, 4, 3, 1, 1],
    [1, 1, 256, 4, 8, 3, 1, 1],
    [1, 255, 3, 8, 4, 3, 2, 1],
    // Enough tiles that larger ones are chosen, for y, dx and dw.
    [1, 128, 130, 4, 64, 3, 1, 1],
    [2, 65, 64, 64, 4, 3, 1, 1],
    [1, 2, 2, 256, 256, 3, 1, 1],
    // One pixel; and enough of all that the largest tiles are offered.
    [1, 1, 1, 3, 3, 1, 1, 0],
    [1, 1, 1, 8, 32, 3, 1, 1],
    [1, 1, 1, 5, 3, 3, 1, 1],
    [1, 10, 10, 8, 68, 3, 1, 1],
    [1, 10, 10, 4, 68, 2, 1, RIGHT],
    [1, 9, 9, 4, 72, 3, 1, 1],
];

/// Cases that cooperative matrices fit and Winograd's route does not: all edges of tiles of 64, pixels and channels. With few
/// channels of x they are of y and dw; of dx with both sides swapped.
fn cooperative() -> Vec<Case> {
    let sizes = [[4, 7], [8, 8], [9, 12]];
    let channels = [[4, 32], [8, 60], [12, 64], [20, 68], [28, 100]];
    let windows = [[3, 1, 1], [3, 2, RIGHT], [5, 2, 2]];
    let sized = sizes.iter().flat_map(|s| channels.iter().map(move |c| (s, c)));
    let all = sized.flat_map(|(s, c)| windows.iter().map(move |w| [4, s[0], s[1], c[0], c[1], w[0], w[1], w[2]]));
    all.collect()
}

/// With dw alone, or swapped with dx alone.
fn one_gradient(b: &mut Bench, case: Case, swapped: bool) -> Result<()> {
    let [batch, height, width, few, many, kernel, stride, pad] = case;
    let y = if swapped {
        let x = b.watched("x", &[batch, height, width, many]);
        let w = b.tensor("w", &[kernel, kernel, many, few]);
        conv2d(&mut b.tape, &x, &w, None, spec(stride, pad))?
    } else {
        let x = b.tensor("x", &[batch, height, width, few]);
        recorded(b, &x, case)?
    };
    b.backward(&y)
}

fn spec(stride: u32, pad: u32) -> Conv2dSpec {
    let padding = if pad == RIGHT { Padding::RightBottom } else { Padding::Symmetric(pad) };
    Conv2dSpec { stride, padding }
}

pub fn recorded(b: &mut Bench, x: &Tensor, case: Case) -> Result<Tensor> {
    let [_, _, _, cin, cout, kernel, stride, pad] = case;
    let w = b.parameter("w", &[kernel, kernel, cin, cout]);
    let bias = case[1].is_multiple_of(2).then(|| b.parameter("bias", &[cout]));
    conv2d(&mut b.tape, x, &w, bias.as_ref(), spec(stride, pad))
}

fn whole(b: &mut Bench, case: Case) -> Result<()> {
    let [batch, height, width, cin, ..] = case;
    let x = b.watched("x", &[batch, height, width, cin]);
    let y = recorded(b, &x, case)?;
    b.backward(&y)
}

pub fn cases(f: &mut Family) {
    for case in SHAPES {
        f.case(&format!("{case:?}"), |b| whole(b, case));
    }
    addend::convolutions(f);
    for case in cooperative() {
        for swapped in [false, true] {
            f.case(&format!("cooperative: {case:?} {swapped}"), |b| one_gradient(b, case, swapped));
        }
    }
    // Kernels that are not square, padded to keep the size and not.
    for (kernel, sides) in [([1, 7], [0, 3]), ([7, 1], [3, 0]), ([1, 3], [0, 1]), ([3, 1], [1, 0]), ([2, 5], [1, 0])] {
        f.case(&format!("kernel {kernel:?}, sides {sides:?}"), |b| {
            let x = b.watched("x", &[2, 6, 9, 8]);
            let w = b.parameter("w", &[kernel[0], kernel[1], 8, 12]);
            let y = conv2d(&mut b.tape, &x, &w, None, Conv2dSpec { stride: 1, padding: Padding::Sides(sides) })?;
            b.backward(&y)
        });
    }
    // Sums in chunks, the last one short; above 65,535 workgroups of every variant; a large K.
    f.case("chunks", |b| whole(b, [7, 33, 32, 4, 4, 3, 1, 1]));
    f.case("folded grid", |b| {
        let (x, w) = (b.tensor("x", &[1, 1030, 1030, 1]), b.tensor("w", &[2, 1, 1, 4]));
        let spec = Conv2dSpec { stride: 1, padding: Padding::RightBottom };
        conv2d(&mut b.tape, &x, &w, None, spec).map(|_| ())
    });
    f.case("large K", |b| whole(b, [1, 2, 2, 700, 8, 3, 1, 1]));
    for case in [
        [1, 3, 4, 2, 3, 3, 1, 1],
        [2, 4, 4, 4, 4, 3, 2, 1],
        [1, 4, 4, 3, 2, 3, 2, RIGHT],
        [1, 3, 3, 4, 2, 1, 1, 0],
        [1, 5, 3, 2, 2, 2, 3, 1],
    ] {
        f.gradient(&format!("{case:?}"), |b| {
            let x = b.watched("x", &case[..4]);
            recorded(b, &x, case)
        });
    }
    f.gradient("through a skip", |b| {
        let case = [1, 3, 3, 2, 2, 3, 1, 1];
        let x = b.watched("x", &case[..4]);
        let y = recorded(b, &x, case)?;
        add(&mut b.tape, &x, &y)
    });
    f.rejects(&["conv2d", "[1, 4, 4, 8]", "[3, 3, 4, 8]"], |b| {
        let (x, w) = (b.tensor("x", &[1, 4, 4, 8]), b.tensor("w", &[3, 3, 4, 8]));
        conv2d(&mut b.tape, &x, &w, None, Conv2dSpec::same(3))
    });
    f.rejects(&["conv2d", "[4, 4, 8]"], |b| {
        let (x, w) = (b.tensor("x", &[4, 4, 8]), b.tensor("w", &[3, 3, 8, 8]));
        conv2d(&mut b.tape, &x, &w, None, Conv2dSpec::same(3))
    });
    f.rejects(&["conv2d", "no window", "[1, 2, 2, 4]"], |b| {
        let (x, w) = (b.tensor("x", &[1, 2, 2, 4]), b.tensor("w", &[5, 5, 4, 4]));
        conv2d(&mut b.tape, &x, &w, None, Conv2dSpec { stride: 1, padding: Padding::Symmetric(1) })
    });
    f.rejects(&["conv2d", "stride: 0"], |b| {
        let (x, w) = (b.tensor("x", &[1, 4, 4, 4]), b.tensor("w", &[3, 3, 4, 4]));
        conv2d(&mut b.tape, &x, &w, None, Conv2dSpec { stride: 0, padding: Padding::Symmetric(1) })
    });
    f.rejects(&["conv2d", "bias [3]"], |b| {
        let (x, w, bias) = (b.tensor("x", &[1, 4, 4, 4]), b.tensor("w", &[3, 3, 4, 8]), b.tensor("b", &[3]));
        conv2d(&mut b.tape, &x, &w, Some(&bias), Conv2dSpec::same(3))
    });
    for fault in COOPERATIVE_FAULTS {
        let [cin, cout] = if fault.word == "conv2d_backward_input" { [36, 12] } else { [12, 36] };
        f.catches(fault, |b| whole(b, [2, 8, 8, cin, cout, 3, 2, 1]));
    }
    for fault in FAULTS {
        f.catches(fault, |b| whole(b, [2, 6, 8, 8, 16, 3, 2, 1]));
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 40);
    }
}

/// In a case that cooperative matrices fit.
const COOPERATIVE_FAULTS: &[Fault] = &[
    Fault::shader(
        "a term lost",
        "conv2d_forward",
        "conv2d_forward_coop",
        "p.kh * p.kw * p.cin;",
        "p.kh * p.kw * p.cin - 4u;",
    ),
    Fault::shader("padding forgotten", "conv2d_forward", "conv2d_forward_coop", "p.stride - p.pad_left", "p.stride"),
    Fault::shader("bias lost", "conv2d_forward", "conv2d_forward_coop", "sums + offset", "sums"),
    Fault::shader("between the outputs", "conv2d_backward_input", "conv2d_backward_input_coop", "&& whole", ""),
    Fault::shader(
        "a term lost",
        "conv2d_backward_input",
        "conv2d_backward_input_coop",
        "p.kh * p.kw * p.cout;",
        "p.kh * p.kw * p.cout - 4u;",
    ),
    Fault::shader("padding forgotten", "conv2d_backward_input", "conv2d_backward_input_coop", "+ p.pad_left", ""),
    Fault::shader(
        "gradient overwritten",
        "conv2d_backward_weight",
        "conv2d_backward_weight_coop",
        "] += sums",
        "] = sums",
    ),
    Fault::shader(
        "stride lost",
        "conv2d_backward_weight",
        "conv2d_backward_weight_coop",
        "* p.stride + row.x",
        "+ row.x",
    ),
    Fault::shader(
        "last line lost",
        "conv2d_backward_weight",
        "conv2d_backward_weight_coop",
        "lines) * p.out_w",
        "lines - 1u) * p.out_w",
    ),
    Fault::shader("rows for terms", "conv2d_backward_weight", "conv2d_backward_weight_coop", "coopLoad<", "coopLoadT<"),
];

const FAULTS: &[Fault] = &[
    Fault::shader("transposed taps", "conv2d_forward", "conv2d_forward_tiled", "tap / ${KW}u", "tap % ${KW}u"),
    Fault::shader("between the outputs", "conv2d_backward_input", "conv2d_backward_input_tiled", "&& whole", ""),
    Fault::shader(
        "last line lost",
        "conv2d_backward_weight",
        "conv2d_backward_weight_tiled",
        "lines) * p.out_w",
        "lines - 1u) * p.out_w",
    ),
    Fault::shader("wraps round the edge", "conv2d_forward", "conv2d_forward_v1", "&& ix < p.in_w", ""),
    Fault::shader("wrong tap", "conv2d_forward", "conv2d_forward_subgroup", "tap * p.cin", "ky * p.cin"),
    Fault::shader("bias lost", "conv2d_forward", "conv2d_forward_subgroup", "_0 + offset", "_0"),
    Fault::shader(
        "between the outputs",
        "conv2d_backward_input",
        "conv2d_backward_input_v1",
        "&& oy * p.stride == ty",
        "",
    ),
    Fault::shader(
        "padding forgotten",
        "conv2d_backward_input",
        "conv2d_backward_input_subgroup",
        "+ p.pad_left - kx",
        "- kx",
    ),
    Fault::shader("phases mixed up", "conv2d_backward_input", "conv2d_backward_input_subgroup", "phase / ", "phase % "),
    Fault::shader(
        "gradient overwritten",
        "conv2d_backward_weight",
        "conv2d_backward_weight_subgroup",
        "] += sum${r}",
        "] = sum${r}",
    ),
    Fault::shader("stride lost", "conv2d_backward_weight", "conv2d_backward_weight_subgroup", "+= p.stride", "+= 1u"),
    Fault { name: "padding of another", word: "conv2d_backward_weight", kind: Kind::Call(padding) },
];

fn padding(op: &mut Op) {
    op.params = Conv2dParams { pad_left: 0, ..Conv2dParams::of(&op.params) }.words();
}
