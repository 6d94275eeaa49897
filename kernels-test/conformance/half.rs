//! A recording in f16 on the GPU and on the twins, which round where it does: layers that store, copies, and gradients in f32.
//! Called by `conformance.rs`; each kernel alone is held to its twin in f16 by the families.

use super::harness::device::gpu;
use deme::gpu::{Externals, Plan, PlanOptions};
use deme::kernels::attention::{Route, attention_by};
use deme::kernels::broadcast::add_channel_bias;
use deme::kernels::conv2d::{Conv2dSpec, conv2d, conv2d_as};
use deme::kernels::group_norm::group_norm;
use deme::kernels::pointwise::{add, silu};
use deme::kernels::resample::{concat_channels, upsample_nearest};
use deme::recording::{Recording, Role, Tensor, ZERO_KEY};
use deme::reference::interpret::{Rounding, State};
use deme::rng::normal4;
use deme::shader::Precision;
use deme::shape::{DType, Shape};
use deme::tape::Tape;
use std::collections::HashMap;

fn external(rec: &mut Recording, key: &str, extents: &[u32], dtype: DType) -> Tensor {
    let shape = Shape::from_slice("test", extents).unwrap();
    Tensor { buffer: rec.external_as(key, shape.elements(), dtype), offset: 0, shape }
}

/// A weight in f16, whose gradient is f32.
fn weight(tape: &mut Tape, key: &str, extents: &[u32]) -> Tensor {
    let theta = external(&mut tape.rec, key, extents, DType::F16);
    let gradient = external(&mut tape.rec, &format!("d {key}"), extents, DType::F32);
    tape.parameter(theta, gradient);
    theta
}

/// A small network, its f32 output and all gradients.
fn network(route: Route) -> (Recording, Tensor) {
    let mut tape = Tape::new(Recording::new("f16").at(Precision::F16));
    let x = external(&mut tape.rec, "x", &[2, 4, 4, 4], DType::F32);
    let t = external(&mut tape.rec, "t", &[2, 8], DType::F32);
    let w = weight(&mut tape, "w", &[3, 3, 4, 8]);
    let bias = weight(&mut tape, "bias", &[8]);
    let [gamma, beta] = ["gamma", "beta"].map(|key| weight(&mut tape, key, &[8]));
    let h = conv2d(&mut tape, &x, &w, Some(&bias), Conv2dSpec::same(3)).unwrap();
    let h = add_channel_bias(&mut tape, &h, &t).unwrap();
    let n = group_norm(&mut tape, &h, &gamma, &beta, 2, 1e-5, true).unwrap();
    let tokens = n.reshape("test", Shape::new([2, 16, 8])).unwrap();
    let o = attention_by(&mut tape, &tokens, &tokens, &tokens, 2, None, route).unwrap();
    let o = add(&mut tape, &o.reshape("test", n.shape).unwrap(), &h).unwrap();
    let o = concat_channels(&mut tape, &o, &h).unwrap();
    let o = silu(&mut tape, &o).unwrap();
    let o = upsample_nearest(&mut tape, &o).unwrap();
    let w = weight(&mut tape, "w_out", &[3, 3, 16, 4]);
    let y = conv2d_as(&mut tape, &o, &w, None, Conv2dSpec::same(3), DType::F32).unwrap();
    let dy = external(&mut tape.rec, "dy", &[2, 8, 8, 4], DType::F32);
    tape.rec.keep(&y);
    (tape.backward(&[(y, dy)]).unwrap().0, y)
}

fn contents(i: usize, elements: u64) -> Vec<f32> {
    (0..elements).map(|e| 0.5 * normal4(31, i as u64, e)[0] as f32).collect()
}

/// The largest difference, of the largest value; NaN fails.
fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0f64, |most, v| most.max(v.abs()));
    let errors = got.iter().zip(expected).map(|(g, e)| (f64::from(*g) - e).abs());
    errors.fold(0.0, |worst, e| if e <= worst { worst } else { e }) / largest
}

#[test]
fn a_recording_in_f16_agrees_with_the_twins_that_round_where_it_does() {
    if !gpu().has_f16() {
        return;
    }
    for route in [Route::Products, Route::Fused] {
        let (rec, y) = network(route);
        assert!(rec.ops.iter().any(|op| op.half != 0) && rec.dtype(&y) == DType::F32);
        let mut externals = Externals::new();
        let mut values = HashMap::new();
        for (i, b) in rec.buffers.iter().enumerate() {
            let Role::External(key) = &b.role else { continue };
            if key == ZERO_KEY {
                continue;
            }
            let storage = gpu().storage_as(key, b.elements, b.dtype).unwrap();
            gpu().write(&storage, 0, &contents(i, b.elements)).unwrap();
            externals.insert(key.clone(), storage);
            values.insert(key.clone(), contents(i, b.elements).into_iter().map(f64::from).collect::<Vec<_>>());
        }
        let mut state = State::new(&rec, &values, Rounding::Stored).unwrap();
        state.run(&rec, 0..rec.ops.len()).unwrap();
        let mut plan = Plan::new(gpu(), rec.clone(), &externals, &PlanOptions::default()).unwrap();
        plan.run(&[]).unwrap();
        plan.wait().unwrap();
        // A sum near the middle between two f16 may be rounded to either: then an element is off by a whole 2^-10 of itself.
        let bound = 2f64.powi(-10);
        let error = distance(&plan.read(&y).unwrap(), &state.get(&y));
        assert!(error <= bound, "{route:?}: y is off by {error:e}");
        for key in ["w", "bias", "gamma", "beta", "w_out"].map(|key| format!("d {key}")) {
            let i = rec.buffers.iter().position(|b| b.label == key).unwrap();
            let storage = &externals[&key];
            let got = gpu().read(storage, 0, storage.elements).unwrap();
            let error = distance(&got, state.buffer(deme::recording::BufferId(i as u32)));
            assert!(error <= bound, "{route:?}: {key} is off by {error:e}");
        }
    }
}

/// Storage in f16 takes and gives f32, rounded once; what f16 does not have becomes infinite.
#[test]
fn storage_in_f16_rounds_what_is_written() {
    if !gpu().has_f16() {
        return;
    }
    let values = [0.1, -1.0, 65504.0, 65519.0, 65520.0, -1e30, 6e-8, 1e-9, 0.0];
    let storage = gpu().storage_as("odd", 9, DType::F16).unwrap();
    gpu().write(&storage, 0, &values).unwrap();
    let got = gpu().read(&storage, 0, 9).unwrap();
    let expected = [0.099975586, -1.0, 65504.0, 65504.0, f32::INFINITY, f32::NEG_INFINITY, 5.9604645e-8, 0.0, 0.0];
    assert_eq!(got, expected);
    gpu().write(&storage, 2, &[3.0, 4.0]).unwrap();
    assert_eq!(gpu().read(&storage, 2, 3).unwrap(), [3.0, 4.0, f32::INFINITY]);
    for (offset, count) in [(1, 2), (2, 3), (8, 2)] {
        assert!(gpu().write(&storage, offset, &vec![0.0; count]).is_err(), "{count} values at {offset}");
    }
}
