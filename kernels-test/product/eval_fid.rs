//! `deme eval fid`: pictures against themselves, statistics in a file, what a model draws, refusals.

use crate::run::{deme, snapshot, tiny};
use crate::support::features::state_dict;
use deme::eval::backbone::Backbone;
use serde_json::Value;
use std::path::Path;

fn path(p: &Path) -> String {
    p.display().to_string()
}

/// Twelve small pictures, which `shift` makes others.
fn folder(dir: &Path, shift: u32) -> String {
    std::fs::create_dir_all(dir).unwrap();
    for i in 0..12 {
        let pixel = |x: u32, y: u32| {
            image::Rgb([x * 9 + i * 17 + shift, y * 7 + i * 5, (x * y + shift * i) * 3].map(|v| v as u8))
        };
        image::RgbImage::from_fn(20 + i % 3, 16, pixel).save(dir.join(format!("{i:02}.png"))).unwrap();
    }
    path(dir)
}

fn judge(words: &[&str]) -> Value {
    let ran =
        deme(["eval", "fid", "--network", "mobilenet", "--batch", "5", "--json", "-q"].iter().chain(words)).exits(0);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn a_set_is_at_no_distance_from_itself_and_a_file_of_statistics_stands_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("weights.safetensors");
    state_dict(&weights, Backbone::MobileNet, 3, 1.75);
    let weights = path(&weights);
    let (a, b) = (folder(&dir.path().join("a"), 0), folder(&dir.path().join("b"), 40));
    let same = judge(&["--weights", &weights, "--images", &a, "--against", &a, "--sets"]);
    let distance = |report: &Value| report["distance"].as_f64().unwrap();
    assert!(distance(&same).abs() < 1e-6, "{same}");
    assert_eq!((&same["sets"]["precision"], &same["sets"]["recall"]), (&Value::from(1.0), &Value::from(1.0)));
    assert_eq!(same["pictures"], 12);

    let file = path(&dir.path().join("b.npz"));
    let there = judge(&["--weights", &weights, "--images", &b, "--against", &a, "--save-stats", &file]);
    let back = judge(&["--weights", &weights, "--images", &a, "--against", &file]);
    assert!(
        distance(&there) > 1e-3 && (distance(&there) - distance(&back)).abs() < 1e-6 * distance(&there),
        "{there} {back}"
    );
    assert_eq!(back["against_pictures"], Value::Null);

    let model = path(&tiny(&dir.path().join("model"), 1));
    let drawn = judge(&["--weights", &weights, "--model", &model, "--num", "6", "--steps", "2", "--against", &a]);
    assert!(distance(&drawn) > 0.0 && drawn["of"].as_str().unwrap().contains("DDIM 2 steps"), "{drawn}");
}

#[test]
fn what_cannot_be_judged_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("weights.safetensors");
    state_dict(&weights, Backbone::MobileNet, 3, 1.75);
    let pictures = folder(&dir.path().join("a"), 0);
    let before = snapshot(dir.path());
    let weights = path(&weights);
    let common = ["eval", "fid", "--images", &pictures, "--against", &pictures, "--weights", &weights];
    // MobileNetV2's weights are not the InceptionV3's.
    let ran = deme(common).exits(3);
    assert!(ran.err.contains("weights.safetensors") && ran.err.contains("Conv2d_1a_3x3"), "{}", ran.err);
    let ran = deme(common.iter().chain(&["--save-stats", &pictures])).exits(2);
    assert!(ran.err.contains("exists"), "{}", ran.err);
    let npz = path(&dir.path().join("none.npz"));
    let ran = deme(["eval", "fid", "--images", &pictures, "--against", &npz, "--weights", &weights]).exits(3);
    assert!(ran.err.contains("none.npz"), "{}", ran.err);
    let ran = deme(["eval", "fid", "--images", &pictures, "--against", &npz, "--weights", &weights, "--sets"]).exits(2);
    assert!(ran.err.contains("holds no features"), "{}", ran.err);
    deme(["eval", "fid", "--against", &pictures, "--weights", &weights]).exits(2);
    assert_eq!(snapshot(dir.path()), before);
}
