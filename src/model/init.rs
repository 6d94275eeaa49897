//! First weights of a network that is trained from nothing: PyTorch's defaults, which diffusers' UNet2DModel leaves as they are
//! (no layer begins as zero). Each number is a function of (seed, tensor, element). Called by `cli::train`.

use super::projections::PREFIX;
use super::tensors::TensorSpec;
use crate::kernels::channel_projection;
use crate::rng::{self, Purpose};

/// The values of tensor number `index` of `tensors` (the order of the state dict), row-major in the files' layout.
///
/// Matrices and kernels are uniform in +- 1 / sqrt(fan_in), which is kaiming_uniform with a = sqrt 5, and so are their biases;
/// norms begin as the identity (1 and 0), channel projections too.
pub fn values(tensors: &[TensorSpec], index: usize, seed: u64) -> Vec<f32> {
    let spec = &tensors[index];
    if spec.name.starts_with(PREFIX) {
        return channel_projection::identity(spec.shape[0] as u32);
    }
    let bias = spec.name.strip_suffix("bias");
    // A bias stands behind its weight, whose fan_in bounds both.
    let weight = if bias.is_some() { &tensors[index - 1].shape } else { &spec.shape };
    if weight.len() == 1 {
        return vec![if bias.is_some() { 0.0 } else { 1.0 }; spec.elements() as usize];
    }
    let bound = 1.0 / (weight[1..].iter().product::<u64>() as f64).sqrt();
    let stream = rng::stream(Purpose::Initial, index as u32);
    (0..spec.elements()).map(|i| ((2.0 * rng::uniform(seed, stream, i) - 1.0) * bound) as f32).collect()
}

/// All tensors as (name, extents, values).
pub fn weights(tensors: &[TensorSpec], seed: u64) -> Vec<(String, Vec<u64>, Vec<f32>)> {
    let tensor = |(i, t): (usize, &TensorSpec)| (t.name.clone(), t.shape.clone(), values(tensors, i, seed));
    tensors.iter().enumerate().map(tensor).collect()
}
