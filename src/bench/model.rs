//! The network that is timed: a model folder, or a known configuration with random weights.
//! Called by `unet` and `cli::bench`.

use std::path::Path;

use crate::diffusion::pretrained::Pretrained;
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::io::json;
use crate::model::config::UNetConfig;
use crate::model::projections::Placement;
use crate::model::tensors;
use crate::model::unet::Projections;
use crate::nn::ParamLayout;
use crate::rng;
use crate::shape::padded_channels;

/// Configurations by name, with random weights.
const CONFIGS: [(&str, &str); 3] = [
    ("ddpm-cifar10", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/configs/ddpm-cifar10.json"))),
    ("lsun-256", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/configs/lsun-256.json"))),
    ("emoji32", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/ddpm-emoji32/unet/config.json"))),
];

/// The model that is timed.
pub struct Model {
    pub name: String,
    pub config: UNetConfig,
    pub schedule: Schedule,
    pub layout: ParamLayout,
    /// Height and width of its images.
    pub sides: [u32; 2],
    pub projections: Projections,
    weights: Weights,
}

enum Weights {
    Files(Box<Pretrained>),
    /// Uniform, of the variance that keeps activations of one size.
    Random,
}

impl Model {
    /// A named configuration with random weights.
    pub fn named(name: &str) -> Result<Self> {
        let Some((_, text)) = CONFIGS.iter().find(|(known, _)| *known == name) else {
            let names = CONFIGS.map(|(known, _)| known).join(", ");
            return Err(Error::usage(format!("no configuration is called {name}"), format!("choose one of {names}")));
        };
        let path = Path::new(name);
        let config = UNetConfig::from_json(path, &json::parse_object(path, text.as_bytes())?)?;
        let schedule = Schedule::from_json(path, &serde_json::Map::new())?;
        let tensors = tensors::expected(&config, Placement::None);
        let layout = ParamLayout::new(tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())))?;
        let sides = config.sample_size.unwrap_or([32, 32]);
        let (name, projections) = (name.to_owned(), Projections::Skip);
        Ok(Self { name, config, schedule, layout, sides, projections, weights: Weights::Random })
    }

    /// A model folder with its weights.
    pub fn open(dir: &Path) -> Result<Self> {
        let model = Pretrained::open(dir)?;
        Ok(Self {
            name: dir.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned()),
            config: model.config.clone(),
            schedule: model.schedule.clone(),
            layout: model.layout.clone(),
            sides: model.sides()?,
            projections: model.projections()?,
            weights: Weights::Files(Box::new(model)),
        })
    }

    /// Number of weights.
    pub fn count(&self) -> u64 {
        self.layout.count()
    }

    /// Whether the weights are random.
    pub fn is_random(&self) -> bool {
        matches!(self.weights, Weights::Random)
    }

    /// One tensor in the files' layout.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        match &self.weights {
            Weights::Files(model) => model.read(name),
            Weights::Random => Ok(self.random(name)),
        }
    }

    fn random(&self, name: &str) -> Vec<f32> {
        let Some((number, param)) = (0..).zip(&self.layout.params).find(|(_, p)| p.name == name) else {
            return Vec::new();
        };
        let (elements, shape) = (param.layout.file_elements(), param.layout.file_shape());
        let fan_in: u64 = shape.iter().skip(1).product();
        let stream = rng::stream(rng::Purpose::Weights, number);
        let uniform = |i: usize| rng::uniform(0, stream, i as u64) as f32 - 0.5;
        let value = |i: usize| match shape.len() {
            // Norms' factors are near 1, all biases near 0.
            1 => 0.1 * uniform(i) + f32::from(u8::from(name.contains("norm") && name.ends_with("weight"))),
            _ => uniform(i) * (3.0 / fan_in as f32).sqrt() * 2.0,
        };
        (0..elements).map(value).collect()
    }

    /// Timesteps spread over the schedule.
    pub fn timesteps(&self, batch: u32) -> Vec<usize> {
        let total = self.schedule.alpha_bar.len();
        (0..batch as usize).map(|i| (2 * i + 1) * total / (2 * batch as usize)).collect()
    }

    /// Elements of a batch of images as stored.
    pub fn image_elements(&self, batch: u32) -> u64 {
        let stored = padded_channels(self.config.in_channels);
        [batch, self.sides[0], self.sides[1], stored].map(u64::from).iter().product()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Counts as in the files of google/ddpm-cifar10-32, google/ddpm-church-256 and the bundled model.
    #[test]
    fn configurations_have_the_published_numbers_of_weights() {
        let counts = CONFIGS.map(|(name, _)| Model::named(name).unwrap().count());
        assert_eq!(counts, [35_746_307, 113_673_219, 2_587_491]);
        assert!(Model::named("sd").is_err_and(|e| e.hint().contains("ddpm-cifar10")));
    }

    #[test]
    fn random_weights_keep_their_size() {
        let model = Model::named("emoji32").unwrap();
        let weights = model.random("down_blocks.0.resnets.0.conv1.weight");
        assert_eq!(weights.len(), 32 * 32 * 9);
        let variance = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32;
        assert!((variance * 288.0 - 1.0).abs() < 0.1, "{variance}");
        assert!(model.random("conv_norm_out.weight").iter().all(|w| (w - 1.0).abs() <= 0.05));
    }
}
