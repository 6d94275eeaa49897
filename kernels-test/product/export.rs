//! Channel projections of placement `foldable`, merging into a plain model, and one merged model a timestep range.

use std::fs;
use std::path::{Path, PathBuf};

use deme::io::folder::ModelFolder;
use deme::io::source::TensorSource;
use deme::model::projections::Placement;
use deme::rng;
use serde_json::{Value, json};

use super::run::{Ran, deme, model, snapshot};
use super::train::{Place, SMALL};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A model whose projections, where it has some, are far from the identity.
fn random(dir: PathBuf, placement: Placement, seed: u64) -> PathBuf {
    model(&dir, SMALL, placement, |tensor, element| 0.6 * (rng::uniform(seed, tensor, element) as f32 - 0.5))
}

fn merge(place: &Place, experts: &[PathBuf], out: &Path, more: &[&str]) -> Ran {
    let mut words = vec!["merge".to_owned(), "--model".into(), place.model.display().to_string(), "--experts".into()];
    words.extend(experts.iter().map(|e| e.display().to_string()));
    words.extend(["--out".into(), out.display().to_string()]);
    words.extend(more.iter().map(|m| m.to_string()));
    deme(words)
}

/// The denoising loss of a model, or of an ensemble of `experts`.
fn loss(place: &Place, model: &Path, experts: &[PathBuf]) -> f64 {
    let [model, data] = [model, &place.data].map(|p| p.display().to_string());
    let mut words = vec!["eval", "loss", "--json", "--split", "all", "--data", &data, "--model", &model];
    let experts: Vec<String> = experts.iter().map(|e| e.display().to_string()).collect();
    if !experts.is_empty() {
        words.extend(["--ensemble", "--experts"]);
        words.extend(experts.iter().map(String::as_str));
    }
    let report: Value = serde_json::from_str(&deme(words).exits(0).out).unwrap();
    report["report"]["total"]["loss"].as_f64().unwrap()
}

fn bits(dir: &Path, name: &str) -> Vec<u32> {
    ModelFolder::open(dir).unwrap().weights.read_f32(name).unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn foldable_projections_merge_into_a_plain_model_that_computes_the_same() {
    let place = Place::new();
    let [full, plain] = ["full", "plain"].map(|name| place.run(name));
    let experts = [1, 2].map(|seed| random(place.run(&format!("e{seed}")), Placement::Foldable, seed));
    let placement = |dir: &Path| -> Value {
        let ran = deme(["inspect", "--json", dir.to_str().unwrap()]).exits(0);
        serde_json::from_str::<Value>(&ran.out).unwrap()["projection placement"].clone()
    };
    merge(&place, &experts, &full, &["--weights=0.5,0.25"]).exits(0);
    let data = format!("--data={}", place.data.display());
    let ran = merge(&place, &experts, &plain, &["--weights=0.5,0.25", "--export=plain", &data]).exits(0);
    assert!(ran.out.contains("folded into the convolutions before them: 2 channel projections"), "{}", ran.out);
    assert!(ran.out.contains("folding before merging gives other weights"), "{}", ran.out);
    assert!(!ran.out.contains("dropped"), "{}", ran.out);
    let told = placement(&full);
    assert!(told.as_str().unwrap().starts_with("foldable: 2 of 2 fold"), "{told}");
    assert_eq!(placement(&plain), json!("none"));
    // The projections are far from the identity, so the losses would differ if folding were wrong.
    let about = json(&plain.join("deme.json"));
    let [with, written, first] =
        ["with_projections", "written", "folded_before_merging"].map(|key| about["loss"][key].as_f64().unwrap());
    assert!((written / with - 1.0).abs() < 1e-6, "{with} with projections, {written} plain");
    assert!((first / with - 1.0).abs() > 1e-4, "{with} with projections, {first} folded before merging");
    let [a, b] = [&full, &plain].map(|dir| loss(&place, dir, &[]));
    assert!((a / b - 1.0).abs() < 1e-6, "{a} with projections, {b} plain");
    assert_eq!(
        (&about["folded"], &about["dropped"]),
        (&json!(["adapter_list.3.weight", "adapter_list.4.weight"]), &json!({}))
    );
    // The same by hand, of a bias.
    let read = |name: &str| ModelFolder::open(&full).unwrap().weights.read_f32(name).unwrap();
    let (p, bias) = (read("adapter_list.3.weight"), read("up_blocks.0.upsamplers.0.conv.bias"));
    for (row, got) in p.chunks(bias.len()).zip(bits(&plain, "up_blocks.0.upsamplers.0.conv.bias")) {
        let sum: f64 = row.iter().zip(&bias).map(|(p, b)| f64::from(*p) * f64::from(*b)).sum();
        assert_eq!(got, (sum as f32).to_bits());
    }
}

#[test]
fn what_does_not_fold_is_dropped_and_said_and_judged() {
    let place = Place::new();
    let expert = random(place.run("e"), Placement::All, 3);
    let experts = std::slice::from_ref(&expert);
    let data = format!("--data={}", place.data.display());
    let out = place.run("plain");
    let ran = merge(&place, experts, &out, &["--weights=0.5", "--export=plain", &data]).exits(0);
    assert!(
        ran.out.contains("dropped, since they fold nowhere, with |P - I| / |I|: after down_blocks.0 "),
        "{}",
        ran.out
    );
    let about = json(&out.join("deme.json"));
    assert_eq!(about["dropped"].as_object().unwrap().len(), 3, "{about}");
    assert_ne!(about["loss"]["with_projections"], about["loss"]["written"]);
    // A model without projections is plain already.
    let ran = merge(&place, std::slice::from_ref(&place.model), &place.run("same"), &["--weights=1", "--export=plain"]);
    assert!(ran.exits(0).out.contains("no channel projections to fold"));
    let before = snapshot(place.root.path());
    let refused = merge(&place, experts, &place.run("no"), &["--weights=0.5", &data]).exits(2);
    assert!(refused.err.contains("--data judges --export plain"), "{}", refused.err);
    let refused =
        merge(&place, experts, &place.run("no"), &["--weights=0.5", "--export=plain", "--data=nowhere"]).exits(3);
    assert!(refused.err.contains("nowhere"), "{}", refused.err);
    assert_eq!(snapshot(place.root.path()), before);
}

#[test]
fn foldable_projections_are_trained_where_they_fold() {
    let place = Place::new();
    place.finetune("run", &["--projection=foldable", "--range=0", "--export-every=6"]).exits(0);
    let expert = ModelFolder::open(&place.run("run").join("expert_0")).unwrap();
    let names: Vec<_> = expert.weights.names().iter().filter(|n| n.starts_with("adapter_list.")).collect();
    assert_eq!(names, ["adapter_list.3.weight", "adapter_list.4.weight"]);
    // The average on the way is a model folder too, another checkpoint of the same expert.
    let half = place.run("run").join("expert_0_step_00000006");
    assert_eq!(json(&half.join("deme.json"))["updates"], json!(6));
    let last = place.run("run").join("expert_0");
    assert_ne!(bits(&half, "adapter_list.3.weight"), bits(&last, "adapter_list.3.weight"));
    assert!(!place.run("run").join("expert_0_step_00000012").exists(), "the last one is expert_0");
    merge(&place, &[half, last], &place.run("both"), &["--weights=-0.5,1.5"]).exits(0);
    let attention = fs::read_to_string(place.model.join("unet/config.json")).unwrap();
    let attention = attention.replace("\"AttnUpBlock2D\", \"UpBlock2D\"", "\"AttnUpBlock2D\"");
    let attention = attention.replace("[8, 16]", "[8]").replace("\"DownBlock2D\", ", "");
    let nowhere = model(&place.run("attention"), &attention, Placement::None, |_, _| 0.0).display().to_string();
    let ran = deme(["finetune", "--projection=foldable", "--model", &nowhere, "--data", "x", "--out", "y"]).exits(2);
    assert!(ran.err.contains("no place where a channel projection folds"), "{}", ran.err);
}

#[test]
fn a_model_for_each_range_is_an_ensemble() {
    let place = Place::new();
    let experts = [4, 5].map(|seed| random(place.run(&format!("e{seed}")), Placement::None, seed));
    let out = place.run("ranges");
    let ran = merge(&place, &experts, &out, &["--weights-per=range", "--weights=1,0,0,1"]).exits(0);
    assert!(ran.out.contains("2 models, one for each timestep range"), "{}", ran.out);
    let ranges = [0, 1].map(|i| out.join(format!("range_{i}")));
    for (i, (range, expert)) in ranges.iter().zip(&experts).enumerate() {
        assert_eq!(json(&range.join("deme.json"))["timesteps"], json!([500 * i, 500 * i + 500]));
        assert_eq!(bits(range, "conv_in.weight"), bits(expert, "conv_in.weight"));
    }
    assert_eq!(loss(&place, &place.model, &ranges), loss(&place, &place.model, &experts));
    let before = snapshot(place.root.path());
    let refused = merge(&place, &experts, &place.run("no"), &["--weights-per=range", "--weights=1,0,0"]).exits(2);
    assert!(refused.err.contains("3 weights for 2 timestep ranges"), "{}", refused.err);
    assert_eq!(snapshot(place.root.path()), before);
}

/// Each range has a table of its own, whose best weights make the range's model.
#[test]
fn a_search_for_each_range_finds_what_is_best_there() {
    let place = Place::new();
    let experts = [6, 7].map(|seed| random(place.run(&format!("e{seed}")), Placement::None, seed));
    let out = place.run("search");
    let [data, to, base] = [&place.data, &out, &place.model].map(|p| p.display().to_string());
    let experts = experts.map(|e| e.display().to_string());
    let mut words = vec!["search", "--weights-per=range", "--split=all", "--pairs=4", "--fine=0.5", "--elite=0"];
    words.extend(["--data", &data, "--out", &to, "--model", &base, "--experts", &experts[0], &experts[1]]);
    let ran = deme(&words).exits(0);
    assert!(ran.out.contains("timesteps 0 to 499:") && ran.out.contains("timesteps 500 to 999:"), "{}", ran.out);
    let found = json(&out.join("weights.json"));
    assert_eq!(found["ranges"], json!([0, 500, 1000]));
    for i in 0..2 {
        let table = fs::read_to_string(out.join(format!("range_{i}/table.jsonl"))).unwrap();
        let rows: Vec<Value> = table.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let loss = |row: &&Value| row["loss"].as_f64().unwrap();
        let judged = rows.iter().filter(|row| row["w"].is_array());
        let best = judged.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
        assert_eq!(best["w"], found["weights"][i], "{rows:?}");
        assert!(out.join(format!("range_{i}/search.svg")).exists());
        assert_eq!(json(&out.join(format!("merged/range_{i}/deme.json")))["range"], json!(i));
    }
    deme(&words).exits(2);
}
