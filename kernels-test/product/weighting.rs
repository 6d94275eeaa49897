//! `deme finetune --loss-weighting`: what the log and the gradient make of it.

use std::path::Path;

use deme::deme::timesteps::{Coin, TimestepDraw};
use deme::diffusion::{LossWeighting, Schedule};
use serde_json::Value;

use super::finetune::lines;
use super::run::SCHEDULER;
use super::train::Place;

/// Plain training of all timesteps, a log line an update.
const PLAIN: [&str; 13] = [
    "--ranges=1",
    "--steps=4",
    "--consistency=0",
    "--log-every=1",
    "--sample-every=0",
    "--eval-every=0",
    "--clip=inf",
    "--lr=1e-3",
    "--batch=1",
    "--accumulate=1",
    "--p=0",
    "--coin=sample",
    "--seed=4",
];

fn log(place: &Place, name: &str, more: &[&str]) -> Vec<Value> {
    let all: Vec<&str> =
        PLAIN.iter().filter(|a| !more.iter().any(|m| same_option(m, a))).chain(more).copied().collect();
    place.finetune(name, &all).exits(0);
    lines(&place.run(name).join("training/expert_0/metrics.jsonl"))
}

fn same_option(a: &str, b: &str) -> bool {
    a.split('=').next() == b.split('=').next()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} of {line}"))
}

#[track_caller]
fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-5 * expected.abs(), "{got} for {expected}");
}

/// One sample an update: its weight is what the log, and at the first weights the gradient, are multiplied by.
#[test]
fn a_samples_loss_and_gradient_are_multiplied_by_its_timesteps_weight() {
    let place = Place::new();
    let plain = log(&place, "plain", &[]);
    assert!(plain.iter().all(|line| line["weighted_noise_loss"].is_null()));
    let weighted = log(&place, "weighted", &["--loss-weighting=min-snr", "--min-snr-gamma=0.5"]);
    let schedule = Schedule::from_json(Path::new("test"), &serde_json::from_str(SCHEDULER).unwrap()).unwrap();
    let table = LossWeighting::MinSnr { gamma: 0.5 }.table(&schedule).unwrap().unwrap();
    let draw =
        TimestepDraw { seed: 4, expert: 0, own: 0..1000, total: 1000, p: 0.0, coin: Coin::Sample, antithetic: true };
    let weights: Vec<f64> = (0..4).map(|micro| table[draw.micro_batch(micro, 1)[0]]).collect();
    assert!(weights.iter().any(|&w| w < 0.9), "{weights:?}");
    for (line, weight) in weighted.iter().zip(&weights) {
        close(number(line, "weighted_noise_loss"), weight * number(line, "noise_loss"));
    }
    close(number(&weighted[0], "noise_loss"), number(&plain[0], "noise_loss"));
    close(number(&weighted[0], "gradient_norm"), weights[0] * number(&plain[0], "gradient_norm"));
}

/// P2 with gamma = 0 is the standard loss of epsilon, whatever the micro-batches.
#[test]
fn weights_of_one_change_nothing() {
    let place = Place::new();
    let batches = ["--batch=3", "--accumulate=4"];
    let plain = log(&place, "plain", &batches);
    let weighted = log(&place, "weighted", &[&batches[..], &["--loss-weighting=p2", "--p2-gamma=0"]].concat());
    for (weighted, plain) in weighted.iter().zip(&plain) {
        close(number(weighted, "weighted_noise_loss"), number(weighted, "noise_loss"));
        for key in ["noise_loss", "gradient_norm"] {
            assert_eq!(weighted[key], plain[key], "{key}");
        }
    }
}
