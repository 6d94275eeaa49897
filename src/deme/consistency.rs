//! The loss of an expert (eq. 5 with eq. 6's noise loss): |target - eps_theta|^2 + lambda |eps_teacher - eps_theta|^2 per
//! element, the teacher being the frozen start model. Called by `deme::expert`.

use crate::error::Result;
use crate::kernels::loss::{self, Weighing};
use crate::train::objective::{Loss, Pass};

/// Records teacher (unless lambda is 0), student and the fused loss.
pub fn record(pass: &mut Pass, lambda: f64) -> Result<Loss> {
    // The teacher goes first: of it only the output lives on.
    let teacher = if lambda == 0.0 { None } else { Some(pass.teacher()?) };
    let output = pass.student()?;
    let channels = pass.config.out_channels;
    let weighing = Weighing { weights: &pass.weights, lambda: lambda as f32, status: &pass.status };
    let rec = &mut pass.tape.rec;
    let (per_sample, gradient) = loss::deme_loss(rec, &output, &pass.target, teacher.as_ref(), weighing, channels)?;
    Ok(Loss { output, gradient, per_sample })
}
