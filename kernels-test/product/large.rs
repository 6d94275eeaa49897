//! What `deme finetune` has for large images: activations made again, parts of a micro-batch, a bound on memory, crops.

use std::fs;
use std::path::Path;

use deme::io::png;
use deme::rng;

use super::finetune::{json, lines};
use super::train::{Place, assert_same};

/// What `--dry-run` says after `label`, as a number.
fn said(place: &Place, label: &str, more: &[&str]) -> f64 {
    let all: Vec<&str> = ["--dry-run"].into_iter().chain(more.iter().copied()).collect();
    let out = place.finetune("plan", &all).exits(0).out;
    let line = out.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let number = line.and_then(|rest| rest.split_whitespace().next()).map(str::parse);
    number.unwrap_or_else(|| panic!("{label} is not in {out}")).unwrap()
}

#[test]
fn activations_made_again_change_nothing_but_the_memory() {
    let place = Place::new();
    let activations = |more: &[&str]| said(&place, "activations", &[&["--batch=12"], more].concat());
    let [kept, again] = [activations(&[]), activations(&["--recompute"])];
    assert!(again < kept, "{again} MiB of {kept}");
    let flops = |more: &[&str]| said(&place, "arithmetic of an update:", &[&["--accumulate=4096"], more].concat());
    let [once, more] = [flops(&[]), flops(&["--recompute"])];
    assert!(once < more && more < 1.25 * once, "{more} GFLOP of {once}");
    place.finetune("kept", &[]).exits(0);
    place.finetune("again", &["--recompute"]).exits(0);
    assert_same(&place.essence("again"), &place.essence("kept"));
}

#[test]
fn a_micro_batch_in_parts_is_the_same_update() {
    let place = Place::new();
    place.finetune("whole", &["--range=0"]).exits(0);
    let ran = place.finetune("parts", &["--range=0", "--at-once=1"]).exits(0);
    assert!(ran.err.contains("1 image of a micro-batch of 3 at once"), "{}", ran.err);
    assert_eq!(json(&place.run("parts").join("run.json"))["at_once"], 1);
    let logged = |name: &str| -> Vec<f64> {
        let lines = lines(&place.run(name).join("training/expert_0/metrics.jsonl"));
        lines.iter().filter_map(|line| line["noise_loss"].as_f64()).collect()
    };
    let [whole, parts] = ["whole", "parts"].map(logged);
    assert_eq!(whole.len(), parts.len());
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a - b).abs() <= 1e-4 * a, "loss {b} in parts, {a} as a whole");
    }
}

#[test]
fn what_fits_is_taken_and_what_does_not_fit_is_refused() {
    let place = Place::new();
    let total = |more: &[&str]| said(&place, "peak memory on the GPU:", more);
    let fixed = ["--batch=8", "--eval-every=0", "--sample-every=0"];
    let [one, two, eight] = ["--at-once=1", "--at-once=2", "--at-once=8"].map(|n| total(&[&fixed[..], &[n]].concat()));
    assert!(one < two && two < eight, "{one} {two} {eight} MiB");
    // Room for two at once, and less than for four.
    let room = format!("--memory={}", (two + 0.1) / 1024.0);
    assert_eq!(total(&[&fixed[..], &[&room]].concat()), two);
    let refused = |more: &[&str], text: &str| {
        let ran = place.finetune("refused", more).exits(2);
        assert!(ran.err.contains(text), "{text} is not in {}", ran.err);
        assert!(!place.run("refused").exists());
    };
    refused(&["--at-once=2"], "--at-once 2 does not divide --batch 3");
    refused(&["--at-once=0"], "give auto or a number of at least 1");
    refused(&["--memory=0"], "--memory 0 is out of range");
    refused(&["--memory=0.001"], "and --memory allows 1 MiB");
    refused(&["--memory=0.001"], "--recompute");
}

/// Images of 12x8: the model sees 8x8 of them.
fn wide(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for i in 0..8u64 {
        let pixels: Vec<u8> = (0..12 * 8 * 3).map(|k| rng::below(7, i, k, 256) as u8).collect();
        png::write_bytes(&folder.join(format!("{i}.png")), &pixels, 12, 8, 3, &[]).unwrap();
    }
}

#[test]
fn crops_are_drawn_anew_and_a_resumed_run_draws_the_same() {
    let place = Place::new();
    let data = place.root.path().join("wide");
    wide(&data);
    let data = format!("--data={}", data.display());
    let run = |name: &str, more: &[&str]| {
        let all = [&[data.as_str(), "--range=0"], more].concat();
        place.finetune(name, &all).exits(0);
        fs::read(place.run(name).join("expert_0/unet/diffusion_pytorch_model.safetensors"))
            .or_else(|_| fs::read(place.run(name).join("expert_0/diffusion_pytorch_model.safetensors")))
            .unwrap()
    };
    let [centre, drawn, again] =
        [("c", "--crop=center"), ("r", "--crop=random"), ("s", "--crop=random")].map(|(name, crop)| run(name, &[crop]));
    assert!(centre != drawn, "crops were not drawn");
    assert!(drawn == again, "two runs drew other crops");
    assert_eq!(json(&place.run("r").join("run.json"))["crop"], "random");
    // What was lost since a checkpoint is drawn once more.
    fs::remove_dir_all(place.run("s").join("expert_0")).unwrap();
    fs::remove_dir_all(place.run("s").join("training/expert_0/step_00000012")).unwrap();
    assert!(run("s", &["--crop=random", "--resume"]) == drawn);
    let ran = place.finetune("r", &[data.as_str(), "--range=0", "--resume"]).exits(2);
    assert!(ran.err.contains("crop was \"random\" when the run began and is absent now"), "{}", ran.err);
}
