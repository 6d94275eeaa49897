//! Runs the built binary and makes small models for it. Called by all product tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deme::io::json;
use deme::io::writer;
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors::expected;
use deme::rng;

/// The bundled checkpoint.
pub fn emoji() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ddpm-emoji32")
}

/// What a run printed and how it ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Fails with everything printed unless the exit code is this.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    /// stderr is `error: <message>` and `hint: <hint>`, nothing more.
    #[track_caller]
    pub fn complains(self, code: i32, message: &str, hint: &str) {
        let ran = self.exits(code);
        assert_eq!(ran.err, format!("error: {message}\nhint: {hint}\n"));
    }
}

/// `deme ARGUMENTS...`, away from a terminal.
pub fn deme<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_deme")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The smallest UNet: one level, four channels.
pub const TINY: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "attention_head_dim": null,
    "block_out_channels": [4], "down_block_types": ["DownBlock2D"], "layers_per_block": 1, "norm_num_groups": 2,
    "up_block_types": ["AttnUpBlock2D"], "sample_size": 8}"#;
pub const SCHEDULER: &str = r#"{"_class_name": "DDPMScheduler", "beta_end": 0.02, "num_train_timesteps": 1000}"#;

/// Writes a diffusers folder: this configuration, weights from `value(tensor, element)`.
pub fn model(dir: &Path, config: &str, placement: Placement, value: impl Fn(u64, u64) -> f32) -> PathBuf {
    fs::create_dir_all(dir.join("unet")).unwrap();
    fs::create_dir_all(dir.join("scheduler")).unwrap();
    fs::write(dir.join("unet/config.json"), config).unwrap();
    fs::write(dir.join("scheduler/scheduler_config.json"), SCHEDULER).unwrap();
    let path = Path::new("config.json");
    let parsed = UNetConfig::from_json(path, &json::parse_object(path, config.as_bytes()).unwrap()).unwrap();
    let tensors = expected(&parsed, placement);
    let filled = (0..).zip(&tensors).map(|(i, t)| (0..t.elements()).map(|e| value(i, e)).collect::<Vec<f32>>());
    let values: Vec<_> = filled.collect();
    let listed: Vec<_> =
        tensors.iter().zip(&values).map(|(t, v)| (t.name.as_str(), t.shape.as_slice(), v.as_slice())).collect();
    let weights = dir.join("unet/diffusion_pytorch_model.safetensors");
    writer::write(&weights, &listed, &BTreeMap::new()).unwrap();
    dir.to_path_buf()
}

/// A tiny model with random weights.
pub fn tiny(dir: &Path, seed: u64) -> PathBuf {
    model(dir, TINY, Placement::None, |tensor, element| rng::uniform(seed, tensor, element) as f32 - 0.5)
}

/// All paths below a folder, sorted, and the files' contents: two equal snapshots mean that nothing was touched.
pub fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.push((path.clone(), Vec::new()));
                folders.push(path);
            } else {
                found.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
