//! Builders of the update: gradient norm and clipping over all slabs, AdamW, EMA; and their scalars and report.
//! Called by `train`. Slabs may have gaps between their tensors: zeros there stay zeros.

use super::{count, own, same_shape};
use crate::error::{Error, Result};
use crate::recording::{ALIGN, Recording, Tensor};
use crate::shader::cards::optim::{
    ADAMW, CHUNK, EMA, GRADIENT_NORM, GradientNormParams, SKIPS, SUM_SQUARES, SumSquaresParams,
};
use crate::shader::cards::pointwise::CountParams;
use crate::shape::Shape;

/// Length of the scalars' input: five, and three for each count of skipped updates.
pub const SCALARS: u32 = 5 + 3 * SKIPS;

/// Length of the report: clip factor over scale, finite (1 or 0), norm before clipping, number of updates skipped so far, scale
/// of the loss for the next gradient, finite gradients since it last moved, 1 / scale.
pub const STATUS: u32 = 7;

/// The report before the first update, whose loss is multiplied by `scale`, a power of two.
pub fn initial(scale: f32) -> [f32; STATUS as usize] {
    [0.0, 0.0, 0.0, 0.0, scale, 0.0, 1.0 / scale]
}

/// The scalars' words for update number `t`, counted from 1, skipped ones included; `ema_decay` is that after so many updates.
/// As with torch's GradScaler a skipped update does not count, neither for the bias correction nor for the average: the GPU,
/// which alone knows how many there were, finds the numbers of each count. What torch computes in double precision is computed so.
pub fn scalars(
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    t: u64,
    ema_decay: impl Fn(u64) -> f64,
) -> Vec<u32> {
    let [beta1, beta2] = betas;
    let always = [1.0 - lr * weight_decay, 1.0 - beta1, beta2, 1.0 - beta2, eps];
    let after = |skipped: u32| {
        let t = t.saturating_sub(u64::from(skipped)).max(1);
        let correction = |beta: f64| 1.0 - beta.powf(t as f64);
        [lr / correction(beta1), correction(beta2).sqrt(), 1.0 - ema_decay(t - 1)]
    };
    always.into_iter().chain((0..SKIPS).flat_map(after)).map(|v| (v as f32).to_bits()).collect()
}

/// Norm of the last gradient before clipping, out of `STATUS` numbers; 0 where it was not finite.
pub fn norm(status: &[f32]) -> f32 {
    status.get(2).copied().unwrap_or(0.0)
}

/// How many updates were left out because their gradient was not finite.
pub fn skipped(status: &[f32]) -> u64 {
    status.get(3).map_or(0, |&n| n as u64)
}

/// What the next loss is multiplied by.
pub fn scale(status: &[f32]) -> f32 {
    status.get(4).copied().unwrap_or(1.0)
}

pub(super) fn length(op: &'static str, what: &str, x: &Tensor, n: u32) -> Result<()> {
    if x.elements() == u64::from(n) {
        return Ok(());
    }
    Err(Error::shape(op, format!("the {what} is [{n}], got {}", x.shape)))
}

/// Updates `status` [7] with the norm over all `gradients` together, which are `status`' scale times the true ones, clipped to
/// `max_norm` (0: not at all). The scale halves where they are not finite and doubles after `interval` that are (0: never).
pub fn gradient_norm(
    rec: &mut Recording,
    gradients: &[Tensor],
    max_norm: f32,
    interval: u32,
    status: &Tensor,
) -> Result<()> {
    length("gradient_norm", "status", status, STATUS)?;
    if gradients.is_empty() || max_norm.is_nan() || max_norm < 0.0 {
        let n = gradients.len();
        return Err(Error::shape("gradient_norm", format!("{n} gradients, to be clipped to {max_norm}")));
    }
    // Each slab's sums start at an aligned place of one buffer.
    let aligned = |g: &Tensor| g.elements().div_ceil(u64::from(CHUNK)).next_multiple_of(ALIGN) as u32;
    let total = Shape::new([gradients.iter().map(aligned).sum()]);
    let partials = rec.transient("partial sums", total);
    let mut offset = 0;
    for gradient in gradients {
        let shape = Shape::new([aligned(gradient)]);
        let params = SumSquaresParams { count: count("gradient_norm", gradient)?, partials: aligned(gradient) };
        rec.push(&SUM_SQUARES, &params, &[*gradient], &[Tensor { offset, shape, ..partials }], &[])?;
        offset += shape.elements();
    }
    let params = GradientNormParams { count: count("gradient_norm", &partials)?, max_norm, interval };
    rec.push(&GRADIENT_NORM, &params, &[partials], &[], &[*status])
}

/// One AdamW update of `theta` and its moments `m`, `v` from `gradient`, all of one slab; the gradient is zeroed. Where
/// `status` says that the gradient is not finite, nothing else happens.
pub fn adamw(
    rec: &mut Recording,
    scalars: &Tensor,
    status: &Tensor,
    theta: &Tensor,
    gradient: &Tensor,
    m: &Tensor,
    v: &Tensor,
) -> Result<()> {
    length("adamw", "scalars", scalars, SCALARS)?;
    length("adamw", "status", status, STATUS)?;
    for other in [gradient, m, v] {
        same_shape("adamw", theta, other)?;
    }
    let params = CountParams { count: count("adamw", theta)? };
    rec.push(&ADAMW, &params, &[*scalars, *status], &[], &[*theta, *gradient, *m, *v])
}

/// Moves `average` towards `theta`, unless `status` says that the gradient was not finite.
pub fn ema(rec: &mut Recording, scalars: &Tensor, status: &Tensor, theta: &Tensor, average: &Tensor) -> Result<()> {
    length("ema", "scalars", scalars, SCALARS)?;
    length("ema", "status", status, STATUS)?;
    same_shape("ema", theta, average)?;
    let params = CountParams { count: count("ema", theta)? };
    rec.push(&EMA, &params, &[*scalars, *status, *theta], &[], &[*average])
}

/// An update over two slabs.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("optim");
    let scalars = own(&mut rec, "scalars", [SCALARS]);
    let status = own(&mut rec, "status", [STATUS]);
    let mut slab = |role: &str, n: u32| own(&mut rec, &format!("{role} {n}"), [n]);
    let slabs = [200, 20_000].map(|n| ["theta", "gradient", "m", "v", "average"].map(|role| slab(role, n)));
    gradient_norm(&mut rec, &slabs.map(|[_, gradient, ..]| gradient), 1.0, 2000, &status)?;
    for [theta, gradient, m, v, average] in slabs {
        adamw(&mut rec, &scalars, &status, &theta, &gradient, &m, &v)?;
        ema(&mut rec, &scalars, &status, &theta, &average)?;
    }
    Ok(rec)
}
