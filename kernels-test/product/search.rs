//! `deme search` and `deme eval loss`: a search finds the weights that were planted, continues, and ends in a merged
//! model whose loss `eval` confirms.

use crate::run::{TINY, deme, model, snapshot, tiny};
use crate::train::Place;
use deme::model::projections::Placement;
use deme::rng;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::slice;

fn path(p: &Path) -> String {
    p.display().to_string()
}

/// Twenty pictures of 8x8.
fn images(dir: &Path) -> PathBuf {
    let folder = dir.join("images");
    std::fs::create_dir_all(&folder).unwrap();
    for i in 0..20 {
        let pixels: Vec<u8> = (0..192).map(|p| (rng::uniform(3, i, p) * 255.0) as u8).collect();
        let file = folder.join(format!("{i:02}.png"));
        deme::io::png::write_bytes(&file, &pixels, 8, 8, 3, &[]).unwrap();
    }
    folder
}

fn search(base: &Path, experts: &[PathBuf], data: &Path, out: &Path, more: &[&str]) -> crate::run::Ran {
    let (base, data, out) = (path(base), path(data), path(out));
    let experts: Vec<_> = experts.iter().map(|e| path(e)).collect();
    let mut words = vec!["search", "--model", &base, "--data", &data, "--out", &out, "--holdout", "2", "--pairs", "4"];
    words.extend(more);
    words.push("--experts");
    words.extend(experts.iter().map(String::as_str));
    deme(words)
}

fn total(model: &Path, data: &Path) -> f64 {
    let (model, data) = (path(model), path(data));
    let ran = deme(["eval", "loss", "--model", &model, "--data", &data, "--holdout", "2", "--json"]).exits(0);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["report"]["buckets"].as_array().unwrap().len(), 4);
    report["report"]["total"]["loss"].as_f64().unwrap()
}

/// The base is good and expert 1 is the base moved halfway towards a bad model: the best weight of it is 0 or below;
/// expert 0 is the way out of a planted error, so its best weight is 1.
#[test]
fn the_search_undoes_a_planted_error_and_its_result_is_what_merge_writes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let zero_output =
        |scale: f32| move |tensor: u64, element: u64| scale * (rng::uniform(7, tensor, element) as f32 - 0.5) * 0.1;
    // Small weights predict about zero, a loss of about 1; ten times larger ones do worse.
    let base = model(&at("base"), TINY, Placement::None, zero_output(60.0));
    let better = model(&at("better"), TINY, Placement::None, zero_output(1.0));
    let worse = model(&at("worse"), TINY, Placement::None, zero_output(120.0));
    let data = images(dir.path());
    let out = at("search");
    let grid = ["--low", "0", "--high", "1", "--step", "1", "--fine", "0.5"];
    let ran = search(&base, &[better.clone(), worse.clone()], &data, &out, &grid).exits(0);
    assert!(ran.out.contains("the best at w = [1.0, 0.0]"), "{}", ran.out);
    let merged = out.join("merged");
    // A unit vector gives the expert, bit for bit.
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let tensors = |dir: &Path| {
        use deme::io::source::TensorSource;
        let file = deme::io::safetensors::SafetensorsFile::open(&dir.join(weights)).unwrap();
        file.names().iter().map(|n| file.read_f32(n).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(tensors(&merged), tensors(&better));
    assert_eq!(total(&merged, &data), total(&better, &data));
    assert!(total(&merged, &data) < total(&base, &data));
    let rows = std::fs::read_to_string(out.join("table.jsonl")).unwrap();
    // Four corners, and the fine points around the best that are not corners; then the best four again, of which the base is one.
    assert_eq!(rows.lines().count(), 1 + 9 + 4);
    assert_eq!(rows.lines().filter(|line| line.contains("\"fresh\":true")).count(), 4);
    assert!(ran.out.contains("9 candidates by grid: 72 forward passes"), "{}", ran.out);
    assert!(ran.out.contains("on fresh timesteps and noise, 32 forward passes"), "{}", ran.out);
    let plot = std::fs::read_to_string(out.join("search.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("best so far") && plot.contains("w of expert 1"));
    let found: Value = serde_json::from_slice(&std::fs::read(out.join("weights.json")).unwrap()).unwrap();
    assert_eq!(found["weights"], serde_json::json!([1.0, 0.0]));
    // The table of another search is not continued.
    std::fs::remove_dir_all(&merged).unwrap();
    let before = snapshot(&out);
    let ran = search(&base, &[worse, better], &data, &out, &grid).exits(3);
    assert!(ran.err.contains("belongs to a search with other inputs or settings"), "{}", ran.err);
    assert_eq!(snapshot(&out), before);
}

/// Four experts of a small model, whose best weights lie partly between the bounds: the gradient, the quadratic and CMA-ES reach the best of 5^4 candidates, or better,
/// within a tenth of its forward passes, on the same pairs and noise.
#[test]
fn a_tenth_of_the_forward_passes_reaches_the_best_of_a_grid_of_625() {
    let place = Place::new();
    let learn = ["--ranges", "1", "--consistency", "0", "--p", "0", "--steps", "400", "--accumulate", "1"];
    let quiet = ["--eval-every", "0", "--sample-every", "0", "--save-every", "0"];
    place.finetune("learned", &[&learn[..], &quiet].concat()).exits(0);
    let base = place.run("learned").join("expert_0");
    let model = path(&base);
    let decouple = ["--model", &model, "--ranges", "4", "--steps", "150", "--accumulate", "1"];
    place.finetune("experts", &[&decouple[..], &quiet].concat()).exits(0);
    let experts: Vec<PathBuf> = (0..4).map(|i| place.run("experts").join(format!("expert_{i}"))).collect();
    let found = |method: &str| {
        let out = place.run(method);
        let more = ["--method", method, "--step", "0.25", "--fine", "0.25", "--elite", "0", "--split", "all"];
        search(&base, &experts, &place.data, &out, &more).exits(0);
        let report: Value = serde_json::from_slice(&std::fs::read(out.join("weights.json")).unwrap()).unwrap();
        assert!(report["difference"].as_f64().unwrap() < 0.0, "{report}");
        (report["loss"].as_f64().unwrap(), report["forward_passes"].as_u64().unwrap())
    };
    let (grid, passes) = found("grid");
    assert_eq!(passes, 625 * 16);
    for method in ["gradient", "quadratic", "cma"] {
        let (loss, cost) = found(method);
        assert!(loss <= grid, "{method}: {loss}, the grid's best is {grid}");
        assert!(10 * cost <= passes, "{method}: {cost} forward passes, the grid took {passes}");
    }
}

/// Each method, stopped after two candidates and in the elite, goes on to the same table.
#[test]
fn a_table_is_continued_and_gives_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let base = tiny(&dir.path().join("base"), 1);
    let expert = tiny(&dir.path().join("expert"), 2);
    let data = images(dir.path());
    for method in ["grid", "coordinate", "cma", "quadratic", "gradient"] {
        let options = ["--step", "0.25", "--fine", "0.25", "--candidates", "8", "--method", method];
        let whole = dir.path().join(format!("{method} whole"));
        search(&base, slice::from_ref(&expert), &data, &whole, &options).exits(0);
        let table = std::fs::read_to_string(whole.join("table.jsonl")).unwrap();
        for kept in [3, table.lines().count() - 1] {
            let part = dir.path().join(format!("{method} part of {kept}"));
            std::fs::create_dir(&part).unwrap();
            let cut: String = table.lines().take(kept).map(|l| format!("{l}\n")).collect();
            std::fs::write(part.join("table.jsonl"), cut + "{\"w\":[0.").unwrap();
            let ran = search(&base, slice::from_ref(&expert), &data, &part, &options).exits(0);
            let told = format!("{} candidates are in the table already", kept - 1);
            assert!(ran.err.contains(&told), "{method}: {}", ran.err);
            assert_eq!(std::fs::read_to_string(part.join("table.jsonl")).unwrap(), table, "{method}");
            let weights = |of: &Path| std::fs::read(of.join("weights.json")).unwrap();
            assert_eq!(weights(&part), weights(&whole), "{method}");
        }
    }
}

/// With weights for every block the search can only do better on its own noise, and `deme merge` makes the same model of them.
#[test]
fn weights_for_each_block_are_found_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let scaled = |scale: f32| move |tensor: u64, e: u64| scale * (rng::uniform(7 + tensor, tensor, e) as f32 - 0.5);
    let base = model(&at("base"), TINY, Placement::None, scaled(1.0));
    let experts = [
        model(&at("small"), TINY, Placement::None, scaled(0.6)),
        model(&at("large"), TINY, Placement::None, scaled(1.3)),
    ];
    let data = images(dir.path());
    let loss = |out: &Path, more: &[&str]| {
        search(&base, &experts, &data, out, &[&["--elite", "0", "--method", "gradient"], more].concat()).exits(0);
        let found: Value = serde_json::from_slice(&std::fs::read(out.join("weights.json")).unwrap()).unwrap();
        (found["loss"].as_f64().unwrap(), found)
    };
    let (whole, _) = loss(&at("whole"), &[]);
    let out = at("blocks");
    let (blocks, found) = loss(&out, &["--weights-per", "block"]);
    assert!(blocks < whole, "{blocks} by block, {whole} for the model");
    assert_eq!(found["blocks"], serde_json::json!(["in", "down_blocks.0", "up_blocks.0", "mid_block", "out"]));
    let rows = found["weights"].as_array().unwrap();
    assert!(rows.len() == 5 && rows.iter().all(|row| row.as_array().unwrap().len() == 2), "{found}");
    let (model, file, merged) = (path(&base), path(&out.join("weights.json")), path(&at("merged")));
    let [small, large] = experts.each_ref().map(|e| path(e));
    let words = ["merge", "--model", &model, "--experts", &small, &large, "--weights-file", &file, "--out", &merged];
    let ran = deme(words).exits(0);
    assert!(ran.out.contains("expert 1: weight "), "{}", ran.out);
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let bytes = |dir: &Path| std::fs::read(dir.join(weights)).unwrap();
    assert_eq!(bytes(&at("merged")), bytes(&out.join("merged")));
    let about: Value = serde_json::from_slice(&std::fs::read(at("merged").join("deme.json")).unwrap()).unwrap();
    assert_eq!(about["experts"][1]["weight"]["mid_block"], rows[3][1]);
}

#[test]
fn refusals_name_the_thing_and_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let base = tiny(&dir.path().join("base"), 1);
    let data = images(dir.path());
    let out = dir.path().join("out");
    let before = snapshot(dir.path());
    let ran = search(&base, slice::from_ref(&base), &data, &out, &["--step", "0"]).exits(2);
    assert!(ran.err.contains("a grid from 0 to 1 in steps of 0"), "{}", ran.err);
    for (grid, text) in [
        (["--step", "1e-15", "--fine", "1"], "weights are multiples of 0.000001"),
        (["--step", "1", "--fine", "1e-300"], "weights are multiples of 0.000001"),
        (["--high", "1e300", "--step", "1"], "candidates by --step"),
        (["--step", "1", "--fine", "0.000001"], "candidates by --fine"),
    ] {
        let ran = search(&base, slice::from_ref(&base), &data, &out, &grid).exits(2);
        assert!(ran.err.contains(text), "{}", ran.err);
    }
    let ran = search(&base, slice::from_ref(&base), &data, &base.join("search"), &[]).exits(2);
    assert!(ran.err.contains("a model that is being read"), "{}", ran.err);
    let file = data.join("00.png");
    let ran = search(&base, slice::from_ref(&base), &data, &file, &[]).exits(2);
    assert!(ran.err.contains("is a file"), "{}", ran.err);
    let ran = search(&base, &[dir.path().join("nobody")], &data, &out, &[]).exits(3);
    assert!(ran.err.contains("nobody"), "{}", ran.err);
    let (base, data) = (path(&base), path(&data));
    let ran = deme(["eval", "loss", "--model", &base, "--data", &data]).exits(2);
    assert!(ran.err.contains("the split has no images") && ran.err.contains("--holdout"), "{}", ran.err);
    assert_eq!(snapshot(dir.path()), before);
}
