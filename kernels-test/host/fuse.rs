//! Which sums a product's epilogue takes over, and which not. Called by `host.rs`; needs no GPU.

use deme::kernels::broadcast::add_channel_bias;
use deme::kernels::conv2d::{Conv2dSpec, conv2d};
use deme::kernels::matmul::matmul;
use deme::kernels::pointwise::{accumulate, add};
use deme::recording::{Recording, Tensor};
use deme::reference::interpret::{Rounding, State};
use deme::rng::uniform;
use deme::shape::{DType, Shape};
use deme::tape::Tape;
use std::collections::HashMap;

fn external(rec: &mut Recording, key: &str, extents: &[u32]) -> Tensor {
    let shape = Shape::from_slice("test", extents).unwrap();
    Tensor { buffer: rec.external(key, shape.elements()), offset: 0, shape }
}

/// x [2, 6, 8], t [2, 4], and x w [2, 6, 4].
fn product(tape: &mut Tape) -> [Tensor; 3] {
    let [x, w, t] =
        [("x", [2, 6, 8].as_slice()), ("w", &[8, 4]), ("t", &[2, 4])].map(|(k, e)| external(&mut tape.rec, k, e));
    [x, t, matmul(tape, &x, &w, None).unwrap()]
}

fn words(rec: &Recording) -> Vec<&str> {
    rec.ops.iter().map(|op| op.card.word).collect()
}

/// What `z` holds, without roundings.
fn result(rec: &Recording, z: &Tensor) -> Vec<f64> {
    let filled =
        (0..).zip(&rec.buffers).map(|(s, b)| (b.label.clone(), (0..b.elements).map(|i| uniform(1, s, i)).collect()));
    let externals: HashMap<String, Vec<f64>> = filled.collect();
    let mut state = State::new(rec, &externals, Rounding::None).unwrap();
    state.run(rec, 0..rec.ops.len()).unwrap();
    state.get(z)
}

/// The words of the recording once it is fused; it computes the same z.
fn fused(rec: &Recording, z: &Tensor) -> Vec<&'static str> {
    let short = rec.clone().fused();
    for (was, is) in result(rec, z).into_iter().zip(result(&short, z)) {
        assert!((was - is).abs() < 1e-12, "{was} became {is}");
    }
    short.ops.iter().map(|op| op.card.word).collect()
}

#[test]
fn a_residual_on_either_side_and_a_bias_of_each_sample_are_taken_over() {
    for swapped in [false, true] {
        let mut tape = Tape::new(Recording::new("test"));
        let [_, _, y] = product(&mut tape);
        let residual = external(&mut tape.rec, "residual", &[2, 6, 4]);
        let [a, b] = if swapped { [&residual, &y] } else { [&y, &residual] };
        let z = add(&mut tape, a, b).unwrap();
        assert_eq!(fused(&tape.rec, &z), ["matmul_forward"]);
    }
    let mut tape = Tape::new(Recording::new("test"));
    let [_, t, y] = product(&mut tape);
    let z = add_channel_bias(&mut tape, &y, &t).unwrap();
    assert_eq!(fused(&tape.rec, &z), ["matmul_forward"]);
    // One addend a product: the second sum stays.
    let z = add(&mut tape, &z, &z).unwrap();
    assert_eq!(fused(&tape.rec, &z), ["matmul_forward", "add"]);
}

#[test]
fn of_two_products_the_later_takes_the_sum() {
    let mut tape = Tape::new(Recording::new("test"));
    let [_, _, first] = product(&mut tape);
    let (x, w) = (external(&mut tape.rec, "image", &[2, 3, 2, 5]), external(&mut tape.rec, "kernel", &[3, 3, 5, 4]));
    let second = conv2d(&mut tape, &x, &w, None, Conv2dSpec::same(3)).unwrap();
    let second = second.reshape("test", first.shape).unwrap();
    let z = add(&mut tape, &first, &second).unwrap();
    assert_eq!(fused(&tape.rec, &z), ["matmul_forward", "conv2d_forward"]);
}

#[test]
fn a_product_that_is_read_twice_or_kept_stays() {
    let mut tape = Tape::new(Recording::new("test"));
    let [_, t, y] = product(&mut tape);
    let z = add_channel_bias(&mut tape, &y, &t).unwrap();
    let mut kept = tape.rec.clone();
    kept.keep(&y);
    assert_eq!(fused(&kept, &z), words(&kept));
    let z = add(&mut tape, &z, &y).unwrap();
    assert_eq!(fused(&tape.rec, &z), words(&tape.rec));
}

#[test]
fn a_product_whose_factors_change_before_the_sum_stays() {
    let mut tape = Tape::new(Recording::new("test"));
    let [x, t, y] = product(&mut tape);
    let more = external(&mut tape.rec, "more", &[2, 6, 8]);
    accumulate(&mut tape.rec, &more, &x).unwrap();
    let z = add_channel_bias(&mut tape, &y, &t).unwrap();
    assert_eq!(fused(&tape.rec, &z), words(&tape.rec));
}

#[test]
fn a_sum_of_another_element_type_stays() {
    let mut tape = Tape::new(Recording::new("test"));
    let [_, t, y] = product(&mut tape);
    let z = add_channel_bias(&mut tape, &y, &t).unwrap();
    tape.rec.buffers[z.buffer.0 as usize].dtype = DType::F16;
    assert_eq!(words(&tape.rec.clone().fused()), words(&tape.rec));
}
