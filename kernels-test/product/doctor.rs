//! `deme doctor`: the list of adapters, the self-test, the shaders it writes; without an adapter it says so.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use deme::shader::cards;
use serde_json::Value;

use super::run::deme;

#[test]
fn every_kernel_is_tested_and_right_in_under_a_minute() {
    let start = Instant::now();
    let ran = deme(["doctor", "--json"]).exits(0);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let adapter = &report["adapters"][0];
    assert!(adapter["index"] == 0 && adapter["name"].is_string() && adapter["features"].is_object(), "{adapter}");
    assert!(report["tested"]["limits"]["largest binding"].as_u64().unwrap() >= 128 << 20);
    let kernels = report["kernels"].as_object().unwrap();
    for card in cards::all() {
        let tested = card.variants.iter().filter_map(|v| kernels.get(v.stem)).collect::<Vec<_>>();
        assert!(!tested.is_empty(), "{} was not tested", card.word);
        for outcome in tested {
            assert!(outcome["passes"] == true && outcome["worst"].as_f64().unwrap() < 1e-4, "{}: {outcome}", card.word);
        }
    }
    assert!(kernels.values().any(|k| k["worst"].as_f64().unwrap() > 0.0), "no kernel rounds: nothing was compared");
}

#[test]
fn the_text_says_what_is_used_and_how_it_did() {
    let out = deme(["doctor", "--verbose"]).exits(0).out;
    assert!(out.starts_with("0: ") && out.contains("\nin use: ") && out.contains("largest binding: "), "{out}");
    assert!(out.contains("ok    silu_forward: worst error "), "{out}");
    assert!(out.contains(" kernel variants agree with their f64 twins"), "{out}");
    let listed = deme(["doctor", "--skip-test"]).exits(0).out;
    assert!(listed.starts_with("0: ") && !listed.contains("self-test"), "{listed}");
}

#[test]
fn every_kernel_is_written_in_three_languages() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("shaders");
    deme(["doctor", "--dump-shaders", folder.to_str().unwrap()]).exits(0);
    let files = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let stems: BTreeSet<(String, String)> = files
        .map(|name| {
            let (stem, extension) = (name.split(['.', '-']).next().unwrap(), name.rsplit('.').next().unwrap());
            (stem.to_string(), extension.to_string())
        })
        .collect();
    for variant in cards::all().flat_map(|card| card.variants) {
        // naga 30 has no HLSL for cooperative matrices, nor has Direct3D 12.
        let languages: &[_] =
            if variant.stem.ends_with("_coop") { &["spv", "metal"] } else { &["spv", "hlsl", "metal"] };
        for &extension in languages {
            assert!(stems.contains(&(variant.stem.into(), extension.into())), "{}.{extension}", variant.stem);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_driver_it_exits_with_4_and_a_hint() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(name, "/nowhere.json");
    }
    let output = command.args(["doctor", "--backend", "vulkan"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "no GPU adapter answers\n");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.starts_with("error: no GPU adapter: no vulkan driver answers\nhint: install a Vulkan driver"), "{err}");
}

#[test]
fn an_adapter_that_is_not_there_is_a_usage_error_that_lists_those_that_are() {
    let ran = deme(["doctor", "--adapter", "no such card"]).exits(2);
    assert!(
        ran.err.contains("no adapter matches no such card") && ran.err.contains("this machine has 0: "),
        "{}",
        ran.err
    );
}
