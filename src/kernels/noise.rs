//! Builders of the diffusion process: noise from (seed, stream, block), q(x_t | x_0).
//! Called by `train`, `diffusion` and `eval`.

use super::{count, own, same_shape};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::noise::{NOISE, NoiseParams, Q_SAMPLE, QSampleParams};
use crate::shape::{DType, Shape, padded_channels};

/// Words of the noise kernel's key.
pub const KEY_WORDS: u32 = 6;

/// The key's words: which numbers the next replay draws. Low word first.
pub fn key(seed: u64, stream: u64, first_block: u64) -> [u32; KEY_WORDS as usize] {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let ([a, b], [c, d], [e, f]) = (halves(seed), halves(stream), halves(first_block));
    [a, b, c, d, e, f]
}

/// Blocks of the counter that an image takes: image i starts at block i x this, whatever the batch. With up to four
/// channels, one block a pixel.
pub fn blocks_per_image(height: u32, width: u32, channels: u32) -> u64 {
    (u64::from(height) * u64::from(width) * u64::from(padded_channels(channels))).div_ceil(4)
}

/// [N, H, W, C as stored] of images with `channels` channels, or an error that names `op`.
pub(super) fn image(op: &'static str, x: Shape, channels: u32) -> Result<[u32; 4]> {
    let dims = x.nhwc(op)?;
    if channels == 0 || dims[3] != padded_channels(channels) {
        let stored = padded_channels(channels);
        return Err(Error::shape(op, format!("{channels} channels are stored as {stored}, {x} has {}", dims[3])));
    }
    Ok(dims)
}

/// Writes standard normals over `x` [N, H, W, C as stored]; pad channels become 0. `key` [6] is a u32 input.
pub fn noise_into(rec: &mut Recording, key: &Tensor, x: &Tensor, channels: u32) -> Result<()> {
    let [images, height, width, stride] = image("noise", x.shape, channels)?;
    if key.elements() != u64::from(KEY_WORDS) || rec.buffers[key.buffer.0 as usize].dtype != DType::U32 {
        return Err(Error::shape("noise", format!("the key is [{KEY_WORDS}] of u32, got {}", key.shape)));
    }
    count("noise", x)?;
    let blocks = blocks_per_image(height, width, channels) as u32;
    let params = NoiseParams { images, image: height * width * stride, blocks, channels, stride };
    rec.push(&NOISE, &params, &[*key], &[*x], &[])
}

/// Fresh standard normals [N, H, W, C as stored].
pub fn noise(rec: &mut Recording, key: &Tensor, shape: Shape, channels: u32) -> Result<Tensor> {
    let x = rec.transient("noise", shape);
    noise_into(rec, key, &x, channels)?;
    Ok(x)
}

/// (x_t, target) = (a x_0 + b noise, c x_0 + d noise) with `coefficients` [N, 4] = (a, b, c, d) per image. For an epsilon
/// target (c, d) = (0, 1), for v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 (-b, a).
pub fn q_sample(
    rec: &mut Recording,
    x_0: &Tensor,
    noise: &Tensor,
    coefficients: &Tensor,
    channels: u32,
) -> Result<(Tensor, Tensor)> {
    let [n, height, width, stride] = image("q_sample", x_0.shape, channels)?;
    same_shape("q_sample", x_0, noise)?;
    if coefficients.shape.dims() != [n, 4] {
        let got = coefficients.shape;
        return Err(Error::shape("q_sample", format!("coefficients of {n} images are [{n}, 4], got {got}")));
    }
    let (x_t, target) = (rec.transient("x_t", x_0.shape), rec.transient("target", x_0.shape));
    let params = QSampleParams { count: count("q_sample", x_0)?, image: height * width * stride, channels, stride };
    rec.push(&Q_SAMPLE, &params, &[*x_0, *noise, *coefficients], &[x_t, target], &[])?;
    Ok((x_t, target))
}

/// Every kernel of the diffusion process once: a noised image, and a DDIM step with noise.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("noise");
    let key = rec.input("key", Shape::new([KEY_WORDS]), DType::U32);
    let x_0 = own(&mut rec, "x_0", [2, 5, 3, 4]);
    let coefficients = own(&mut rec, "coefficients", [2, 4]);
    let epsilon = noise(&mut rec, &key, x_0.shape, 3)?;
    let (x_t, target) = q_sample(&mut rec, &x_0, &epsilon, &coefficients, 3)?;
    let step = own(&mut rec, "step", [super::ddim::COEFFICIENTS]);
    super::ddim::ddim_step(&mut rec, &x_t, &target, Some(&epsilon), &step, 3, super::ddim::Predicts::Epsilon)?;
    Ok(rec)
}
