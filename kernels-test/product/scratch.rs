//! `deme train`: from random weights, against PyTorch; from given weights; run files; and what a run leaves behind.

use std::fs;
use std::path::{Path, PathBuf};

use deme::io::folder::ModelFolder;
use deme::io::source::TensorSource;
use serde_json::Value;

use super::finetune::{json, lines};
use super::run::{Ran, deme, snapshot};
use super::train::{Place, SMALL, assert_same, newest};
use crate::support::fixtures;

/// `deme train` in a place: its small network, twelve images, a log line an update; an option in `more` replaces the one here.
fn arguments(place: &Place, name: &str, more: &[&str]) -> Vec<String> {
    let arch = place.root.path().join("arch.json");
    fs::write(&arch, SMALL).unwrap();
    let given = |option: &str| more.iter().any(|m| m.split('=').next() == Some(option));
    let path = |option: &str, path: &Path| format!("{option}={}", path.display());
    let all = [
        path("--arch", &arch),
        path("--data", &place.data),
        path("--out", &place.run(name)),
        "--steps=6".into(),
        "--batch=3".into(),
        "--lr=1e-3".into(),
        "--lr-warmup=2".into(),
        "--log-every=1".into(),
        "--save-every=2".into(),
        "--sample-every=0".into(),
    ];
    let kept = all.into_iter().filter(|word| !given(word.split('=').next().unwrap()));
    std::iter::once("train".to_owned()).chain(kept).chain(more.iter().map(|m| m.to_string())).collect()
}

fn train(place: &Place, name: &str, more: &[&str]) -> Ran {
    deme(arguments(place, name, more))
}

fn log(place: &Place, name: &str) -> Vec<Value> {
    lines(&place.run(name).join("training/model/metrics.jsonl"))
}

/// All of a run but what the clock says.
fn essence(place: &Place, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let run = place.run(name);
    let clocked = |path: &Path| path.ends_with("timing.jsonl") || path.to_str().unwrap().contains("tfevents");
    let all = snapshot(&run).into_iter().filter(|(path, _)| !clocked(path));
    all.map(|(path, bytes)| (path.strip_prefix(&run).unwrap().to_path_buf(), bytes)).collect()
}

/// Fifty updates from random weights on the bundled images, with warm-up and cosine. The recorder (scripts/fixtures/scratch.py)
/// has the product's first weights, order of the images, mirroring, timesteps and noise, and nothing else of it. PyTorch's own
/// float32 is off from its float64 by 2e-7 in the losses and by 3e-7 in the norms at most: this run is well conditioned. Our sums
/// are taken in another order, and the noise is drawn in f32 (4 ULP), so 1e-5 leaves an order of magnitude for every platform,
/// while one image, one timestep or one learning rate that is another moves losses by 1e-2.
#[test]
fn fifty_updates_from_random_weights_follow_pytorch() {
    let facts = fixtures::json("scratch");
    let place = Place::new();
    let settings = &facts["settings"];
    let arch = place.root.path().join("emoji.json");
    fs::write(&arch, facts["config"].to_string()).unwrap();
    let betas: Vec<String> = settings["betas"].as_array().unwrap().iter().map(Value::to_string).collect();
    let mut words = vec![
        "train".to_owned(),
        format!("--arch={}", arch.display()),
        format!("--data={}/data/noto-emoji-32.png", env!("CARGO_MANIFEST_DIR")),
        format!("--out={}", place.run("run").display()),
        format!("--betas={}", betas.join(",")),
        format!("--lr-schedule={}", settings["lr_schedule"].as_str().unwrap()),
        "--flip".into(),
        "--log-every=1".into(),
        "--eval-every=0".into(),
        "--sample-every=0".into(),
    ];
    for key in
        ["seed", "steps", "batch", "accumulate", "lr", "lr_warmup", "eps", "weight_decay", "clip", "holdout", "tile"]
    {
        words.push(format!("--{}={}", key.replace('_', "-"), settings[key]));
    }
    deme(words).exits(0);
    let log = log(&place, "run");
    assert_eq!(log.len(), 50);
    for (tolerance, key) in [(1e-5, "noise_loss"), (1e-5, "gradient_norm"), (1e-12, "learning_rate")] {
        let expected = facts["f64"][key].as_array().unwrap();
        for (update, (line, expected)) in log.iter().zip(expected).enumerate() {
            let (got, expected) = (line[key].as_f64().unwrap(), expected.as_f64().unwrap());
            let off = (got - expected).abs();
            assert!(off <= tolerance * expected.abs(), "{key} of update {update}: {got} for {expected}");
        }
    }
    let loss = |i: usize| log[i]["noise_loss"].as_f64().unwrap();
    assert!(loss(49) < 0.4 * loss(0), "it learns: {} to {}", loss(0), loss(49));
}

#[test]
fn a_run_leaves_a_model_that_the_other_commands_take() {
    let place = Place::new();
    let more = ["--holdout=4", "--eval-every=3", "--sample-every=6", "--sample-steps=2", "--prediction=v_prediction"];
    train(&place, "run", &more).exits(0);
    let run = place.run("run");
    let model = ModelFolder::open(&run.join("model")).unwrap();
    assert_eq!(model.scheduler_config().unwrap().map["prediction_type"], "v_prediction");
    assert_eq!(json(&run.join("model/deme.json"))["kind"], "model");
    assert_eq!(newest_model(&run), Some(6));
    assert!(run.join("training/model/samples_00000006.png").is_file());
    let held_out: Vec<_> = log(&place, "run").into_iter().filter(|l| !l["held_out"].is_null()).collect();
    assert_eq!(held_out.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 3, 6]);
    assert_eq!(held_out[0]["held_out"]["buckets"].as_array().unwrap().len(), 1);
    let out = place.root.path().join("x.png");
    let sample = ["sample", "--steps=2", "--num=1", "--model"].map(str::to_owned).into_iter();
    let paths = [run.join("model"), "--out".into(), out.clone()].map(|p| p.display().to_string());
    deme(sample.chain(paths)).exits(0);
    assert!(out.is_file());
}

/// The best average is the one that the log calls best, judged anew: the last one where the rate is sound, the start where it is
/// not; and a continued run knows how good its best was.
#[test]
fn the_best_held_out_average_is_kept() {
    let place = Place::new();
    let losses = |name: &str| -> Vec<f64> {
        let log = log(&place, name);
        log.iter().filter_map(|line| line["held_out"]["total"]["loss"].as_f64()).collect()
    };
    let judged = ["--holdout=4", "--eval-every=2", "--keep-best", "--lr-schedule=constant"];
    for (name, lr) in [("sound", "--lr=2e-3"), ("wild", "--lr=0.5")] {
        train(&place, name, &[&judged[..], &[lr]].concat()).exits(0);
        let losses = losses(name);
        let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let about = json(&place.run(name).join("model_best/deme.json"));
        assert_eq!(about["held_out_loss"].as_f64(), Some(lowest), "{name}: {losses:?}");
        let at = losses.iter().position(|l| *l == lowest).unwrap();
        assert_eq!(about["updates"], 2 * at, "{name}: {losses:?}");
        assert_eq!(at == losses.len() - 1, name == "sound", "{name}: {losses:?}");
    }
    let [best, last] = ["model_best", "model"].map(|folder| {
        let path = place.run("sound").join(folder).join("unet/diffusion_pytorch_model.safetensors");
        fs::read(path).unwrap()
    });
    assert!(best == last, "the last average is the best one");
    // Without its end, the wild run goes on from update 4 and does not take a later average for better than the start.
    let run = place.run("wild");
    let before = fs::read(run.join("model_best/deme.json")).unwrap();
    fs::remove_dir_all(run.join("model")).unwrap();
    fs::remove_dir_all(run.join("training/model/step_00000006")).unwrap();
    train(&place, "wild", &[&judged[..], &["--lr=0.5", "--resume"]].concat()).exits(0);
    assert_eq!(fs::read(run.join("model_best/deme.json")).unwrap(), before);
    let files = fs::read_dir(run.join("training/model")).unwrap().flatten();
    let events = files.filter(|e| e.file_name().to_str().unwrap().starts_with("events.out.tfevents."));
    assert_eq!(events.count(), 2, "a file a process");
    let refused = train(&place, "none", &["--keep-best"]).exits(2);
    assert!(refused.err.contains("--keep-best has no held-out loss to go by"), "{}", refused.err);
}

fn newest_model(run: &Path) -> Option<u64> {
    let entries = fs::read_dir(run.join("training/model")).ok()?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_prefix("step_")?.parse().ok()).max()
}

/// A run that ended early and was continued is the run that did not: its first weights are made again from the seed.
#[test]
fn a_continued_run_is_the_uninterrupted_one() {
    let place = Place::new();
    train(&place, "whole", &[]).exits(0);
    train(&place, "hurt", &[]).exits(0);
    let run = place.run("hurt");
    fs::remove_dir_all(run.join("model")).unwrap();
    fs::remove_dir_all(run.join("training/model/step_00000006")).unwrap();
    let refused = train(&place, "hurt", &[]).exits(2);
    assert!(refused.err.contains("has begun the model already"), "{}", refused.err);
    train(&place, "hurt", &["--resume"]).exits(0);
    // The checkpoint in the middle is one of those that are kept in either case.
    assert_same(&essence(&place, "hurt"), &essence(&place, "whole"));
    let other = train(&place, "hurt", &["--resume", "--seed=1"]).exits(2);
    assert!(other.err.contains("model_sha256 was"), "the seed decides the first weights: {}", other.err);
}

#[test]
fn given_weights_are_where_it_begins() {
    let place = Place::new();
    let init = format!("--init={}", place.model.display());
    // The first update has the rate 0, so that the average is still the start.
    train(&place, "run", &[&init, "--steps=1", "--weight-decay=0"]).exits(0);
    let given = ModelFolder::open(&place.model).unwrap();
    let trained = ModelFolder::open(&place.run("run").join("model")).unwrap();
    for name in given.weights.names() {
        assert_eq!(given.weights.read_f32(name).unwrap(), trained.weights.read_f32(name).unwrap(), "{name}");
    }
    train(&place, "random", &["--steps=1"]).exits(0);
    let random = ModelFolder::open(&place.run("random").join("model")).unwrap();
    assert_ne!(random.weights.read_f32("conv_in.weight").unwrap(), given.weights.read_f32("conv_in.weight").unwrap());
}

/// run.toml repeats a run, the command line wins over it, and both commands take it.
#[test]
fn a_run_file_says_what_the_command_line_would() {
    let place = Place::new();
    train(&place, "first", &["--flip", "--loss-weighting=snr+1", "--seed=18446744073709551615"]).exits(0);
    let file = place.run("first").join("run.toml");
    let text = fs::read_to_string(&file).unwrap();
    for line in
        ["lr = 0.001", "loss-weighting = \"snr+1\"", "flip = true", "precision = \"f32\"", "betas = [0.95, 0.999]"]
    {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    let config = format!("--config={}", file.display());
    let again = |name: &str, more: &[&str]| {
        let out = format!("--out={}", place.run(name).display());
        deme([&["train", &config, &out], more].concat())
    };
    again("second", &[]).exits(0);
    assert_same(&essence(&place, "second"), &essence(&place, "first"));
    again("third", &["--steps=2", "--flip=false", "--lr", "2e-3"]).exits(0);
    let third = json(&place.run("third").join("run.json"));
    assert_eq!((&third["steps"], &third["flip"], &third["lr"]), (&2.into(), &false.into(), &2e-3.into()));
    assert_eq!(third["loss_weighting"], "snr+1");

    place.finetune("experts", &["--range=0", "--projection=all", "--no-antithetic"]).exits(0);
    let config = format!("--config={}", place.run("experts").join("run.toml").display());
    let out = place.run("again").display().to_string();
    deme(["finetune", &config, "--out", &out]).exits(0);
    assert_same(&place.essence("again"), &place.essence("experts"));
}

#[test]
fn run_files_that_cannot_be_meant_are_refused_by_the_line_or_key() {
    let place = Place::new();
    let file = place.root.path().join("run.toml");
    let config = format!("--config={}", file.display());
    let refused = |text: &str, code: i32, expected: &[&str]| {
        fs::write(&file, text).unwrap();
        let ran = train(&place, "run", &[&config]).exits(code);
        assert!(expected.iter().all(|e| ran.err.contains(e)), "{expected:?} not in {}", ran.err);
        assert!(!place.run("run").exists());
    };
    refused("learning-rate = 1e-3\n", 3, &["learning-rate: is no setting of deme train", "the nearest is"]);
    refused("weigth_decay = 0.1\n", 3, &["weigth_decay", "the nearest is weight-decay"]);
    refused("resume = true\n", 3, &["resume: is no setting"]);
    refused("flip = true\nlr_warmup = \n", 3, &["run.toml: line 2"]);
    refused("[eps]\nvalue = 1\n", 3, &["eps: is", "expected a string, a number"]);
    refused("lr-schedule = \"step\"\n", 2, &["invalid value 'step' for '--lr-schedule"]);
    refused("ema-power = -1\n", 2, &["--ema-power -1 is out of range"]);
    let none = train(&place, "run", &["--config=nowhere.toml"]).exits(3);
    assert!(none.err.contains("nowhere.toml"), "{}", none.err);
}

#[test]
fn a_network_must_be_named_and_weights_must_fit_it() {
    let place = Place::new();
    let data = format!("--data={}", place.data.display());
    let out = format!("--out={}", place.run("run").display());
    let ran = deme(["train", &data, &out]).exits(2);
    assert!(ran.err.contains("--arch"), "{}", ran.err);
    let init = format!("--init={}", place.model.display());
    let wide = place.root.path().join("wide.json");
    fs::write(&wide, SMALL.replace("[8, 16]", "[8, 24]")).unwrap();
    let arch = format!("--arch={}", wide.display());
    let ran = deme(["train", &data, &out, &init, &arch]).exits(3);
    assert!(ran.err.contains("tensors of another shape"), "{}", ran.err);
    assert_eq!(newest(&place.run("run"), 0), None);
}
