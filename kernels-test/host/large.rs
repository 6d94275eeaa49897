//! Memory of training at 256x256, with the architecture of LSUN's models (113.7M parameters). Called by `host.rs`; needs no GPU.

use deme::bench::model::Model;
use deme::bench::steps;
use deme::gpu::memory;
use deme::recording::Recording;
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
        println!(
            "{precision}: {before} bytes, {after} where activations are made again, {:.3} of the FLOPs",
            flops / least
        );
        assert!(after < 12_000_000_000 && 3 * after < 2 * before, "{after} bytes of {before}");
        assert!(flops < 1.2 * least, "{flops} FLOPs, {least} where they are kept");
    }
}

/// What every adapter binds is enough for two images at once.
#[test]
fn two_images_need_no_binding_above_128_mib() {
    let model = Model::named("lsun-256").unwrap();
    let largest = |batch: u32| {
        let [micro, _] = step(&model, batch, Precision::F32, true);
        let tensors = micro.ops.iter().flat_map(|op| op.tensors());
        tensors.map(|(_, t)| micro.dtype(t).size(t.elements())).max().unwrap()
    };
    assert_eq!([largest(2), largest(8)], [128 << 20, 512 << 20]);
}
