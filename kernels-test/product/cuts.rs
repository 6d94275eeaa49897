//! `deme cuts`: gradients by timestep, and the ranges that follow.

use serde_json::Value;

use super::finetune::{json, lines};
use super::run::deme;
use super::train::Place;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// One bucket's gradient is that of an update of plain training on the same images, noise and timesteps.
#[test]
fn gradients_are_those_of_training() {
    let place = Place::new();
    let out = place.root.path().join("cuts.json");
    let path = |option: &str, path: &std::path::Path| format!("{option}={}", path.display());
    let common = [path("--model", &place.model), path("--data", &place.data), "--batch=3".into(), "--seed=9".into()];
    let cuts = |more: &[&str]| {
        let words = ["cuts".to_owned(), path("--out", &out)].into_iter().chain(common.clone());
        deme(words.chain(more.iter().map(|m| m.to_string())))
    };
    cuts(&["--buckets=1", "--ranges=1", "--accumulate=2"]).exits(0);
    let whole = json(&out);
    let plain = [
        "--ranges=1",
        "--steps=1",
        "--batch=3",
        "--accumulate=2",
        "--consistency=0",
        "--p=0",
        "--log-every=1",
        "--seed=9",
        "--sample-every=0",
    ];
    let run = place.root.path().join("run");
    let words =
        ["finetune".to_owned(), path("--out", &run), path("--model", &place.model), path("--data", &place.data)];
    deme(words.into_iter().chain(plain.map(str::to_owned))).exits(0);
    let log = lines(&run.join("training/expert_0/metrics.jsonl"));
    let (got, expected) = (numbers(&whole["norms"])[0], log[0]["gradient_norm"].as_f64().unwrap());
    assert!((got - expected).abs() < 1e-5 * expected, "{got} for {expected}");
    assert!((numbers(&whole["cosines"][0])[0] - 1.0).abs() < 1e-12);

    std::fs::remove_file(&out).unwrap();
    let ran = cuts(&["--buckets=5", "--ranges=2", "--accumulate=2"]).exits(0);
    let found = json(&out);
    assert_eq!(found["bounds"], serde_json::json!([0, 200, 400, 600, 800, 1000]));
    let rows: Vec<Vec<f64>> = found["cosines"].as_array().unwrap().iter().map(numbers).collect();
    for (j, row) in rows.iter().enumerate() {
        assert!((row[j] - 1.0).abs() < 1e-12 && row.iter().all(|c| c.abs() <= 1.0 + 1e-12), "{row:?}");
        assert!(row.iter().enumerate().all(|(k, c)| *c == rows[k][j]), "symmetric");
    }
    assert!(rows[0][1] < 0.999_999, "other timesteps, other gradients");
    let bounds = numbers(&found["cuts"]);
    assert!(bounds.len() == 3 && bounds[0] == 0.0 && bounds[2] == 1000.0 && bounds[1] % 200.0 == 0.0, "{bounds:?}");
    assert!(ran.out.ends_with(&format!("deme finetune --cuts 0,{},1000\n", bounds[1])), "{}", ran.out);
    let refused = cuts(&["--buckets=2", "--ranges=3"]).exits(2);
    assert!(refused.err.contains("cuts.json"), "an existing file is not overwritten: {}", refused.err);
}
