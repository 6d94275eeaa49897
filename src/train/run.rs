//! The run of one expert: updates, logs, checkpoints, and continuing from them.
//! Called by `cli::training`, which watches through `Watcher`.

use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::checkpoint::{self, State};
use super::events::Events;
use super::feed::Feeder;
use super::metrics::Log;
use super::objective::Objective;
use super::settings::{Settings, due};
use super::step::{Status, Trainer};
use crate::error::{Error, Result};
use crate::gpu::{Tuning, TuningFile};
use crate::io::lock;

/// Who looks at a run from outside.
pub trait Watcher {
    /// After every update.
    fn updated(&mut self, step: u64);

    /// A line went to the log.
    fn logged(&mut self, line: &Map<String, Value>);

    /// Something that the user should know.
    fn note(&mut self, text: &str);

    /// Whether to save and stop now.
    fn stop(&self) -> bool;

    /// Held-out losses of the averaged weights after `step` updates, for the log.
    fn evaluate(&mut self, step: u64) -> Result<Value>;

    /// Draws sample grids from the averaged weights.
    fn sample(&mut self, step: u64) -> Result<()>;

    /// Writes the averaged weights as a model folder of their own.
    fn export(&mut self, step: u64) -> Result<()>;
}

/// One expert's training, ready to run.
pub struct Job<'a> {
    pub settings: &'a Settings,
    pub objective: &'a dyn Objective,
    pub feeder: &'a Feeder<'a>,
    /// Checkpoints and logs.
    pub folder: &'a Path,
    pub settings_sha256: &'a str,
    /// Adapter, driver and shaders.
    pub device: &'a str,
    /// The choices of kernels that the trainer was made with, and where they are kept for the run's continuation.
    pub tuning: &'a Tuning,
    pub record: &'a TuningFile,
}

impl Job<'_> {
    /// Continues from the newest whole checkpoint, or starts; ends when all updates are done and saved.
    ///
    /// # Errors
    /// `Usage` where another process trains in the folder; `Interrupted` after saving, where the watcher asks to stop;
    /// `NonFinite` where a gradient or loss is not finite (the weights and the checkpoints are those from before).
    pub fn run(&self, trainer: &mut Trainer, watcher: &mut dyn Watcher) -> Result<()> {
        std::fs::create_dir_all(self.folder).map_err(Error::io(self.folder, "create"))?;
        let _lock = lock::exclusive(self.folder)?;
        let start = self.restore(trainer, watcher)?;
        let mut left_out = trainer.check(start.step)?.scaled.map_or(0, |s| s.skipped);
        self.record.begin(self.tuning)?;
        let mut step = start.step;
        let mut metrics = Log::open(&self.folder.join("metrics.jsonl"), start.metrics_bytes)?;
        let mut timing = Log::append(&self.folder.join("timing.jsonl"))?;
        let mut events = Events::create(self.folder, step)?;
        if step == 0 {
            self.look(step, (&mut metrics, &mut events), watcher)?;
        }
        let mut clock = (Instant::now(), step);
        while step < self.settings.steps {
            self.update(trainer, step)?;
            step += 1;
            watcher.updated(step);
            let last = step == self.settings.steps;
            if due(self.settings.log_every, step) || last {
                let status = trainer.check(step)?;
                if let Some(scaled) = status.scaled.filter(|s| s.skipped > left_out) {
                    let updates = match scaled.skipped - left_out {
                        1 => "1 update".to_owned(),
                        n => format!("{n} updates"),
                    };
                    let scale = scaled.scale;
                    watcher.note(&format!("{updates} left out: gradient beyond f16, scale of the loss now {scale}"));
                    left_out = scaled.skipped;
                }
                let line = self.line(trainer, status, step)?;
                watcher.logged(&line);
                events.line(&line)?;
                metrics.line(line)?;
                let pace = self.pace(&mut clock, step);
                events.line(&pace)?;
                timing.line(pace)?;
            }
            self.look(step, (&mut metrics, &mut events), watcher)?;
            let stop = watcher.stop();
            if due(self.settings.save_every, step) || last || stop {
                self.save(trainer, step, &mut metrics)?;
            }
            if stop && !last {
                let saved = format!("{step} of {} updates are saved in {}", self.settings.steps, self.folder.display());
                return Err(Error::Interrupted { saved });
            }
        }
        Ok(())
    }

    /// Puts the newest whole checkpoint into the trainer; the state before the first update where there is none.
    fn restore(&self, trainer: &mut Trainer, watcher: &mut dyn Watcher) -> Result<State> {
        checkpoint::clean(self.folder)?;
        let mut skipped = Vec::new();
        let found = checkpoint::latest(self.folder, &mut skipped)?;
        skipped.iter().for_each(|text| watcher.note(text));
        let Some(found) = found else {
            return Ok(self.state(0, 0, [Vec::new(), Vec::new()]));
        };
        if found.state.settings_sha256 != self.settings_sha256 {
            let hint = "the folder was put together from several runs; start anew with another --out";
            return Err(Error::format(&found.folder, "settings", "are not those of run.json", hint));
        }
        if found.state.device != self.device {
            let before = &found.state.device;
            watcher.note(&format!("begun on {before}, continued on {}: the last bits will differ", self.device));
        }
        trainer.load(&found.folder, &found.state.loss_sums, &found.state.status)?;
        Ok(found.state)
    }

    fn update(&self, trainer: &mut Trainer, step: u64) -> Result<()> {
        let Settings { batch, accumulate, at_once, .. } = *self.settings;
        for k in 0..u64::from(accumulate) {
            let micro = step * u64::from(accumulate) + k;
            let timesteps = self.objective.timesteps(micro, batch as usize);
            let first = micro * u64::from(batch);
            for (at, part) in (first..).step_by(at_once as usize).zip(timesteps.chunks(at_once as usize)) {
                trainer.micro_batch(&self.feeder.feed(at, part)?)?;
            }
        }
        trainer.update(step)
    }

    /// One line of the log: means since the last line.
    fn line(&self, trainer: &mut Trainer, status: Status, step: u64) -> Result<Map<String, Value>> {
        let lines = (step - 1).checked_div(self.settings.log_every).unwrap_or(0);
        let since = lines * self.settings.log_every;
        let images = (step - since) * self.settings.images_per_update();
        let losses = trainer.take_losses(images, step)?;
        let mut line = json!({
            "step": step,
            "noise_loss": losses.noise,
            "consistency_loss": losses.consistency,
            "gradient_norm": status.gradient_norm,
            "learning_rate": self.settings.learning_rate(step - 1),
        });
        if let Some(weighted) = losses.weighted {
            line["weighted_noise_loss"] = weighted.into();
        }
        if let Some(scaled) = status.scaled {
            line["left_out"] = scaled.skipped.into();
            line["loss_scale"] = scaled.scale.into();
        }
        Ok(line.as_object().cloned().unwrap_or_default())
    }

    /// Held-out losses, sample grids and model folders, where they are due.
    fn look(&self, step: u64, (metrics, events): (&mut Log, &mut Events), watcher: &mut dyn Watcher) -> Result<()> {
        if due(self.settings.eval_every, step) {
            let held_out = watcher.evaluate(step)?;
            let line = Map::from_iter([("step".to_owned(), step.into()), ("held_out".to_owned(), held_out)]);
            events.line(&line)?;
            metrics.line(line)?;
        }
        if due(self.settings.sample_every, step) {
            watcher.sample(step)?;
        }
        // The last one is the run's result.
        if due(self.settings.export_every, step) && (1..self.settings.steps).contains(&step) {
            watcher.export(step)?;
        }
        Ok(())
    }

    fn pace(&self, (since, from): &mut (Instant, u64), step: u64) -> Map<String, Value> {
        let seconds = since.elapsed().as_secs_f64();
        let images = (step - *from) * self.settings.images_per_update();
        (*since, *from) = (Instant::now(), step);
        let line = json!({ "step": step, "seconds": seconds, "images_per_second": images as f64 / seconds });
        line.as_object().cloned().unwrap_or_default()
    }

    fn save(&self, trainer: &mut Trainer, step: u64, metrics: &mut Log) -> Result<()> {
        trainer.check(step)?;
        let state = self.state(step, metrics.sync()?, [trainer.loss_sums()?, trainer.status()?]);
        checkpoint::save(self.folder, &state, |folder| trainer.save(folder, step))?;
        checkpoint::prune(self.folder, self.settings.keep)
    }

    fn state(&self, step: u64, metrics_bytes: u64, [loss_sums, status]: [Vec<u32>; 2]) -> State {
        let (settings_sha256, device) = (self.settings_sha256.to_owned(), self.device.to_owned());
        State { step, settings_sha256, device, metrics_bytes, loss_sums, status }
    }
}
