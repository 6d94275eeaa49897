//! Matrix products, plain and batched with strides, the transpose and the column sum.
//! Called by `conformance.rs`. Sums are held to 2 K u sum |terms|.

use super::addend;
use super::harness::case::{Bench, Fill};
use super::harness::fault::{Fault, Kind};
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::matmul::{column_sum, matmul, matmul_backward_weight, matmul_forward, transpose};
use deme::kernels::pointwise::add;
use deme::recording::{Op, Tensor};
use deme::shader::card::Params;
use deme::shader::cards::gemm::{ColumnSumParams, MatmulParams, TransposeParams};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    // alpha, the bias and the addend are one more term each.
    ("matmul_forward", Tolerance::Sum(|op| u64::from(MatmulParams::of(&op.params).k) + 2 + addend::terms(op))),
    ("matmul_backward_weight", Tolerance::Sum(|op| u64::from(MatmulParams::of(&op.params).m) + 2)),
    ("transpose", Tolerance::Exact),
    ("column_sum", Tolerance::Sum(|op| u64::from(ColumnSumParams::of(&op.params).chunk) + 1)),
];

/// m, k, n: ones, primes, 255 to 257, and below, at and above every tile's edges, in fours and not.
const SHAPES: [[u32; 3]; 58] = [
    [1, 1, 1],
    [1, 4, 4],
    [2, 3, 5],
    [2, 5, 7],
    [2, 32, 32],
    [3, 4, 8],
    [5, 7, 11],
    [7, 8, 12],
    [8, 8, 16],
    [9, 12, 20],
    [13, 17, 19],
    [15, 16, 24],
    [16, 16, 32],
    [17, 20, 36],
    [31, 28, 40],
    [32, 32, 32],
    [33, 36, 28],
    [31, 31, 31],
    [37, 41, 43],
    [1, 128, 64],
    [1, 60, 256],
    [1, 1024, 4],
    [2, 256, 128],
    [4, 4, 64],
    [8, 128, 512],
    [61, 64, 4],
    [63, 64, 64],
    [64, 64, 64],
    [65, 68, 60],
    [64, 16, 128],
    [67, 68, 72],
    [127, 12, 132],
    [128, 128, 32],
    [129, 124, 36],
    [100, 52, 44],
    [96, 96, 96],
    [111, 4, 16],
    [250, 8, 24],
    [255, 255, 3],
    [256, 256, 4],
    [257, 257, 2],
    [255, 4, 256],
    [256, 12, 252],
    [257, 8, 260],
    [97, 100, 48],
    [53, 56, 80],
    [200, 32, 8],
    [1009, 4, 12],
    [1024, 16, 16],
    [1000, 20, 64],
    [4096, 4, 8],
    [4100, 8, 4],
    [6144, 12, 20],
    [19, 1500, 28],
    // Enough tiles that larger ones are chosen, forward and for the weight.
    [16_400, 4, 64],
    [8192, 4, 68],
    [5, 16_384, 64],
    [4, 8196, 64],
];

/// Cases that cooperative matrices fit, the weight's gradient above all: rows of x, then edges of tiles of 64 of dw.
fn cooperative() -> impl Iterator<Item = [u32; 3]> {
    let weights = [[32, 32], [36, 64], [60, 68], [64, 132], [68, 36], [132, 60]];
    [16, 31, 33, 100].into_iter().flat_map(move |m| weights.map(|[k, n]| [m, k, n]))
}

/// Layer, its gradients, and a bias in every second case.
pub fn layer(b: &mut Bench, [m, k, n]: [u32; 3]) -> Result<Tensor> {
    let x = b.watched("x", &[m, k]);
    let w = b.parameter("w", &[k, n]);
    let bias = (m % 2 == 1).then(|| b.parameter("bias", &[n]));
    matmul(&mut b.tape, &x, &w, bias.as_ref())
}

/// m, k, n, batches outer and inner: products whose second matrices, or for the weight whose dy, CPU rasterisers take in
/// windows: one a matrix, several, a last one that overlaps the one before it.
const WINDOWED: [[u32; 5]; 18] = [
    [2048, 32, 32, 1, 1],
    [2100, 8, 128, 1, 1],
    [1040, 264, 64, 1, 1],
    [2049, 16, 96, 1, 1],
    [513, 520, 32, 1, 1],
    [700, 1032, 160, 1, 1],
    [128, 256, 128, 1, 1],
    [512, 256, 32, 1, 1],
    [256, 136, 64, 1, 1],
    [300, 64, 128, 3, 1],
    [130, 128, 128, 16, 1],
    [4099, 24, 32, 2, 1],
    [257, 136, 256, 2, 2],
    [515, 72, 64, 1, 3],
    // Several matrices a window: 16, 4 of 12, 2 of 6, 3 that no power of two divides.
    [128, 32, 32, 16, 1],
    [136, 64, 64, 12, 1],
    [176, 64, 96, 6, 1],
    [2053, 32, 32, 3, 1],
];

fn windowed(b: &mut Bench, [m, k, n, batch_outer, batch_inner]: [u32; 5]) -> Result<()> {
    let matrices = batch_outer * batch_inner;
    let (x, w) = (b.tensor("x", &[matrices, m, k]), b.tensor("w", &[matrices, k, n]));
    let bias = (m % 2 == 1).then(|| b.tensor("bias", &[n]));
    let y = b.tape.rec.transient("y", deme::shape::Shape::new([matrices, m, n]));
    let p = MatmulParams {
        batch_outer,
        batch_inner,
        x_outer: batch_inner * m * k,
        x_inner: m * k,
        w_outer: batch_inner * k * n,
        w_inner: k * n,
        y_outer: batch_inner * m * n,
        y_inner: m * n,
        alpha: 0.6,
        ..MatmulParams::plain(m, n, k)
    };
    matmul_forward(&mut b.tape.rec, &p, &x, &w, bias.as_ref(), &y)?;
    let dw = b.tensor("dw", &[matrices, k, n]);
    matmul_backward_weight(&mut b.tape.rec, &p, &x, &y, &dw)
}

/// Images, heads, queries, keys, head size: scores, and values gathered by them, head by head without a copy.
const HEADS: [[u32; 5]; 10] = [
    [1, 1, 1, 1, 1],
    [2, 3, 5, 7, 3],
    [1, 2, 16, 16, 8],
    [2, 2, 20, 12, 4],
    [3, 1, 9, 77, 40],
    [1, 8, 64, 64, 8],
    [2, 4, 33, 36, 16],
    [1, 2, 17, 128, 64],
    [2, 1, 64, 256, 32],
    [1, 3, 12, 8, 20],
];

fn heads(b: &mut Bench, [images, heads, queries, keys, d]: [u32; 5]) -> Result<()> {
    let width = heads * d;
    let (q, k) = (b.tensor("q", &[images, queries, width]), b.tensor("k", &[images, keys, width]));
    let k_t = b.tape.rec.transient("k_t", deme::shape::Shape::new([images, heads, d, keys]));
    let (batch_outer, batch_inner) = (images, heads);
    let turn = TransposeParams {
        batch_outer,
        batch_inner,
        ldx: width,
        x_outer: keys * width,
        x_inner: d,
        y_outer: keys * width,
        y_inner: d * keys,
        ..TransposeParams::plain(keys, d)
    };
    transpose(&mut b.tape.rec, &turn, &k, &k_t)?;
    let scores = b.tape.rec.transient("scores", deme::shape::Shape::new([images, heads, queries, keys]));
    let p = MatmulParams {
        batch_outer,
        batch_inner,
        ldx: width,
        x_outer: queries * width,
        x_inner: d,
        w_outer: keys * width,
        w_inner: d * keys,
        y_outer: heads * queries * keys,
        y_inner: queries * keys,
        alpha: 1.0 / (d as f32).sqrt(),
        ..MatmulParams::plain(queries, keys, d)
    };
    matmul_forward(&mut b.tape.rec, &p, &q, &k_t, None, &scores)?;
    // dk += alpha scores^T q, summed over the queries.
    let dk = b.tensor("dk", &[images, keys, width]);
    let p = MatmulParams {
        ldx: keys,
        ldw: width,
        ldy: width,
        x_outer: heads * queries * keys,
        x_inner: queries * keys,
        w_outer: keys * width,
        w_inner: d,
        y_outer: queries * width,
        y_inner: d,
        alpha: 0.7,
        ..MatmulParams { batch_outer, batch_inner, ..MatmulParams::plain(queries, d, keys) }
    };
    matmul_backward_weight(&mut b.tape.rec, &p, &scores, &q, &dk)
}

pub fn cases(f: &mut Family) {
    for shape in SHAPES.into_iter().chain(cooperative()) {
        f.case(&format!("m, k, n = {shape:?}"), |b| {
            let y = layer(b, shape)?;
            b.backward(&y)
        });
    }
    addend::matmuls(f);
    for shape in HEADS {
        f.case(&format!("images, heads, queries, keys, d = {shape:?}"), |b| heads(b, shape));
    }
    for shape in WINDOWED {
        f.case(&format!("m, k, n, batches = {shape:?}"), |b| windowed(b, shape));
    }
    // At the ends of the range of f16, and where its numbers lie farther apart.
    f.case("the range of f16", |b| {
        let values = [65504.0, 65519.0, -65519.0, 6.2e-5, -6e-5, 1e-6, 3e-8, 2.9e-8, 1e-20, 1.0 + 1.0 / 2048.0];
        let x = (0..64 * 48).map(|i| values[i % values.len()] * [1.0, -1.0, 0.5][i / 7 % 3]).collect();
        let (x, w) = (b.filled("x", &[64, 48], Fill::Values(x)), b.parameter("w", &[48, 64]));
        let y = matmul(&mut b.tape, &x, &w, None)?;
        b.backward(&y)
    });
    // Above 65,535 workgroups of every variant the grid folds into two dimensions; a large K.
    f.case("folded grid", |b| {
        let (x, w) = (b.tensor("x", &[1_060_000, 1]), b.tensor("w", &[1, 4]));
        matmul(&mut b.tape, &x, &w, None).map(|_| ())
    });
    f.case("large K", |b| {
        let (x, w) = (b.tensor("x", &[3, 20_000]), b.tensor("w", &[20_000, 8]));
        matmul(&mut b.tape, &x, &w, None).map(|_| ())
    });
    for [rows, cols] in [[1, 1], [511, 3], [512, 8], [513, 5], [1, 257], [70_000, 2], [3000, 64], [255, 256]] {
        f.case(&format!("column sum of {rows} x {cols}"), |b| {
            let (x, y) = (b.tensor("x", &[rows, cols]), b.tensor("y", &[cols]));
            column_sum(&mut b.tape.rec, &x, &y)
        });
    }
    f.case("transpose, folded grid", |b| {
        let x = b.tensor("x", &[530_000, 1]);
        let y = b.tape.rec.transient("y", deme::shape::Shape::new([1, 530_000]));
        transpose(&mut b.tape.rec, &TransposeParams::plain(530_000, 1), &x, &y)
    });
    for shape in [[1, 1, 1], [3, 4, 5], [5, 3, 2], [8, 4, 4], [4, 9, 8]] {
        f.gradient(&format!("m, k, n = {shape:?}"), |b| layer(b, shape));
    }
    f.gradient("x used twice, and through a skip", |b| {
        let x = b.watched("x", &[2, 3, 4]);
        let w = b.parameter("w", &[4, 4]);
        let y = matmul(&mut b.tape, &x, &w, None)?;
        let y = matmul(&mut b.tape, &y, &w, None)?;
        add(&mut b.tape, &x, &y)
    });
    f.gradient("x times itself", |b| {
        let x = b.watched("x", &[5, 5]);
        matmul(&mut b.tape, &x, &x, None)
    });
    f.rejects(&["matmul", "[2, 3]", "[4, 5]"], |b| {
        let (x, w) = (b.tensor("x", &[2, 3]), b.tensor("w", &[4, 5]));
        matmul(&mut b.tape, &x, &w, None)
    });
    f.rejects(&["matmul", "[1, 3, 4]"], |b| {
        let (x, w) = (b.tensor("x", &[2, 3]), b.tensor("w", &[1, 3, 4]));
        matmul(&mut b.tape, &x, &w, None)
    });
    f.rejects(&["matmul", "bias [4]"], |b| {
        let (x, w, bias) = (b.tensor("x", &[2, 3]), b.tensor("w", &[3, 5]), b.tensor("b", &[4]));
        matmul(&mut b.tape, &x, &w, Some(&bias))
    });
    f.rejects(&["transpose", "[2, 3]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 3]), b.tensor("y", &[3, 3]));
        transpose(&mut b.tape.rec, &TransposeParams::plain(3, 3), &x, &y)
    });
    f.rejects(&["column_sum", "[2, 3]", "[4]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 3]), b.tensor("y", &[4]));
        column_sum(&mut b.tape.rec, &x, &y)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let y = layer(b, [67, 36, 100])?;
            b.backward(&y)
        });
    }
    for fault in WINDOW_FAULTS {
        f.catches(fault, |b| windowed(b, [520, 264, 64, 1, 3]));
    }
    f.catches(&ONE_MATRIX, |b| windowed(b, [128, 32, 32, 16, 1]));
    for (word, _) in TOLERANCES {
        f.floor(word, 40);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader("bias lost", "matmul_forward", "matmul_forward_coop", "+ offset", ""),
    Fault::shader(
        "terms twice",
        "matmul_forward",
        "matmul_forward_coop",
        "row.start + term)",
        "row.start + term % 16u)",
    ),
    Fault::shader(
        "a term lost",
        "matmul_forward",
        "matmul_forward_coop",
        "let last_term = p.k;",
        "let last_term = p.k - 4u;",
    ),
    Fault::shader(
        "a term lost",
        "matmul_forward",
        "matmul_forward_tiled",
        "let last_term = p.k;",
        "let last_term = p.k - 4u;",
    ),
    Fault::shader("overwritten", "matmul_backward_weight", "matmul_backward_weight_coop", "] +=", "] ="),
    Fault::shader(
        "terms for rows",
        "matmul_backward_weight",
        "matmul_backward_weight_coop",
        "term * params.ldx",
        "term / 2u * params.ldx",
    ),
    Fault::shader("a row lost", "matmul_backward_weight", "matmul_backward_weight_coop", "= p.m;", "= p.m - 1u;"),
    Fault::shader("unscaled", "matmul_backward_weight", "matmul_backward_weight_tiled", "p.alpha * ", "-"),
    Fault::shader("a row short", "matmul_forward", "matmul_forward_v1", "k < p.k", "k + 1u < p.k"),
    Fault::shader("bias lost", "matmul_forward", "matmul_forward_subgroup", "+ offset", ""),
    Fault::shader("one lane's term thrice", "matmul_forward", "matmul_forward_subgroup", "min(k + lane,", "min(k,"),
    Fault::shader(
        "tiles overlap",
        "matmul_forward",
        "matmul_forward_subgroup",
        "* ${8 * C}u + lane",
        "* ${9 * C}u + lane",
    ),
    Fault::shader(
        "gradient overwritten",
        "matmul_backward_weight",
        "matmul_backward_weight_subgroup",
        "] += p.alpha",
        "] = p.alpha",
    ),
    Fault::shader(
        "last pixel lost",
        "matmul_backward_weight",
        "matmul_backward_weight_v1",
        "m < p.m; m++",
        "m + 1u < p.m; m++",
    ),
    Fault::shader("nothing is transposed", "transpose", "transpose", "column * p.ldy", "column * p.ldx"),
    Fault::shader("every second row", "column_sum", "column_sum", "row++", "row += 2u"),
    Fault { name: "alpha off by 1e-3", word: "matmul_forward", kind: Kind::Call(alpha) },
];

/// In batches, and in the passes over windows.
const WINDOW_FAULTS: &[Fault] = &[
    Fault::shader("unscaled", "matmul_forward", "matmul_forward_coop", "params.alpha * ", ""),
    Fault::shader("one matrix for all", "matmul_forward", "matmul_forward_coop", "inner * p.w_inner", "0u"),
    Fault::shader("unscaled", "matmul_backward_weight", "matmul_backward_weight_coop", "params.alpha * ", ""),
    Fault::shader(
        "one matrix for all",
        "matmul_backward_weight",
        "matmul_backward_weight_coop",
        "inner * p.y_inner",
        "0u",
    ),
    Fault::shader("only the last window", "matmul_forward", "matmul_forward_subgroup", "= before${r} +", "="),
    Fault::shader("windows never overlap", "matmul_forward", "matmul_forward_subgroup", "+ first - base)", ")"),
    Fault::shader(
        "rows of another window",
        "matmul_backward_weight",
        "matmul_backward_weight_subgroup",
        "+ first - base)",
        ")",
    )
    .tiled("r16v4w"),
    Fault::shader("one matrix for all", "matmul_forward", "matmul_forward_subgroup", "p.window / parts", "0u"),
];

const ONE_MATRIX: Fault = Fault::shader(
    "the window's first matrix for all",
    "matmul_forward",
    "matmul_forward_subgroup",
    "matrix * held",
    "0u",
);

fn alpha(op: &mut Op) {
    op.params = MatmulParams { alpha: 0.999, ..MatmulParams::of(&op.params) }.words();
}
