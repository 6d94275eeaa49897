//! The laws of merging on random bit patterns (all exponents, both zeros, denormals), and what a merge refuses.
//! Run by `cargo test --test host merge`.

use deme::deme::merge::Merge;
use deme::error::Result;
use deme::io::source::{InMemory, TensorSource};
use deme::rng;

const ELEMENTS: u64 = 40_000;

/// Finite f32 of any exponent; about one in eight is a zero of either sign, one in eight a neighbour of 1.
fn wild(seed: u64) -> Vec<f32> {
    let any = |i: u64| {
        let [word, kind, ..] = rng::philox(seed, 0, i);
        let x = match kind % 8 {
            0 => f32::from_bits(word & 0x8000_0000),
            1 => 1.0 + (word % 16) as f32 * f32::EPSILON,
            _ => f32::from_bits(word),
        };
        if x.is_finite() { x } else { f32::MIN_POSITIVE }
    };
    (0..ELEMENTS).map(any).collect()
}

fn model(path: &str, values: &[f32]) -> InMemory {
    InMemory::new(path, vec![("conv_in.weight".into(), vec![values.len() as u64], values.to_vec())]).unwrap()
}

fn merge(theta: &[f32], experts: &[&[f32]], weights: &[f64]) -> Result<Vec<f32>> {
    let base = model("base", theta);
    let experts: Vec<InMemory> = experts.iter().map(|e| model("expert", e)).collect();
    let sources = experts.iter().map(|e| e as &dyn TensorSource).collect();
    Merge::new(&base, sources, weights)?.tensor("conv_in.weight")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn no_weight_gives_the_base() {
    let (theta, a, b) = (wild(1), wild(2), wild(3));
    for weights in [[0.0, 0.0], [-0.0, 0.0]] {
        assert_eq!(bits(&merge(&theta, &[&a, &b], &weights).unwrap()), bits(&theta));
    }
    assert_eq!(bits(&merge(&theta, &[], &[]).unwrap()), bits(&theta));
}

#[test]
fn experts_that_stayed_give_the_base() {
    let theta = wild(4);
    for weights in [[0.3, -0.2, 0.7], [1e6, -3.0, 1e-9]] {
        assert_eq!(bits(&merge(&theta, &[&theta, &theta, &theta], &weights).unwrap()), bits(&theta));
    }
}

#[test]
fn a_unit_vector_gives_its_expert() {
    let (theta, a, b) = (wild(5), wild(6), wild(7));
    assert_eq!(bits(&merge(&theta, &[&a, &b], &[1.0, 0.0]).unwrap()), bits(&a));
    assert_eq!(bits(&merge(&theta, &[&a, &b], &[-0.0, 1.0]).unwrap()), bits(&b));
}

#[test]
fn the_experts_order_does_not_matter() {
    // Exponents near each other, so that sums do round.
    let near = |seed| (0..ELEMENTS).map(|i| rng::uniform(seed, 0, i) as f32 - 0.5).collect::<Vec<_>>();
    let (theta, experts) = (near(8), [near(9), near(10), near(11), near(12)]);
    let weights = [0.3, -0.2, 0.45, 0.7];
    let in_order = |order: [usize; 4]| {
        let listed: Vec<&[f32]> = order.iter().map(|&i| experts[i].as_slice()).collect();
        bits(&merge(&theta, &listed, &order.map(|i| weights[i])).unwrap())
    };
    let first = in_order([0, 1, 2, 3]);
    for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1], [0, 2, 1, 3]] {
        assert_eq!(in_order(order), first);
    }
}

#[test]
fn each_element_is_rounded_once() {
    // Whole numbers and eighths: exact in f64, so the only rounding is the last.
    let whole = |seed| (0..ELEMENTS).map(|i| rng::below(seed, 0, i, 1 << 24) as f32).collect::<Vec<_>>();
    let (theta, a, b) = (whole(13), whole(14), whole(15));
    let merged = merge(&theta, &[&a, &b], &[0.625, -0.375]).unwrap();
    let mut inexact = 0;
    for i in 0..theta.len() {
        let [t, a, b] = [theta[i], a[i], b[i]].map(|x| x as i64);
        let eighths = 8 * t + 5 * (a - t) - 3 * (b - t);
        let expected = (eighths as f64 / 8.0) as f32;
        inexact += usize::from(f64::from(expected) * 8.0 != eighths as f64);
        assert_eq!(merged[i].to_bits(), expected.to_bits(), "element {i}");
    }
    assert!(inexact > 1000, "{inexact} elements needed rounding");
}

#[test]
fn norms_and_angles_of_the_task_vectors() {
    let base = model("base", &[1.0, 2.0, 0.0]);
    let (a, b) = (model("a", &[4.0, 6.0, 0.0]), model("b", &[1.0, 2.0, 2.0]));
    let mut merge = Merge::new(&base, vec![&a, &b, &base], &[0.5, 0.5, 0.0]).unwrap();
    merge.tensor("conv_in.weight").unwrap();
    let found = merge.task_vectors();
    assert_eq!(found.norms, [5.0, 2.0, 0.0]);
    assert_eq!(found.cosines, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn values_that_are_not_finite_are_refused_by_file_tensor_and_element() {
    let good = [1.0, 2.0, 3.0];
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let bad = [1.0, 2.0, value];
        for weights in [[0.5], [0.0], [1.0]] {
            let error = merge(&good, &[&bad], &weights).unwrap_err();
            assert_eq!(error.to_string(), format!("expert: tensor conv_in.weight: element 2 is {word}"));
            assert_eq!(error.exit_code(), 3);
        }
        let error = merge(&bad, &[&good], &[0.5]).unwrap_err();
        assert_eq!(error.to_string(), format!("base: tensor conv_in.weight: element 2 is {word}"));
    }
    let error = merge(&[0.0], &[&[f32::MAX]], &[2.0]).unwrap_err();
    assert_eq!(error.to_string(), "element 0 of the merged tensor conv_in.weight exceeds f32");
}

#[test]
fn weights_must_be_finite_and_one_an_expert() {
    let x = [1.0];
    for (weights, message) in [
        (&[0.5, 0.5][..], "2 weights for 1 experts"),
        (&[], "0 weights for 1 experts"),
        (&[f64::NAN], "weight 0 is NaN"),
        (&[f64::NEG_INFINITY], "weight 0 is -inf"),
    ] {
        let error = merge(&x, &[&x], weights).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 2));
    }
}

type Tensors<'a> = &'a [(&'a str, &'a [u64])];

fn zeros(path: &str, tensors: Tensors) -> InMemory {
    let filled = tensors.iter().map(|(n, s)| ((*n).into(), s.to_vec(), vec![0.0; s.iter().product::<u64>() as usize]));
    InMemory::new(path, filled.collect()).unwrap()
}

#[test]
fn tensors_that_do_not_match_are_named() {
    let base = zeros("base", &[("a", &[2]), ("b", &[1, 2])]);
    let cases: [(Tensors, &str); 4] = [
        (&[("a", &[2])], "expert: tensor b: is missing, the base has it"),
        (&[("a", &[2]), ("b", &[1, 2]), ("c", &[1])], "expert: tensor c: is not in the base"),
        (&[("a", &[2]), ("b", &[2, 1])], "expert: tensor b: is [2, 1], expected [1, 2]"),
        (
            &[("a", &[2]), ("b", &[1, 2]), ("adapter_list.0.weight", &[2, 3, 1, 1])],
            "expert: tensor adapter_list.0.weight: is [2, 3, 1, 1], expected the [C, C, 1, 1] of a projection",
        ),
    ];
    for (tensors, message) in cases {
        let expert = zeros("expert", tensors);
        let error = Merge::new(&base, vec![&expert], &[0.5]).err().unwrap();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 3));
    }
}

#[test]
fn a_model_without_projections_has_identities() {
    let name = "adapter_list.0.weight";
    let bare = |path| ("a".to_string(), vec![1], vec![path]);
    let with = |values: [f32; 4]| (name.to_string(), vec![2, 2, 1, 1], values.to_vec());
    let base = InMemory::new("base", vec![bare(1.0)]).unwrap();
    let a = InMemory::new("a", vec![bare(2.0), with([3.0, 1.0, 0.0, 1.0])]).unwrap();
    let b = InMemory::new("b", vec![bare(1.0)]).unwrap();
    let mut merge = Merge::new(&base, vec![&a, &b], &[0.5, 0.25]).unwrap();
    let names: Vec<_> = merge.tensors().iter().map(|(n, _)| n.clone()).collect();
    assert_eq!(names, ["a", name]);
    assert_eq!(merge.tensor(name).unwrap(), [2.0, 0.5, 0.0, 1.0]);
    assert_eq!(merge.tensor("a").unwrap(), [1.5]);
    assert!(merge.tensor("c").is_err());
}
