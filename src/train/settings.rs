//! The numbers of a training run that are not the method's own: optimizer, EMA, batches, and how often what is written.
//! Filled by `cli`; read by `step` and `run`.

use super::feed::Augment;
use super::rate::RateSchedule;
use crate::shader::Precision;

/// AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

/// The moving average of the weights, as diffusers' EMAModel(use_ema_warmup=True) counts it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmaSchedule {
    pub max_decay: f64,
    pub inv_gamma: f64,
    pub power: f64,
}

impl EmaSchedule {
    /// The decay of update number `update` (from 0): 0 at first, so the average starts as the weights after the first
    /// update, then min(max_decay, 1 - (1 + update / inv_gamma)^-power).
    pub fn decay(&self, update: u64) -> f64 {
        (1.0 - (1.0 + update as f64 / self.inv_gamma).powf(-self.power)).clamp(0.0, self.max_decay)
    }
}

/// What the loss is multiplied by so that gradients stay in the range of f16 (Micikevicius et al. 2018), moved on the GPU as
/// torch.amp.GradScaler moves it, by factors of 2 and 1/2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScaling {
    /// At the first update; a power of two.
    pub start: f32,
    /// Updates in a row with a finite gradient after which it doubles; 0: it never moves.
    pub interval: u32,
}

impl LossScaling {
    /// As GradScaler's defaults.
    pub const DYNAMIC: Self = Self { start: 65536.0, interval: 2000 };

    /// This one in f16; 1 in f32, whose range gradients do not leave.
    pub fn at(self, precision: Precision) -> Self {
        match precision {
            Precision::F16 => self,
            Precision::F32 => Self { start: 1.0, interval: 0 },
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub seed: u64,
    /// Updates.
    pub steps: u64,
    /// Images of a micro-batch.
    pub batch: u32,
    /// Of these, how many are on the GPU at once: a divisor. A replay takes so many, and a micro-batch several replays.
    pub at_once: u32,
    /// Micro-batches of an update.
    pub accumulate: u32,
    pub adamw: AdamW,
    /// What the learning rate is multiplied by, update by update.
    pub rate: RateSchedule,
    /// The gradient's norm is cut to this; infinite: never.
    pub clip: f64,
    /// Of a run in f16.
    pub scaling: LossScaling,
    pub ema: EmaSchedule,
    pub augment: Augment,
    /// Updates between lines of the log, held-out losses, sample grids, model folders and checkpoints; 0: never.
    pub log_every: u64,
    pub eval_every: u64,
    pub sample_every: u64,
    pub export_every: u64,
    pub save_every: u64,
    /// Checkpoints that stay.
    pub keep: usize,
}

impl Settings {
    pub fn images_per_update(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.accumulate)
    }

    /// The learning rate of update number `update` (from 0).
    pub fn learning_rate(&self, update: u64) -> f64 {
        self.adamw.lr * self.rate.factor(update, self.steps)
    }

    /// Replays of an update.
    pub fn replays_per_update(&self) -> u64 {
        self.images_per_update() / u64::from(self.at_once)
    }

    /// Replays of the whole run.
    pub fn replays(&self) -> u64 {
        self.steps.saturating_mul(self.replays_per_update())
    }
}

/// Whether something is due after `step` updates.
pub fn due(every: u64, step: u64) -> bool {
    every != 0 && step.is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EMAModel(use_ema_warmup=True, inv_gamma=1.0, power=0.75, decay=0.9999).cur_decay_value after 1, 2, 3, 11, 10,001
    /// and 300,000 calls of step.
    #[test]
    fn decays_are_those_of_diffusers() {
        let ema = EmaSchedule { max_decay: 0.9999, inv_gamma: 1.0, power: 0.75 };
        let expected = [
            (0, 0.0),
            (1, 0.4053964424986395),
            (2, 0.5613086623491692),
            (10, 0.8344399739238298),
            (10_000, 0.9990000749934381),
            (299_999, 0.9999),
        ];
        for (update, decay) in expected {
            assert!((ema.decay(update) - decay).abs() < 1e-15, "{update}: {}", ema.decay(update));
        }
    }

    #[test]
    fn zero_is_never() {
        assert!(!due(0, 0) && !due(0, 5) && due(5, 10) && !due(5, 11));
    }
}
