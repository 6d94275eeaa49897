//! `deme finetune`: what a run leaves behind, what `--dry-run` says, and what is refused without touching the disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use deme::io::folder::ModelFolder;
use deme::io::source::TensorSource;
use serde_json::Value;

use super::run::{Ran, emoji, snapshot};
use super::train::{Place, STEPS};

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_leaves_experts_logs_grids_and_the_last_checkpoints() {
    let place = Place::new();
    place.finetune("run", &["--keep", "2"]).exits(0);
    let run = place.run("run");
    let base = ModelFolder::open(&place.model).unwrap();
    for i in 0..2 {
        let expert = ModelFolder::open(&run.join(format!("expert_{i}"))).unwrap();
        assert_eq!(expert.weights.names(), base.weights.names());
        assert_eq!(expert.unet_config.map, base.unet_config.map);
        let moved = base
            .weights
            .names()
            .iter()
            .filter(|name| base.weights.read_f32(name).unwrap() != expert.weights.read_f32(name).unwrap());
        // A key's bias has no effect on attention, so its gradient is rounding noise that may be zero.
        let expected = base.weights.names().iter().filter(|n| !n.ends_with("to_k.bias")).count();
        assert!(moved.count() >= expected, "every weight is trained");
        let about = json(&run.join(format!("expert_{i}/deme.json")));
        assert_eq!(about["timesteps"], serde_json::json!([500 * i, 500 * i + 500]));
        assert_eq!((&about["updates"], &about["ranges"]), (&STEPS.into(), &2.into()));

        let training = run.join(format!("training/expert_{i}"));
        let mut names: Vec<_> = snapshot(&training).into_iter().map(|(p, _)| p).filter(|p| p.is_dir()).collect();
        names.sort();
        assert_eq!(names, [training.join("step_00000009"), training.join("step_00000012")]);
        let log = lines(&training.join("metrics.jsonl"));
        let steps = |key: &str| {
            log.iter().filter(|l| !l[key].is_null()).map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(steps("noise_loss"), [4, 8, 12]);
        assert_eq!(steps("held_out"), [0, 6, 12]);
        for line in log.iter().filter(|l| !l["noise_loss"].is_null()) {
            let loss = line["noise_loss"].as_f64().unwrap();
            assert!(loss > 0.01 && loss < 100.0, "{line}");
            assert!(line["consistency_loss"].as_f64().unwrap() >= 0.0 && line["gradient_norm"].as_f64().unwrap() > 0.0);
        }
        assert_eq!(log[0]["held_out"]["buckets"].as_array().unwrap().len(), 2);
        assert_eq!(lines(&training.join("timing.jsonl")).len(), 3);
        for step in [0, 6, 12] {
            assert!(training.join(format!("samples_{step:08}.png")).is_file());
        }
    }
    let settings = json(&run.join("run.json"));
    assert_eq!(
        (&settings["p"], &settings["accumulate"], &settings["coin"]),
        (&0.4.into(), &4.into(), &"micro-batch".into())
    );
}

#[test]
fn one_range_is_plain_continued_training_and_learns() {
    let place = Place::new();
    let more = [
        "--ranges",
        "1",
        "--steps",
        "60",
        "--consistency",
        "0",
        "--accumulate",
        "1",
        "--sample-every",
        "0",
        "--eval-every",
        "0",
        "--log-every",
        "20",
        "--lr",
        "5e-3",
    ];
    place.finetune("run", &more).exits(0);
    let log = lines(&place.run("run").join("training/expert_0/metrics.jsonl"));
    let losses: Vec<_> = log.iter().map(|l| l["noise_loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 3);
    assert!(losses[2] < 0.9 * losses[0], "{losses:?}");
    assert!(log.iter().all(|l| l["consistency_loss"] == 0.0));
    assert!(!place.run("run").join("expert_1").exists());
}

/// Uneven ranges: the experts say whose timesteps are whose, and an ensemble goes by it.
#[test]
fn ranges_may_have_any_widths_and_an_ensemble_knows_them() {
    let place = Place::new();
    let few = ["--cuts=0,100,1000", "--steps=1", "--accumulate=1", "--sample-every=0", "--eval-every=0"];
    place.finetune("run", &few).exits(0);
    let run = place.run("run");
    assert_eq!(json(&run.join("run.json"))["ranges"], serde_json::json!([0, 100, 1000]));
    let experts = [0, 1].map(|i| run.join(format!("expert_{i}")));
    let of = |i: usize| json(&experts[i].join("deme.json"))["timesteps"].clone();
    assert_eq!([of(0), of(1)], [serde_json::json!([0, 100]), serde_json::json!([100, 1000])]);
    let out = place.root.path().join("x.png");
    let sample = |order: [usize; 2]| {
        let mut words = vec!["sample".to_owned(), "--num=1".into(), "--steps=2".into(), "--ensemble".into()];
        words.extend(["--model".to_owned(), place.model.display().to_string(), "--experts".into()]);
        words.extend(order.map(|i| experts[i].display().to_string()));
        super::run::deme(words.into_iter().chain(["--out".to_owned(), out.display().to_string()]))
    };
    sample([0, 1]).exits(0);
    let refused = sample([1, 0]).exits(2);
    assert!(refused.err.contains("the experts' timesteps are 100..1000, 0..100"), "{}", refused.err);
    for (cuts, text) in [("--cuts=0,1000,500", "cannot be cut at [0, 1000, 500]"), ("--cuts=0", "cannot be cut at [0]")]
    {
        let ran = place.finetune("none", &[cuts]).exits(2);
        assert!(ran.err.contains(text), "{}", ran.err);
    }
    // The command line excludes what the run file says.
    let config = format!("--config={}", run.join("run.toml").display());
    let even = place.run("even").display().to_string();
    super::run::deme(["finetune", &config, "--ranges=2", "--range=0", "--out", &even]).exits(0);
    assert_eq!(json(&place.run("even").join("run.json"))["ranges"], serde_json::json!([0, 500, 1000]));
}

#[test]
fn projections_are_trained_and_the_output_says_what_ignores_them() {
    let place = Place::new();
    let ran = place.finetune("run", &["--projection", "all", "--range", "1"]).exits(0);
    assert!(ran.err.contains("plain diffusers ignores the channel projections"), "{}", ran.err);
    let expert = ModelFolder::open(&place.run("run").join("expert_1")).unwrap();
    let names: Vec<_> = expert.weights.names().iter().filter(|n| n.starts_with("adapter_list.")).collect();
    assert_eq!(names.len(), 5, "after two down blocks, the mid block and two up blocks");
    for name in names {
        let values = expert.weights.read_f32(name).unwrap();
        let c = (values.len() as f64).sqrt() as usize;
        let identity = |i: usize| f32::from(u8::from(i / c == i % c));
        let off = values.iter().enumerate().map(|(i, v)| (v - identity(i)).abs());
        let largest = off.fold(0f32, f32::max);
        assert!(largest > 0.0 && largest < 0.1, "{name}: {largest} from the identity");
    }
    assert!(!place.run("run").join("expert_0").exists());
}

#[test]
fn a_dry_run_needs_no_gpu_and_writes_nothing() {
    let place = Place::new();
    let before = snapshot(place.root.path());
    let atlas = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/noto-emoji-32.png");
    let out = Command::new(env!("CARGO_BIN_EXE_deme"))
        .args(["finetune", "--dry-run", "--tile", "32", "--holdout", "10", "--model"])
        .arg(emoji())
        .arg("--data")
        .arg(atlas)
        .arg("--out")
        .arg(place.run("run"))
        .env("WGPU_BACKEND", "gl")
        .env("VK_DRIVER_FILES", "/nonexistent")
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    for expected in [
        "\"lr\": 0.00005",
        "parameters: 2,587,491",
        "images: 1720 to train on, 191 held out",
        "peak memory on the GPU: ",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert_eq!(snapshot(place.root.path()), before);
}

/// Refused with this exit code and this text, nothing written.
#[track_caller]
fn refused(place: &Place, more: &[&str], code: i32, text: &str) -> Ran {
    let before = snapshot(place.root.path());
    let ran = place.finetune("run", more).exits(code);
    assert!(ran.err.contains(text), "{text} is not in {}", ran.err);
    assert!(snapshot(place.root.path()) == before, "something was written");
    ran
}

#[test]
fn nonsense_is_refused_and_nothing_is_written() {
    let place = Place::new();
    for (option, code, text) in [
        ("--lr=0", 2, "--lr 0 is out of range"),
        ("--p=1.5", 2, "--p 1.5 is out of range"),
        ("--range=2", 2, "--range 2 names no expert of 2"),
        ("--range=1..0", 2, "--range 1..0 names no expert of 2"),
        ("--min-snr-gamma=0", 2, "--min-snr-gamma 0 is out of range"),
        ("--p2-gamma=-1", 2, "--p2-gamma -1 is out of range"),
        ("--clip=-1", 2, "--clip -1 is out of range"),
        ("--consistency=nan", 2, "--consistency NaN is out of range"),
        ("--betas=0.9", 2, "--betas 0.9 is out of range"),
        ("--ema-max-decay=1", 2, "--ema-max-decay 1 is out of range"),
        ("--ranges=1001", 2, "1001 ranges over 1000 timesteps"),
        ("--steps=0", 2, "--steps"),
        ("--model=nowhere", 3, "nowhere"),
        ("--data=nowhere", 3, "nowhere"),
        ("--holdout=1", 2, "--holdout"),
    ] {
        refused(&place, &[option], code, text);
    }
    refused(&place, &["--clip", "1e-60"], 2, "--clip 0.000000");
    // A negative number is a value, not an option.
    refused(&place, &["--lr", "-1"], 2, "--lr -1 is out of range");
    refused(&place, &["--seed", "-1"], 2, "invalid value '-1' for '--seed");
}

#[test]
fn dropout_is_refused_in_training() {
    let place = Place::new();
    let config = place.model.join("unet/config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"sample_size\"", "\"dropout\": 0.1, \"sample_size\"");
    fs::write(&config, text).unwrap();
    refused(&place, &[], 3, "dropout = 0.1 in training is not supported");
}

#[test]
fn a_folder_that_is_no_run_is_refused() {
    let place = Place::new();
    fs::create_dir(place.run("run")).unwrap();
    fs::write(place.run("run").join("notes.txt"), "mine").unwrap();
    refused(&place, &["--resume"], 2, "holds something else than a run");
}

#[test]
fn a_learning_rate_that_explodes_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let place = Place::new();
    let more = [
        "--range",
        "0",
        "--lr",
        "1e30",
        "--log-every",
        "1",
        "--save-every",
        "1",
        "--sample-every",
        "0",
        "--eval-every",
        "0",
    ];
    let ran = place.finetune("run", &more).exits(7);
    assert!(ran.err.contains("is not finite at step"), "{}", ran.err);
    assert!(!place.run("run").join("expert_0").exists());
    let step = super::train::newest(&place.run("run"), 0).unwrap();
    let folder = place.run("run").join(format!("training/expert_0/step_{step:08}"));
    let theta = deme::io::safetensors::SafetensorsFile::open(&folder.join("theta.safetensors")).unwrap();
    for name in theta.names() {
        assert!(theta.read_f32(name).unwrap().iter().all(|v| v.is_finite()), "{name} of the last checkpoint");
    }
}
