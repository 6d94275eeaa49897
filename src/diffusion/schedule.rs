//! The noise schedule of a checkpoint: alpha_bar_t and what a sampler must know, read from scheduler_config.json.
//! Called by finetune, search, eval and sample. Same meaning as diffusers' DDIMScheduler.from_config of that file.

use std::path::Path;

use serde_json::{Map, Value};

use super::betas::{self, BetaSchedule};
use super::spacing::Spacing;
use crate::error::{Error, Result};

/// Scheduler classes whose files describe the same forward process, so that DDIM may sample from them.
const CLASSES: [&str; 4] = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "GaussianDDPMScheduler"];
/// Far above any model, far below what would exhaust memory.
const MAX_TIMESTEPS: u64 = 1 << 20;
const LISTED: &str = "save the scheduler again from a current diffusers with one of the supported values";

/// What the network's output means (prediction_type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise epsilon.
    Epsilon,
    /// v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022).
    V,
}

/// Timesteps t count from 0 (nearly clean) to T - 1 (nearly noise).
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// beta_t, T values.
    pub betas: Vec<f64>,
    /// alpha_bar_t, T values. Float32 numbers, since diffusers computes with those.
    pub alpha_bar: Vec<f64>,
    /// alpha_bar "before" t = 0: 1 (set_alpha_to_one) or alpha_bar_0.
    pub final_alpha_bar: f64,
    pub prediction: Prediction,
    /// The predicted x_0 is clamped to +- this, or not at all.
    pub clip: Option<f64>,
    /// Added to every timestep of the `leading` spacing.
    pub steps_offset: usize,
    /// timestep_spacing, the default of `--spacing`.
    pub spacing: Spacing,
}

impl Schedule {
    /// Reads the map of a scheduler_config.json; `path` is for messages only.
    ///
    /// # Errors
    /// `Unsupported` for a setting that would change the result and is not built, `Format` for a value that makes no
    /// sense. Unknown keys are none of its business.
    pub fn from_json(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let config = Config { path, map };
        config.refuse_unsupported()?;
        let timesteps = config.timesteps()?;
        let mut betas = config.betas(timesteps)?;
        if config.bool("rescale_betas_zero_snr", false)? {
            betas = betas::rescale_zero_terminal_snr(&betas);
        }
        let alpha_bar: Vec<f64> = betas::alpha_bar(&betas).into_iter().map(f64::from).collect();
        if !alpha_bar.iter().all(|a| (0.0..=1.0).contains(a)) || alpha_bar[..timesteps - 1].contains(&0.0) {
            return Err(config.wrong("beta_schedule", "leaves no signal (alpha_bar = 0) before the last timestep"));
        }
        let to_one = config.bool("set_alpha_to_one", true)?;
        let clip = config.bool(config.either("clip_sample", "clip_predicted_image"), true)?;
        let range = config.number("clip_sample_range", 1.0)?;
        if clip && range <= 0.0 {
            return Err(config.wrong("clip_sample_range", "must be above 0"));
        }
        Ok(Self {
            final_alpha_bar: if to_one { 1.0 } else { alpha_bar[0] },
            betas: betas.into_iter().map(f64::from).collect(),
            alpha_bar,
            prediction: match config.text("prediction_type", "epsilon")? {
                "epsilon" => Prediction::Epsilon,
                "v_prediction" => Prediction::V,
                _ => return Err(config.refuse("prediction_type", "supported: epsilon, v_prediction")),
            },
            clip: clip.then_some(range),
            steps_offset: config.count("steps_offset", 0)? as usize,
            spacing: match config.text("timestep_spacing", "leading")? {
                "leading" => Spacing::Leading,
                "trailing" => Spacing::Trailing,
                "linspace" => Spacing::Linspace,
                _ => return Err(config.refuse("timestep_spacing", "supported: leading, trailing, linspace")),
            },
        })
    }

    /// T, the number of training timesteps.
    pub fn timesteps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// (a, b) of q(x_t | x_0): x_t = a x_0 + b epsilon, a = sqrt(alpha_bar_t), b = sqrt(1 - alpha_bar_t). t < T.
    pub fn noising(&self, t: usize) -> (f64, f64) {
        (self.alpha_bar[t].sqrt(), (1.0 - self.alpha_bar[t]).sqrt())
    }

    /// (c, d) of what the network is to predict at t: target = c epsilon + d x_0. t < T.
    pub fn target(&self, t: usize) -> (f64, f64) {
        match self.prediction {
            Prediction::Epsilon => (1.0, 0.0),
            Prediction::V => {
                let (a, b) = self.noising(t);
                (a, -b)
            }
        }
    }
}

/// Typed look-ups with messages that name file and key. An absent key takes DDIMScheduler's default.
struct Config<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    fn refuse_unsupported(&self) -> Result<()> {
        let class = self.text("_class_name", "DDIMScheduler")?;
        if !CLASSES.contains(&class) {
            return Err(self.refuse("_class_name", "supported: DDPMScheduler, DDIMScheduler, PNDMScheduler"));
        }
        if self.bool("thresholding", false)? {
            return Err(self.refuse("thresholding", "only clip_sample is supported; set thresholding to false"));
        }
        if self.get("variance_type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("learned")) {
            return Err(self.refuse("variance_type", "models that also predict their variance are not supported"));
        }
        if self.get("predict_epsilon") == Some(&Value::Bool(false)) {
            return Err(self.refuse("predict_epsilon", "supported: models that predict epsilon or v"));
        }
        if self.get("timestep_values").is_some_and(|v| !v.is_null()) {
            return Err(self.refuse("timestep_values", LISTED));
        }
        Ok(())
    }

    fn timesteps(&self) -> Result<usize> {
        let key = self.either("num_train_timesteps", "timesteps");
        match self.count(key, 1000)? {
            0 => Err(self.wrong(key, "must be at least 1")),
            t if t > MAX_TIMESTEPS => Err(self.wrong(key, "is more timesteps than any model has")),
            t => Ok(t as usize),
        }
    }

    fn betas(&self, timesteps: usize) -> Result<Vec<f32>> {
        const KEY: &str = "trained_betas";
        match self.get(KEY) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.len() != timesteps => {
                return Err(self.wrong(KEY, format!("has {} values for {timesteps} timesteps", list.len())));
            }
            Some(Value::Array(list)) => {
                let beta = |v: &Value| v.as_f64().filter(|b| (0.0..=1.0).contains(b)).map(|b| b as f32);
                let betas: Option<Vec<f32>> = list.iter().map(beta).collect();
                return betas.ok_or_else(|| self.wrong(KEY, "must hold numbers in 0..=1"));
            }
            Some(_) => return Err(self.wrong(KEY, "is not a list of numbers")),
        }
        let schedule = BetaSchedule::from_name(self.text("beta_schedule", "linear")?).ok_or_else(|| {
            self.refuse("beta_schedule", "supported: linear, scaled_linear, squaredcos_cap_v2, sigmoid, trained_betas")
        })?;
        let (start, end) = (self.number("beta_start", 1e-4)?, self.number("beta_end", 0.02)?);
        for (key, beta) in [("beta_start", start), ("beta_end", end)] {
            if !(0.0..=1.0).contains(&beta) {
                return Err(self.wrong(key, "must lie in 0..=1"));
            }
        }
        Ok(schedule.betas(start, end, timesteps))
    }

    /// diffusers marks keys whose value was only a default of the class that wrote them: those do not count.
    fn get(&self, key: &str) -> Option<&'a Value> {
        let defaults = self.map.get("_use_default_values").and_then(Value::as_array);
        let is_default = defaults.is_some_and(|keys| keys.iter().any(|k| k == key));
        self.map.get(key).filter(|_| !is_default)
    }

    /// `old` only where the file is of the first diffusers versions and lacks `new`.
    fn either(&self, new: &'static str, old: &'static str) -> &'static str {
        let is_old = self.get("_class_name").is_some_and(|class| class == "GaussianDDPMScheduler");
        if is_old && self.get(new).is_none() && self.get(old).is_some() { old } else { new }
    }

    fn bool(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "is not true or false")),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, "is not a number")),
        }
    }

    fn count(&self, key: &str, default: u64) -> Result<u64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_u64().ok_or_else(|| self.wrong(key, "is not a whole number of at least 0")),
        }
    }

    fn text(&self, key: &str, default: &'static str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(key, "is not text")),
        }
    }

    fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::format(self.path, key, problem.to_string(), "compare it with the scheduler_config.json as published")
    }

    fn refuse(&self, key: &str, hint: &str) -> Error {
        let value = self.get(key).map(ToString::to_string).unwrap_or_default();
        Error::unsupported(self.path, key, value, hint)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn read(json: &str) -> Result<Schedule> {
        let map = serde_json::from_str(json).unwrap();
        Schedule::from_json(Path::new("scheduler_config.json"), &map)
    }

    #[test]
    fn absent_keys_take_the_defaults_of_ddim() {
        let schedule = read("{}").unwrap();
        assert_eq!(schedule.timesteps(), 1000);
        assert_eq!((schedule.final_alpha_bar, schedule.clip, schedule.steps_offset), (1.0, Some(1.0), 0));
        assert_eq!((schedule.prediction, schedule.spacing), (Prediction::Epsilon, Spacing::Leading));
        assert!((schedule.betas[0] - 1e-4).abs() < 1e-10 && (schedule.betas[999] - 0.02).abs() < 1e-9);
    }

    #[test]
    fn files_of_the_first_versions_are_understood() {
        let old = r#"{"_class_name": "GaussianDDPMScheduler", "timesteps": 500, "clip_predicted_image": false}"#;
        let schedule = read(old).unwrap();
        assert_eq!((schedule.timesteps(), schedule.clip), (500, None));
        assert_eq!(read(r#"{"timesteps": 500}"#).unwrap().timesteps(), 1000, "an unknown key of newer classes");
    }

    #[test]
    fn defaults_of_the_writing_class_do_not_count() {
        let json = r#"{"_class_name": "PNDMScheduler", "set_alpha_to_one": false, "_use_default_values": ["set_alpha_to_one"]}"#;
        assert_eq!(read(json).unwrap().final_alpha_bar, 1.0);
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_name() {
        let cases = [
            ("_class_name", r#""EulerDiscreteScheduler""#),
            ("thresholding", "true"),
            ("prediction_type", r#""sample""#),
            ("predict_epsilon", "false"),
            ("beta_schedule", r#""laplace""#),
            ("timestep_spacing", r#""karras""#),
            ("variance_type", r#""learned_range""#),
            ("timestep_values", "[3, 2, 1]"),
        ];
        for (name, text) in cases {
            let Err(Error::Unsupported { key, value, .. }) = read(&format!(r#"{{"{name}": {text}}}"#)) else {
                panic!("{name} = {text} was not refused")
            };
            assert_eq!(key, name);
            assert_eq!(value.replace(' ', ""), text.replace(' ', ""));
        }
    }

    #[test]
    fn nonsense_is_named() {
        let cases = [
            ("num_train_timesteps", "0"),
            ("num_train_timesteps", "1e3"),
            ("num_train_timesteps", "999999999999"),
            ("trained_betas", "[0.1, 0.2]"),
            ("trained_betas", "7"),
            ("beta_start", "-0.1"),
            ("beta_end", "1.5"),
            ("beta_end", r#""0.02""#),
            ("steps_offset", "-1"),
            ("clip_sample", "1"),
            ("clip_sample_range", "0"),
            ("set_alpha_to_one", "null"),
        ];
        for (name, text) in cases {
            let Err(Error::Format { thing, .. }) = read(&format!(r#"{{"{name}": {text}}}"#)) else {
                panic!("{name} = {text} was accepted")
            };
            assert_eq!(thing, name);
        }
        let early = r#"{"num_train_timesteps": 3, "trained_betas": [0.5, 1.0, 0.5]}"#;
        assert!(matches!(read(early), Err(Error::Format { .. })), "no signal left at t = 1");
    }

    #[test]
    fn v_targets_and_noising_are_orthogonal() {
        let schedule = read(r#"{"prediction_type": "v_prediction"}"#).unwrap();
        for t in [0, 417, 999] {
            let ((a, b), (c, d)) = (schedule.noising(t), schedule.target(t));
            assert!((a * a + b * b - 1.0).abs() < 1e-15 && (a * d + b * c).abs() < 1e-15);
        }
    }
}
