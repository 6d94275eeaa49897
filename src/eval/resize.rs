//! Pictures of any size as the input of a feature network, each reference tool's way: the same picture gives other features,
//! and distances differ by whole points. Called by `features`.

use image::RgbImage;
use std::str::FromStr;

use super::backbone::Backbone;
use crate::error::{Error, Result};

/// Whose pixels FID is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FidMode {
    /// pytorch-fid: bilinear between pixel centres, not smoothed; 2 x / 255 - 1.
    Pytorch,
    /// TensorFlow 1's and torch-fidelity: bilinear with source = target in / out; (x - 128) / 128.
    Tf,
    /// clean-fid: Pillow's bicubic filter, which smooths what it shrinks, kept to 0..255; (x - 128) / 128.
    Clean,
}

impl FidMode {
    pub const ALL: [Self; 3] = [Self::Pytorch, Self::Tf, Self::Clean];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pytorch => "pytorch",
            Self::Tf => "tf",
            Self::Clean => "clean",
        }
    }
}

impl FromStr for FidMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| Error::usage(format!("no FID mode is called {text}"), "give pytorch, tf or clean"))
    }
}

/// One target pixel on one axis: source pixels from `first`, and what each counts.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

/// Between two neighbours, `at` pixels from the first; beyond the ends the end counts alone.
fn between(at: f64, size: usize) -> Taps {
    let at = at.clamp(0.0, (size - 1) as f64);
    let first = (at.floor() as usize).min(size.saturating_sub(2));
    let share = at - first as f64;
    Taps { first, weights: if size == 1 { vec![1.0] } else { vec![1.0 - share, share] } }
}

/// Keys' cubic of a = -1/2.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    let a = -0.5;
    match x {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// Pillow's bicubic filter, as wide as a target pixel where the picture shrinks.
fn filtered(target: usize, scale: f64, size: usize) -> Taps {
    let wide = scale.max(1.0);
    let (centre, support) = ((target as f64 + 0.5) * scale, 2.0 * wide);
    let first = (centre - support + 0.5).max(0.0) as usize;
    let end = ((centre + support + 0.5) as usize).min(size);
    let weights: Vec<f64> = (first..end).map(|i| cubic((i as f64 - centre + 0.5) / wide)).collect();
    let sum: f64 = weights.iter().sum();
    Taps { first, weights: weights.into_iter().map(|w| w / sum).collect() }
}

fn axis(mode: FidMode, size: usize, target: usize) -> Vec<Taps> {
    let scale = size as f64 / target as f64;
    let taps = |i: usize| match mode {
        FidMode::Pytorch => between((i as f64 + 0.5) * scale - 0.5, size),
        FidMode::Tf => between(i as f64 * scale, size),
        FidMode::Clean => filtered(i, scale, size),
    };
    (0..target).map(taps).collect()
}

/// Rows first, then columns: [side, side, 3] of 0..255.
fn resized(image: &RgbImage, mode: FidMode, side: usize) -> Vec<f64> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = image.as_raw();
    let (columns, rows) = (axis(mode, width, side), axis(mode, height, side));
    let mut lines = vec![0.0; height * side * 3];
    for (line, source) in lines.chunks_exact_mut(side * 3).zip(pixels.chunks_exact(width * 3)) {
        for (out, taps) in line.chunks_exact_mut(3).zip(&columns) {
            for (i, w) in taps.weights.iter().enumerate() {
                let x = &source[(taps.first + i) * 3..][..3];
                (0..3).for_each(|c| out[c] += w * f64::from(x[c]));
            }
            // Both references keep f32 between the axes.
            out.iter_mut().for_each(|v| *v = f64::from(*v as f32));
        }
    }
    let mut out = vec![0.0; side * side * 3];
    for (row, taps) in out.chunks_exact_mut(side * 3).zip(&rows) {
        for (i, w) in taps.weights.iter().enumerate() {
            let line = &lines[(taps.first + i) * side * 3..][..side * 3];
            row.iter_mut().zip(line).for_each(|(v, x)| *v += w * x);
        }
    }
    out
}

/// ImageNet's mean and deviation, as torchvision normalises by.
const IMAGENET: [[f64; 2]; 3] = [[0.485, 0.229], [0.456, 0.224], [0.406, 0.225]];

/// The network's input of one picture, [side, side, 4], the fourth channel zero. MobileNetV2 takes pytorch's pixels, whatever
/// the mode.
pub fn input(image: &RgbImage, backbone: Backbone, mode: FidMode) -> Vec<f32> {
    let mode = if backbone == Backbone::MobileNet { FidMode::Pytorch } else { mode };
    let pixels = resized(image, mode, backbone.side() as usize);
    let normal = |c: usize, x: f64| match (backbone, mode) {
        (Backbone::MobileNet, _) => (x / 255.0 - IMAGENET[c][0]) / IMAGENET[c][1],
        (_, FidMode::Pytorch) => 2.0 * x / 255.0 - 1.0,
        (_, FidMode::Tf) => (x - 128.0) / 128.0,
        (_, FidMode::Clean) => (x.clamp(0.0, 255.0) - 128.0) / 128.0,
    };
    let four = |pixel: &[f64]| {
        let [r, g, b] = [0, 1, 2].map(|c| normal(c, pixel[c]) as f32);
        [r, g, b, 0.0]
    };
    pixels.chunks_exact(3).flat_map(four).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn taps_of_one_target_pixel_sum_to_one() {
        for mode in FidMode::ALL {
            for (size, target) in [(1, 299), (32, 299), (299, 299), (700, 299), (2, 5)] {
                for taps in axis(mode, size, target) {
                    assert!((taps.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                    assert!(taps.first + taps.weights.len() <= size, "{mode:?} {size} -> {target}");
                }
            }
        }
    }

    #[test]
    fn a_picture_of_the_right_size_stays_as_it_is() {
        let image = RgbImage::from_fn(299, 299, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));
        for mode in FidMode::ALL {
            let out = resized(&image, mode, 299);
            assert!(out.iter().zip(image.as_raw()).all(|(a, &b)| (a - f64::from(b)).abs() < 1e-9), "{mode:?}");
        }
    }
}
