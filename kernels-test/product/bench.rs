//! `deme bench`: its tables and files, and what it says of a row that moved.

use std::collections::BTreeSet;
use std::fs;

use deme::shader::cards;
use serde_json::{Value, json};

use super::run::deme;

fn object(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_smoke_run_times_every_kernel_and_a_doctored_baseline_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let [out, again] = ["a.json", "b.json"].map(|name| dir.path().join(name));
    let path = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    let html = dir.path().join("a.html");
    let ran = deme(["bench", "kernels", "--smoke", "--out", &path(&out), "--html", &path(&html)]).exits(0);
    assert!(ran.out.contains(" GFLOP/s of FMA, ") && ran.out.contains("\ntimed by "), "{}", ran.out);

    let mut results = object(&out);
    assert!(results["engine"] == "deme" && results["driver"].is_string() && results["ceilings"]["void"] == false);
    let rows = results["rows"].as_array().unwrap().clone();
    let names: BTreeSet<_> =
        rows.iter().map(|r| (r["case"].as_str(), r["pass"].as_str(), r["variant"].as_str())).collect();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
    for row in &rows {
        let [median, best] = ["median_s", "best_s"].map(|key| row[key].as_f64().unwrap());
        assert!(median >= best && best >= 0.0 && median < 60.0 && row["runs"] == 1, "{row}");
        let name = [&row["case"], &row["pass"], &row["variant"]].map(|v| v.as_str().unwrap());
        let line = ran.out.lines().find(|l| name.iter().all(|part| l.contains(part)));
        assert!(line.is_some(), "{row} is not in the table");
    }
    for card in cards::all() {
        assert!(rows.iter().any(|r| r["pass"].as_str().unwrap().starts_with(card.word)), "{} was not timed", card.word);
    }
    for (kind, passes) in [("conv2d", &["forward", "backward", "forward+backward"][..]), ("adamw", &["run"])] {
        for pass in passes {
            let found = |r: &&Value| r["case"].as_str().unwrap().starts_with(kind) && r["pass"] == *pass;
            assert!(rows.iter().find(found).is_some_and(|r| r["variant"] == "default"), "{kind} {pass}");
        }
    }

    let page = fs::read_to_string(&html).unwrap();
    assert_eq!(page.matches("<svg").count(), 2, "roofline and ladders");
    assert!(page.contains("matmul_forward_v1") && !page.contains("src=\"http") && !page.contains("<link"));

    // Far beyond any noise: one row of the baseline a million times faster.
    let doctored = rows.iter().position(|r| r["case"] == "adamw/2587491" && r["pass"] == "run").unwrap();
    for row in results["rows"].as_array_mut().unwrap() {
        row["spread"] = json!(1e9);
    }
    results["rows"][doctored]["spread"] = json!(0.0);
    results["rows"][doctored]["median_s"] = json!(1e-9);
    fs::write(&out, results.to_string()).unwrap();
    let arguments = ["bench", "kernels", "--smoke", "--baseline", &path(&out), "--out", &path(&again)];
    let ran = deme(arguments).exits(0);
    let moved: Vec<_> = ran.out.lines().filter(|l| l.starts_with("SLOWER") || l.starts_with("faster")).collect();
    assert!(
        moved.len() == 1 && moved[0].contains("SLOWER") && moved[0].contains("adamw/2587491 run default"),
        "{moved:?}"
    );
    assert!(ran.out.contains("against the baseline: 1 of "), "{}", ran.out);

    // A foreign engine's rows stand beside deme's with their ratio.
    let foreign = dir.path().join("torch.json");
    let deme_s = object(&again)["rows"][doctored]["median_s"].as_f64().unwrap();
    let row = json!({"case": "adamw/2587491", "pass": "run", "variant": "eager", "median_s": 2.5 * deme_s});
    fs::write(&foreign, json!({"engine": "pytorch", "rows": [row]}).to_string()).unwrap();
    let table = deme(["bench", "compare", &path(&again), &path(&foreign)]).exits(0).out;
    let line = table.lines().find(|l| l.contains("pytorch eager")).unwrap();
    assert!(line.starts_with("adamw/2587491") && line.trim_end().ends_with(" 2.50"), "{line}");
    assert!(!table.contains("conv2d"), "{table}");
}

#[test]
fn a_filter_that_matches_nothing_and_a_file_of_another_kind_are_errors() {
    let ran = deme(["bench", "kernels", "--smoke", "--filter", "no such kernel"]).exits(2);
    assert!(ran.err.starts_with("error: no row matches --filter no such kernel\nhint: "), "{}", ran.err);
    let config = super::run::emoji().join("unet/config.json");
    let ran = deme(["bench", "compare", config.to_str().unwrap()]).exits(3);
    assert!(ran.err.contains("results: missing field `engine`"), "{}", ran.err);
    let ran = deme(["bench", "kernels", "--baseline", "/nowhere.json"]).exits(3);
    assert!(ran.err.contains("/nowhere.json"), "{}", ran.err);
    deme(["bench", "kernels", "--time", "0"]).exits(2);
}

#[test]
fn a_network_is_timed_step_by_step_and_its_profile_names_the_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("unet.json");
    let model = super::run::emoji();
    let arguments =
        ["bench", "unet", "--batch", "1", "--profile", "--smoke", "--model", model.to_str().unwrap(), "--out"];
    let ran = deme(arguments.into_iter().chain([out.to_str().unwrap()])).exits(0);
    let rows = object(&out)["rows"].as_array().unwrap().clone();
    let passes: Vec<_> = rows.iter().map(|r| r["pass"].as_str().unwrap()).collect();
    assert_eq!(passes, ["forward", "sample_step", "train_step", "train_step+teacher"]);
    for row in &rows {
        assert_eq!(row["case"], "unet/ddpm-emoji32/b1");
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!((number("images_s") * number("median_s") - 1.0).abs() < 1e-9 && number("host_s") > 0.0);
        // Weights, 2,587,491 of four bytes, in each of the roles.
        assert!(number("memory_bytes") > 4.0 * 2_587_491.0, "{row}");
    }
    let column = |key: &str| rows.iter().map(|r| r[key].as_f64().unwrap()).collect::<Vec<_>>();
    let dispatches = column("dispatches");
    assert!(dispatches[1] == dispatches[0] + 1.0 && dispatches[2] > 2.0 * dispatches[0], "{dispatches:?}");
    let memory = column("memory_bytes");
    assert!(memory[3] - memory[2] > 4.0 * 2_587_491.0 && memory[2] > 4.0 * memory[0], "{memory:?}");
    for needle in
        ["profile of unet/ddpm-emoji32/b1 train_step", "conv2d_backward_weight", "adamw", "an unprofiled step's"]
    {
        assert!(ran.out.contains(needle), "{needle} is not in\n{}", ran.out);
    }
    let ran = deme(["bench", "unet", "--config", "sd"]).exits(2);
    assert!(ran.err.contains("no configuration is called sd") && ran.err.contains("ddpm-cifar10"), "{}", ran.err);
    let ran = deme(["bench", "unet", "--pass", "sideways"]).exits(2);
    assert!(ran.err.contains("--pass sideways is not known"), "{}", ran.err);
}
