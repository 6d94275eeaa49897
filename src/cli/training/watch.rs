//! What a user sees of a run: progress bar, held-out losses, sample grids; and the signal that stops it.
//! Called by `train::run` through its `Watcher`.

use std::path::Path;
use std::time::Instant;

use indicatif::ProgressBar;
use serde_json::{Map, Value};

use super::GRID;
use crate::cli::{Global, interrupt};
use crate::data::dataset::Dataset;
use crate::diffusion::denoising::{DenoisingLoss, Pair, Trial};
use crate::diffusion::sampler::{Sampler, Trajectory};
use crate::diffusion::spacing::Step;
use crate::error::{Error, Result};
use crate::eval::loss::{Buckets, report};
use crate::io::png::{self, Batch, Grid};
use crate::rng::{Purpose, stream};
use crate::train::run::Watcher;

/// Held-out pairs, the same at every look.
pub struct HeldOut {
    pub loss: DenoisingLoss,
    pub pairs: Vec<Pair>,
    pub buckets: Buckets,
}

/// The lowest held-out loss so far, and where the averaged weights that reach a lower one go.
pub struct Best<'a> {
    pub loss: f64,
    /// Called with the update's number and the loss.
    pub write: Box<dyn Fn(u64, f64) -> Result<()> + 'a>,
}

/// The fixed noise of sample grids and how it is turned into pictures.
pub struct Samples {
    pub sampler: Sampler,
    pub steps: Vec<Step>,
    pub channels: u32,
}

pub struct Screen<'a> {
    pub global: &'a Global,
    pub bar: ProgressBar,
    pub dataset: &'a Dataset,
    pub held_out: Option<HeldOut>,
    pub best: Option<Best<'a>>,
    /// Writes the averaged weights after so many updates as a model folder.
    pub export: Box<dyn Fn(u64) -> Result<()> + 'a>,
    pub samples: Option<Samples>,
    pub seed: u64,
    pub images_per_update: u64,
    pub folder: &'a Path,
    /// When the first update of this process began, and its number.
    pub began: Option<(Instant, u64)>,
    pub loss: String,
}

impl Watcher for Screen<'_> {
    fn updated(&mut self, step: u64) {
        let (began, first) = *self.began.get_or_insert((Instant::now(), step));
        self.bar.set_position(step);
        // The first update includes what drivers compile late.
        if step > first {
            let pace = ((step - first) * self.images_per_update) as f64 / began.elapsed().as_secs_f64();
            self.bar.set_message(format!("{}{pace:.1} images/s,", self.loss));
        }
    }

    fn logged(&mut self, line: &Map<String, Value>) {
        let value = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let weighted = line.get("weighted_noise_loss").and_then(Value::as_f64);
        let weighted = weighted.map(|loss| format!(" ({loss:.5} weighted)")).unwrap_or_default();
        self.loss = format!("loss {:.5}{weighted} + {:.5}, ", value("noise_loss"), value("consistency_loss"));
        let step = value("step");
        let scale = line.get("loss_scale").map(|scale| format!(", loss times {scale}")).unwrap_or_default();
        self.global.detail(format_args!("update {step}: {}gradient {:.4}{scale}", self.loss, value("gradient_norm")));
    }

    fn note(&mut self, text: &str) {
        self.bar.suspend(|| self.global.note(format_args!("{text}")));
    }

    fn stop(&self) -> bool {
        interrupt::requested()
    }

    fn evaluate(&mut self, step: u64) -> Result<Value> {
        let Some(held_out) = &mut self.held_out else { return Ok(Value::Null) };
        let trial = Trial {
            pairs: &held_out.pairs,
            image: &|i, out| self.dataset.write_pixels(i, false, out),
            seed: self.seed,
            stream: stream(Purpose::EvalNoise, 0),
        };
        let losses = held_out.loss.losses(&trial, 0..held_out.pairs.len(), &mut |_| Ok(()))?;
        let report = report(&held_out.buckets, &losses, &held_out.pairs);
        let total = &report.total;
        let best = self.best.as_mut().filter(|best| total.loss < best.loss);
        let note = if best.is_some() { ", the lowest so far" } else { "" };
        self.bar.suspend(|| {
            let (mean, error) = (total.loss, total.standard_error);
            self.global.note(format_args!("held-out loss after {step} updates: {mean:.6} ± {error:.6}{note}"));
        });
        if let Some(best) = best {
            (best.write)(step, total.loss)?;
            best.loss = total.loss;
        }
        serde_json::to_value(&report).map_err(|e| Error::shape("held-out loss", e.to_string()))
    }

    fn export(&mut self, step: u64) -> Result<()> {
        (self.export)(step)
    }

    fn sample(&mut self, step: u64) -> Result<()> {
        let Some(samples) = &mut self.samples else { return Ok(()) };
        let mut x_0 = Vec::new();
        for first_image in (0..u64::from(GRID)).step_by(samples.sampler.batch() as usize) {
            let (steps, seed) = (&samples.steps, self.seed);
            let trajectory = Trajectory { steps, eta: 0.0, seed, first_image, noise: None, given: None };
            x_0.extend(samples.sampler.sample(&trajectory, &|_| 0, &mut |_| Ok(()))?);
        }
        let side = self.dataset.size();
        let batch = Batch { data: &x_0, height: side, width: side, channels: samples.channels };
        let columns = (batch.count() as f64).sqrt().ceil() as u32;
        let text = [(
            "parameters".to_owned(),
            format!("Updates: {step}, Steps: {}, Sampler: DDIM, Seed: {}", samples.steps.len(), self.seed),
        )];
        png::write_grid(
            &self.folder.join(format!("samples_{step:08}.png")),
            &batch,
            Grid { columns, padding: 2 },
            &text,
        )
    }
}
