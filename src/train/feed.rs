//! What the host gives to a micro-batch: images, noise key, coefficients and embeddings, each a function of the
//! micro-batch's number. Called by `run` and the training tests.

use crate::data::dataset::Dataset;
use crate::data::order::Order;
use crate::diffusion::denoising::{NoisingInputs, coefficient_words, embedding_words};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::kernels::noise;
use crate::model::config::UNetConfig;
use crate::recording::Tensor;
use crate::rng::{Purpose, stream};

/// The inputs of one micro-batch, as words.
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

/// Makes feeds. `sub` is the expert's number: experts see other orders and other noise.
pub struct Feeder<'a> {
    config: &'a UNetConfig,
    schedule: &'a Schedule,
    dataset: &'a Dataset,
    /// Images to train on.
    indices: Vec<usize>,
    order: Order,
    flip: bool,
    batch: u64,
}

impl<'a> Feeder<'a> {
    pub fn new(
        config: &'a UNetConfig,
        schedule: &'a Schedule,
        dataset: &'a Dataset,
        [seed, sub]: [u64; 2],
        batch: u32,
        flip: bool,
    ) -> Result<Self> {
        let indices = dataset.train_indices();
        if indices.is_empty() {
            let hint = "give more images, or a larger --holdout (10 keeps every tenth image out)";
            return Err(Error::usage("no image is left to train on", hint));
        }
        let order = Order { seed, sub: sub as u32, count: indices.len() as u64 };
        Ok(Self { config, schedule, dataset, indices, order, flip, batch: u64::from(batch) })
    }

    /// Micro-batch number `micro`, at these timesteps.
    pub fn feed(&self, micro: u64, timesteps: &[usize]) -> Result<Feed> {
        let side = self.dataset.size();
        let per_image = (side * side * 4) as usize;
        let mut x_0 = vec![0.0; per_image * timesteps.len()];
        for (draw, pixels) in (micro * self.batch..).zip(x_0.chunks_mut(per_image)) {
            let image = self.indices[self.order.image(draw) as usize];
            self.dataset.write_pixels(image, self.flip && self.order.flip(draw), pixels);
        }
        let blocks = noise::blocks_per_image(side, side, self.config.in_channels);
        let Order { seed, sub, .. } = self.order;
        Ok(Feed {
            x_0,
            noise_key: noise::key(seed, stream(Purpose::TrainNoise, sub), micro * self.batch * blocks).to_vec(),
            coefficients: coefficient_words(self.schedule, timesteps),
            embedding: embedding_words(self.config, timesteps)?,
            timesteps: timesteps.to_vec(),
        })
    }
}
