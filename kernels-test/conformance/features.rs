//! Feature networks and distances of sets of pictures against pytorch-fid, torch-fidelity, clean-fid and torchvision.
//! See kernels-test/golden/README.md for what the files hold.

use super::harness::device::gpu;
use crate::support::features::state_dict;
use crate::support::fixtures::{Golden, fixture_tensor};
use deme::eval::backbone::Backbone;
use deme::eval::features::Extractor;
use deme::eval::resize::FidMode;
use deme::eval::score::Head;
use deme::eval::sets::{Features, kernel_inception_distance, precision_recall};
use deme::eval::statistics::{Moments, frechet_distance};
use deme::eval::weights::Weights;
use deme::rng::{Purpose, stream, uniform};
use image::RgbImage;

fn pictures(golden: &Golden) -> Vec<RgbImage> {
    let seed = golden.facts["seed"].as_u64().unwrap();
    let sizes = golden.facts["pictures"].as_array().unwrap();
    let picture = |(i, size): (usize, &serde_json::Value)| {
        let [h, w] = [0, 1].map(|k| size[k].as_u64().unwrap() as u32);
        let stream = stream(Purpose::Weights, crc32fast::hash(format!("picture.{i}").as_bytes()));
        let bytes = (0..u64::from(h * w * 3)).map(|i| (uniform(seed, stream, i) * 256.0) as u8).collect();
        RgbImage::from_raw(w, h, bytes).unwrap()
    };
    sizes.iter().enumerate().map(picture).collect()
}

fn check(backbone: Backbone, modes: &[(FidMode, &str)]) {
    let golden = Golden::open("features");
    let (seed, gain) = (golden.facts["seed"].as_u64().unwrap(), golden.facts["gain"].as_f64().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    state_dict(&path, backbone, seed, gain);
    let weights = Weights::open(&path, backbone).unwrap();
    assert!(!weights.known());
    let pictures = pictures(&golden);
    for &(mode, name) in modes {
        let mut extractor = Extractor::new(gpu(), &weights, backbone, mode, 2).unwrap();
        for (batch, pictures) in pictures.chunks(2).enumerate() {
            let features = extractor.features(pictures).unwrap();
            let width = backbone.features() as usize;
            for (i, features) in features.chunks_exact(width).enumerate() {
                let key = format!("{name}.{}", 2 * batch + i);
                let expected = golden.values(&key);
                let largest = expected.iter().fold(0f64, |m, &v| m.max(f64::from(v)));
                let error = features.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
                let worst = error.fold(0.0, |worst, e| if e <= worst { worst } else { e }) / largest;
                // 94 convolutions of f32; a wrong pixel or a wrong layer moves features by a hundredth at least.
                assert!(worst <= 2e-5, "{key}: {worst:e} of the largest feature");
            }
        }
    }
}

#[test]
fn inception_features_agree_with_each_tools() {
    check(Backbone::Inception, &[(FidMode::Pytorch, "pytorch"), (FidMode::Tf, "tf"), (FidMode::Clean, "clean")]);
}

#[test]
fn mobilenet_features_agree_with_torchvision() {
    check(Backbone::MobileNet, &[(FidMode::Pytorch, "mobilenet")]);
}

/// 2,500 vectors of 64 on each side, as the script makes them.
#[test]
fn distances_agree_with_each_tools() {
    let golden = Golden::open("features");
    let (facts, seed) = (&golden.facts["distances"], golden.facts["seed"].as_u64().unwrap());
    let [count, width] = [0, 1].map(|k| golden.facts["features"][k].as_u64().unwrap() as usize);
    let a = fixture_tensor(seed, "input.a", &[count as u64, width as u64]);
    let b = fixture_tensor(seed, "input.b", &[count as u64, width as u64]);
    let mixed = |(i, &v): (usize, &f32)| {
        let (row, column) = (i / width, i % width);
        let before = f64::from(b[row * width + (column + width - 1) % width]);
        (1.2 * f64::from(v) + 0.5 * before + 0.1) as f32
    };
    let b: Vec<f32> = b.iter().enumerate().map(mixed).collect();
    let statistics = |features: &[f32]| {
        let mut moments = Moments::new(width);
        features.chunks(100 * width).for_each(|batch| moments.push(batch));
        moments.statistics().unwrap()
    };
    let distance = frechet_distance(&statistics(&a), &statistics(&b)).unwrap();
    for tool in ["pytorch-fid", "torch-fidelity", "clean-fid"] {
        let expected = facts[tool].as_f64().unwrap();
        assert!((distance - expected).abs() < 1e-6, "{tool}: {distance} and {expected}");
    }
    let first = golden.facts["subset"].as_u64().unwrap() as usize * width;
    let (a, b) = (Features::new(&a[..first], width), Features::new(&b[..first], width));
    let kid = kernel_inception_distance(&a, &b, 0).unwrap();
    assert!((kid.mean - facts["kid"].as_f64().unwrap()).abs() < 1e-9 && kid.deviation.is_none(), "{kid:?}");
    let shares = precision_recall(&b, &a).unwrap();
    assert!((shares.precision - facts["precision"].as_f64().unwrap()).abs() < 1e-6, "{shares:?}");
    assert!((shares.recall - facts["recall"].as_f64().unwrap()).abs() < 1e-6, "{shares:?}");
    let head = fixture_tensor(seed, "input.head", &[width as u64, width as u64]);
    let score = Head::new(head, width).unwrap().score(&a).unwrap();
    assert!((score.mean - facts["inception_score"].as_f64().unwrap()).abs() < 1e-9, "{score:?}");
    assert!((score.deviation - facts["inception_score_deviation"].as_f64().unwrap()).abs() < 1e-9, "{score:?}");
}
