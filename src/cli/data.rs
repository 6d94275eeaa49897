//! The options that name images, and opening them for a model.
//! Called by `finetune`, `train`, `eval`, `search` and `analyze`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Global;
use crate::data::dataset::{Dataset, DatasetOptions, OnBad};
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};

#[derive(Args, Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataArgs {
    /// Images: a folder tree, a .tar(.gz|.xz), CIFAR-10's binary files, or one atlas of tiles
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The images are the square tiles, with this side, of one picture; blank tiles are not images
    #[arg(long, value_name = "SIDE", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub tile: Option<u32>,
    /// Keep every N-th image (index % N == N - 1) out of training, to judge on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub holdout: Option<u32>,
    /// What to do about an image that cannot be read
    #[arg(long, default_value = "fatal", value_parser = ["skip", "fatal"])]
    pub on_bad: String,
}

impl DataArgs {
    /// The images at the model's size; those that were skipped are named.
    pub fn open(&self, model: &Pretrained, global: &Global) -> Result<Dataset> {
        self.open_whole(model, global, false)
    }

    /// The same with what lies beside the centres, where `whole`.
    pub fn open_whole(&self, model: &Pretrained, global: &Global, whole: bool) -> Result<Dataset> {
        let [h, w] = model.sides()?;
        if h != w {
            let message = format!("the model's pictures are {h}x{w}; training and judging need squares");
            return Err(Error::usage(message, "use a model with a square sample_size"));
        }
        let mut options = DatasetOptions::new(h, model.config.in_channels);
        options.tile = self.tile;
        options.whole = whole;
        options.holdout = self.holdout;
        options.on_bad = if self.on_bad == "skip" { OnBad::Skip } else { OnBad::Fatal };
        let dataset = Dataset::open(&self.data, &options)?;
        for warning in &dataset.warnings {
            global.warn(warning);
        }
        Ok(dataset)
    }
}

/// Which images of a data set: `holdout-even` and `holdout-odd` are every other held-out image, so that a search and
/// the figures that judge its result share none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Split {
    /// Those that --holdout keeps out of training
    Holdout,
    /// Held-out images number 0, 2, 4, ...
    HoldoutEven,
    /// Held-out images number 1, 3, 5, ...
    HoldoutOdd,
    /// Those that training sees
    Train,
    All,
}

impl Split {
    /// The images of the split, or an error if there are none.
    pub fn images(self, dataset: &Dataset) -> Result<Vec<usize>> {
        let every_other = |from: usize| dataset.holdout_indices().into_iter().skip(from).step_by(2).collect();
        let images: Vec<usize> = match self {
            Self::Holdout => dataset.holdout_indices(),
            Self::HoldoutEven => every_other(0),
            Self::HoldoutOdd => every_other(1),
            Self::Train => dataset.train_indices(),
            Self::All => (0..dataset.len()).collect(),
        };
        if images.is_empty() {
            let hint = "set --holdout 10 as in training, or take another split";
            return Err(Error::usage("the split has no images", hint));
        }
        Ok(images)
    }
}

/// At most `n` images, evenly over all of them: sets are often sorted by kind.
pub fn spread(images: &[usize], n: usize) -> Vec<usize> {
    let n = n.min(images.len());
    (0..n).map(|i| images[i * images.len() / n]).collect()
}
