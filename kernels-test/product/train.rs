//! A tiny training run for the tests of finetune, resume and kill: its model, its images, its command line, and what must
//! be equal at its end however it got there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use deme::io::png;
use deme::model::projections::Placement;
use deme::rng;

use super::run::{Ran, deme, model, snapshot};

/// Two levels, with attention and a downsampler: 8x8 images take a moment.
pub const SMALL: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "attention_head_dim": null,
    "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "layers_per_block": 1,
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "sample_size": 8}"#;

/// Updates of each of the two experts, and between checkpoints.
pub const STEPS: u64 = 12;
pub const SAVE_EVERY: u64 = 3;

/// A folder with a model and images, and the run in it.
pub struct Place {
    pub root: tempfile::TempDir,
    pub model: PathBuf,
    pub data: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let model = model(&root.path().join("model"), SMALL, Placement::None, |tensor, element| {
            0.3 * (rng::uniform(5, tensor, element) as f32 - 0.5)
        });
        let data = root.path().join("images");
        fs::create_dir(&data).unwrap();
        for i in 0..12u64 {
            let pixels: Vec<u8> = (0..8 * 8 * 3).map(|k| rng::below(6, i, k, 256) as u8).collect();
            png::write_bytes(&data.join(format!("{i:02}.png")), &pixels, 8, 8, 3, &[]).unwrap();
        }
        Self { root, model, data }
    }

    pub fn run(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The command line of the run `name`; an option in `more` replaces the one here.
    pub fn arguments(&self, name: &str, more: &[&str]) -> Vec<String> {
        let out = self.run(name);
        let (steps, save_every) = (STEPS.to_string(), SAVE_EVERY.to_string());
        let pairs = [
            ("--model", self.model.to_str().unwrap()),
            ("--data", self.data.to_str().unwrap()),
            ("--out", out.to_str().unwrap()),
            ("--ranges", "2"),
            ("--steps", &steps),
            ("--batch", "3"),
            ("--accumulate", "4"),
            ("--lr", "1e-3"),
            ("--holdout", "4"),
            ("--log-every", "4"),
            ("--save-every", &save_every),
            ("--eval-every", "6"),
            ("--eval-images", "3"),
            ("--sample-every", "6"),
            ("--sample-steps", "3"),
        ];
        let named = |option: &str| more.iter().any(|m| m.split('=').next() == Some(option));
        let given = |option: &str| named(option) || (option == "--ranges" && named("--cuts"));
        let kept = pairs.into_iter().filter(|(option, _)| !given(option)).flat_map(|(option, value)| [option, value]);
        let all = ["finetune", "--flip"].into_iter().chain(kept).chain(more.iter().copied());
        all.map(str::to_owned).collect()
    }

    pub fn finetune(&self, name: &str, more: &[&str]) -> Ran {
        deme(self.arguments(name, more))
    }

    /// Starts the run and returns at once.
    pub fn start(&self, name: &str, more: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deme"));
        command.args(self.arguments(name, more)).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Everything that a run is about: experts, last checkpoints (weights, moments, averages), logs without the clock, sample
    /// grids, settings. Intermediate checkpoints depend on where a run was stopped, timing on the machine, run.toml on what the last
    /// process was asked for.
    pub fn essence(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        self.essence_of(name, STEPS)
    }

    /// The same of a run of so many updates.
    pub fn essence_of(&self, name: &str, steps: u64) -> Vec<(PathBuf, Vec<u8>)> {
        let run = self.run(name);
        let last = format!("step_{steps:08}");
        let kept = |path: &Path| {
            let text = path.to_str().unwrap();
            !["timing.jsonl", "run.toml"].iter().any(|name| text.ends_with(name))
                && !text.contains("tfevents")
                && (!text.contains("step_") || text.contains(&last))
        };
        let all =
            snapshot(&run).into_iter().map(|(path, bytes)| (path.strip_prefix(&run).unwrap().to_path_buf(), bytes));
        all.filter(|(path, _)| kept(path)).collect()
    }
}

/// Fails with the first difference.
#[track_caller]
pub fn assert_same(got: &[(PathBuf, Vec<u8>)], expected: &[(PathBuf, Vec<u8>)]) {
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(got), names(expected));
    for ((path, a), (_, b)) in got.iter().zip(expected) {
        assert!(a == b, "{} differs", path.display());
    }
}

/// The newest checkpoint of expert `i`: its step.
pub fn newest(run: &Path, i: u32) -> Option<u64> {
    let entries = fs::read_dir(run.join(format!("training/expert_{i}"))).ok()?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_prefix("step_")?.parse().ok()).max()
}

/// Whether a checkpoint of expert `i` is being written, or was when the run was killed.
pub fn saving(run: &Path, i: u32) -> bool {
    let Ok(entries) = fs::read_dir(run.join(format!("training/expert_{i}"))) else { return false };
    entries.flatten().any(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        name.starts_with(".step_") && name.ends_with(".deme-tmp")
    })
}
