//! Attention by both routes, the softmax, and the channel projection.
//! Called by `conformance.rs`; the bounds are in `attention_bounds`.

use super::attention_bounds::{
    attention_backward_key_value, attention_backward_query, attention_forward, softmax_backward, softmax_forward,
};
use super::harness::case::{Bench, Fill};
use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::attention::{Route, attention, attention_by};
use deme::kernels::channel_projection::{channel_projection, identity};
use deme::kernels::pointwise::add;
use deme::recording::Tensor;
use deme::shader::card::Params;
use deme::shader::cards::attention::{
    AttentionParams, LARGEST_TILED_HEAD, SOFTMAX_BACKWARD, SOFTMAX_FORWARD, SoftmaxParams,
};
use deme::shader::cards::gemm::MatmulParams;

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("softmax_forward", Tolerance::Custom(softmax_forward)),
    ("softmax_backward", Tolerance::Custom(softmax_backward)),
    ("attention_forward", Tolerance::Custom(attention_forward)),
    ("attention_backward_delta", Tolerance::Sum(|op| u64::from(AttentionParams::of(&op.params).size))),
    ("attention_backward_query", Tolerance::Cancelling(attention_backward_query)),
    ("attention_backward_key_value", Tolerance::Cancelling(attention_backward_key_value)),
    // Of the products' route.
    ("transpose", Tolerance::Exact),
    ("matmul_forward", Tolerance::Sum(|op| u64::from(MatmulParams::of(&op.params).k) + 1)),
    ("matmul_backward_weight", Tolerance::Sum(|op| u64::from(MatmulParams::of(&op.params).m) + 2)),
];

/// Samples, heads, queries, keys, channels of a head.
const SHAPES: [[u32; 5]; 46] = [
    [1, 1, 1, 1, 1],
    [1, 1, 1, 1, 4],
    [1, 1, 2, 3, 4],
    [2, 1, 3, 2, 5],
    [1, 2, 4, 4, 8],
    [2, 3, 5, 7, 4],
    [1, 8, 9, 9, 8],
    [1, 1, 16, 16, 32],
    [1, 1, 31, 31, 16],
    [1, 1, 32, 32, 16],
    [1, 1, 33, 33, 16],
    [1, 1, 63, 17, 8],
    [1, 1, 64, 64, 8],
    [1, 1, 65, 65, 8],
    [1, 4, 16, 77, 40],
    [1, 2, 16, 77, 80],
    [1, 1, 16, 77, 160],
    [1, 1, 8, 8, 31],
    [1, 1, 8, 8, 32],
    [1, 1, 8, 8, 33],
    [1, 1, 8, 40, 63],
    [1, 1, 40, 8, 65],
    [3, 2, 7, 11, 13],
    [5, 1, 6, 6, 6],
    [1, 16, 3, 3, 4],
    [2, 2, 64, 1, 4],
    [2, 2, 1, 64, 4],
    [1, 1, 127, 5, 2],
    [1, 1, 5, 127, 2],
    [1, 1, 128, 96, 3],
    [1, 3, 20, 20, 20],
    [1, 1, 49, 49, 12],
    [1, 1, 100, 100, 1],
    [1, 2, 36, 64, 24],
    [2, 1, 64, 64, 32],
    [1, 4, 64, 16, 16],
    [1, 1, 96, 97, 7],
    [1, 1, 12, 255, 4],
    [1, 1, 12, 257, 4],
    [1, 1, 257, 12, 4],
    [4, 4, 4, 4, 4],
    [1, 5, 10, 15, 20],
    [1, 1, 10, 10, 129],
    [1, 1, 6, 9, 161],
    [1, 1, 5, 8, 256],
    [1, 1, 4, 4, 512],
];

/// Rows, columns.
const ROWS: [[u32; 2]; 18] = [
    [1, 1],
    [1, 2],
    [1, 3],
    [2, 4],
    [3, 5],
    [63, 7],
    [64, 8],
    [65, 9],
    [5, 63],
    [5, 64],
    [5, 65],
    [4, 255],
    [4, 256],
    [4, 257],
    [7, 1024],
    [3, 1023],
    [257, 4],
    [2, 4099],
];

fn recorded(b: &mut Bench, [n, heads, t, s, d]: [u32; 5], route: Route) -> Result<Tensor> {
    let q = b.watched("q", &[n, t, heads * d]);
    let (k, v) = (b.watched("k", &[n, s, heads * d]), b.watched("v", &[n, s, heads * d]));
    attention_by(&mut b.tape, &q, &k, &v, heads, None, route)
}

pub fn cases(f: &mut Family) {
    for shape in SHAPES {
        f.case(&format!("fused {shape:?}"), |b| {
            let o = recorded(b, shape, Route::Fused)?;
            b.backward(&o)
        });
    }
    for shape in SHAPES.into_iter().step_by(3) {
        f.case(&format!("products {shape:?}"), |b| {
            let o = recorded(b, shape, Route::Products)?;
            b.backward(&o)
        });
    }
    for [rows, columns] in ROWS {
        for (low, high) in [(-4.0, 4.0), (-90.0, 90.0), (1000.0, 1001.0)] {
            f.case(&format!("softmax {rows}x{columns} from {low} to {high}"), |b| {
                let x = b.filled("x", &[rows, columns], Fill::Uniform(low, high));
                let dy = b.tensor("dy", &[rows, columns]);
                let p = SoftmaxParams { rows, columns };
                let rec = &mut b.tape.rec;
                let (y, dx) = (rec.transient("y", x.shape), rec.transient("dx", x.shape));
                rec.push(&SOFTMAX_FORWARD, &p, &[x], &[y], &[])?;
                rec.push(&SOFTMAX_BACKWARD, &p, &[y, dy], &[dx], &[])
            });
        }
    }
    // Scores of hundreds: exp would overflow without the online shift.
    f.case("large scores", |b| {
        let q = b.filled("q", &[1, 40, 16], Fill::Uniform(-20.0, 20.0));
        let k = b.filled("k", &[1, 70, 16], Fill::Uniform(-20.0, 20.0));
        let v = b.tensor("v", &[1, 70, 16]);
        b.tape.watch(&q);
        b.tape.watch(&k);
        let o = attention_by(&mut b.tape, &q, &k, &v, 1, Some(0.5), Route::Fused)?;
        b.backward(&o)
    });
    gradients(f);
    rejections(f);
    for fault in FAULTS {
        f.catches(fault, |b| {
            let o = recorded(b, [1, 2, 40, 70, 40], Route::Fused)?;
            b.backward(&o)?;
            let (x, dy) = (b.tensor("x", &[70, 130]), b.tensor("dy", &[70, 130]));
            let p = SoftmaxParams { rows: 70, columns: 130 };
            let rec = &mut b.tape.rec;
            let (y, dx) = (rec.transient("y", x.shape), rec.transient("dx", x.shape));
            rec.push(&SOFTMAX_FORWARD, &p, &[x], &[y], &[])?;
            rec.push(&SOFTMAX_BACKWARD, &p, &[y, dy], &[dx], &[])
        });
    }
    assert!(SHAPES.iter().filter(|s| s[4] <= LARGEST_TILED_HEAD).count() >= 40, "cases of the tiled variants");
    for (word, _) in &TOLERANCES[..6] {
        f.floor(word, 40);
    }
}

fn gradients(f: &mut Family) {
    for route in [Route::Products, Route::Fused] {
        for shape in [[1, 1, 3, 3, 4], [2, 2, 3, 5, 3], [1, 3, 4, 2, 1]] {
            f.gradient(&format!("{route:?} {shape:?}"), |b| recorded(b, shape, route));
        }
        f.gradient(&format!("{route:?}: x attends to itself, and a skip"), |b| {
            let x = b.watched("x", &[2, 2, 3, 4]);
            let o = attention_by(&mut b.tape, &x, &x, &x, 2, Some(0.7), route)?;
            add(&mut b.tape, &x, &o)
        });
        f.gradient(&format!("{route:?}: keys alone"), |b| {
            let (q, k, v) = (b.tensor("q", &[1, 3, 4]), b.watched("k", &[1, 5, 4]), b.tensor("v", &[1, 5, 4]));
            attention_by(&mut b.tape, &q, &k, &v, 2, None, route)
        });
        f.gradient(&format!("{route:?}: keys are values"), |b| {
            let (q, k) = (b.watched("q", &[1, 3, 4]), b.watched("k", &[1, 4, 4]));
            attention_by(&mut b.tape, &q, &k, &k, 1, None, route)
        });
    }
    f.gradient("channel projection", |b| {
        let (x, w) = (b.watched("x", &[2, 3, 2, 5]), b.parameter("w", &[5, 5]));
        channel_projection(&mut b.tape, &x, &w)
    });
}

fn rejections(f: &mut Family) {
    f.rejects(&["attention", "[1, 4, 8]", "[2, 4, 8]"], |b| {
        let (q, k) = (b.tensor("q", &[1, 4, 8]), b.tensor("k", &[2, 4, 8]));
        attention(&mut b.tape, &q, &k, &k, 2, None)
    });
    f.rejects(&["attention", "[1, 4, 8]", "3 heads"], |b| {
        let q = b.tensor("q", &[1, 4, 8]);
        attention(&mut b.tape, &q, &q, &q, 3, None)
    });
    f.rejects(&["attention", "[1, 4, 8]", "[1, 5, 8]"], |b| {
        let (q, v) = (b.tensor("q", &[1, 4, 8]), b.tensor("v", &[1, 5, 8]));
        attention(&mut b.tape, &q, &q, &v, 1, None)
    });
    f.rejects(&["attention", "[1, 1, 70000, 70000]", "2^32"], |b| {
        let q = b.tensor("q", &[1, 70_000, 4]);
        attention_by(&mut b.tape, &q, &q, &q, 1, None, Route::Products)
    });
    f.rejects(&["attention", "513", "512"], |b| {
        let q = b.tensor("q", &[1, 2, 513]);
        attention_by(&mut b.tape, &q, &q, &q, 1, None, Route::Fused)
    });
    f.rejects(&["channel_projection", "[1, 2, 6]", "[6, 5]"], |b| {
        let (x, w) = (b.tensor("x", &[1, 2, 6]), b.tensor("w", &[6, 5]));
        channel_projection(&mut b.tape, &x, &w)
    });
}

/// The weights [N, heads, T, S] decide the route; an identity projection is one.
#[test]
fn routes_and_identity() {
    let words = |queries: u32| -> Vec<&'static str> {
        let mut bench = Bench::new(0);
        let mut tape = std::mem::take(&mut bench.tape);
        let shape = deme::shape::Shape::new([1, queries, 40]);
        let q = tape.rec.transient("q", shape);
        attention(&mut tape, &q, &q, &q, 1, None).unwrap();
        tape.rec.ops.iter().map(|op| op.card.word).collect()
    };
    assert_eq!(words(5792), ["transpose", "matmul_forward", "softmax_forward", "matmul_forward"]);
    assert_eq!(words(5793), ["attention_forward"]);
    assert_eq!(identity(3), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
}

const FAULTS: &[Fault] = &[
    Fault::shader(
        "no shift by the largest",
        "softmax_forward",
        "softmax_forward_v1",
        "sum += exp(x[start + j] - largest)",
        "sum += exp(x[start + j])",
    ),
    Fault::shader(
        "partner of another lane",
        "softmax_forward",
        "softmax_forward_tiled",
        "+= sh_part[lane + step]",
        "+= sh_part[step]",
    ),
    Fault::shader("sum lost", "softmax_backward", "softmax_backward_v1", " - sum)", ")"),
    Fault::shader("last step lost", "softmax_backward", "softmax_backward_tiled", "step > 0u", "step > 1u"),
    Fault::shader("no fading", "attention_forward", "attention_forward_v1", "sums[j] * fade", "sums[j]"),
    Fault::shader(
        "ragged tile counted whole",
        "attention_forward",
        "attention_forward_tiled",
        "min(32u, params.keys - s)",
        "32u",
    ),
    Fault::shader(
        "another head's values",
        "attention_forward",
        "attention_forward_v1",
        "weight * v[key + j]",
        "weight * v[key + j - (head % 2u) * params.size]",
    ),
    Fault::shader(
        "log lost",
        "attention_forward",
        "attention_forward_tiled",
        "+ log(sh_total[lane])",
        "+ sh_total[lane]",
    ),
    Fault::shader(
        "heads and queries exchanged",
        "attention_backward_delta",
        "attention_backward_delta",
        "i % params.heads) * params.queries + t",
        "i % params.heads) + t * params.heads",
    ),
    Fault::shader("delta lost", "attention_backward_query", "attention_backward_query_v1", " - query_delta", ""),
    Fault::shader(
        "scale lost",
        "attention_backward_query",
        "attention_backward_query_tiled",
        "select(0.0, params.scale * ",
        "select(0.0, ",
    ),
    Fault::shader(
        "weight for ds",
        "attention_backward_key_value",
        "attention_backward_key_value_v1",
        "+= ds * q",
        "+= weight * q",
    ),
    Fault::shader(
        "one query early",
        "attention_backward_key_value",
        "attention_backward_key_value_tiled",
        "t < params.queries; t += 32u",
        "t + 32u < params.queries; t += 32u",
    ),
];
