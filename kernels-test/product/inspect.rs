//! `deme inspect` on folders and files, as text and as JSON.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::run::{TINY, deme, emoji, model, tiny};
use deme::model::projections::Placement;

fn facts(path: &Path) -> Value {
    let ran = deme(["inspect", "--json", "--tensors", path.to_str().unwrap()]).exits(0);
    assert_eq!(ran.err, "");
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn the_bundled_checkpoint() {
    let found = facts(&emoji());
    assert_eq!(found["pipeline"], json!("DDPMPipeline"));
    assert_eq!(found["unet"]["block_out_channels"], json!([32, 64, 128]));
    assert_eq!(found["scheduler"]["num_train_timesteps"], json!(1000));
    assert_eq!(found["parameters"], json!(2_587_491));
    assert_eq!(found["types"], json!({"F32": found["tensors"]}));
    assert_eq!(found["channel projections"], json!(0));
    assert_eq!(found["list"]["conv_in.weight"], json!("F32 [32, 3, 3, 3]"));
    assert_eq!(found["files"][0]["bytes"], json!(10_368_796));
    assert_eq!(found["files"][0]["sha256"].as_str().unwrap().len(), 64);
    let text = deme(["inspect", emoji().to_str().unwrap()]).exits(0).out;
    for line in ["pipeline: DDPMPipeline", "parameters: 2,587,491", "  block_out_channels: 32, 64, 128", "types:"] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("conv_in.weight"));
}

#[test]
fn a_single_file_of_either_format() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-test/golden/files");
    let (safe, torch) = (facts(&golden.join("f16.safetensors")), facts(&golden.join("zip_f16.bin")));
    assert!(safe["parameters"].as_u64().unwrap() > 0);
    assert_eq!(safe["parameters"], torch["parameters"]);
    assert_eq!(safe["types"]["F16"], torch["types"]["F16"]);
    assert_eq!(torch.get("folder"), None);
}

#[test]
fn projections_are_counted() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), TINY, Placement::All, |_, _| 0.0);
    assert_eq!(facts(&dir)["channel projections"], json!(3));
    let told = facts(&dir)["projection placement"].clone();
    assert_eq!(told, json!("all: 0 of 3 fold into convolutions (deme merge --export plain)"));
}

#[test]
fn a_model_that_cannot_run_is_shown_and_then_refused_by_key() {
    let root = tempfile::tempdir().unwrap();
    let dir = tiny(root.path(), 1);
    let config = dir.join("unet/config.json");
    fs::write(&config, TINY.replace("\"DownBlock2D\"", "\"SkipDownBlock2D\"")).unwrap();
    let ran = deme(["inspect", dir.to_str().unwrap()]).exits(3);
    assert!(ran.out.contains("down_block_types: SkipDownBlock2D"), "{}", ran.out);
    let message =
        format!("error: {}: down_block_types = \"SkipDownBlock2D\" is not supported\nhint: ", config.display());
    assert!(ran.err.starts_with(&message), "{}", ran.err);
}

#[test]
fn what_is_not_there_or_not_a_model_is_named() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    let message = format!("{}: cannot open: No such file or directory (os error 2)", missing.display());
    deme(["inspect", missing.to_str().unwrap()]).complains(3, &message, "check the path");
    let hint = "name a folder that diffusers saved, with unet/config.json or config.json in it";
    let message = format!("{}: config.json: is neither here nor in unet/", root.path().display());
    deme(["inspect", root.path().to_str().unwrap()]).complains(3, &message, hint);
    let garbage = root.path().join("x.safetensors");
    fs::write(&garbage, "no weights").unwrap();
    let ran = deme(["inspect", garbage.to_str().unwrap()]).exits(3);
    assert!(ran.err.starts_with(&format!("error: {}: header: ", garbage.display())), "{}", ran.err);
}
