//! The denoising loss around the base, overall and in each range: on a plane of random directions and along the task vectors (paper
//! fig. 4), and on the plane of two task vectors (fig. 7a). A point of a line or plane is a merge, made on the GPU; all points are
//! judged on the same images, timesteps and noise as by `deme eval loss`. Called by `cli::analyze`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::directions::{PlaneBasis, even, filter_normalised};
use super::{OnBatch, Subject};
use crate::deme::blocks::Per;
use crate::deme::judge::{Merger, ReadTensor};
use crate::diffusion::denoising::{DenoisingLoss, Pair, Trial, stratified_pairs};
use crate::diffusion::summary::{StandardError, Summary};
use crate::error::{Error, Result};
use crate::nn::Slabs;
use crate::rng::{Purpose, stream};

/// A loss, and how it differs from the base's on the same pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub loss: f64,
    pub difference: f64,
    pub difference_error: StandardError,
}

/// One model on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Coordinates: one on a line, two on a plane.
    pub at: Vec<f64>,
    /// What the task vectors or directions are multiplied by.
    pub weights: Vec<f64>,
    /// Each timestep as likely.
    pub overall: Loss,
    pub ranges: Vec<Loss>,
}

/// theta + a tau_i
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub expert: usize,
    pub points: Vec<Point>,
}

/// A grid of points, row by row from the lowest y.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plane {
    pub x: Vec<f64>,
    pub y: Vec<f64>,
    pub points: Vec<Point>,
}

impl Plane {
    /// Where the loss is smallest, overall or in a range.
    pub fn lowest(&self, range: Option<usize>) -> Option<&Point> {
        self.points.iter().min_by(|a, b| a.of(range).loss.total_cmp(&b.of(range).loss))
    }
}

impl Point {
    pub fn of(&self, range: Option<usize>) -> Loss {
        range.map_or(self.overall, |r| self.ranges[r])
    }
}

/// Around the base: a plane of two random directions, and a line along each task vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Around {
    pub random: Plane,
    pub lines: Vec<Line>,
}

/// The plane of two task vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskPlane {
    /// Numbers of the two experts.
    pub experts: [usize; 2],
    /// Where they lie; the base is at [0, 0]. Distances are |theta - base|.
    pub places: [[f64; 2]; 2],
    pub plane: Plane,
}

/// The places along a task vector: from before the base to beyond the expert.
pub fn line_places(n: usize) -> Vec<f64> {
    even(-0.5, 1.5, n)
}

/// The models' losses on fixed pairs.
pub struct Judge<'a> {
    subject: Subject<'a>,
    theta: Slabs,
    loss: DenoisingLoss,
    pairs: Vec<Pair>,
    base: Vec<f64>,
}

impl<'a> Judge<'a> {
    /// `pairs` images in each range; judges the base.
    pub fn new(subject: Subject<'a>, pairs: usize, on_batch: OnBatch) -> Result<Self> {
        let base = subject.base;
        let images: Vec<usize> = subject.images.iter().copied().take(pairs).collect();
        let pairs = stratified_pairs(&images, &subject.buckets(), pairs.div_ceil(images.len()), subject.seed);
        let theta = subject.load(0)?;
        let spec = subject.spec(pairs.len());
        let loss = DenoisingLoss::new(subject.gpu, &base.config, &base.schedule, &base.layout, &theta, spec)?;
        let mut judge = Self { subject, theta, loss, pairs, base: Vec::new() };
        judge.base = judge.losses(on_batch)?;
        Ok(judge)
    }

    /// Pairs that each point is judged on.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    fn losses(&mut self, on_batch: OnBatch) -> Result<Vec<f64>> {
        let Subject { image, seed, .. } = self.subject;
        let trial = Trial { pairs: &self.pairs, image, seed, stream: stream(Purpose::EvalNoise, 0) };
        let mut before = 0;
        self.loss.losses(&trial, 0..self.pairs.len(), &mut |done| on_batch(done - std::mem::replace(&mut before, done)))
    }

    /// Of base and `others` models, ready to be merged.
    fn merger(&self, others: u32, read: ReadTensor) -> Result<Merger> {
        Merger::new(self.subject.gpu, &self.subject.base.layout, others, Per::Model, read, &self.theta)
    }

    fn point(&mut self, merger: &mut Merger, at: &[f64], weights: &[f64], on_batch: OnBatch) -> Result<Point> {
        merger.merge(weights)?;
        let losses = self.losses(on_batch)?;
        let ranges = self.subject.ranges;
        let images: Vec<usize> = self.pairs.iter().map(|p| p.image).collect();
        let each = self.pairs.len() / ranges.len() as usize;
        // Every range has as many pairs; overall, they weigh as their ranges are wide.
        let share = |r: &Range<u32>| r.len() as f64 * f64::from(ranges.len()) / ranges.whole().len() as f64;
        let shares: Vec<f64> = ranges.iter().flat_map(|r| std::iter::repeat_n(share(&r), each)).collect();
        let weighed = |losses: &[f64]| losses.iter().zip(&shares).map(|(l, s)| l * s).collect::<Vec<_>>();
        let in_range = |r: usize| {
            let own = r * each..(r + 1) * each;
            compare(&losses[own.clone()], &self.base[own.clone()], &images[own])
        };
        Ok(Point {
            at: at.to_vec(),
            weights: weights.to_vec(),
            overall: compare(&weighed(&losses), &weighed(&self.base), &images),
            ranges: (0..ranges.len() as usize).map(in_range).collect(),
        })
    }

    /// theta + a tau_i at `places`. Only the base and this expert are on the GPU.
    pub fn line(&mut self, expert: usize, places: &[f64], on_batch: OnBatch) -> Result<Line> {
        let subject = self.subject;
        let mut merger = self.merger(1, &|i, name| subject.read(if i == 0 { 0 } else { expert + 1 }, name))?;
        let points = places.iter().map(|&a| self.point(&mut merger, &[a], &[a], on_batch)).collect::<Result<_>>()?;
        Ok(Line { expert, points })
    }

    /// The plane of two random directions, each coordinate from -radius to radius: at 1 a filter has moved by its own norm.
    pub fn random_plane(&mut self, radius: f64, n: usize, on_batch: OnBatch) -> Result<Plane> {
        let subject = self.subject;
        let read = |i: usize, name: &str| {
            let mut theta = subject.base.read(name)?;
            let params = &subject.base.layout.params;
            if let (Some(direction), Some(tensor)) = (i.checked_sub(1), params.iter().position(|p| p.name == name)) {
                let numbers = [direction as u32, tensor as u32];
                let moved = filter_normalised(&theta, params[tensor].layout, subject.seed, numbers);
                theta.iter_mut().zip(moved).for_each(|(t, d)| *t += d);
            }
            Ok(theta)
        };
        let mut merger = self.merger(2, &read)?;
        let axis = even(-radius, radius, n);
        self.plane(&mut merger, [axis.clone(), axis], &|at| at, on_batch)
    }

    /// The plane of the task vectors of two experts, in an orthonormal basis.
    pub fn task_plane(
        &mut self,
        experts: [usize; 2],
        basis: &PlaneBasis,
        n: usize,
        on_batch: OnBatch,
    ) -> Result<TaskPlane> {
        let subject = self.subject;
        let number = |i: usize| if i == 0 { 0 } else { experts[i - 1] + 1 };
        let mut merger = self.merger(2, &|i, name| subject.read(number(i), name))?;
        let plane = self.plane(&mut merger, basis.grid(n), &|at| basis.weights(at), on_batch)?;
        Ok(TaskPlane { experts, places: basis.experts(), plane })
    }

    fn plane(
        &mut self,
        merger: &mut Merger,
        [x, y]: [Vec<f64>; 2],
        weights: &dyn Fn([f64; 2]) -> [f64; 2],
        on_batch: OnBatch,
    ) -> Result<Plane> {
        let places = y.iter().flat_map(|&y| x.iter().map(move |&x| [x, y]));
        let points = places.map(|at| self.point(merger, &at, &weights(at), on_batch)).collect::<Result<_>>()?;
        Ok(Plane { x, y, points })
    }
}

fn compare(losses: &[f64], base: &[f64], images: &[usize]) -> Loss {
    let loss = Summary::of(losses, images).mean;
    let Summary { mean, standard_error, .. } = Summary::of_difference(losses, base, images);
    Loss { loss, difference: mean, difference_error: standard_error }
}

/// The refusal of two task vectors that span no plane.
pub fn no_plane(experts: [usize; 2]) -> Error {
    let [i, j] = experts;
    let message = format!("the task vectors of experts {i} and {j} span no plane: one is zero, or both are parallel");
    Error::usage(message, "give two other experts with --plane, or leave the plane out with --only")
}
