//! `deme reproduce`: a table is made in steps that are each done once, in the same numbers however often it is interrupted.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::run::{Ran, deme, snapshot};
use super::train::Place;

/// Two experts of two updates, on the tiny model and images.
fn experiment(place: &Place, more: &str) -> std::path::PathBuf {
    let (model, data) = (place.model.display(), place.data.display());
    let text = format!(
        "model = '{model}'\ndata = '{data}'\nholdout = 2\nseeds = [0, 1]\n\
         [deme]\nranges = 2\nsteps = 2\nlr = 1e-3\n\
         [finetune]\nbatch = 3\naccumulate = 1\n\
         [search]\nmethod = 'quadratic'\nhigh = 2.0\npairs = 3\nelite = 0\n{more}"
    );
    let path = place.run("experiment.toml");
    fs::write(&path, text).unwrap();
    path
}

fn reproduce(what: &str, config: &Path, out: &Path, more: &[&str]) -> Ran {
    let words = ["reproduce", what, "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    deme(words.iter().chain(more))
}

#[test]
fn table1_has_the_paper_s_rows_and_is_the_same_when_it_is_asked_for_again() {
    let place = Place::new();
    let (config, out) = (experiment(&place, ""), place.run("out"));
    let planned = reproduce("table1", &config, &out, &["--dry-run"]).exits(0);
    // Five baselines of 4 updates and two experts of 2, for two seeds.
    assert!(planned.out.contains("left: 48 updates, 2 searches, 15 models to judge"), "{}", planned.out);
    assert!(!out.exists(), "a dry run writes nothing");
    let ran = reproduce("table1", &config, &out, &[]).exits(0);
    for row in
        ["base", "continued training", "SNR+1", "truncated SNR", "Min-SNR-5", "P2", "DeMe, ensemble", "DeMe, merged"]
    {
        assert!(ran.out.contains(row), "{row} is not in {}", ran.out);
    }
    let table: Value = serde_json::from_slice(&fs::read(out.join("table1.json")).unwrap()).unwrap();
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    // The difference is the one of the losses, and a merged model differs from the base.
    for row in &rows[1..] {
        let change = row["loss"].as_f64().unwrap() - rows[0]["loss"].as_f64().unwrap();
        assert!((row["against_base"]["mean"].as_f64().unwrap() - change).abs() < 1e-9, "{row}");
        assert_ne!(change, 0.0, "{row}");
        assert_eq!(row["loss_by_seed"].as_array().unwrap().len(), 2);
    }
    assert!(fs::read_to_string(out.join("table1.svg")).unwrap().contains("DeMe, merged"));

    let before = snapshot(&out);
    // What was lost is made again, the same; what is there is not.
    fs::remove_file(out.join("table1.md")).unwrap();
    let merged = fs::read_dir(out.join("losses")).unwrap().map(|e| e.unwrap().path());
    fs::remove_file(merged.into_iter().find(|p| p.to_string_lossy().ends_with("-merged.json")).unwrap()).unwrap();
    let again = reproduce("table1", &config, &out, &[]).exits(0);
    assert!(!again.out.contains("$ deme"), "{}", again.out);
    assert_eq!(snapshot(&out), before);
}

#[test]
fn a_sweep_and_a_figure_share_runs_and_another_experiment_is_refused() {
    let place = Place::new();
    let more = "[sweep]\nlr = [1e-3]\np = [0.4]\nsteps = [2]\nranges = [2]\n[fig9]\nranges = [2]\np = [0.4]\n";
    let (config, out) = (experiment(&place, more), place.run("out"));
    let ran = reproduce("sweep", &config, &out, &[]).exits(0);
    assert!(ran.out.contains("merged, 2 x 2, lr 1e-3, p 0.4"), "{}", ran.out);
    assert!(ran.out.contains("0..500"), "a sweep says at which t it loses: {}", ran.out);
    let figure = reproduce("fig9", &config, &out, &[]).exits(0);
    assert!(!figure.out.contains("$ deme"), "the sweep has trained it: {}", figure.out);
    let before = snapshot(&out);
    let other = fs::read_to_string(&config).unwrap().replace("batch = 3", "batch = 4");
    fs::write(&config, other).unwrap();
    let refused = reproduce("fig9", &config, &out, &[]).exits(3);
    assert!(refused.err.contains("finetune") && refused.err.contains("another --out"), "{}", refused.err);
    assert_eq!(snapshot(&out), before);
}

#[test]
fn an_option_that_no_command_has_is_an_error_that_names_the_nearest() {
    let place = Place::new();
    let config = experiment(&place, "");
    let text = fs::read_to_string(&config).unwrap().replace("accumulate", "acumulate");
    fs::write(&config, text).unwrap();
    let ran = reproduce("table1", &config, &place.run("out"), &[]).exits(3);
    assert!(ran.err.contains("acumulate") && ran.err.contains("accumulate"), "{}", ran.err);
    assert!(ran.err.contains("experiment.toml") && !place.run("out").exists(), "{}", ran.err);
}
