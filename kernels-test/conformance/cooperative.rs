//! Which ops take cooperative matrices, and what becomes of numbers that f16 does not have. Where the adapter has none, the same
//! holds of the kernels in f32 that run instead. Called by `conformance.rs`.

use super::harness::device::{gpu, single};
use deme::gpu::{Externals, Gpu, Plan, PlanOptions};
use deme::kernels::matmul::{matmul, matmul_forward};
use deme::recording::{Recording, Tensor};
use deme::shader::Precision;
use deme::shader::card::Card;
use deme::shader::cards::gemm::{MATMUL_FORWARD, MatmulParams};
use deme::shape::Shape;
use deme::tape::Tape;

fn external(rec: &mut Recording, key: &str, extents: [u32; 2]) -> Tensor {
    let shape = Shape::new(extents);
    Tensor { buffer: rec.external(key, shape.elements()), offset: 0, shape }
}

/// y = x w for [64, 32] and [32, 64], forward and backward, with x and dy all alike and w all 1; the plan, and y, dx and dw after
/// a run.
fn product(gpu: &Gpu, [x_value, dy_value]: [f32; 2]) -> (Plan, [Vec<f32>; 3]) {
    let mut tape = Tape::new(Recording::new("product"));
    let [x, w, dw] =
        [("x", [64, 32]), ("w", [32, 64]), ("dw", [32, 64])].map(|(key, e)| external(&mut tape.rec, key, e));
    tape.watch(&x);
    tape.parameter(w, dw);
    let y = matmul(&mut tape, &x, &w, None).unwrap();
    let dy = external(&mut tape.rec, "dy", [64, 64]);
    tape.rec.keep(&y);
    let (mut rec, gradients) = tape.backward(&[(y, dy)]).unwrap();
    let dx = gradients.get(&x).unwrap();
    rec.keep(&dx);
    let mut externals = Externals::new();
    let contents = [("x", 2048, x_value), ("w", 2048, 1.0), ("dw", 2048, 0.0), ("dy", 4096, dy_value)];
    for (key, elements, value) in contents {
        let storage = gpu.storage(key, elements).unwrap();
        gpu.write(&storage, 0, &vec![value; elements as usize]).unwrap();
        externals.insert(key.to_owned(), storage);
    }
    let mut plan = Plan::new(gpu, rec, &externals, &PlanOptions::default()).unwrap();
    plan.run(&[]).unwrap();
    plan.wait().unwrap();
    let results = [y, dx, dw].map(|t| plan.read(&t).unwrap());
    (plan, results)
}

#[test]
fn products_take_cooperative_matrices_in_f16_forward_and_backward() {
    let offered = gpu().limits().cooperative > 0;
    let cooperative =
        |gpu: &Gpu| product(gpu, [1.0; 2]).0.stems().filter(|stem| stem.ends_with("_coop")).collect::<Vec<_>>();
    assert_eq!(cooperative(gpu()), [""; 0]);
    let all = ["matmul_forward_coop", "matmul_forward_coop", "matmul_backward_weight_coop"];
    assert_eq!(cooperative(&gpu().at(Precision::F16)), if offered { &all[..] } else { &[] });
}

/// Beyond f16's range a factor is infinite, and all sums that it is in; never the largest f16.
#[test]
fn what_f16_does_not_have_is_infinite_in_every_sum() {
    let offered = gpu().limits().cooperative > 0;
    let infinite = |v: f32| if offered { f32::INFINITY } else { v };
    let sums = |x: f32, dy: f32| product(&gpu().at(Precision::F16), [x, dy]).1;
    let all = |what: &str, got: &[f32], fine: &dyn Fn(f32) -> bool| {
        assert!(got.iter().all(|&v| fine(v)), "{what}: {got:?}");
    };
    // The largest f16, and what lies half-way to the one that it does not have.
    for (value, rounded) in [(65504.0, 65504.0), (65519.0, 65504.0), (65520.0, infinite(65520.0))] {
        for sign in [1.0, -1.0] {
            // In f32 only the last digits are off.
            let near = |v: f32, sum: f32| v == sum || (!offered && (v / sum - 1.0).abs() < 1e-3);
            let [y, _, dw] = sums(sign * value, 1.0);
            all("y", &y, &|v| near(v, sign * 32.0 * rounded));
            all("dw", &dw, &|v| near(v, sign * 64.0 * rounded));
            let [_, dx, dw] = sums(1.0, sign * value);
            all("dx", &dx, &|v| near(v, sign * 64.0 * rounded));
            all("dw", &dw, &|v| near(v, sign * 64.0 * rounded));
        }
    }
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        all("y", &sums(bad, 1.0)[0], &|v| !v.is_finite());
        all("dx", &sums(1.0, bad)[1], &|v| !v.is_finite());
        all("dw", &sums(1.0, bad)[2], &|v| !v.is_finite());
    }
}

/// y of [100, 52] x [52, 96] by the card's only variant, `_coop`.
fn by(card: &'static Card) -> Vec<f32> {
    let mut rec = Recording::new("subgroups");
    let [x, w] = [("x", [100, 52]), ("w", [52, 96])].map(|(key, extents)| external(&mut rec, key, extents));
    let y = rec.transient("y", Shape::new([100, 96]));
    matmul_forward(&mut rec, &MatmulParams::plain(100, 96, 52), &x, &w, None, &y).unwrap();
    rec.keep(&y);
    rec.ops[0].card = card;
    let mut externals = Externals::new();
    for (key, t) in [("x", x), ("w", w)] {
        let storage = gpu().storage(key, t.elements()).unwrap();
        let values: Vec<f32> = (0..t.elements()).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
        gpu().write(&storage, 0, &values).unwrap();
        externals.insert(key.to_owned(), storage);
    }
    let options = PlanOptions { variant: Some("coop".into()), ..PlanOptions::default() };
    let mut plan = Plan::new(gpu(), rec, &externals, &options).unwrap();
    plan.run(&[]).unwrap();
    plan.wait().unwrap();
    plan.read(&y).unwrap()
}

/// A workgroup of 128 has two subgroups where they are of 64 lanes: then blocks are computed in turns. Shown with as many
/// subgroups as there are here, of which only so few take part.
#[test]
fn fewer_subgroups_compute_the_same() {
    let words = deme::shader::card::Params::words(&MatmulParams::plain(100, 96, 52));
    let here = MATMUL_FORWARD.variants.iter().filter(|v| v.cooperative() && (v.fits)(&words, &gpu().limits()));
    for variant in here {
        let all = by(single(&MATMUL_FORWARD, variant, variant.stem, variant.source));
        assert!(all.iter().any(|&y| y != 0.0));
        for few in [1, 2, 3] {
            let (argument, include) = ("num_subgroups) subgroups:", "//% include \"coop_multiply.wgsl\"");
            assert!(variant.source.contains(argument) && variant.source.contains(include));
            let text = variant.source.replace(argument, "num_subgroups) present:");
            let text = text.replace(include, &format!("    let subgroups = min(present, {few}u);\n{include}"));
            let card = single(&MATMUL_FORWARD, variant, variant.stem, Box::leak(text.into_boxed_str()));
            assert_eq!(by(card), all, "{few} subgroups");
        }
    }
}
