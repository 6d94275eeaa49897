//! Model folders in every layout, written and read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deme::io::folder::{FolderLayout, ModelFolder, NewWeights};
use deme::io::json;
use deme::io::names::Names;
use deme::io::safetensors::SafetensorsFile;
use deme::io::source::TensorSource;
use deme::io::writer;
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors::{self, expected};
use sha2::{Digest, Sha256};

/// The smallest UNet: one level, four channels.
pub const TINY: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "block_out_channels": [4],
    "down_block_types": ["DownBlock2D"], "up_block_types": ["AttnUpBlock2D"], "norm_num_groups": 2, "layers_per_block": 1,
    "attention_head_dim": null, "norm_eps": 1e-06, "zz_unknown": {"b": 1, "a": [0.1, 123456789012345678]}}"#;
/// Names and texts of the files of a folder.
pub type Files = &'static [(&'static str, &'static str)];
pub const SCHEDULER: &str = r#"{"_class_name": "DDPMScheduler", "beta_end": 0.02, "clip_sample": true}"#;

pub fn tiny_config() -> UNetConfig {
    let path = Path::new("config.json");
    UNetConfig::from_json(path, &json::parse_object(path, TINY.as_bytes()).unwrap()).unwrap()
}

/// Names and extents of the tiny model, and values that differ from tensor to tensor.
pub fn tiny_tensors() -> Vec<(String, Vec<u64>, Vec<f32>)> {
    let specs = expected(&tiny_config(), Placement::None).into_iter().enumerate();
    specs
        .map(|(i, t)| {
            let values = (0..t.elements()).map(|j| i as f32 + j as f32 / 1024.0).collect();
            (t.name, t.shape, values)
        })
        .collect()
}

pub fn write_weights(path: &Path, names: Names) {
    let owned: Vec<_> = tiny_tensors().into_iter().map(|(n, s, v)| (names.in_file(&n), s, v)).collect();
    let tensors: Vec<_> = owned.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice())).collect();
    writer::write(path, &tensors, &BTreeMap::new()).unwrap();
}

/// A folder with these files; a name ending in .safetensors gets the tiny weights (old names).
pub fn folder_of(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("model");
    fs::create_dir(&root).unwrap();
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if *text == "WEIGHTS" { write_weights(&path, Names::Old) } else { fs::write(path, text).unwrap() }
    }
    (dir, root)
}

fn rewrite(folder: &ModelFolder, out: &Path) -> deme::error::Result<()> {
    let tensors: Vec<_> =
        folder.weights.names().iter().map(|n| (n.clone(), folder.weights.info(n).unwrap().shape.clone())).collect();
    let new = NewWeights {
        tensors: &tensors,
        names: folder.weights.style(),
        metadata: BTreeMap::from([("why".to_owned(), "test".to_owned())]),
        about: None,
    };
    folder.write(out, &new, |name| folder.weights.read_f32(name))
}

#[test]
fn every_layout_opens_and_is_written_with_sub_folders() {
    const W: &str = "WEIGHTS";
    let cases: [(Files, FolderLayout, bool); 5] = [
        (
            &[
                ("unet/config.json", TINY),
                ("unet/diffusion_pytorch_model.safetensors", W),
                ("scheduler/scheduler_config.json", SCHEDULER),
                ("model_index.json", r#"{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}"#),
            ],
            FolderLayout::SubFolders,
            true,
        ),
        (
            &[("unet/config.json", TINY), ("unet/diffusion_pytorch_model.safetensors", W)],
            FolderLayout::SubFolders,
            false,
        ),
        (
            &[("config.json", TINY), ("diffusion_pytorch_model.safetensors", W), ("scheduler_config.json", SCHEDULER)],
            FolderLayout::Flat,
            true,
        ),
        (&[("config.json", TINY), ("diffusion_pytorch_model.safetensors", W)], FolderLayout::BareUNet, false),
        (&[("config.json", TINY), ("diffusion_pytorch_model.fp16.safetensors", W)], FolderLayout::BareUNet, false),
    ];
    for (files, layout, scheduler) in cases {
        let (dir, root) = folder_of(files);
        let folder = ModelFolder::open(&root).unwrap();
        assert_eq!(folder.layout, layout);
        assert_eq!(folder.weights.style(), Names::Old);
        assert_eq!(folder.scheduler_config().is_ok(), scheduler);
        let config = UNetConfig::from_json(&folder.unet_config.path, &folder.unet_config.map).unwrap();
        tensors::check(&folder.weights, &expected(&config, Placement::None)).unwrap();

        let out = dir.path().join("out");
        // The second time, it replaces what it wrote.
        for _ in 0..2 {
            rewrite(&folder, &out).unwrap();
        }
        let again = ModelFolder::open(&out).unwrap();
        assert_eq!(again.layout, FolderLayout::SubFolders);
        assert_eq!(again.unet_config.map, folder.unet_config.map);
        assert!(again.unet_config.map.keys().eq(folder.unet_config.map.keys()), "the order of keys is kept");
        assert_eq!(again.scheduler_config().is_ok(), scheduler);
        assert_eq!(again.model_index.is_some(), scheduler);
        let raw = SafetensorsFile::open(&out.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
        assert!(raw.contains("up_blocks.0.attentions.0.query.weight"), "the input's style is kept");
        assert_eq!((raw.metadata()["format"].as_str(), raw.metadata()["why"].as_str()), ("pt", "test"));
        for (name, shape, values) in tiny_tensors() {
            assert_eq!(again.weights.info(&name).unwrap().shape, shape);
            assert_eq!(again.weights.read_f32(&name).unwrap(), values);
        }
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["model", "out"]);
    }
}

#[test]
fn what_deme_did_not_write_is_never_replaced() {
    let files = [("config.json", TINY), ("diffusion_pytorch_model.safetensors", "WEIGHTS")];
    let (dir, root) = folder_of(&files);
    let folder = ModelFolder::open(&root).unwrap();
    let text = |out: &Path| rewrite(&folder, out).unwrap_err().to_string();
    let out = dir.path().join("out");

    fs::write(&out, "mine").unwrap();
    assert_eq!(text(&out), format!("{} is in the way: it is a file", out.display()));
    fs::remove_file(&out).unwrap();

    fs::create_dir_all(out.join("unet")).unwrap();
    assert_eq!(text(&out), format!("{} is in the way: it holds a model that deme did not write", out.display()));
    fs::write(out.join("holiday.jpg"), "mine").unwrap();
    let expected = "is in the way: it holds holiday.jpg, which deme did not write";
    assert_eq!(text(&out), format!("{} {expected}", out.display()));
    assert_eq!(fs::read_to_string(out.join("holiday.jpg")).unwrap(), "mine");

    assert_eq!(text(&root), format!("{} is the model that is being read", root.display()));
}

#[test]
fn a_failure_half_way_leaves_the_former_version() {
    let files = [("config.json", TINY), ("diffusion_pytorch_model.safetensors", "WEIGHTS")];
    let (dir, root) = folder_of(&files);
    let folder = ModelFolder::open(&root).unwrap();
    let out = dir.path().join("out");
    rewrite(&folder, &out).unwrap();
    let before = fs::read(out.join("unet/diffusion_pytorch_model.safetensors")).unwrap();

    let tensors: Vec<_> = tiny_tensors().into_iter().map(|(n, s, _)| (n, s)).collect();
    let new = NewWeights { tensors: &tensors, names: Names::New, metadata: BTreeMap::new(), about: None };
    let mut count = 0;
    let result = folder.write(&out, &new, |name| {
        count += 1;
        if count == 5 { folder.weights.read_f32("no such tensor") } else { folder.weights.read_f32(name) }
    });
    assert!(result.is_err());
    assert_eq!(fs::read(out.join("unet/diffusion_pytorch_model.safetensors")).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn shards_are_one_model() {
    let (_dir, root) = folder_of(&[("config.json", TINY)]);
    let tensors = tiny_tensors();
    let (mut weight_map, shard_names) = (serde_json::Map::new(), ["a-00001.safetensors", "a-00002.safetensors"]);
    for (half, file) in [&tensors[..9], &tensors[9..]].into_iter().zip(shard_names) {
        let list: Vec<_> = half.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice())).collect();
        writer::write(&root.join(file), &list, &BTreeMap::new()).unwrap();
        half.iter().for_each(|(n, _, _)| drop(weight_map.insert(n.clone(), file.into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(root.join("diffusion_pytorch_model.safetensors.index.json"), index.to_string()).unwrap();
    let folder = ModelFolder::open(&root).unwrap();
    assert_eq!(folder.weights.style(), Names::New);
    for (name, _, values) in tensors {
        assert_eq!(folder.weights.read_f32(&name).unwrap(), values);
    }
}

#[test]
fn the_bundled_checkpoint_is_what_its_configuration_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ddpm-emoji32");
    let folder = ModelFolder::open(&dir).unwrap();
    let config = UNetConfig::from_json(&folder.unet_config.path, &folder.unet_config.map).unwrap();
    let list = expected(&config, Placement::None);
    tensors::check(&folder.weights, &list).unwrap();
    assert_eq!(list.iter().map(tensors::TensorSpec::elements).sum::<u64>(), 2_587_491);
}

/// The lists that diffusers makes for configurations of every kind, as hashes of "name [extents]" lines in order.
#[test]
fn the_expected_tensors_are_those_of_diffusers() {
    let text = fs::read(super::weights::fixture("unet_tensors.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let map = case["config"].as_object().unwrap();
        let config = UNetConfig::from_json(Path::new("config.json"), map).unwrap();
        let list = expected(&config, Placement::None);
        let lines: String = list.iter().map(|t| format!("{} {:?}\n", t.name, t.shape)).collect();
        let hash: String = Sha256::digest(lines.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(list.len() as u64, case["tensors"].as_u64().unwrap(), "{map:?}");
        assert_eq!(hash, case["sha256"], "{map:?}\n{lines}");
    }
}
