//! `--precision`: f16 where the adapter has it and a refusal where it has not; what it leaves in a run's files.

use std::fs;

use serde_json::Value;

use super::run::{Ran, deme, emoji};
use super::train::Place;

fn sample(out: &str, precision: &str) -> Ran {
    let model = emoji();
    let model = model.to_str().unwrap();
    deme(["sample", "--model", model, "--num", "1", "--steps", "2", "--out", out, "--precision", precision])
}

#[test]
fn f16_runs_where_the_adapter_has_it_and_is_refused_elsewhere() {
    let report: Value = serde_json::from_str(&deme(["doctor", "--json"]).exits(0).out).unwrap();
    let has_f16 = report["adapters"][0]["features"]["f16 arithmetic"] == true;
    let edge = report["tested"]["limits"]["edge of cooperative matrices, f16 to f32"].as_u64().unwrap();
    let hardware = report["adapters"][0]["class"] == "hardware";
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let text = |name: &str| String::from_utf8_lossy(&fs::read(path(name)).unwrap()).into_owned();
    let half = sample(&path("f16.png"), "f16");
    if has_f16 {
        half.exits(0);
        assert!(text("f16.png").contains("Precision: f16"));
    } else {
        let ran = half.exits(2);
        assert!(ran.err.contains("offers no f16 in shaders\n"), "{}", ran.err);
        assert!(ran.err.ends_with("hint: use --precision f32, or auto\n"), "{}", ran.err);
        assert!(!dir.path().join("f16.png").exists());
    }
    sample(&path("auto.png"), "auto").exits(0);
    let expected = if edge > 0 && hardware { "Precision: f16" } else { "Precision: f32" };
    assert!(text("auto.png").contains(expected));
    assert_eq!(sample(&path("f64.png"), "f64").exits(2).out, "");
}

#[test]
fn a_run_keeps_its_precision() {
    let place = Place::new();
    place.finetune("run", &["--range", "0"]).exits(0);
    let settings: Value = serde_json::from_slice(&fs::read(place.run("run").join("run.json")).unwrap()).unwrap();
    assert_eq!(settings["precision"], "f32");
    let about = fs::read(place.run("run").join("expert_0/deme.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&about).unwrap()["precision"], "f32");
    let other = place.finetune("run", &["--resume", "--precision", "auto"]).exits(2);
    assert!(other.err.contains("precision was \"f32\" when the run began and is \"auto\" now"), "{}", other.err);
}
