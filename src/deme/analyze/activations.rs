//! How the activations change by finetuning, by channel and by position (paper fig. 3): base and expert on the same noised images of
//! the expert's timesteps. The channel activation of a feature map F [C, H, W] is its mean over the positions (C numbers), the spatial
//! activation its mean over the channels (H W numbers). Called by `cli::analyze`.
//!
//! A mean over H W numbers and one over C differ in size by chance alone. So the energy of the change dF = F' - F is split exactly,
//! as in an analysis of variance, into mean, channels, positions and the rest, beside the shares that a change without any
//! structure would have.

use serde::{Deserialize, Serialize};

use super::{OnBatch, Subject};
use crate::diffusion::denoising::{DenoisingLoss, Trial, stratified_pairs};
use crate::error::Result;
use crate::nn::{Role, Slabs};
use crate::rng::{Purpose, stream};

/// Noise of these pairs: no other measurement has it.
const NOISE: u32 = 2000;
/// Sides that a kept map has at most.
const MAP: usize = 32;

/// The 5th, 25th, 50th, 75th and 95th percentile.
pub type Percentiles = [f64; 5];

/// One part of the network under one expert. Changes are in multiples of `scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartChange {
    pub part: String,
    pub expert: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Root mean square of the base's activations.
    pub scale: f64,
    /// Of the change of the channel activation, over channels and pairs.
    pub channel: Percentiles,
    /// Of the change of the spatial activation, over positions and pairs.
    pub position: Percentiles,
    /// Shares of the change's energy: mean, channels, positions, the rest.
    pub energy: [f64; 4],
    /// The change of each channel's activation, the mean over the pairs [C].
    pub channel_profile: Vec<f64>,
    /// The change of the spatial activation, the mean over the pairs, row by row; larger maps are averaged to at most 32x32.
    pub map: Map,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Map {
    pub height: usize,
    pub width: usize,
    pub values: Vec<f64>,
}

impl PartChange {
    /// The shares of mean, channels, positions and rest in a change whose numbers are independent and equally distributed.
    pub fn chance(&self) -> [f64; 4] {
        let (c, p) = (self.channels as f64, (self.height * self.width) as f64);
        let n = c * p;
        [1.0 / n, (c - 1.0) / n, (p - 1.0) / n, (c - 1.0) * (p - 1.0) / n]
    }
}

/// All parts under all experts, expert by expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activations {
    /// Images that each expert was judged on.
    pub pairs: usize,
    pub parts: Vec<PartChange>,
}

/// Measures each expert on `pairs` images at its own timesteps. The base, one expert and the weights that run are on the GPU.
pub fn measure(subject: &Subject, pairs: usize, on_batch: OnBatch) -> Result<Activations> {
    let Subject { gpu, base, seed, image, .. } = *subject;
    let images: Vec<usize> = subject.images.iter().copied().take(pairs).collect();
    let (first, theta) = (subject.load(0)?, Slabs::new(gpu, &base.layout, Role::Theta)?);
    let spec = subject.spec(pairs);
    let mut loss = DenoisingLoss::with_parts(gpu, &base.config, &base.schedule, &base.layout, &theta, spec)?;
    // The prediction itself is no feature map.
    let names: Vec<String> = loss.parts().map(|p| p.0.to_owned()).filter(|name| name != "conv_out").collect();
    let mut parts = Vec::new();
    for (expert, range) in subject.buckets().into_iter().enumerate() {
        let pairs = stratified_pairs(&images, &[range], pairs.div_ceil(images.len()), seed.wrapping_add(expert as u64));
        let trial = Trial { pairs: &pairs, image, seed, stream: stream(Purpose::EvalNoise, NOISE + expert as u32) };
        let second = subject.load(expert + 1)?;
        let mut changes: Vec<Changes> =
            loss.parts().zip(&names).map(|((_, shape), _)| Changes::new(shape.dims())).collect();
        for start in (0..pairs.len()).step_by(spec.batch as usize) {
            let batch = start..(start + spec.batch as usize).min(pairs.len());
            let mut run = |slabs: &Slabs| -> Result<Vec<Vec<f32>>> {
                slabs.copy_to(gpu, &theta)?;
                loss.losses(&trial, batch.clone(), &mut |_| Ok(()))?;
                (0..names.len()).map(|i| loss.part(i)).collect()
            };
            let (before, after) = (run(&first)?, run(&second)?);
            for ((change, before), after) in changes.iter_mut().zip(&before).zip(&after) {
                change.add(before, after, batch.len());
            }
            on_batch(2 * batch.len())?;
        }
        parts.extend(names.iter().zip(changes).map(|(name, change)| change.finish(name, expert)));
    }
    Ok(Activations { pairs, parts })
}

/// What is gathered of one part, image by image.
struct Changes {
    height: usize,
    width: usize,
    channels: usize,
    images: usize,
    /// Sum of squares of the base's activations.
    base: f64,
    channel: Vec<f64>,
    position: Vec<f64>,
    /// Sums of squares: mean, channels, positions, and all.
    squares: [f64; 4],
    channel_sum: Vec<f64>,
    position_sum: Vec<f64>,
}

impl Changes {
    /// `shape` is [N, H, W, C].
    fn new(shape: &[u32]) -> Self {
        let at = |i: usize| shape[i] as usize;
        let (height, width, channels) = (at(1), at(2), at(3));
        Self {
            height,
            width,
            channels,
            images: 0,
            base: 0.0,
            channel: Vec::new(),
            position: Vec::new(),
            squares: [0.0; 4],
            channel_sum: vec![0.0; channels],
            position_sum: vec![0.0; height * width],
        }
    }

    /// Takes in the first `images` of a batch, [N, H, W, C] before and after.
    fn add(&mut self, before: &[f32], after: &[f32], images: usize) {
        let (c, p) = (self.channels, self.height * self.width);
        let (before, after) = (before.chunks(c * p), after.chunks(c * p));
        for (before, after) in before.zip(after).take(images) {
            let (mut channel, mut position) = (vec![0.0; c], vec![0.0; p]);
            for (at, (before, after)) in before.chunks(c).zip(after.chunks(c)).enumerate() {
                for (k, (&b, &a)) in before.iter().zip(after).enumerate() {
                    let d = f64::from(a) - f64::from(b);
                    self.base += f64::from(b) * f64::from(b);
                    self.squares[3] += d * d;
                    channel[k] += d / p as f64;
                    position[at] += d / c as f64;
                }
            }
            let mean = channel.iter().sum::<f64>() / c as f64;
            let spread = |values: &[f64]| values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            self.squares[0] += mean * mean * (c * p) as f64;
            self.squares[1] += spread(&channel) * p as f64;
            self.squares[2] += spread(&position) * c as f64;
            self.channel_sum.iter_mut().zip(&channel).for_each(|(sum, v)| *sum += v);
            self.position_sum.iter_mut().zip(&position).for_each(|(sum, v)| *sum += v);
            self.channel.extend(channel);
            self.position.extend(position);
            self.images += 1;
        }
    }

    fn finish(mut self, part: &str, expert: usize) -> PartChange {
        let elements = (self.images * self.channels * self.height * self.width) as f64;
        // Activations that are all zero have no scale; changes are then as they are.
        let scale = Some((self.base / elements).sqrt()).filter(|&s| s > 0.0).unwrap_or(1.0);
        let [mean, channel, position, all] = self.squares;
        let rest = (all - mean - channel - position).max(0.0);
        let share = |part: f64| if all > 0.0 { part / all } else { 0.0 };
        let per_image = |sums: &[f64]| sums.iter().map(|v| v / (self.images as f64 * scale)).collect::<Vec<_>>();
        let map = shrink(&per_image(&self.position_sum), self.height, self.width);
        let channel_profile = per_image(&self.channel_sum);
        PartChange {
            part: part.to_owned(),
            expert,
            channels: self.channels,
            height: self.height,
            width: self.width,
            scale,
            channel: percentiles(&mut self.channel, scale),
            position: percentiles(&mut self.position, scale),
            energy: [mean, channel, position, rest].map(share),
            channel_profile,
            map,
        }
    }
}

fn percentiles(values: &mut [f64], scale: f64) -> Percentiles {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    [0.05, 0.25, 0.5, 0.75, 0.95].map(|q| values.get((q * last).round() as usize).map_or(0.0, |v| v / scale))
}

/// Means over squares, so that no side is longer than `MAP`.
fn shrink(values: &[f64], height: usize, width: usize) -> Map {
    let by = height.max(width).div_ceil(MAP);
    let (h, w) = (height.div_ceil(by), width.div_ceil(by));
    let cell = |i: usize| {
        let rows = (i / w * by)..((i / w + 1) * by).min(height);
        let columns = (i % w * by)..((i % w + 1) * by).min(width);
        let count = (rows.len() * columns.len()) as f64;
        rows.flat_map(|r| columns.clone().map(move |c| values[r * width + c])).sum::<f64>() / count
    };
    Map { height: h, width: w, values: (0..h * w).map(cell).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels, 2x2 positions; changes of one channel, of one position, of one number.
    #[test]
    fn energy_goes_where_the_change_is() {
        let base = [2.0f32; 8];
        let changed = |places: &[usize]| {
            let mut after = base;
            places.iter().for_each(|&i| after[i] += 0.5);
            let mut changes = Changes::new(&[1, 2, 2, 2]);
            changes.add(&base, &after, 1);
            changes.finish("part", 3)
        };
        // Channels last: channel 0 at every position.
        let channel = changed(&[0, 2, 4, 6]);
        assert_eq!(channel.energy, [0.5, 0.5, 0.0, 0.0]);
        assert_eq!((channel.scale, channel.expert), (2.0, 3));
        assert_eq!(channel.channel_profile, [0.25, 0.0]);
        assert_eq!(channel.map.values, [0.125; 4]);
        assert_eq!((channel.channel[0], channel.channel[4]), (0.0, 0.25));
        let position = changed(&[2, 3]);
        assert_eq!(position.energy, [0.25, 0.0, 0.75, 0.0]);
        assert_eq!(position.map.values, [0.0, 0.25, 0.0, 0.0]);
        assert_eq!((position.position[0], position.position[4]), (0.0, 0.25));
        // 1/8 = mean, channels and positions follow from the means of one number: a_0 = 1/4 of it, s_0 = 1/2 of it.
        let single = changed(&[0]);
        assert_eq!(single.energy, [0.125, 0.125, 0.375, 0.375]);
        assert_eq!(single.chance(), [0.125, 0.125, 0.375, 0.375]);
        assert_eq!(changed(&[]).energy, [0.0; 4]);
    }

    #[test]
    fn maps_are_averaged() {
        let values: Vec<f64> = (0..64 * 48).map(|i| f64::from(i / 48 % 2)).collect();
        let map = shrink(&values, 64, 48);
        assert_eq!((map.height, map.width), (32, 24));
        assert!(map.values.iter().all(|&v| v == 0.5));
        assert_eq!(shrink(&[1.0, 2.0], 1, 2).values, [1.0, 2.0]);
    }
}
