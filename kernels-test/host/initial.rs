//! First weights against PyTorch's: constants are equal, uniform values have the same bounds and spread. No adapter.

use std::path::Path;

use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::{init, tensors};
use serde_json::Value;

use crate::support::fixtures;

/// (smallest, largest, root mean square) of the values.
fn measure(values: &[f32]) -> [f64; 3] {
    let each = || values.iter().map(|&v| f64::from(v));
    let rms = (each().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
    [each().fold(f64::INFINITY, f64::min), each().fold(f64::NEG_INFINITY, f64::max), rms]
}

/// PyTorch drew each tensor once, so both sides scatter. Of n uniform values in +-b the largest is below b by about 2b/n (by
/// more than 20b/n once in e^10 tensors), and the root mean square is off by a factor of 1 +- 0.45 / sqrt(n); five times the
/// standard deviation of the two sides' difference is 3.2 / sqrt(n).
#[test]
fn first_weights_are_like_pytorchs() {
    let facts = fixtures::json("scratch");
    let config = UNetConfig::from_json(Path::new("config.json"), facts["config"].as_object().unwrap()).unwrap();
    let expected = tensors::expected(&config, Placement::None);
    let recorded = facts["first_weights"].as_object().unwrap();
    assert_eq!(recorded.len(), expected.len());
    let (mut constant, mut uniform) = (0, 0);
    for (i, spec) in expected.iter().enumerate() {
        let theirs: Vec<f64> = recorded[&spec.name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let values = init::values(&expected, i, 3);
        let ours = measure(&values);
        assert_eq!(values.len() as u64, spec.elements());
        if theirs[0] == theirs[1] {
            assert_eq!(ours[..2], theirs[..2], "{}", spec.name);
            constant += 1;
            continue;
        }
        let n = values.len() as f64;
        let bound = 3f64.sqrt() * theirs[2] * (1.0 + 3.2 / n.sqrt());
        assert!(ours[0] >= -bound && ours[1] <= bound, "{}: {ours:?} beyond {bound}", spec.name);
        assert!((ours[2] / theirs[2] - 1.0).abs() <= 3.2 / n.sqrt(), "{}: {ours:?} for {theirs:?}", spec.name);
        if n > 100.0 {
            let slack = 40.0 / n;
            for k in 0..2 {
                let off = (ours[k] / theirs[k] - 1.0).abs();
                assert!(off <= slack, "{}: {ours:?} for {theirs:?}", spec.name);
            }
        }
        uniform += 1;
    }
    assert!(constant > 20 && uniform > 40, "{constant} constant, {uniform} uniform");
}

#[test]
fn first_weights_follow_the_seed_and_no_two_tensors_share_them() {
    let config: Value = serde_json::from_str(
        r#"{"block_out_channels": [8], "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}"#,
    )
    .unwrap();
    let config = UNetConfig::from_json(Path::new("config.json"), config.as_object().unwrap()).unwrap();
    let expected = tensors::expected(&config, Placement::All);
    let drawn = |seed| init::weights(&expected, seed);
    assert_eq!(drawn(1), drawn(1));
    let values = |seed: u64, name: &str| drawn(seed).into_iter().find(|(n, ..)| n == name).unwrap().2;
    assert_ne!(values(1, "conv_in.weight"), values(2, "conv_in.weight"));
    let [a, b] = [0, 1].map(|j| values(1, &format!("mid_block.resnets.{j}.conv1.weight")));
    assert_ne!(a, b);
    let identity = values(1, "adapter_list.0.weight");
    assert!(identity.iter().enumerate().all(|(i, &v)| v == f32::from(u8::from(i / 8 == i % 8))));
}
