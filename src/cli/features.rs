//! Pictures to features, of files and of what a model draws; the options that name the network.
//! Called by `eval fid` and `search`.

use std::path::Path;

use clap::ValueEnum;
use image::RgbImage;

use super::Global;
use crate::data::source::{self, Content};
use crate::error::{Error, Result};
use crate::eval::backbone::Backbone;
use crate::eval::features::Extractor;
use crate::eval::statistics::Moments;
use crate::io::{image as decode, png};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkArg {
    Inception,
    Mobilenet,
}

impl NetworkArg {
    /// The network, and what a distance in its features is called.
    pub fn metric(self, mode: &str) -> (Backbone, String) {
        match self {
            Self::Inception => (Backbone::Inception, format!("FID ({mode})")),
            Self::Mobilenet => (Backbone::MobileNet, "FD-MobileNetV2".to_owned()),
        }
    }
}

/// The features of one side, as they come.
pub struct Side {
    pub moments: Moments,
    /// All of them, where they are asked for.
    pub kept: Option<Vec<f32>>,
}

impl Side {
    pub fn new(backbone: Backbone, keep: bool) -> Self {
        Self { moments: Moments::new(backbone.features() as usize), kept: keep.then(Vec::new) }
    }

    fn take(&mut self, extractor: &mut Extractor, pictures: &[RgbImage]) -> Result<()> {
        let features = extractor.features(pictures)?;
        self.moments.push(&features);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&features);
        }
        Ok(())
    }

    /// Drawn pictures [n, H, W, 4] of a model with so many channels, rounded to bytes as saved pictures are; n is at most the
    /// extractor's batch.
    pub fn take_drawn(
        &mut self,
        extractor: &mut Extractor,
        drawn: &[f32],
        [h, w]: [u32; 2],
        channels: u32,
    ) -> Result<()> {
        let picture = |pixels: &[f32]| {
            let byte = |x: u32, y: u32, c: u32| png::to_byte(pixels[((y * w + x) * 4 + c.min(channels - 1)) as usize]);
            RgbImage::from_fn(w, h, |x, y| image::Rgb([byte(x, y, 0), byte(x, y, 1), byte(x, y, 2)]))
        };
        let pictures: Vec<RgbImage> = drawn.chunks_exact((h * w * 4) as usize).map(picture).collect();
        self.take(extractor, &pictures)
    }

    /// All pictures of a path at their own sizes, batch by batch; of one that is an atlas, its tiles.
    pub fn take_path(
        &mut self,
        extractor: &mut Extractor,
        path: &Path,
        tile: Option<u32>,
        global: &Global,
    ) -> Result<()> {
        // One side may be an atlas and the other a folder.
        let tile = tile.filter(|_| path.is_file());
        let bar = global.counter("features", "pictures");
        let mut waiting: Vec<RgbImage> = Vec::new();
        source::walk(path, tile, &mut |found| {
            let decoded = match found.content {
                Ok(Content::Decoded(image)) => Ok(image),
                Ok(Content::Encoded(bytes)) => decode::decode(&bytes),
                Err(problem) => Err(problem),
            };
            let hint = "remove the file, or mend it";
            let image = decoded.map_err(|problem| Error::format(&path.join(&found.file), "picture", problem, hint))?;
            waiting.push(image);
            if waiting.len() == extractor.batch() {
                self.take(extractor, &waiting)?;
                bar.inc(waiting.len() as u64);
                waiting.clear();
            }
            Ok(())
        })?;
        if !waiting.is_empty() {
            self.take(extractor, &waiting)?;
        }
        bar.finish_and_clear();
        Ok(())
    }
}
