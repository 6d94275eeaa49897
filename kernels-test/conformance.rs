//! Kernels against their f64 twins, twins against difference quotients, and the harness against planted faults.
//! Needs an adapter; `cargo test --test conformance FAMILY` runs one family.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

mod conformance {
    pub mod harness;

    mod addend;
    pub mod attention;
    mod attention_bounds;
    mod bisect;
    mod cooperative;
    pub mod broadcast;
    mod empty;
    pub mod loss;
    pub mod merge;
    pub mod model;
    pub mod noise;
    pub mod optim;
    pub mod conv;
    mod features;
    pub mod gemm;
    mod half;
    pub mod norm;
    pub mod peak;
    pub mod pool;
    pub mod pointwise;
    mod profile;
    mod projections;
    pub mod resample;
    mod scaling;
    mod search;
    pub mod training;
    mod training_half;
    mod training_large;
    mod tuning;
    pub mod winograd;
    mod winograd_route;
}

use conformance::harness::Entry;
use deme::shader::cards;

/// Every family: a line here, a `mod` line above and a test below.
static FAMILIES: [Entry; 14] = [
    Entry::new("pointwise", conformance::pointwise::TOLERANCES, conformance::pointwise::cases),
    Entry::new("loss", conformance::loss::TOLERANCES, conformance::loss::cases),
    Entry::new("optim", conformance::optim::TOLERANCES, conformance::optim::cases),
    Entry::new("merge", conformance::merge::TOLERANCES, conformance::merge::cases),
    Entry::new("noise", conformance::noise::TOLERANCES, conformance::noise::cases),
    Entry::new("gemm", conformance::gemm::TOLERANCES, conformance::gemm::cases),
    Entry::new("conv", conformance::conv::TOLERANCES, conformance::conv::cases),
    Entry::new("winograd", conformance::winograd::TOLERANCES, conformance::winograd::cases),
    Entry::new("norm", conformance::norm::TOLERANCES, conformance::norm::cases),
    Entry::new("broadcast", conformance::broadcast::TOLERANCES, conformance::broadcast::cases),
    Entry::new("attention", conformance::attention::TOLERANCES, conformance::attention::cases),
    Entry::new("resample", conformance::resample::TOLERANCES, conformance::resample::cases),
    Entry::new("peak", conformance::peak::TOLERANCES, conformance::peak::cases),
    Entry::new("pool", conformance::pool::TOLERANCES, conformance::pool::cases),
];

fn family(name: &str) {
    FAMILIES.iter().find(|f| f.name == name).expect("a family of this name").pass(&FAMILIES);
}

#[test]
fn pointwise() {
    family("pointwise");
}

#[test]
fn loss() {
    family("loss");
}

#[test]
fn optim() {
    family("optim");
}

#[test]
fn merge() {
    family("merge");
}

#[test]
fn noise() {
    family("noise");
}

#[test]
fn attention() {
    family("attention");
}

#[test]
fn gemm() {
    family("gemm");
}

#[test]
fn conv() {
    family("conv");
}

#[test]
fn winograd() {
    family("winograd");
}

#[test]
fn norm() {
    family("norm");
}

#[test]
fn broadcast() {
    family("broadcast");
}

#[test]
fn resample() {
    family("resample");
}

#[test]
fn pool() {
    family("pool");
}

#[test]
fn peak() {
    family("peak");
}

/// Cases in all, difference quotients and planted faults that a full run must reach.
const FLOOR_CASES: usize = 3000;
const FLOOR_GRADIENTS: usize = 1000;
const FLOOR_FAULTS: usize = 100;

/// Waits for every family (or runs it), prints the totals, and fails on a kernel that no family has a floor for.
#[test]
fn totals() {
    let reports: Vec<_> = FAMILIES.iter().map(|f| f.report(&FAMILIES)).collect();
    let missing: Vec<_> = cards::all()
        .map(|card| card.word)
        .filter(|word| reports.iter().all(|r| r.floors.get(word).is_none_or(|floor| *floor < 15)))
        .collect();
    assert!(missing.is_empty(), "kernels without a floor of at least 15 cases: {missing:?}");
    let heart =
        [cards::gemm::CARDS, cards::conv::CARDS, cards::winograd::CARDS, cards::attention::CARDS, cards::norm::CARDS];
    let heart = heart.concat();
    for word in heart.iter().map(|card| card.word) {
        let floor = reports.iter().filter_map(|r| r.floors.get(word)).max();
        assert!(floor.is_some_and(|n| *n >= 40), "{word} needs a floor of 40 cases for every variant, not {floor:?}");
    }
    let cases: usize = reports.iter().flat_map(|r| r.counts.values()).sum();
    let gradients: usize = reports.iter().map(|r| r.gradients).sum();
    let faults: usize = reports.iter().map(|r| r.faults).sum();
    let elsewhere: usize = reports.iter().map(|r| r.elsewhere).sum();
    let unplanted =
        if elsewhere > 0 { format!(", {elsewhere} of variants that do not run here") } else { String::new() };
    let text = format!("in all: {cases} cases, {gradients} gradients, {faults} faults caught{unplanted}\n");
    conformance::harness::note(&text);
    assert!(cases >= FLOOR_CASES, "{cases} cases, at least {FLOOR_CASES} are wanted");
    assert!(gradients >= FLOOR_GRADIENTS, "{gradients} difference quotients, at least {FLOOR_GRADIENTS} are wanted");
    assert!(faults >= FLOOR_FAULTS, "{faults} planted faults, at least {FLOOR_FAULTS} are wanted");
}
