//! `deme demo --smoke`: every stage of the main job, its files, continuing, and stopping.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::resume::wait_for;
use super::run::{deme, snapshot};

#[test]
fn every_stage_runs_and_a_finished_demo_repeats_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let words = ["demo", "--smoke", "--out", out.to_str().unwrap()];
    let ran = deme(words).exits(0);
    for expected in [
        "budget: 4 experts x 2 updates",
        "the rest will take about",
        "$ deme finetune",
        "$ deme search",
        "merged - base",
    ] {
        assert!(ran.out.contains(expected), "{expected} is not in {}", ran.out);
    }
    let names =
        ["base.png", "ensemble.png", "merged.png", "pictures.png", "losses.json", "report.html", "search/merged"];
    for name in names {
        assert!(out.join(name).exists(), "{name}");
    }
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("data:image/png;base64,") && report.contains("<svg"));
    assert!(!report.contains("http://") || !report.contains("src=\"http"), "the page fetches nothing");
    let losses: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("losses.json")).unwrap()).unwrap();
    assert_eq!(losses["rows"].as_array().unwrap().len(), 5, "four ranges and the total");
    let kept = |name: &str| std::fs::read(out.join(name)).unwrap();
    let before = ["losses.json", "pictures.png"].map(kept);
    let experts = snapshot(&out.join("experts"));
    let ran = deme(words).exits(0);
    assert!(ran.err.contains("the search is done already"), "{}", ran.err);
    assert!(["losses.json", "pictures.png"].map(kept) == before && snapshot(&out.join("experts")) == experts);
}

/// Nothing of value is lost while the demo judges, so nothing waits.
#[cfg(unix)]
#[test]
fn the_first_signal_ends_the_demo_while_it_judges_and_draws() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let start = |waited: &str| {
        let words = ["demo", "--out", out.to_str().unwrap()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
        let mut child = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(wait_for(&mut child, || out.join(waited).exists()));
        child
    };
    // The folder is made right before the base is judged, which takes longer than this pause.
    let mut child = start("");
    std::thread::sleep(Duration::from_millis(50));
    let signalled = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(signalled.elapsed() < Duration::from_secs(2));
    assert!(!out.join("experts").exists(), "it was judging");
}
