//! What the host gives to a micro-batch, or a part of it: images, noise key, coefficients and embeddings, each a function of its
//! first sample's number. Called by `run`, `deme::cuts` and the training tests.

use crate::data::dataset::Dataset;
use crate::data::order::Order;
use crate::diffusion::denoising::{NoisingInputs, coefficient_words, embedding_words};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::kernels::noise;
use crate::model::config::UNetConfig;
use crate::recording::Tensor;
use crate::rng::{Purpose, stream};

/// The inputs of one replay, as words.
pub struct Feed {
    pub x_0: Vec<f32>,
    pub noise_key: Vec<u32>,
    pub coefficients: Vec<u32>,
    pub embedding: Vec<u32>,
    /// What the samples' weights depend on.
    pub timesteps: Vec<usize>,
}

impl Feed {
    /// Pairs the words with the tensors that take them.
    pub fn bind<'a>(&'a self, inputs: &NoisingInputs) -> [(Tensor, &'a [u32]); 4] {
        [
            (inputs.x_0, bytemuck::cast_slice(&self.x_0)),
            (inputs.noise_key, &self.noise_key),
            (inputs.coefficients, &self.coefficients),
            (inputs.embedding, &self.embedding),
        ]
    }
}

/// What is drawn anew each time that an image is seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Augment {
    /// Mirrored, half of the time.
    pub flip: bool,
    /// A square from anywhere in the image in place of its centre.
    pub crop: bool,
}

/// Makes feeds. `sub` is the expert's number: experts see other orders and other noise.
pub struct Feeder<'a> {
    config: &'a UNetConfig,
    schedule: &'a Schedule,
    dataset: &'a Dataset,
    /// Images to train on.
    indices: Vec<usize>,
    order: Order,
    augment: Augment,
}

impl<'a> Feeder<'a> {
    pub fn new(
        config: &'a UNetConfig,
        schedule: &'a Schedule,
        dataset: &'a Dataset,
        [seed, sub]: [u64; 2],
        augment: Augment,
    ) -> Result<Self> {
        let indices = dataset.train_indices();
        if indices.is_empty() {
            let hint = "give more images, or a larger --holdout (10 keeps every tenth image out)";
            return Err(Error::usage("no image is left to train on", hint));
        }
        let order = Order { seed, sub: sub as u32, count: indices.len() as u64 };
        Ok(Self { config, schedule, dataset, indices, order, augment })
    }

    /// Samples from number `first` of the run on, at these timesteps.
    pub fn feed(&self, first: u64, timesteps: &[usize]) -> Result<Feed> {
        let side = self.dataset.size();
        let per_image = (side * side * 4) as usize;
        let mut x_0 = vec![0.0; per_image * timesteps.len()];
        for (draw, pixels) in (first..).zip(x_0.chunks_mut(per_image)) {
            let image = self.indices[self.order.image(draw) as usize];
            let room = self.dataset.room(image);
            let corner = if self.augment.crop { self.order.corner(draw, room) } else { room.map(|room| room / 2) };
            self.dataset.write_crop(image, corner, self.augment.flip && self.order.flip(draw), pixels);
        }
        let blocks = noise::blocks_per_image(side, side, self.config.in_channels);
        let Order { seed, sub, .. } = self.order;
        Ok(Feed {
            x_0,
            noise_key: noise::key(seed, stream(Purpose::TrainNoise, sub), first * blocks).to_vec(),
            coefficients: coefficient_words(self.schedule, timesteps),
            embedding: embedding_words(self.config, timesteps)?,
            timesteps: timesteps.to_vec(),
        })
    }
}
