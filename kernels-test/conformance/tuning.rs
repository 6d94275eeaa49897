//! Tuning on an adapter: the faster candidate wins, a wrong one never does, and without tuning nothing changes.
//! Called by `conformance.rs`. Cards of two or three copies of one kernel, some made slow, some wrong.

use std::sync::{Arc, Mutex};

use deme::gpu::autotune::Event;
use deme::gpu::{AdapterChoice, Autotune, Externals, Gpu, Plan, PlanOptions, Tuning};
use deme::kernels::matmul::matmul;
use deme::recording::{Op, Recording, Tensor};
use deme::shader::card::{Card, Class, Variant};
use deme::shader::cards::gemm::MATMUL_FORWARD;
use deme::shape::Shape;
use deme::tape::Tape;

const LOOP: &str = "for (var k = 0u; k < p.k; k++) {";

/// The naive kernel under another name, with its loop changed.
fn copy(suffix: &str, to: &str) -> Variant {
    let naive = MATMUL_FORWARD.variants.iter().find(|v| v.is_naive()).unwrap();
    let stem: &'static str = Box::leak(format!("matmul_forward_{suffix}").into_boxed_str());
    assert!(naive.source.contains(LOOP));
    let source = naive.source.replace("fn matmul_forward_v1(", &format!("fn {stem}(")).replace(LOOP, to);
    Variant { stem, source: Box::leak(source.into_boxed_str()), class: Class::Any, ..*naive }
}

/// Does its sum sixteen times over.
fn slow() -> Variant {
    let again = "for (var again = 0u; again < 16u * p.k; again++) { let k = again % p.k;
        if k == 0u { sum = 0.0; at_x -= select(0u, p.k, again > 0u); at_w -= select(0u, p.k * p.ldw, again > 0u); }";
    copy("slow", again)
}

fn quick() -> Variant {
    copy("quick", LOOP)
}

/// Faster than either, because it leaves out the last terms.
fn wrong() -> Variant {
    copy("wrong", "for (var k = 0u; k < p.k / 2u; k++) {")
}

/// Wrong by one term of 256.
fn short() -> Variant {
    copy("short", "for (var k = 1u; k < p.k; k++) {")
}

fn card(variants: Vec<Variant>) -> &'static Card {
    Box::leak(Box::new(Card { variants: Box::leak(variants.into_boxed_slice()), ..MATMUL_FORWARD }))
}

fn open() -> Gpu {
    Gpu::open(&AdapterChoice::default()).unwrap()
}

/// y [16, 16] = x [16, 256] w [256, 16], kept, on this card.
fn product(card: &'static Card) -> (Recording, Tensor) {
    let mut tape = Tape::new(Recording::new("product"));
    let own = |rec: &mut Recording, label: &str, extents: [u32; 2]| {
        let shape = Shape::new(extents);
        Tensor { buffer: rec.external(label, shape.elements()), offset: 0, shape }
    };
    let (x, w) = (own(&mut tape.rec, "x", [16, 256]), own(&mut tape.rec, "w", [256, 16]));
    let y = matmul(&mut tape, &x, &w, None).unwrap();
    let mut rec = tape.rec;
    rec.keep(&y);
    rec.ops = rec.ops.iter().map(|op| Op { card, ..op.clone() }).collect();
    (rec, y)
}

fn plan(gpu: &Gpu, card: &'static Card) -> (Plan, Tensor) {
    let (rec, y) = product(card);
    let mut externals = Externals::new();
    for key in ["x", "w"] {
        let storage = gpu.storage(key, 16 * 256).unwrap();
        let values: Vec<f32> = (0..16 * 256).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 0.999).collect();
        gpu.write(&storage, 0, &values).unwrap();
        externals.insert(key.into(), storage);
    }
    (Plan::new(gpu, rec, &externals, &PlanOptions::default()).unwrap(), y)
}

fn result(plan: &mut Plan, y: &Tensor) -> Vec<u32> {
    plan.run(&[]).unwrap();
    plan.read(y).unwrap().iter().map(|v| v.to_bits()).collect()
}

/// The variant that a tuned plan takes, and what was said to be wrong.
fn tuned(card: &'static Card) -> (&'static str, Vec<String>) {
    let gpu = open();
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&wrong);
    gpu.autotune(Autotune {
        known: Tuning::default(),
        seconds: Some(f64::INFINITY),
        cache: None,
        on_event: Box::new(move |event| {
            if let Event::Wrong { choice, .. } = event {
                heard.lock().unwrap().push(choice.to_owned());
            }
            Ok(())
        }),
    });
    let (plan, _) = plan(&gpu, card);
    let stem = plan.variants()[0].0;
    let wrong = wrong.lock().unwrap().clone();
    (stem, wrong)
}

#[test]
fn the_faster_of_two_is_taken_and_the_default_stays_before_a_slower_one() {
    assert_eq!(tuned(card(vec![slow(), quick()])), ("matmul_forward_quick", vec![]));
    assert_eq!(tuned(card(vec![quick(), slow()])), ("matmul_forward_quick", vec![]));
}

#[test]
fn a_fast_and_wrong_candidate_is_named_and_cannot_win() {
    let named = vec!["matmul_forward_wrong".to_owned()];
    assert_eq!(tuned(card(vec![slow(), wrong()])), ("matmul_forward_slow", named.clone()));
    assert_eq!(tuned(card(vec![slow(), quick(), wrong()])), ("matmul_forward_quick", named));
    let named = vec!["matmul_forward_short".to_owned()];
    assert_eq!(tuned(card(vec![slow(), short()])), ("matmul_forward_slow", named));
}

#[test]
fn a_candidate_that_does_not_compile_has_lost() {
    let broken = copy("broken", "for (var k = 0u; k < p.nothing; k++) {");
    assert_eq!(tuned(card(vec![slow(), broken])).0, "matmul_forward_slow");
}

#[test]
fn without_tuning_and_with_an_empty_record_the_bits_are_the_defaults() {
    let gpu = open();
    let (mut untuned, y) = plan(&gpu, &MATMUL_FORWARD);
    let expected = result(&mut untuned, &y);
    let by_table = MATMUL_FORWARD.choose(&product(&MATMUL_FORWARD).0.ops[0].params, gpu.class(), &gpu.limits(), 0);
    assert_eq!(untuned.variants(), [(by_table.unwrap().0.stem, 1)]);
    let quiet = |known, seconds| Autotune { known, seconds, cache: None, on_event: Box::new(|_| Ok(())) };
    gpu.autotune(quiet(Tuning::default(), None));
    let (mut off, y) = plan(&gpu, &MATMUL_FORWARD);
    assert_eq!((off.variants(), result(&mut off, &y)), (untuned.variants(), expected));
    assert!(gpu.tuning().is_empty());
}

/// A time limit of nothing leaves every default, and remembers that.
#[test]
fn once_the_time_is_up_defaults_stay_and_are_remembered() {
    let gpu = open();
    let lefts = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lefts);
    let settings = Autotune {
        known: Tuning::default(),
        seconds: Some(0.0),
        cache: None,
        on_event: Box::new(move |event| {
            if let Event::End { measured, left, .. } = event {
                heard.lock().unwrap().push((measured, left));
            }
            Ok(())
        }),
    };
    gpu.autotune(settings);
    let card = card(vec![slow(), quick()]);
    assert_eq!(plan(&gpu, card).0.variants(), [("matmul_forward_slow", 1)]);
    assert_eq!(plan(&gpu, card).0.variants(), [("matmul_forward_slow", 1)]);
    assert_eq!(*lefts.lock().unwrap(), [(0, 1)]);
    assert_eq!(gpu.tuning().to_json().values().collect::<Vec<_>>(), ["matmul_forward_slow"]);
}
