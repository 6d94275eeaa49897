//! Timed replays: the same results as untimed ones, and times that fit into the time that passed.

use super::harness::device::gpu;
use deme::gpu::{Externals, Plan, PlanOptions};
use deme::kernels::pointwise::accumulate;
use deme::recording::{Recording, Tensor};
use deme::shape::Shape;
use std::time::Instant;

/// More ops than one set of timestamps holds.
const OPS: usize = 2100;
const ELEMENTS: u64 = 4096;

/// Adds x to y, over and over.
fn additions() -> (Recording, Tensor) {
    let mut rec = Recording::new("additions");
    let shape = Shape::new([ELEMENTS as u32]);
    let [x, y] = ["x", "y"].map(|key| Tensor { buffer: rec.external(key, ELEMENTS), offset: 0, shape });
    for _ in 0..OPS {
        accumulate(&mut rec, &x, &y).unwrap();
    }
    (rec, y)
}

#[test]
fn a_timed_replay_computes_the_same_and_its_times_are_disjoint() {
    let gpu = gpu();
    let (rec, y) = additions();
    let externals: Externals =
        ["x", "y"].map(|key| (key.to_string(), gpu.storage(key, ELEMENTS).unwrap())).into_iter().collect();
    gpu.write(&externals["x"], 0, &[1.0; ELEMENTS as usize]).unwrap();
    let mut plan = Plan::new(gpu, rec, &externals, &PlanOptions::default()).unwrap();
    let mut start = Instant::now();
    let whole = plan.timed(&[]).unwrap();
    let mut passed = start.elapsed().as_secs_f64();
    // The adapter's clock may run a little faster than the host's.
    assert!(whole > 0.0 && whole <= 1.01 * passed, "{whole} s in {passed} s");
    start = Instant::now();
    let each = plan.profile(&[]).unwrap();
    passed = start.elapsed().as_secs_f64();
    let sum: f64 = each.iter().sum();
    assert_eq!(each.len(), OPS);
    assert!(each.iter().filter(|s| **s > 0.0).count() > OPS * 9 / 10, "ops without a time");
    assert!(sum > 0.0 && sum <= 1.01 * passed, "{sum} s in {passed} s");
    plan.run(&[]).unwrap();
    assert_eq!(plan.read(&y).unwrap(), [3.0 * OPS as f32; ELEMENTS as usize]);
}
