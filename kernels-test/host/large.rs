//! Memory of training at 256x256, with the architecture of LSUN's models (113.7M parameters). Called by `host.rs`; needs no GPU.

use deme::bench::model::Model;
use deme::bench::steps;
use deme::gpu::memory;
use deme::recording::{Recording, Role};
use deme::shader::Precision;
use deme::train::state;

/// The recordings of a step with teacher.
fn step(model: &Model, batch: u32, precision: Precision, recompute: bool) -> [Recording; 2] {
    steps::training(model, batch, 1.0, precision, recompute).unwrap().map(|r| r.recording)
}

/// Bytes on the GPU: weights, average, gradients, moments, teacher; activations, inputs, params of ops.
fn bytes(model: &Model, precision: Precision, recordings: &[Recording]) -> u64 {
    let plans: u64 = recordings.iter().map(|r| memory::plan_bytes(r).unwrap()).sum();
    state::bytes(&model.layout, true, precision) + plans
}

#[test]
fn a_step_at_batch_8_with_teacher_fits_12_gb_where_activations_are_made_again() {
    let model = Model::named("lsun-256").unwrap();
    assert_eq!(model.sides, [256, 256]);
    for precision in [Precision::F32, Precision::F16] {
        let [kept, again] = [false, true].map(|recompute| step(&model, 8, precision, recompute));
        let [before, after] = [&kept, &again].map(|recordings| bytes(&model, precision, recordings));
        let [least, flops] = [&kept, &again].map(|recordings| recordings[0].cost().flops as f64);
        let more = flops / least;
        let ops = [kept[0].ops.len(), again[0].ops.len()];
        println!("{precision}: {before} bytes, {after} where activations are made again; {more:.3} of the FLOPs, ops {ops:?}");
        let memory = memory::assign(&again[0]).unwrap();
        println!("slots {:?}", memory.slots.iter().filter(|s| **s > 10 << 20).map(|s| s >> 20).collect::<Vec<_>>());
        let lifetime = &memory.lifetime;
        let size = |i: usize| again[0].buffers[i].dtype.size(again[0].buffers[i].elements);
        let live = |k: usize| (0..again[0].buffers.len()).filter(move |&i| lifetime[i].is_some_and(|(f, l)| f <= k && k <= l));
        let peak = (0..again[0].ops.len()).max_by_key(|&k| live(k).map(size).sum::<u64>()).unwrap();
        println!("peak at op {peak} {}: {}", again[0].ops[peak].label(), live(peak).map(size).sum::<u64>());
        for i in live(peak).filter(|&i| size(i) > 10 << 20) {
            println!("  {} {} MiB {:?}", again[0].buffers[i].label, size(i) >> 20, memory.lifetime[i]);
        }
        assert!(after < 12_000_000_000, "{after} bytes");
        assert!(more < 4.0 / 3.0, "{more} times the FLOPs");
    }
}
