//! A run that was stopped and resumed is the run that was not: weights, moments, averages, logs and pictures, bit for bit.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::run::snapshot;
use super::train::{Place, STEPS, assert_same, newest};

/// Waits until `ready` or the child's end; true where it was ready first.
pub fn wait_for(child: &mut Child, ready: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ready() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "the run does not come to the awaited point");
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Exit code and stderr.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

#[cfg(unix)]
#[test]
fn stopping_by_signal_and_resuming_changes_nothing() {
    let place = Place::new();
    place.finetune("whole", &[]).exits(0);
    let run = place.run("stopped");
    let mut stops = 0;
    for (name, expert, step) in [("-INT", 0, 3), ("-TERM", 0, 9), ("-INT", 1, 6)] {
        let mut child = place.start("stopped", &["--resume"]);
        if !wait_for(&mut child, || newest(&run, expert) >= Some(step)) {
            break;
        }
        signal(&child, name);
        let (code, text) = end(child);
        assert_eq!(code, Some(130), "{text}");
        assert!(text.contains("stopped by a signal; ") && text.contains("--resume"), "{text}");
        stops += 1;
    }
    assert_eq!(stops, 3);
    place.finetune("stopped", &["--resume"]).exits(0);
    assert_same(&place.essence("stopped"), &place.essence("whole"));
}

/// The same with weights and activations in f16, where the adapter has it: the copy of the weights that runs is made anew.
#[test]
fn resuming_in_f16_changes_nothing() {
    let place = Place::new();
    let half = ["--range", "0", "--precision", "f16"];
    let ran = place.finetune("whole", &half);
    if ran.code == 2 {
        assert!(ran.err.contains("offers no f16 in shaders"), "{}", ran.err);
        return;
    }
    ran.exits(0);
    let resumed = [&half[..], &["--resume"]].concat();
    let mut child = place.start("killed", &half);
    let run = place.run("killed");
    assert!(wait_for(&mut child, || newest(&run, 0) >= Some(6)));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!run.join("expert_0").exists());
    place.finetune("killed", &resumed).exits(0);
    assert_same(&place.essence("killed"), &place.essence("whole"));
    place.finetune("f32", &["--range", "0"]).exits(0);
    let theta =
        |name: &str| fs::read(place.run(name).join("training/expert_0/step_00000012/theta.safetensors")).unwrap();
    assert!(theta("f32") != theta("whole"), "f16 changes nothing either");
}

#[cfg(unix)]
#[test]
fn a_second_run_in_the_folder_is_refused_and_a_second_signal_ends_the_first_at_once() {
    let place = Place::new();
    let long = ["--steps", "100000", "--accumulate", "1000"];
    let mut child = place.start("run", &long);
    let run = place.run("run");
    assert!(wait_for(&mut child, || run.join("training/expert_0/metrics.jsonl").exists()));
    let other = place.finetune("run", &[&long[..], &["--resume"]].concat()).exits(2);
    assert!(other.err.contains("another deme works here"), "{}", other.err);
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "-INT");
    let start = Instant::now();
    assert_eq!(end(child).0, Some(130));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn damaged_checkpoints_are_skipped_and_nothing_changes() {
    let place = Place::new();
    place.finetune("whole", &["--range", "0"]).exits(0);
    place.finetune("hurt", &["--range", "0", "--keep", "4"]).exits(0);
    let run = place.run("hurt");
    fs::remove_dir_all(run.join("expert_0")).unwrap();
    let training = run.join("training/expert_0");
    // The newest is cut short, the one before has a wrong bit, a save was cut off.
    let theta = training.join(format!("step_{STEPS:08}/theta.safetensors"));
    let bytes = fs::read(&theta).unwrap();
    fs::write(&theta, &bytes[..bytes.len() / 2]).unwrap();
    let ema = training.join("step_00000009/ema.safetensors");
    let mut bytes = fs::read(&ema).unwrap();
    let at = bytes.len() - 7;
    bytes[at] ^= 1;
    fs::write(&ema, bytes).unwrap();
    fs::create_dir(training.join(".step_00000015.deme-tmp")).unwrap();
    let ran = place.finetune("hurt", &["--range", "0", "--resume"]).exits(0);
    assert_eq!(ran.err.matches("skipped a damaged checkpoint").count(), 2, "{}", ran.err);
    assert_same(&place.essence("hurt"), &place.essence("whole"));
}

#[test]
fn a_finished_run_resumes_to_itself() {
    let place = Place::new();
    place.finetune("run", &["--range", "1"]).exits(0);
    let before = snapshot(&place.run("run"));
    let ran = place.finetune("run", &["--range", "1", "--resume"]).exits(0);
    assert!(ran.err.contains("expert 1 is done already"), "{}", ran.err);
    assert_eq!(snapshot(&place.run("run")), before);
}

#[test]
fn other_settings_other_images_and_another_model_are_refused_by_name() {
    let place = Place::new();
    place.finetune("run", &["--range", "0", "--steps", "2"]).exits(0);
    let refused = |more: &[&str], text: &str| {
        let mut all = vec!["--range", "0"];
        all.extend(more);
        if !more.contains(&"--steps") {
            all.extend(["--steps", "2"]);
        }
        let before = snapshot(place.root.path());
        let ran = place.finetune("run", &all).exits(2);
        assert!(ran.err.contains(text), "{text} is not in {}", ran.err);
        assert!(snapshot(place.root.path()) == before, "something was written");
    };
    refused(&[], "has begun expert 0 already");
    refused(&["--resume", "--steps", "4"], "run.json: steps was 2 when the run began and is 4 now");
    refused(&["--resume", "--seed", "1"], "seed was 0 when the run began and is 1 now");
    refused(&["--resume", "--no-antithetic"], "antithetic was true when the run began and is false now");
    let image = place.data.join("03.png");
    let other = fs::read(place.data.join("04.png")).unwrap();
    let image_bytes = fs::read(&image).unwrap();
    fs::write(&image, other).unwrap();
    refused(&["--resume"], "data_sha256 was");
    fs::write(&image, image_bytes).unwrap();
    let scheduler = place.model.join("scheduler/scheduler_config.json");
    edit(&scheduler, "0.02", "0.03");
    refused(&["--resume"], "model_sha256 was");
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replace(from, to)).unwrap();
}
