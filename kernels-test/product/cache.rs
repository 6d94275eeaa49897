//! The driver's pipelines are kept between runs where the backend offers it, and no state of the file can hurt.

use std::fs;
use std::process::Command;

use super::run::{deme, tiny};

#[test]
fn pipelines_are_kept_and_a_damaged_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny(&dir.path().join("model"), 3);
    let cache = dir.path().join("cache");
    let sample = |name: &str| {
        let out = dir.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
        command.args(["sample", "--num", "1", "--steps", "2", "--model"]).arg(&model).arg("--out").arg(&out);
        let ran = command.env("DEME_CACHE", &cache).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        image::open(out).unwrap().into_rgb8().into_raw()
    };
    let first = sample("a.png");
    let report: serde_json::Value =
        serde_json::from_str(&deme(["doctor", "--skip-test", "--json"]).exits(0).out).unwrap();
    if report["adapters"][0]["features"]["pipeline cache"] == false {
        assert!(!cache.exists(), "nothing to keep, nothing written");
        return;
    }
    let files: Vec<_> = fs::read_dir(cache.join("pipelines")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one file for this adapter, driver and shaders");
    let kept = fs::read(&files[0]).unwrap();
    assert!(!kept.is_empty());
    assert_eq!(sample("b.png"), first);
    let mut other = kept.clone();
    other.iter_mut().for_each(|byte| *byte ^= 0x5a);
    for (i, damaged) in [&kept[..kept.len() / 2], &[], b"not a cache", &other].into_iter().enumerate() {
        fs::write(&files[0], damaged).unwrap();
        assert_eq!(sample(&format!("c{i}.png")), first, "damage {i}");
    }
}
