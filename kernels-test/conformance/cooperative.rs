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

/// y = x w for [64, 32] and [32, 64], forward and backward, with x all `value` and w all 1; the plan, and y after a run.
fn product(gpu: &Gpu, value: f32) -> (Plan, Vec<f32>) {
    let mut tape = Tape::new(Recording::new("product"));
    let [x, w, dw] =
        [("x", [64, 32]), ("w", [32, 64]), ("dw", [32, 64])].map(|(key, e)| external(&mut tape.rec, key, e));
    tape.watch(&x);
    tape.parameter(w, dw);
    let y = matmul(&mut tape, &x, &w, None).unwrap();
    let dy = external(&mut tape.rec, "dy", [64, 64]);
    tape.rec.keep(&y);
    let (rec, _) = tape.backward(&[(y, dy)]).unwrap();
    let mut externals = Externals::new();
    for (key, elements, value) in [("x", 2048, value), ("w", 2048, 1.0), ("dw", 2048, 0.0), ("dy", 4096, 1.0)] {
        let storage = gpu.storage(key, elements).unwrap();
        gpu.write(&storage, 0, &vec![value; elements as usize]).unwrap();
        externals.insert(key.to_owned(), storage);
    }
    let mut plan = Plan::new(gpu, rec, &externals, &PlanOptions::default()).unwrap();
    plan.run(&[]).unwrap();
    plan.wait().unwrap();
    let y = plan.read(&y).unwrap();
    (plan, y)
}

#[test]
fn only_forward_products_take_cooperative_matrices_and_only_in_f16() {
    let offered = gpu().limits().cooperative > 0;
    let stems = |gpu: &Gpu| product(gpu, 1.0).0.stems().collect::<Vec<_>>();
    let (half, full) = (stems(&gpu().at(Precision::F16)), stems(gpu()));
    assert_eq!(half[0] == "matmul_forward_coop", offered, "{half:?}");
    assert!(half[1..].iter().any(|stem| stem.starts_with("matmul_forward")), "dx is a product too: {half:?}");
    assert!(!half[1..].iter().chain(&full).any(|stem| stem.ends_with("_coop")), "{half:?}, {full:?}");
    assert_eq!(half[1..], full[1..]);
}

#[test]
fn what_is_finite_stays_finite_and_nothing_else_does() {
    for (value, expected) in [(1.0, 32.0), (1e30, f32::INFINITY), (f32::INFINITY, f32::INFINITY), (f32::NAN, f32::NAN)]
    {
        let y = product(&gpu().at(Precision::F16), value).1;
        let fine = |y: f32| match value {
            1.0 => y == expected,
            // Beyond f16's range: as large as f16 goes, or as it is where it ran in f32.
            1e30 => y == 32.0 * 65504.0 || (y / 32e30 - 1.0).abs() < 1e-6,
            _ => !y.is_finite(),
        };
        assert!(y.iter().all(|&y| fine(y)), "{value}: {y:?}");
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
