//! The laws of TIES, DARE, the arc and the soup, of weights by block, and what they refuse.
//! Run by `cargo test --test host merge_methods`.

use deme::deme::blocks::Per;
use deme::deme::merge::{Merge, Method, Weights};
use deme::error::Result;
use deme::io::source::{InMemory, TensorSource};
use deme::rng;

const NAME: &str = "conv_in.weight";
const ELEMENTS: u64 = 10_000;
const TIES: Method = Method::Ties { density: 1.0, lambda: 1.0 };
const DARE: Method = Method::Dare { density: 0.25, seed: 3 };

/// Within a factor of two of each other, so that differences are exact.
fn near(seed: u64) -> Vec<f32> {
    (0..ELEMENTS).map(|i| 1.0 + rng::uniform(seed, 0, i) as f32).collect()
}

fn model(tensors: &[(&str, &[f32])]) -> InMemory {
    let listed = tensors.iter().map(|(name, v)| (name.to_string(), vec![v.len() as u64], v.to_vec()));
    InMemory::new("model", listed.collect()).unwrap()
}

fn merge(method: Method, theta: &[f32], experts: &[&[f32]], weights: &[f64]) -> Result<Vec<f32>> {
    let base = model(&[(NAME, theta)]);
    let experts: Vec<InMemory> = experts.iter().map(|e| model(&[(NAME, e)])).collect();
    let sources = experts.iter().map(|e| e as &dyn TensorSource).collect();
    Merge::with(&base, sources, method, Weights::per_model(weights))?.tensor(NAME)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn no_weight_and_experts_that_stayed_give_the_base() {
    let (theta, a, b) = (near(1), near(2), near(3));
    for method in [TIES, Method::Ties { density: 0.2, lambda: 0.7 }, DARE] {
        assert_eq!(bits(&merge(method, &theta, &[&a, &b], &[0.0, -0.0]).unwrap()), bits(&theta), "{method:?}");
        assert_eq!(bits(&merge(method, &theta, &[&theta, &theta], &[0.3, -2.0]).unwrap()), bits(&theta), "{method:?}");
    }
    assert_eq!(bits(&merge(Method::Soup, &theta, &[&a, &a, &a], &[]).unwrap()), bits(&a));
    for t in [0.0, 0.3, 1.0] {
        assert_eq!(bits(&merge(Method::Slerp, &theta, &[&a, &a], &[t]).unwrap()), bits(&a));
    }
}

#[test]
fn one_expert_is_given_back_and_the_order_does_not_matter() {
    let (theta, a, b) = (near(1), near(2), near(3));
    for w in [1.0, 0.3] {
        assert_eq!(bits(&merge(TIES, &theta, &[&a], &[w]).unwrap()), bits(&a));
    }
    assert_eq!(bits(&merge(Method::Soup, &theta, &[&a], &[]).unwrap()), bits(&a));
    for (t, end) in [(0.0, &a), (1.0, &b)] {
        assert_eq!(bits(&merge(Method::Slerp, &theta, &[&a, &b], &[t]).unwrap()), bits(end));
    }
    for (method, one, other) in
        [(TIES, &[0.3, 0.8][..], &[0.8, 0.3][..]), (Method::Soup, &[], &[]), (Method::Slerp, &[0.25], &[0.75])]
    {
        let forth = merge(method, &theta, &[&a, &b], one).unwrap();
        assert_eq!(bits(&forth), bits(&merge(method, &theta, &[&b, &a], other).unwrap()), "{method:?}");
    }
}

/// By hand: task vectors (4, -3, 2, 1) and (-1, -5, 0.5, 6), halved by a density of 0.5 to (4, -3, 0, 0) and (0, -5, 0, 6).
#[test]
fn ties_trims_elects_and_averages() {
    let theta = [1.0, 1.0, 1.0, 1.0];
    let (a, b) = ([5.0, -2.0, 3.0, 2.0], [0.0, -4.0, 1.5, 7.0]);
    let half = Method::Ties { density: 0.5, lambda: 1.0 };
    assert_eq!(merge(half, &theta, &[&a, &b], &[1.0, 1.0]).unwrap(), [5.0, -3.0, 1.0, 7.0]);
    assert_eq!(merge(half, &theta, &[&a, &b], &[3.0, 1.0]).unwrap(), [5.0, -2.5, 1.0, 7.0]);
    // All kept: 4 outweighs -1, and 4 + 0.5 with the first element's sign changed by a negative weight.
    assert_eq!(merge(TIES, &theta, &[&a, &b], &[1.0, 1.0]).unwrap(), [5.0, -3.0, 2.25, 4.5]);
    assert_eq!(merge(TIES, &theta, &[&a, &b], &[1.0, -1.0]).unwrap(), [3.5, 6.0, 3.0, -5.0]);
    let doubled = Method::Ties { density: 1.0, lambda: 2.0 };
    assert_eq!(merge(doubled, &theta, &[&a, &b], &[1.0, 1.0]).unwrap(), [9.0, -7.0, 3.5, 8.0]);
}

#[test]
fn dare_drops_a_share_enlarges_the_rest_and_is_the_same_again() {
    let (theta, a, b) = (near(1), near(2), near(3));
    let merged = merge(DARE, &theta, &[&a], &[1.0]).unwrap();
    let kept: Vec<usize> = (0..theta.len()).filter(|&i| merged[i].to_bits() != theta[i].to_bits()).collect();
    // 2,500 in expectation, with a standard deviation of 43.
    assert!(kept.len().abs_diff(2500) < 180, "{} kept", kept.len());
    for i in kept {
        let expected = f64::from(theta[i]) + 4.0 * (f64::from(a[i]) - f64::from(theta[i]));
        assert_eq!(merged[i], expected as f32);
    }
    let both = merge(DARE, &theta, &[&a, &b], &[0.3, 0.8]).unwrap();
    assert_eq!(bits(&merge(DARE, &theta, &[&a, &b], &[0.3, 0.8]).unwrap()), bits(&both));
    let other = Method::Dare { density: 0.25, seed: 4 };
    assert_ne!(bits(&merge(other, &theta, &[&a, &b], &[0.3, 0.8]).unwrap()), bits(&both));
    let whole = Method::Dare { density: 1.0, seed: 3 };
    let task = merge(Method::Task, &theta, &[&a, &b], &[0.3, 0.8]).unwrap();
    assert_eq!(bits(&merge(whole, &theta, &[&a, &b], &[0.3, 0.8]).unwrap()), bits(&task));
}

#[test]
fn the_arc_keeps_the_length_and_the_soup_is_the_mean() {
    let theta = [0.0, 0.0];
    let half = merge(Method::Slerp, &theta, &[&[2.0, 0.0], &[0.0, 2.0]], &[0.5]).unwrap();
    assert!(half.iter().all(|x| (x - 2f32.sqrt()).abs() < 1e-6), "{half:?}");
    let third = merge(Method::Slerp, &theta, &[&[2.0, 0.0], &[0.0, 2.0]], &[1.0 / 3.0]).unwrap();
    assert!((third[0] - 3f32.sqrt()).abs() < 1e-6 && (third[1] - 1.0).abs() < 1e-6, "{third:?}");
    // One direction: the line.
    assert_eq!(merge(Method::Slerp, &theta, &[&[1.0, 0.0], &[3.0, 0.0]], &[0.25]).unwrap(), [1.5, 0.0]);
    assert_eq!(merge(Method::Slerp, &theta, &[&[0.0, 0.0], &[0.0, 4.0]], &[0.25]).unwrap(), [0.0, 1.0]);
    assert_eq!(merge(Method::Soup, &theta, &[&[1.0, 0.0], &[3.0, 3.0], &[2.0, 3.0]], &[]).unwrap(), [2.0, 2.0]);
}

#[test]
fn every_block_has_its_own_weights() {
    let tensors = |a: f32, b: f32| {
        let base = [("conv_in.weight", vec![a]), ("down_blocks.0.resnets.0.conv1.bias", vec![b])];
        InMemory::new("m", base.map(|(n, v)| (n.to_string(), vec![1], v)).to_vec()).unwrap()
    };
    let (base, one, other) = (tensors(1.0, 1.0), tensors(2.0, 3.0), tensors(5.0, 9.0));
    let rows = |name: &str| vec![("in".to_string(), vec![0.5, 0.25]), (name.to_string(), vec![1.0, -0.5])];
    let weights = Weights::by_block(Per::Block, rows("down_blocks.0")).unwrap();
    let mut merge = Merge::with(&base, vec![&one, &other], Method::Task, weights).unwrap();
    assert_eq!(merge.tensor("conv_in.weight").unwrap(), [2.5]);
    assert_eq!(merge.tensor("down_blocks.0.resnets.0.conv1.bias").unwrap(), [-1.0]);
    let elsewhere = Weights::by_block(Per::Block, rows("up_blocks.0")).unwrap();
    let error = Merge::with(&base, vec![&one, &other], Method::Task, elsewhere).err().unwrap();
    assert!(error.to_string().contains("down_blocks.0.resnets.0.conv1.bias is in none of the blocks"), "{error}");
    assert!(Weights::by_block(Per::Block, vec![("in".into(), vec![1.0]), ("out".into(), vec![])]).is_err());
}

#[test]
fn refusals_name_the_number() {
    let x: &[f32] = &[1.0];
    for (method, experts, weights, message) in [
        (Method::Slerp, 3, &[0.5][..], "an arc between 3 experts"),
        (Method::Slerp, 2, &[0.5, 0.5], "2 weights for an arc"),
        (Method::Slerp, 2, &[f64::NAN], "weight 0 is NaN"),
        (Method::Soup, 0, &[], "a soup of no experts"),
        (TIES, 2, &[0.5], "1 weights for 2 experts"),
        (Method::Ties { density: 0.0, lambda: 1.0 }, 1, &[0.5], "a density of 0"),
        (Method::Dare { density: 1.5, seed: 0 }, 1, &[0.5], "a density of 1.5"),
        (Method::Ties { density: 1.0, lambda: f64::INFINITY }, 1, &[0.5], "a lambda of inf"),
    ] {
        let error = merge(method, x, &vec![x; experts], weights).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 2));
    }
}
