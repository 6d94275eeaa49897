//! The noise schedule of a checkpoint: alpha_bar_t and what a sampler must know, read from scheduler_config.json.
//! Called by finetune, search, eval and sample. Same meaning as diffusers' DDIMScheduler.from_config of that file.

use std::path::Path;

use serde_json::{Map, Value};

use super::betas::{self, BetaSchedule};
use super::spacing::Spacing;
use crate::error::{Error, Result};
use crate::io::json::Keys;

/// Scheduler classes whose files describe the same forward process, so that DDIM may sample from them.
const CLASSES: [&str; 4] = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "GaussianDDPMScheduler"];
/// Far above any model, far below what would exhaust memory.
const MAX_TIMESTEPS: u32 = 1 << 20;

/// What the network's output means (prediction_type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise epsilon.
    Epsilon,
    /// v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022).
    V,
    /// The image x_0 (diffusers' `sample`).
    Sample,
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
        let map = without_defaults_of_the_writer(map);
        let keys = Keys::new(path, &map);
        refuse_other_processes(&keys)?;
        let timesteps = keys.u32(either(&keys, "num_train_timesteps", "timesteps"), 1000, 1..=MAX_TIMESTEPS)? as usize;
        let mut betas = read_betas(&keys, timesteps)?;
        if keys.bool("rescale_betas_zero_snr", false)? {
            betas = betas::rescale_zero_terminal_snr(&betas);
        }
        let alpha_bar: Vec<f64> = betas::alpha_bar(&betas).into_iter().map(f64::from).collect();
        if !alpha_bar.iter().all(|a| (0.0..=1.0).contains(a)) || alpha_bar[..timesteps - 1].contains(&0.0) {
            return Err(keys.refuse("beta_schedule", "leaves no signal (alpha_bar = 0) before the last timestep"));
        }
        let clip = keys.bool(either(&keys, "clip_sample", "clip_predicted_image"), true)?;
        let range = keys.f64("clip_sample_range", 1.0)?;
        if clip && range <= 0.0 {
            return Err(keys.refuse("clip_sample_range", format!("is {range}, expected a number above 0")));
        }
        Ok(Self {
            final_alpha_bar: if keys.bool("set_alpha_to_one", true)? { 1.0 } else { alpha_bar[0] },
            betas: betas.into_iter().map(f64::from).collect(),
            alpha_bar,
            prediction: match keys.str("prediction_type", "epsilon")? {
                "epsilon" => Prediction::Epsilon,
                "v_prediction" => Prediction::V,
                "sample" => Prediction::Sample,
                _ => return Err(unsupported(&keys, "prediction_type", "supported: epsilon, v_prediction, sample")),
            },
            clip: clip.then_some(range),
            steps_offset: keys.u32("steps_offset", 0, 0..=MAX_TIMESTEPS)? as usize,
            spacing: match keys.str("timestep_spacing", "leading")? {
                "leading" => Spacing::Leading,
                "trailing" => Spacing::Trailing,
                "linspace" => Spacing::Linspace,
                _ => return Err(unsupported(&keys, "timestep_spacing", "supported: leading, trailing, linspace")),
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
            Prediction::Sample => (0.0, 1.0),
        }
    }
}

/// diffusers marks keys whose value was only a default of the class that wrote them: those do not count.
fn without_defaults_of_the_writer(map: &Map<String, Value>) -> Map<String, Value> {
    let defaults = map.get("_use_default_values").and_then(Value::as_array);
    let is_default = |key: &String| defaults.is_some_and(|keys| keys.iter().any(|k| k == key.as_str()));
    map.iter().filter(|(key, _)| !is_default(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn refuse_other_processes(keys: &Keys) -> Result<()> {
    if !CLASSES.contains(&keys.str("_class_name", "DDIMScheduler")?) {
        return Err(unsupported(keys, "_class_name", "supported: DDPMScheduler, DDIMScheduler, PNDMScheduler"));
    }
    if keys.bool("thresholding", false)? {
        return Err(unsupported(keys, "thresholding", "only clip_sample is supported; set thresholding to false"));
    }
    if keys.get("variance_type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("learned")) {
        return Err(unsupported(keys, "variance_type", "models that also predict their variance are not supported"));
    }
    if keys.get("predict_epsilon") == Some(&Value::Bool(false)) {
        return Err(unsupported(
            keys,
            "predict_epsilon",
            "this key is of the first versions; set prediction_type to sample in its place",
        ));
    }
    if keys.get("timestep_values").is_some() {
        return Err(unsupported(
            keys,
            "timestep_values",
            "models trained on a subset of the timesteps are not supported",
        ));
    }
    Ok(())
}

fn read_betas(keys: &Keys, timesteps: usize) -> Result<Vec<f32>> {
    const TRAINED: &str = "trained_betas";
    if let Some(betas) = keys.f64_list(TRAINED)? {
        if betas.len() != timesteps {
            return Err(keys.refuse(TRAINED, format!("has {} values for {timesteps} timesteps", betas.len())));
        }
        if let Some(beta) = betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
            return Err(keys.refuse(TRAINED, format!("holds {beta}, expected numbers from 0 to 1")));
        }
        return Ok(betas.into_iter().map(|beta| beta as f32).collect());
    }
    let Some(schedule) = BetaSchedule::from_name(keys.str("beta_schedule", "linear")?) else {
        let hint = "supported: linear, scaled_linear, squaredcos_cap_v2, sigmoid, or trained_betas";
        return Err(unsupported(keys, "beta_schedule", hint));
    };
    let (start, end) = (keys.f64("beta_start", 1e-4)?, keys.f64("beta_end", 0.02)?);
    for (key, beta) in [("beta_start", start), ("beta_end", end)] {
        if !(0.0..=1.0).contains(&beta) {
            return Err(keys.refuse(key, format!("is {beta}, expected a number from 0 to 1")));
        }
    }
    Ok(schedule.betas(start, end, timesteps))
}

/// `old` only where the file is of the first diffusers versions and lacks `new`.
fn either(keys: &Keys, new: &'static str, old: &'static str) -> &'static str {
    let is_old = keys.get("_class_name").is_some_and(|class| class == "GaussianDDPMScheduler");
    if is_old && keys.get(new).is_none() && keys.get(old).is_some() { old } else { new }
}

fn unsupported(keys: &Keys, key: &str, hint: &str) -> Error {
    keys.unsupported(key, keys.map.get(key).unwrap_or(&Value::Null), hint)
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
            ("prediction_type", r#""flow_prediction""#),
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
