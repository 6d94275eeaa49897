//! Builders of the losses. Means are over H, W and the channels that are not padding, as torch's `mse_loss` has them.
//! Called by `train`, `deme` and `diffusion`.

use super::{count, noise::image, optim, own, same_shape};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::loss::{DEME_LOSS, DemeLossParams, WEIGHTED_MSE, WEIGHTED_MSE_BACKWARD, WeightedMseParams};
use crate::shape::Shape;
use crate::tape::{Contribution, Rule, Tape};

fn one_weight_an_image(op: &'static str, weights: &Tensor, images: u32) -> Result<()> {
    if weights.shape.dims() == [images] {
        return Ok(());
    }
    Err(Error::shape(op, format!("weights of {images} images are [{images}], got {}", weights.shape)))
}

fn mse_params(x: &Tensor, target: &Tensor, weights: Option<&Tensor>, channels: u32) -> Result<WeightedMseParams> {
    let [images, height, width, stride] = image("weighted_mse", x.shape, channels)?;
    same_shape("weighted_mse", x, target)?;
    count("weighted_mse", x)?;
    if let Some(weights) = weights {
        one_weight_an_image("weighted_mse", weights, images)?;
    }
    let has_weights = u32::from(weights.is_some());
    Ok(WeightedMseParams { images, image: height * width * stride, channels, stride, has_weights })
}

/// Mean squared error of every image [N]: x, target [N, H, W, C as stored]. No gradient.
pub fn squared_error(rec: &mut Recording, x: &Tensor, target: &Tensor, channels: u32) -> Result<Tensor> {
    let params = mse_params(x, target, None, channels)?;
    let losses = rec.transient("losses", Shape::new([params.images]));
    let absent = rec.absent();
    rec.push(&WEIGHTED_MSE, &params, &[*x, *target, absent], &[losses], &[])?;
    Ok(losses)
}

/// The same times `weights` [N].
pub fn weighted_error(
    rec: &mut Recording,
    x: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    channels: u32,
) -> Result<Tensor> {
    let params = mse_params(x, target, Some(weights), channels)?;
    let losses = rec.transient("weighted losses", Shape::new([params.images]));
    rec.push(&WEIGHTED_MSE, &params, &[*x, *target, *weights], &[losses], &[])?;
    Ok(losses)
}

/// losses [N] = weights [N] times the mean squared error of every image; the gradient goes to x alone.
pub fn weighted_mse(tape: &mut Tape, x: &Tensor, target: &Tensor, weights: &Tensor, channels: u32) -> Result<Tensor> {
    let params = mse_params(x, target, Some(weights), channels)?;
    let losses = weighted_error(&mut tape.rec, x, target, weights, channels)?;
    tape.push(&[*x], &[losses], WeightedMseRule { x: *x, target: *target, weights: *weights, params });
    Ok(losses)
}

/// dx = dlosses_n weights_n 2 (x - target) / elements
struct WeightedMseRule {
    x: Tensor,
    target: Tensor,
    weights: Tensor,
    params: WeightedMseParams,
}

impl Rule for WeightedMseRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], _: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dlosses) = dy[0] else { return Ok(vec![Contribution::None]) };
        let dx = rec.transient("weighted_mse_backward", self.x.shape);
        let reads = [self.x, self.target, self.weights, dlosses];
        rec.push(&WEIGHTED_MSE_BACKWARD, &self.params, &reads, &[dx], &[])?;
        Ok(vec![Contribution::Whole(dx)])
    }
}

/// What the gradient of eq. 5 is multiplied by.
#[derive(Clone, Copy)]
pub struct Weighing<'a> {
    /// Of each image, [N].
    pub weights: &'a Tensor,
    /// Of the distance to the teacher.
    pub lambda: f32,
    /// The optimizer's report, which holds the scale of the loss.
    pub status: &'a Tensor,
}

/// The loss of eq. 5 and its gradient at once: (losses [N, 2], dx). `losses` are the unweighted mean squared distances of
/// x to `target` and to `teacher` (0 without one); dx is the gradient of
/// scale times the mean over n of `weights_n` (losses_n0 + lambda losses_n1). Seed the tape with (x, dx).
pub fn deme_loss(
    rec: &mut Recording,
    x: &Tensor,
    target: &Tensor,
    teacher: Option<&Tensor>,
    Weighing { weights, lambda, status }: Weighing,
    channels: u32,
) -> Result<(Tensor, Tensor)> {
    let [images, height, width, stride] = image("deme_loss", x.shape, channels)?;
    same_shape("deme_loss", x, target)?;
    if let Some(teacher) = teacher {
        same_shape("deme_loss", x, teacher)?;
    }
    count("deme_loss", x)?;
    one_weight_an_image("deme_loss", weights, images)?;
    optim::length("deme_loss", "status", status, optim::STATUS)?;
    let has_teacher = u32::from(teacher.is_some());
    let params = DemeLossParams { images, image: height * width * stride, channels, stride, has_teacher, lambda };
    let (losses, dx) = (rec.transient("losses", Shape::new([images, 2])), rec.transient("d output", x.shape));
    let teacher = teacher.copied().unwrap_or_else(|| rec.absent());
    rec.push(&DEME_LOSS, &params, &[*x, *target, teacher, *weights, *status], &[losses, dx], &[])?;
    Ok((losses, dx))
}

/// Every loss once.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("loss");
    let [x, target, teacher] = ["x", "target", "teacher"].map(|label| own(&mut rec, label, [2, 5, 3, 4]));
    let [weights, dlosses] = ["weights", "dlosses"].map(|label| own(&mut rec, label, [2]));
    let status = own(&mut rec, "status", [optim::STATUS]);
    let weighing = Weighing { weights: &weights, lambda: 1.0, status: &status };
    deme_loss(&mut rec, &x, &target, Some(&teacher), weighing, 3)?;
    squared_error(&mut rec, &x, &target, 3)?;
    let mut tape = Tape::new(rec);
    tape.watch(&x);
    let losses = weighted_mse(&mut tape, &x, &target, &weights, 3)?;
    Ok(tape.backward(&[(losses, dlosses)])?.0)
}
