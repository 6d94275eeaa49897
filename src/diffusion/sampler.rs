//! DDIM sampling on the GPU: one recording a step, replayed; x stays on the GPU until the end.
//! Called by `cli::sample`, `train` (sample grids) and the demo. Ensembles swap theta between steps.

use super::ddim::DdimStep;
use super::denoising::embedding_words;
use super::schedule::{Prediction, Schedule};
use super::spacing::Step;
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions, Storage};
use crate::kernels::{ddim, noise};
use crate::model::config::UNetConfig;
use crate::model::unet::Projections;
use crate::nn::{Net, ParamLayout, Role, Slabs};
use crate::recording::{Recording, Tensor};
use crate::rng::{Purpose, stream};
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;

/// Where the noise that eta > 0 adds comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepNoise {
    /// eta = 0: none.
    None,
    /// A function of (seed, step, image).
    Generated,
    /// Given by the caller, step by step.
    Given,
}

/// The shape of what is sampled.
#[derive(Debug, Clone, Copy)]
pub struct SampleSpec {
    pub batch: u32,
    pub height: u32,
    pub width: u32,
    pub step_noise: StepNoise,
    pub projections: Projections,
}

/// A trajectory: its steps, and what makes it this one.
pub struct Trajectory<'a> {
    pub steps: &'a [Step],
    pub eta: f64,
    pub seed: u64,
    /// Number of the batch's first image: picture k is the same in every batch size.
    pub first_image: u64,
    /// x_T, [N, H, W, padded C]; generated from the seed where None.
    pub noise: Option<&'a [f32]>,
    /// For `StepNoise::Given`: the noise of step k, [N, H, W, padded C].
    pub given: Option<&'a dyn Fn(usize) -> Result<Vec<f32>>>,
}

/// Which weights run at a timestep: an index into the sampler's sets.
pub type ChooseSet<'a> = &'a dyn Fn(usize) -> usize;

/// A UNet made ready to sample batches of one shape.
pub struct Sampler {
    gpu: Gpu,
    config: UNetConfig,
    schedule: Schedule,
    spec: SampleSpec,
    plan: Plan,
    start: Plan,
    x: Storage,
    given: Option<Storage>,
    embedding: Tensor,
    coefficients: Tensor,
    step_key: Option<Tensor>,
    start_key: Tensor,
    theta: Slabs,
    /// Which set is in theta now.
    loaded: Option<usize>,
    sets: Vec<Slabs>,
}

/// Key of the picture under way.
const X_KEY: &str = "x";
const GIVEN_KEY: &str = "step_noise";

fn external(rec: &mut Recording, key: &str, shape: Shape) -> Tensor {
    Tensor { buffer: rec.external(key, shape.elements()), offset: 0, shape }
}

impl Sampler {
    /// `sets`: the weights; one for a model, N for an ensemble, all of the same elements. With one set nothing is copied.
    pub fn new(
        gpu: &Gpu,
        config: &UNetConfig,
        schedule: &Schedule,
        layout: &ParamLayout,
        sets: &[Slabs],
        spec: SampleSpec,
    ) -> Result<Self> {
        let [batch, h, w] = [spec.batch, spec.height, spec.width];
        let (channels, stored) = (config.in_channels, padded_channels(config.in_channels));
        if config.out_channels != channels {
            let message = format!("the model gives {} channels for {channels}", config.out_channels);
            return Err(Error::shape("sampling", message));
        }
        let shape = Shape::new([batch, h, w, stored]);
        let mut tape = Tape::new(Recording::new("ddim step").at(gpu.precision()));
        let x = external(&mut tape.rec, X_KEY, shape);
        let embedding = tape.rec.input("embedding", Shape::new([batch, config.block_out_channels[0]]), DType::F32);
        let coefficients = tape.rec.input("ddim coefficients", Shape::new([ddim::COEFFICIENTS]), DType::F32);
        let stored = sets.first().map_or(gpu.precision().stored(), |set| set.stored);
        let mut net = Net { tape: &mut tape, layout, role: Role::Theta, stored, trained: false };
        let output = config.forward(&mut net, &x, &embedding, spec.projections, &mut |_, _| ())?;
        let mut rec = tape.rec;
        let mut step_key = None;
        let step_noise = match spec.step_noise {
            StepNoise::None => None,
            StepNoise::Generated => {
                let key = rec.input("noise key", Shape::new([noise::KEY_WORDS]), DType::U32);
                step_key = Some(key);
                Some(noise::noise(&mut rec, &key, shape, channels)?)
            }
            StepNoise::Given => Some(external(&mut rec, GIVEN_KEY, shape)),
        };
        let predicts = match schedule.prediction {
            Prediction::Epsilon => ddim::Predicts::Epsilon,
            Prediction::V => ddim::Predicts::V,
            Prediction::Sample => ddim::Predicts::Sample,
        };
        ddim::ddim_step(&mut rec, &x, &output, step_noise.as_ref(), &coefficients, channels, predicts)?;

        let mut start = Recording::new("starting noise");
        let start_key = start.input("noise key", Shape::new([noise::KEY_WORDS]), DType::U32);
        let start_x = external(&mut start, X_KEY, shape);
        noise::noise_into(&mut start, &start_key, &start_x, channels)?;

        let theta = match sets {
            [only] => only.clone(),
            _ => Slabs::of(gpu, layout, Role::Theta, stored)?,
        };
        let mut externals = Externals::new();
        theta.bind_as(Role::Theta, &mut externals);
        let storage = gpu.storage(X_KEY, shape.elements())?;
        externals.insert(X_KEY.to_string(), storage.clone());
        let given = match spec.step_noise {
            StepNoise::Given => Some(gpu.storage(GIVEN_KEY, shape.elements())?),
            _ => None,
        };
        if let Some(given) = &given {
            externals.insert(GIVEN_KEY.to_string(), given.clone());
        }
        let options = PlanOptions::default();
        Ok(Self {
            plan: Plan::new(gpu, rec.fused(), &externals, &options)?,
            start: Plan::new(gpu, start, &externals, &options)?,
            gpu: gpu.clone(),
            config: config.clone(),
            schedule: schedule.clone(),
            spec,
            x: storage,
            given,
            embedding,
            coefficients,
            step_key,
            start_key,
            loaded: (sets.len() == 1).then_some(0),
            theta,
            sets: sets.to_vec(),
        })
    }

    /// Bytes of the plans' own buffers.
    pub fn own_bytes(&self) -> Result<u64> {
        Ok(self.plan.own_bytes()? + self.start.own_bytes()?)
    }

    /// Images of a trajectory.
    pub fn batch(&self) -> u32 {
        self.spec.batch
    }

    /// x_0 of a batch, [N, H, W, padded C], before any rounding. `on_step` is called after each step is submitted; its
    /// error stops the trajectory.
    pub fn sample(
        &mut self,
        trajectory: &Trajectory,
        choose: ChooseSet,
        on_step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let blocks = noise::blocks_per_image(self.spec.height, self.spec.width, self.config.in_channels);
        let first_block = trajectory.first_image * blocks;
        match trajectory.noise {
            Some(x_t) => self.gpu.write(&self.x, 0, x_t)?,
            None => {
                let key = noise::key(trajectory.seed, stream(Purpose::SampleStart, 0), first_block);
                self.start.run(&[(self.start_key, &key)])?;
            }
        }
        for (k, &step) in trajectory.steps.iter().enumerate() {
            self.load(choose(step.t))?;
            let embedding = embedding_words(&self.config, &vec![step.t; self.spec.batch as usize])?;
            let coefficients = coefficient_words(&self.schedule.ddim_step(step, trajectory.eta)?);
            let key = noise::key(trajectory.seed, stream(Purpose::SampleStep, k as u32), first_block);
            let mut inputs: Vec<(Tensor, &[u32])> =
                vec![(self.embedding, &embedding), (self.coefficients, &coefficients)];
            if let Some(step_key) = self.step_key {
                inputs.push((step_key, &key));
            }
            if let (Some(storage), Some(given)) = (&self.given, trajectory.given) {
                self.plan.wait()?;
                self.gpu.write(storage, 0, &given(k)?)?;
            }
            self.plan.run(&inputs)?;
            on_step(k)?;
        }
        self.plan.wait()?;
        let x_0 = self.gpu.read(&self.x, 0, self.x.elements)?;
        match x_0.iter().all(|v| v.is_finite()) {
            true => Ok(x_0),
            false => Err(Error::NonFinite { what: "the sample".into(), step: trajectory.steps.len() as u64 }),
        }
    }

    fn load(&mut self, set: usize) -> Result<()> {
        if self.loaded != Some(set) {
            self.sets[set].copy_to(&self.gpu, &self.theta)?;
            self.loaded = Some(set);
        }
        Ok(())
    }
}

/// The words of the update's coefficients.
pub fn coefficient_words(step: &DdimStep) -> [u32; ddim::COEFFICIENTS as usize] {
    ddim::coefficients(
        [step.sqrt_alpha_bar, step.sqrt_one_minus_alpha_bar, step.sqrt_alpha_bar_prev, step.direction, step.sigma],
        step.clip,
    )
}
