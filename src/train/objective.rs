//! What a training run minimises, as the step sees it: timesteps of each micro-batch, and a loss on the network's output.
//! Implemented by `deme::expert`; called by `step` and `run`.

use crate::error::Result;
use crate::model::config::UNetConfig;
use crate::model::unet::Projections;
use crate::nn::{Net, ParamLayout, Role};
use crate::recording::Tensor;
use crate::shader::Precision;
use crate::tape::Tape;

/// A method of training. Nothing in it may depend on what was called before: a resumed run is the same run.
pub trait Objective {
    /// Timesteps of micro-batch number `micro`.
    fn timesteps(&self, micro: u64, batch: usize) -> Vec<usize>;

    /// How much a sample counts by its timestep, T values; none where all count 1.
    fn weights(&self) -> Option<&[f64]> {
        None
    }

    /// Whether `record` runs the frozen start model.
    fn needs_teacher(&self) -> bool;

    /// Records the forward passes and the loss.
    fn record(&self, pass: &mut Pass) -> Result<Loss>;
}

/// A micro-batch being recorded: noised images, and the networks that may look at them.
pub struct Pass<'a> {
    pub tape: &'a mut Tape,
    pub config: &'a UNetConfig,
    pub layout: &'a ParamLayout,
    /// [N, H, W, padded C]
    pub x_t: Tensor,
    /// What the network is to predict, [N, H, W, padded C].
    pub target: Tensor,
    /// Weight of each sample in the gradient, [N]: its timestep's over the micro-batches of an update.
    pub weights: Tensor,
    /// The optimizer's report, which holds the scale of the loss.
    pub status: Tensor,
    pub embedding: Tensor,
    pub student_projections: Projections,
    pub teacher_projections: Projections,
}

impl Pass<'_> {
    /// The output of the weights that are trained.
    pub fn student(&mut self) -> Result<Tensor> {
        let role = if self.tape.rec.precision == Precision::F16 { Role::Half } else { Role::Theta };
        self.forward(role, true, self.student_projections)
    }

    /// The output of the frozen start model.
    pub fn teacher(&mut self) -> Result<Tensor> {
        self.forward(Role::Teacher, false, self.teacher_projections)
    }

    fn forward(&mut self, role: Role, trained: bool, projections: Projections) -> Result<Tensor> {
        let stored = self.tape.rec.precision.stored();
        let mut net = Net { tape: self.tape, layout: self.layout, role, stored, trained };
        self.config.forward(&mut net, &self.x_t, &self.embedding, projections, &mut |_, _| ())
    }
}

/// A recorded loss.
pub struct Loss {
    /// The student's output.
    pub output: Tensor,
    /// dL/d output, of the weighted sum over the samples, times the scale.
    pub gradient: Tensor,
    /// [N, 2]: mean squared distance to the target and to the teacher, unweighted.
    pub per_sample: Tensor,
}
