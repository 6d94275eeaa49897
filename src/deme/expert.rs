//! An expert: the training objective of one range of timesteps; with all timesteps as its range, plain training.
//! Called by `cli::finetune`, which hands it to `train::run`.

use super::consistency;
use super::timesteps::TimestepDraw;
use crate::error::Result;
use crate::train::objective::{Loss, Objective, Pass};

/// What makes expert i differ from another: its timesteps; and the weight of the consistency loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Expert {
    pub timesteps: TimestepDraw,
    /// The weight of eq. 5; the paper's is 1.
    pub consistency: f64,
    /// The loss weighting's table over all timesteps; none where all count 1.
    pub weights: Option<Vec<f64>>,
}

impl Objective for Expert {
    fn timesteps(&self, micro: u64, batch: usize) -> Vec<usize> {
        self.timesteps.micro_batch(micro, batch)
    }

    fn weights(&self) -> Option<&[f64]> {
        self.weights.as_deref()
    }

    fn needs_teacher(&self) -> bool {
        self.consistency != 0.0
    }

    fn record(&self, pass: &mut Pass) -> Result<Loss> {
        consistency::record(pass, self.consistency)
    }
}
