//! A network's steps as recordings with the words of their inputs; needs no GPU.
//! Called by `unet`, and by `kernels` for what no case calls.

use super::model::Model;
use crate::deme::consistency;
use crate::diffusion::denoising::{coefficient_words, embedding_words};
use crate::diffusion::sampler;
use crate::diffusion::schedule::Prediction;
use crate::diffusion::spacing::Step;
use crate::error::Result;
use crate::kernels::{ddim, noise};
use crate::nn::{Net, Role};
use crate::recording::{Recording, Tensor};
use crate::shader::Precision;
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;
use crate::train::feed::{Augment, Feed};
use crate::train::objective::{Loss, Objective, Pass};
use crate::train::rate::RateSchedule;
use crate::train::settings::{AdamW, EmaSchedule, LossScaling, Settings};
use crate::train::step;

/// A recording and its inputs.
pub struct Recorded {
    pub recording: Recording,
    pub inputs: Vec<(Tensor, Vec<u32>)>,
}

/// Key of the picture under way.
pub const X_KEY: &str = "x";

/// The mean squared error, with or without the distance to the teacher.
struct MeanSquared {
    lambda: f64,
    timesteps: Vec<usize>,
}

impl Objective for MeanSquared {
    fn timesteps(&self, _: u64, _: usize) -> Vec<usize> {
        self.timesteps.clone()
    }

    fn needs_teacher(&self) -> bool {
        self.lambda != 0.0
    }

    fn record(&self, pass: &mut Pass) -> Result<Loss> {
        consistency::record(pass, self.lambda)
    }
}

/// The forward pass, with the DDIM update of its input where `sample`.
pub fn inference(model: &Model, batch: u32, sample: bool, precision: Precision) -> Result<Recorded> {
    let Model { config, layout, sides: [h, w], .. } = model;
    let mut tape = Tape::new(Recording::new(if sample { "sampling step" } else { "forward" }).at(precision));
    let shape = Shape::new([batch, *h, *w, padded_channels(config.in_channels)]);
    let x = Tensor { buffer: tape.rec.external(X_KEY, shape.elements()), offset: 0, shape };
    let embedding = tape.rec.input("embedding", Shape::new([batch, config.block_out_channels[0]]), DType::F32);
    let mut net = Net { tape: &mut tape, layout, role: Role::Theta, stored: precision.stored(), trained: false };
    let output = config.forward(&mut net, &x, &embedding, model.projections, &mut |_, _| ())?;
    let mut rec = tape.rec;
    let total = model.schedule.alpha_bar.len();
    let step = Step { t: total / 2, t_prev: Some(total / 2 - total / 50) };
    let mut inputs = vec![(embedding, embedding_words(config, &vec![step.t; batch as usize])?)];
    if sample {
        let coefficients = rec.input("ddim coefficients", Shape::new([ddim::COEFFICIENTS]), DType::F32);
        let predicts = match model.schedule.prediction {
            Prediction::Epsilon => ddim::Predicts::Epsilon,
            Prediction::V => ddim::Predicts::V,
            Prediction::Sample => ddim::Predicts::Sample,
        };
        ddim::ddim_step(&mut rec, &x, &output, None, &coefficients, config.in_channels, predicts)?;
        inputs.push((coefficients, sampler::coefficient_words(&model.schedule.ddim_step(step, 0.0)?).to_vec()));
    }
    Ok(Recorded { recording: rec.fused(), inputs })
}

/// Values between -1 and 1.
pub fn images(elements: u64) -> Vec<f32> {
    (0..elements).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 0.999).collect()
}

/// A micro-batch and an update; with the frozen teacher where `lambda`, the weight of its loss, is not 0. `recompute`: activations
/// are made again in the backward pass.
pub fn training(
    model: &Model,
    batch: u32,
    lambda: f64,
    precision: Precision,
    recompute: bool,
) -> Result<[Recorded; 2]> {
    let settings = Settings {
        seed: 0,
        steps: 0,
        batch,
        at_once: batch,
        accumulate: 1,
        // Small, so that the weights stay where they are however often a step is repeated.
        adamw: AdamW { lr: 1e-6, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
        rate: RateSchedule::CONSTANT,
        clip: 1.0,
        scaling: LossScaling::DYNAMIC,
        ema: EmaSchedule { max_decay: 0.9999, inv_gamma: 1.0, power: 0.75 },
        augment: Augment::default(),
        log_every: 0,
        eval_every: 0,
        sample_every: 0,
        export_every: 0,
        save_every: 0,
        keep: 0,
    };
    let network = step::Network {
        config: &model.config,
        layout: &model.layout,
        size: model.sides,
        student_projections: model.projections,
        teacher_projections: model.projections,
        precision,
        recompute,
    };
    let objective = MeanSquared { lambda, timesteps: model.timesteps(batch) };
    let micro = step::micro(network, &settings, &objective)?;
    let update = step::update(&model.layout, &settings, precision)?;
    let feed = Feed {
        x_0: images(model.image_elements(batch)),
        noise_key: noise::key(0, 0, 0).to_vec(),
        coefficients: coefficient_words(&model.schedule, &objective.timesteps),
        embedding: embedding_words(&model.config, &objective.timesteps)?,
        timesteps: objective.timesteps.clone(),
    };
    let mut inputs: Vec<_> = feed.bind(&micro.inputs).map(|(tensor, words)| (tensor, words.to_vec())).to_vec();
    inputs.push((micro.weights, vec![1f32.to_bits(); batch as usize]));
    let scalars = vec![(update.scalars, step::scalars(&settings, 100).to_vec())];
    Ok([Recorded { recording: micro.recording, inputs }, Recorded { recording: update.recording, inputs: scalars }])
}
