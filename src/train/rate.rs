//! The learning rate over a run, as diffusers' `get_scheduler` has it: a warm-up from 0, then constant, linear or cosine.
//! Filled by `cli`; read by `step` and `run`.

use std::f64::consts::PI;

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    Constant,
    /// To 0 at the end of the run.
    Linear,
    /// To 0 along half a cosine.
    Cosine,
}

/// The factor on the learning rate by the number of the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateSchedule {
    pub decay: Decay,
    /// Updates over which the rate rises linearly from 0.
    pub warmup: u64,
}

impl RateSchedule {
    /// The full rate throughout.
    pub const CONSTANT: Self = Self { decay: Decay::Constant, warmup: 0 };

    /// The factor of update number `update` (from 0) of a run of `steps`.
    pub fn factor(&self, update: u64, steps: u64) -> f64 {
        if update < self.warmup {
            return update as f64 / self.warmup as f64;
        }
        let done = (update - self.warmup) as f64 / steps.saturating_sub(self.warmup).max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => (1.0 - done).max(0.0),
            Decay::Cosine => (0.5 * (1.0 + (PI * done).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// get_scheduler(NAME, num_warmup_steps=4, num_training_steps=12) of diffusers 0.42.1, updates 0, 1, 3, 4, 8 and 11.
    #[test]
    fn factors_are_those_of_diffusers() {
        let expected = [
            (Decay::Constant, [0.0, 0.25, 0.75, 1.0, 1.0, 1.0]),
            (Decay::Linear, [0.0, 0.25, 0.75, 1.0, 0.5, 0.125]),
            (Decay::Cosine, [0.0, 0.25, 0.75, 1.0, 0.5000000000000001, 0.03806023374435663]),
        ];
        for (decay, factors) in expected {
            let schedule = RateSchedule { decay, warmup: 4 };
            for (update, factor) in [0, 1, 3, 4, 8, 11].into_iter().zip(factors) {
                let got = schedule.factor(update, 12);
                assert!((got - factor).abs() < 1e-15, "{decay:?} {update}: {got} for {factor}");
            }
        }
    }

    #[test]
    fn without_a_warm_up_the_first_update_has_the_full_rate() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            assert_eq!(RateSchedule { decay, warmup: 0 }.factor(0, 1), 1.0);
        }
        assert_eq!(RateSchedule::CONSTANT.factor(999, 10), 1.0);
    }
}
