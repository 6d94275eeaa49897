//! What the demo spends: updates, candidates, pictures, by the kind of machine. Learning rate and updates come from the
//! sweep in docs/demo-sweep.md; `--full` is outside of it. Called by `cli::demo`.

use crate::deme::search;
use crate::shader::Class;

/// Experts of the demo: the paper's N.
pub const EXPERTS: u32 = 4;

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Updates of each expert, images of a micro-batch, micro-batches of an update.
    pub updates: u32,
    pub batch: u32,
    pub accumulate: u32,
    pub lr: f64,
    /// Probability of the whole range (eq. 6).
    pub p: f64,
    /// Grid of the search: weights from 0 to `high`.
    pub high: f64,
    pub step: f64,
    pub fine: f64,
    /// Search images a range.
    pub pairs: u32,
    /// Odd held-out images behind each reported loss, at most, and timesteps of each in each range.
    pub images: usize,
    pub repeats: u32,
    /// Pictures of each model, and their DDIM steps.
    pub pictures: u32,
    pub steps: u32,
}

const SOFTWARE: Budget = Budget {
    updates: 30,
    batch: 16,
    accumulate: 1,
    lr: 1e-6,
    p: 0.4,
    high: 1.0,
    step: 0.5,
    fine: 0.5,
    pairs: 12,
    images: usize::MAX,
    repeats: 1,
    pictures: 16,
    steps: 20,
};

const HARDWARE: Budget = Budget {
    batch: 64,
    accumulate: 1,
    pairs: 96,
    step: 0.5,
    fine: 0.5,
    repeats: 3,
    pictures: 32,
    steps: 50,
    ..SOFTWARE
};

/// `--full`: a run that is meant to gain something.
const FULL: Budget = Budget {
    updates: 2000,
    batch: 64,
    step: 0.25,
    fine: 0.1,
    pairs: 96,
    repeats: 8,
    pictures: 64,
    steps: 100,
    ..HARDWARE
};

/// `--smoke`: every stage for a moment.
const SMOKE: Budget =
    Budget { updates: 2, batch: 4, step: 1.0, fine: 1.0, pairs: 1, images: 4, pictures: 4, steps: 4, ..SOFTWARE };

impl Budget {
    pub fn of(class: Class, full: bool, smoke: bool) -> Self {
        match (full, class) {
            _ if smoke => SMOKE,
            (true, _) => FULL,
            (false, Class::Cpu) => SOFTWARE,
            (false, _) => HARDWARE,
        }
    }

    /// Forward passes of one image that each stage costs, a backward counted as two: base losses, experts, search, losses
    /// of ensemble and merged model, pictures. `images` are the odd held-out ones.
    pub fn forwards(&self, images: usize) -> [f64; 5] {
        let experts = f64::from(EXPERTS);
        let judged = images as f64 * experts * f64::from(self.repeats);
        // Student forward and backward, and the frozen teacher.
        let trained = experts * f64::from(self.updates * self.batch * self.accumulate) * 4.0;
        let points = (self.high / self.step + 1.0).floor().powf(experts);
        let around =
            if self.fine < self.step { (2.0 * (self.step / self.fine).floor() + 1.0).powf(experts) } else { 0.0 };
        // The elite and the base again.
        let again = (search::ELITE + 1) as f64;
        let searched = (points + around + again) * f64::from(self.pairs) * experts;
        let drawn = 3.0 * f64::from(self.pictures * self.steps);
        [judged, trained, searched, 2.0 * judged, drawn]
    }
}
