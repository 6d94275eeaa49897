//! `--autotune`: measured once and kept, recorded with what was computed, and never in the way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use deme::model::projections::Placement;
use deme::rng;
use serde_json::{Map, Value, json};

use super::resume::wait_for;
use super::run::{Ran, model, tiny};
use super::train::{Place, assert_same, newest};

/// `deme ARGUMENTS...` with a cache of its own.
fn deme(cache: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_deme")).args(arguments).env("DEME_CACHE", cache).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

fn sample(dir: &Path, model: &Path, name: &str, mode: &str) -> (Ran, PathBuf) {
    let out = dir.join(name);
    let (model, path) = (model.to_str().unwrap(), out.to_str().unwrap());
    let ran = deme(
        &dir.join("cache"),
        &["sample", "--num", "1", "--steps", "2", "--model", model, "--out", path, "--autotune", mode],
    );
    (ran, out)
}

fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}

fn cached(dir: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(dir.join("cache/tuning")).unwrap().map(|e| e.unwrap().path()).collect();
    let files: Vec<_> = files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(files.len(), 1, "one file for this adapter, driver and shaders: {files:?}");
    files[0].clone()
}

#[test]
fn tuning_is_kept_used_again_and_ignored_where_it_is_broken_or_foreign() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let model = tiny(&dir.join("model"), 3);
    let (off, plain) = sample(dir, &model, "off.png", "off");
    assert!(!off.exits(0).err.contains("tun"), "nothing is said");
    assert!(!dir.join("cache/tuning").exists());
    let (full, first) = sample(dir, &model, "full.png", "full");
    let full = full.exits(0);
    assert!(full.err.contains("kernel shapes for this adapter, once\n") && full.err.contains("tuned "), "{}", full.err);
    let file = cached(dir);
    let kept = fs::read_to_string(&file).unwrap();
    // A second start measures nothing.
    let (again, second) = sample(dir, &model, "again.png", "cached");
    assert!(!again.exits(0).err.contains("tun"));
    assert_eq!(pixels(&second), pixels(&first));
    let text = fs::read(&second).unwrap();
    let needle = b"tuning\0";
    assert!(text.windows(needle.len()).any(|w| w == needle), "the picture tells its tuning");
    assert!(!fs::read(&plain).unwrap().windows(needle.len()).any(|w| w == needle));
    // As a record of a run.
    let (by_file, third) = sample(dir, &model, "file.png", file.to_str().unwrap());
    by_file.exits(0);
    assert_eq!(pixels(&third), pixels(&first));

    let other = kept.replace("shaders ", "shaders of another version ");
    assert_ne!(other, kept);
    for (i, (damaged, warns)) in
        [(&kept[..kept.len() / 2], true), ("", true), ("[]", true), (&other, false)].iter().enumerate()
    {
        fs::write(&file, damaged).unwrap();
        let (ran, out) = sample(dir, &model, &format!("damaged{i}.png"), "cached");
        assert_eq!(ran.exits(0).err.contains("what was tuned is not used"), *warns, "damage {i}");
        assert_eq!(pixels(&out), pixels(&plain), "damage {i}: as without tuning");
    }
    let (ran, _) = sample(dir, &model, "foreign.png", file.to_str().unwrap());
    assert!(ran.exits(2).err.contains("says nothing of"));
    fs::write(&file, "{").unwrap();
    sample(dir, &model, "repaired.png", "full").0.exits(0);
    assert!(fs::read_to_string(&file).unwrap().contains("\"version\": 1"), "a broken file is replaced");
    let (ran, _) = sample(dir, &model, "typo.png", "ful");
    ran.complains(
        2,
        "--autotune ful is no mode, and no file of that name is there",
        "give cached, full, off, or the tuning.json of a run",
    );
}

/// One level, wide enough that CPU rasterisers take its matrices in several windows, whose sums are added up in parts.
const WIDE: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "attention_head_dim": null,
    "block_out_channels": [256], "down_block_types": ["DownBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "up_block_types": ["AttnUpBlock2D"], "sample_size": 8}"#;

/// The tuning file with windows where there were none, and none where there were; and how many choices have changed.
fn turned(text: &str) -> (String, usize) {
    let mut file: Map<String, Value> = serde_json::from_str(text).unwrap();
    let mut changed = 0;
    for device in file["devices"].as_object_mut().unwrap().values_mut() {
        for (_, choice) in device.as_object_mut().unwrap() {
            let before = choice.as_str().unwrap().to_owned();
            if before.starts_with("matmul") && before.contains("subgroup") {
                let after = before.strip_suffix('w').map_or(format!("{before}w"), str::to_owned);
                *choice = json!(after);
                changed += 1;
            }
        }
    }
    (Value::Object(file).to_string(), changed)
}

#[test]
fn a_run_goes_on_with_the_tuning_that_it_began_with() {
    let mut place = Place::new();
    place.model = model(&place.root.path().join("wide"), WIDE, Placement::None, |tensor, element| {
        0.05 * (rng::uniform(5, tensor, element) as f32 - 0.5)
    });
    let cache = place.run("cache");
    let own = ["--range", "0", "--steps", "6", "--accumulate", "1", "--batch", "4", "--save-every", "2"];
    let own = [own.as_slice(), &["--eval-every", "0", "--sample-every", "0"]].concat();
    let arguments =
        |name: &str, mode: &str| place.arguments(name, &[&own, &["--resume", "--autotune", mode][..]].concat());
    let run = |name: &str, mode: &str| {
        deme(&cache, &arguments(name, mode).iter().map(String::as_str).collect::<Vec<_>>()).exits(0)
    };
    let start = |name: &str, mode: &str| {
        let child = Command::new(env!("CARGO_BIN_EXE_deme"))
            .args(arguments(name, mode))
            .env("DEME_CACHE", &cache)
            .stderr(Stdio::null())
            .spawn();
        child.unwrap()
    };
    // Measured, and stopped before its first update is saved.
    let record = |name: &str| place.run(name).join("training/expert_0/tuning.json");
    let mut child = start("measured", "full");
    assert!(wait_for(&mut child, || record("measured").exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    let (text, changed) = turned(&fs::read_to_string(record("measured")).unwrap());
    let other = place.root.path().join("other.json");
    fs::write(&other, text).unwrap();
    let other = other.to_str().unwrap();
    run("whole", other);
    let kept = |name: &str| -> Value { serde_json::from_str(&fs::read_to_string(record(name)).unwrap()).unwrap() };
    assert_eq!(kept("whole"), serde_json::from_str::<Value>(&fs::read_to_string(other).unwrap()).unwrap());

    // Stopped, and continued under another mode, when the cache says something else.
    let mut child = start("stopped", other);
    assert!(wait_for(&mut child, || newest(&place.run("stopped"), 0) >= Some(2)));
    child.kill().unwrap();
    child.wait().unwrap();
    run("stopped", "cached");
    assert_same(&place.essence_of("stopped", 6), &place.essence_of("whole", 6));

    // That is worth something only where the other tuning gives other bits.
    run("plain", "off");
    let theta =
        |name: &str| fs::read(place.run(name).join("training/expert_0/step_00000006/theta.safetensors")).unwrap();
    assert!(changed == 0 || theta("whole") != theta("plain"), "{changed} other choices gave the same bits");
    let about = fs::read_to_string(place.run("whole").join("expert_0/deme.json")).unwrap();
    assert!(about.contains("tuning_sha256"), "{about}");
}

#[test]
fn a_kill_while_tuning_leaves_a_run_that_can_be_resumed() {
    let place = Place::new();
    let cache = place.run("cache");
    let arguments = place.arguments("run", &["--range", "0", "--resume", "--autotune", "full"]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_deme"))
        .args(&arguments)
        .env("DEME_CACHE", &cache)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("tuning ")), "it does not tune");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.run("run").join("run.json").exists());
    assert!(!cache.join("tuning").exists(), "killed before it had measured all");
    assert!(!place.run("run").join("training/expert_0/tuning.json").exists());
    deme(&cache, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).exits(0);
    assert!(place.run("run").join("expert_0").is_dir());
}
