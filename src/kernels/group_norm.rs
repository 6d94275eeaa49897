//! Group norm with optionally fused SiLU, and its gradient.
//! Called by `nn` and `model`. Shapes: x, y [N, ..., C]; gamma, beta [C].

use crate::error::{Error, Result};
use crate::kernels::broadcast::sum_pixels;
use crate::kernels::{count, none, own};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::norm::{
    GROUP_NORM_BACKWARD_INPUT, GROUP_NORM_BACKWARD_MOMENTS, GROUP_NORM_BACKWARD_PARAMETER,
    GROUP_NORM_BACKWARD_STATISTICS, GROUP_NORM_FORWARD, GROUP_NORM_MOMENTS, GROUP_NORM_STATISTICS,
    GroupNormParameterParams, GroupNormParams, chunk_of,
};
use crate::shape::Shape;
use crate::tape::{Contribution, Rule, Tape};

fn parameters(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: u32, eps: f32, silu: bool) -> Result<GroupNormParams> {
    let fail = |what: String| Err(Error::shape("group_norm", what));
    let channels = x.shape.last();
    let (Some(&batch), true) = (x.shape.dims().first(), x.shape.dims().len() >= 2) else {
        return fail(format!("expected [N, ..., C], got {}", x.shape));
    };
    if x.elements() == 0 || groups == 0 || !channels.is_multiple_of(groups) {
        return fail(format!("{} cannot be split into {groups} groups of channels", x.shape));
    }
    if gamma.elements() != u64::from(channels) || beta.elements() != u64::from(channels) {
        return fail(format!("gamma {} and beta {} for x {}", gamma.shape, beta.shape, x.shape));
    }
    if !(eps.is_finite() && eps > 0.0) {
        return fail(format!("eps must be positive, got {eps}"));
    }
    let pixels = count("group_norm", x)? / batch / channels;
    Ok(GroupNormParams { batch, pixels, channels, groups, chunk: chunk_of(pixels), silu: u32::from(silu), eps })
}

/// y = silu?((x - mean) / sqrt(variance + eps) gamma + beta), mean and variance over each group of C / `groups`
/// neighbouring channels and all pixels.
pub fn group_norm(
    tape: &mut Tape,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    groups: u32,
    eps: f32,
    silu: bool,
) -> Result<Tensor> {
    let p = parameters(x, gamma, beta, groups, eps, silu)?;
    let rec = &mut tape.rec;
    let moments = rec.transient("group_norm_moments", moments_shape(&p));
    let statistics = rec.transient("group_norm_statistics", Shape::new([p.batch, p.groups, 2]));
    let y = rec.activation("group_norm", x.shape);
    rec.push(&GROUP_NORM_MOMENTS, &p, &[*x], &[moments], &[])?;
    rec.push(&GROUP_NORM_STATISTICS, &p, &[moments], &[statistics], &[])?;
    rec.push(&GROUP_NORM_FORWARD, &p, &[*x, statistics, *gamma, *beta], &[y], &[])?;
    tape.push(&[*x, *gamma, *beta], &[y], GroupNormRule { p, x: *x, statistics, gamma: *gamma, beta: *beta });
    Ok(y)
}

fn moments_shape(p: &GroupNormParams) -> Shape {
    Shape::new([p.batch, p.pixels.div_ceil(p.chunk), 2, p.channels])
}

/// dz = dy silu'(z); dgamma = sum dz xhat; dbeta = sum dz;
/// dx = rstd (gamma dz - mean(gamma dz) - xhat mean(gamma dz xhat)), means over the group.
struct GroupNormRule {
    p: GroupNormParams,
    x: Tensor,
    statistics: Tensor,
    gamma: Tensor,
    beta: Tensor,
}

impl Rule for GroupNormRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let Self { p, x, statistics, gamma, beta } = *self;
        let moments = rec.transient("group_norm_backward_moments", moments_shape(&p));
        rec.push(&GROUP_NORM_BACKWARD_MOMENTS, &p, &[x, statistics, gamma, beta, dy], &[moments], &[])?;
        // The two sums of a chunk side by side are 2 C channels of it.
        let chunks =
            moments.reshape("group_norm", Shape::new([p.batch, p.pixels.div_ceil(p.chunk), 2 * p.channels]))?;
        let sums = sum_pixels(rec, &chunks)?;
        let dx = if needs[0] {
            let means = rec.transient("group_norm_backward_statistics", Shape::new([p.batch, p.groups, 2]));
            rec.push(&GROUP_NORM_BACKWARD_STATISTICS, &p, &[sums, gamma], &[means], &[])?;
            let dx = rec.transient("group_norm_backward_input", x.shape);
            rec.push(&GROUP_NORM_BACKWARD_INPUT, &p, &[x, statistics, gamma, beta, means, dy], &[dx], &[])?;
            Contribution::Whole(dx)
        } else {
            Contribution::None
        };
        let parameter = |component| {
            let p = GroupNormParameterParams { batch: p.batch, channels: p.channels, component };
            Contribution::Into(Box::new(move |rec: &mut Recording, place| {
                rec.push(&GROUP_NORM_BACKWARD_PARAMETER, &p, &[sums], &[], &[place])
            }))
        };
        Ok(vec![dx, parameter(1), parameter(0)])
    }
}

/// Small calls of every kernel here: with and without SiLU, channels a multiple of four and not.
pub fn examples() -> Result<Recording> {
    let mut tape = Tape::new(Recording::new("group_norm"));
    let mut seeds = Vec::new();
    for (channels, groups, silu) in [(8, 2, true), (6, 3, false)] {
        let name = |what: &str| format!("{what}{channels}");
        let x = own(&mut tape.rec, &name("x"), [2, 5, 7, channels]);
        let gamma = own(&mut tape.rec, &name("gamma"), [channels]);
        let beta = own(&mut tape.rec, &name("beta"), [channels]);
        for theta in [gamma, beta] {
            let gradient = own(&mut tape.rec, &format!("d{}", theta.buffer.0), [channels]);
            tape.parameter(theta, gradient);
        }
        tape.watch(&x);
        let y = group_norm(&mut tape, &x, &gamma, &beta, groups, 1e-5, silu)?;
        seeds.push((y, x));
    }
    Ok(tape.backward(&seeds)?.0)
}
