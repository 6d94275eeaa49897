//! `deme analyze`: all parts on a tiny run, their data against what other commands say, resuming, refusals.

use std::path::{Path, PathBuf};
use std::slice;

use serde_json::Value;

use super::finetune::json;
use super::run::{Ran, deme, snapshot};
use super::train::Place;

fn analyze(place: &Place, experts: &[PathBuf], out: &Path, more: &[&str]) -> Ran {
    let mut words: Vec<String> = vec!["analyze".into(), "--base".into(), place.model.display().to_string()];
    words.extend(["--data".into(), place.data.display().to_string(), "--out".into(), out.display().to_string()]);
    words.extend(more.iter().map(|word| word.to_string()));
    if !experts.is_empty() {
        words.push("--experts".into());
        words.extend(experts.iter().map(|e| e.display().to_string()));
    }
    deme(words)
}

/// Two experts of a few updates.
fn experts(place: &Place) -> PathBuf {
    let quiet = ["--eval-every", "0", "--sample-every", "0", "--save-every", "0", "--accumulate", "1", "--lr", "3e-3"];
    place.finetune("run", &quiet).exits(0);
    place.run("run")
}

/// (overall, range by range)
fn losses(model: &Path, data: &Path, seed: u64) -> Vec<f64> {
    let (model, data, seed) = (model.display().to_string(), data.display().to_string(), seed.to_string());
    let words =
        ["eval", "loss", "--model", &model, "--data", &data, "--split", "train", "--limit", "4", "--seed", &seed];
    let ran = deme(words.into_iter().chain(["--buckets", "2", "--json"])).exits(0);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let lines = report["report"]["buckets"].as_array().unwrap();
    let all = std::iter::once(&report["report"]["total"]).chain(lines);
    all.map(|line| line["loss"].as_f64().unwrap()).collect()
}

fn of_point(point: &Value) -> Vec<f64> {
    let all = std::iter::once(&point["overall"]).chain(point["ranges"].as_array().unwrap());
    all.map(|loss| loss["loss"].as_f64().unwrap()).collect()
}

fn at<'a>(points: &'a Value, place: &[f64]) -> &'a Value {
    let near = |p: &&Value| {
        let at = p["at"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
        at.zip(place).all(|(a, b)| (a - b).abs() < 1e-12)
    };
    points.as_array().unwrap().iter().find(near).unwrap()
}

#[track_caller]
fn close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() <= 2e-6 * b.abs(), "{got:?} for {expected:?}");
    }
}

const SMALL: [&str; 12] =
    ["--pairs", "4", "--buckets", "4", "--groups", "3", "--group-images", "2", "--grid", "3", "--points", "5"];

#[test]
fn every_part_is_measured_once_and_agrees_with_the_other_commands() {
    let place = Place::new();
    let run = experts(&place);
    let out = place.run("analysis");
    let ran = analyze(&place, slice::from_ref(&run), &out, &SMALL).exits(0);
    assert!(
        ran.out.contains("report.html and the data of gradients, activations, landscape, vectors, plane"),
        "{}",
        ran.out
    );

    // A point of a line or plane is the model that it names.
    let landscape = &json(&out.join("landscape.json"))["result"];
    let expert = |i: usize| run.join(format!("expert_{i}"));
    let base = losses(&place.model, &place.data, 0);
    close(&of_point(at(&landscape["random"]["points"], &[0.0, 0.0])), &base);
    for i in 0..2 {
        let points = &landscape["lines"][i]["points"];
        close(&of_point(at(points, &[0.0])), &base);
        let own = losses(&expert(i), &place.data, 0);
        close(&of_point(at(points, &[1.0])), &own);
        let difference = at(points, &[1.0])["overall"]["difference"].as_f64().unwrap();
        assert!((difference - (own[0] - base[0])).abs() < 1e-5, "{difference}");
    }
    let random = landscape["random"]["points"].as_array().unwrap();
    assert_eq!(random.len(), 9);
    assert!(of_point(&random[0]) != base, "elsewhere the loss is another");

    // Task vectors are what `deme merge` prints: expert 0: weight 1, |tau| NORM, cosines ...
    let merged = place.run("merged");
    let words = |option: &str, value: &Path| [option.to_owned(), value.display().to_string()];
    let mut merge: Vec<String> = vec!["merge".into(), "--weights=1,0".into()];
    merge.extend(words("--model", &place.model).into_iter().chain(words("--out", &merged)));
    merge.extend(["--experts".into(), expert(0).display().to_string(), expert(1).display().to_string()]);
    let said = deme(merge).exits(0).out;
    let vectors = &json(&out.join("vectors.json"))["result"];
    let product = |i: usize, j: usize| vectors["whole"]["products"][i][j].as_f64().unwrap();
    let (first, second) = (product(0, 0).sqrt(), product(1, 1).sqrt());
    let line = format!("|tau| {first:.6}, cosines +1.000 {:+.3}", product(0, 1) / (first * second));
    assert!(said.contains(&line), "{line}\n{said}");
    let tensors = vectors["tensors"].as_array().unwrap();
    let squared: f64 = tensors.iter().map(|t| t["norms"][1].as_f64().unwrap().powi(2)).sum();
    assert!((squared.sqrt() / second - 1.0).abs() < 1e-9);
    // On the plane the experts lie at their distances from the base.
    let places = &json(&out.join("plane.json"))["result"]["places"];
    assert!((places[0][0].as_f64().unwrap() / first - 1.0).abs() < 1e-9);
    let length = places[1][0].as_f64().unwrap().hypot(places[1][1].as_f64().unwrap());
    assert!((length / second - 1.0).abs() < 1e-9);

    // The gradient of the whole is the mean of the buckets', so no longer than the longest.
    let gradients = &json(&out.join("gradients.json"))["result"];
    let raw = |norm: &Value| norm["raw"].as_f64().unwrap();
    let longest = gradients["buckets"].as_array().unwrap().iter().map(raw).fold(0.0, f64::max);
    assert!(raw(&gradients["whole"]) > 0.0 && raw(&gradients["whole"]) <= longest);
    assert!(!out.join("gradients.tmp").exists());

    // Three parts of an activation's energy and the rest are all of it.
    let parts = &json(&out.join("activations.json"))["result"]["parts"];
    assert_eq!(parts.as_array().unwrap().len(), 2 * 6, "conv_in, two down, mid, two up, of two experts");
    for part in parts.as_array().unwrap() {
        let energy: f64 = part["energy"].as_array().unwrap().iter().map(|e| e.as_f64().unwrap()).sum();
        assert!((energy - 1.0).abs() < 1e-9, "{part}");
    }

    // The page fetches nothing and shows every figure.
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for figure in ["fig. 1a", "proposition 1", "fig. 3", "fig. 4", "fig. 7a", "fig. 7b", "fig. 8"] {
        assert!(page.contains(figure), "{figure}");
    }
    assert!(page.matches("<svg").count() >= 10 && !page.contains("NaN"));
    for address in ["http", " src=", "@import", "url("] {
        assert!(!page.contains(address), "{address}");
    }
    assert!(page.split("href=\"").skip(1).all(|rest| rest.starts_with('#')));
    let table = std::fs::read_to_string(out.join("task_vectors.csv")).unwrap();
    assert!(table.starts_with("tensor,elements,base_norm,expert_0,expert_1\n"));
    assert_eq!(table.lines().count(), 1 + tensors.len());
    assert_eq!(std::fs::read_to_string(out.join("task_plane.csv")).unwrap().lines().count(), 1 + 9);

    // What is there is not measured again; what was lost is, to the same numbers; other settings are refused.
    let before = snapshot(&out);
    std::fs::remove_file(out.join("plane.json")).unwrap();
    let again = analyze(&place, &[expert(0), expert(1)], &out, &SMALL).exits(0);
    for part in ["gradients", "activations", "landscape", "vectors"] {
        assert!(again.err.contains(&format!("{part} is measured already")), "{}", again.err);
    }
    assert!(!again.err.contains("plane is measured"));
    assert_eq!(snapshot(&out), before);
    let other = analyze(&place, &[run], &out, &[&SMALL[..], &["--radius", "0.2"]].concat()).exits(2);
    assert!(
        other.err.contains("landscape.json: radius was 0.05 when this was measured and is 0.2 now"),
        "{}",
        other.err
    );
    assert_eq!(snapshot(&out), before);
}

#[test]
fn without_experts_the_base_is_analysed_and_refusals_write_nothing() {
    let place = Place::new();
    let out = place.run("analysis");
    let before = snapshot(place.root.path());
    let ran = analyze(&place, &[], &out, &[&SMALL[..], &["--dry-run"]].concat()).exits(0);
    // 4 buckets of 3 groups of 2 images, three passes each; 16 pairs at the base and at 9 points.
    assert!(
        ran.out.contains("gradients              72") && ran.out.contains("landscape             160"),
        "{}",
        ran.out
    );
    let model = [place.model.clone()];
    let none: &[PathBuf] = &[];
    for (experts, more, text) in [
        (none, &["--only", "plane"][..], "plane needs 2 experts or more, 0 are given"),
        (&model, &["--only", "plane"], "plane needs 2 experts or more, 1 are given"),
        (none, &["--radius", "-1"], "--radius -1 is no distance"),
        (&model, &["--plane", "0,0"], "--plane 0,0 names no two of 1 experts"),
        (none, &["--only", "everything"], "invalid value 'everything'"),
    ] {
        let ran = analyze(&place, experts, &out, more).exits(2);
        assert!(ran.err.contains(text), "{}", ran.err);
    }
    let inside = analyze(&place, &[], &place.model.join("analysis"), &[]).exits(2);
    assert!(inside.err.contains("a model that is being read"), "{}", inside.err);
    assert_eq!(snapshot(place.root.path()), before);

    // Twice the same model spans no plane.
    let twice = [place.model.clone(), place.model.clone()];
    let flat = analyze(&place, &twice, &out, &["--only", "plane"]).exits(2);
    assert!(flat.err.contains("the task vectors of experts 0 and 1 span no plane"), "{}", flat.err);
    let ran = analyze(&place, &[], &out, &[&SMALL[..], &["--only", "landscape"]].concat()).exits(0);
    assert!(ran.out.contains("the data of landscape in"), "{}", ran.out);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("The loss around the base") && !page.contains("fig. 7a"));
}
