//! Gradients of the denoising loss at the base by timestep: how alike they are (paper fig. 1a), and whether the base is a critical
//! point of the whole objective while it is none of a range's (proposition 1). Called by `cli::analyze`.
//!
//! An average over n samples has |mean g|^2 = |E g|^2 + noise / n: taken from few samples it is too large, and would show a gradient
//! where there is none. Therefore every bucket's gradient is measured in H independent groups of images and noise, and products are
//! taken between different groups only: E <g_h, g_h'> = |E g|^2 exactly. Within a group all buckets see the same images and noise.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::store::Store;
use super::{OnBatch, Subject};
use crate::deme::ranges::Ranges;
use crate::diffusion::denoising::{DenoisingLoss, Pair, Trial};
use crate::error::{Error, Result};
use crate::nn::{Role, Slabs};
use crate::rng::{self, Purpose, stream};

/// Noise of group h is sub-stream FIRST + h: no other measurement has it.
const FIRST: u32 = 1000;

/// How much is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// K + 1 numbers: where each bucket of timesteps begins, and T.
    pub bounds: Vec<u32>,
    /// H, at least 3: each is left out once.
    pub groups: usize,
    /// Of each bucket in each group.
    pub images: usize,
}

/// The gradient of a mean over timesteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    pub timesteps: Range<u32>,
    /// Length of the average over all samples, which noise makes longer.
    pub raw: f64,
    /// Length of the noise in that average.
    pub noise: f64,
    /// |E g|^2 without bias; may come out below 0 where there is hardly any gradient.
    pub squared: f64,
    /// Its standard error, by leaving out one group after the other (jackknife).
    pub squared_error: f64,
}

impl Norm {
    /// The length without bias, 0 where the square came out below.
    pub fn length(&self) -> f64 {
        self.squared.max(0.0).sqrt()
    }

    /// The square in standard errors.
    pub fn significance(&self) -> f64 {
        self.squared / self.squared_error
    }
}

/// The gradients of K buckets, compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gradients {
    pub amounts: Amounts,
    /// [K][K], cosines of the averages over all samples of a bucket.
    pub raw_cosines: Vec<Vec<f64>>,
    /// [K][K], without bias; none where a bucket's gradient cannot be told from noise.
    pub cosines: Vec<Vec<Option<f64>>>,
    pub buckets: Vec<Norm>,
    pub ranges: Vec<Norm>,
    pub whole: Norm,
}

/// Buckets of about T / `buckets` timesteps, in each range a whole number of them.
pub fn bounds(ranges: &Ranges, buckets: u32) -> Vec<u32> {
    let total = ranges.whole().end;
    let mut bounds = vec![0];
    for range in ranges.iter() {
        let width = range.end - range.start;
        let parts = ((f64::from(width) * f64::from(buckets) / f64::from(total)).round() as u32).clamp(1, width);
        bounds.extend((1..=parts).map(|i| range.start + (u64::from(width) * u64::from(i) / u64::from(parts)) as u32));
    }
    bounds
}

/// Measures the base. `folder` holds the gradients meanwhile: K x H x 4 bytes a parameter.
///
/// # Errors
/// `NonFinite` for a gradient that is not finite or zero.
pub fn measure(subject: &Subject, amounts: &Amounts, folder: &Path, on_batch: OnBatch) -> Result<Gradients> {
    let Subject { gpu, base, .. } = *subject;
    let theta = subject.load(0)?;
    let slabs = Slabs::new(gpu, &base.layout, Role::Gradient)?;
    let spec = subject.spec(amounts.images);
    let both = (&theta, &slabs);
    let mut loss = DenoisingLoss::with_gradient(gpu, &base.config, &base.schedule, &base.layout, both, spec)?;
    let mut store = Store::create(folder)?;
    for bucket in amounts.bounds.windows(2) {
        for group in 0..amounts.groups {
            let pairs = pairs(subject, amounts, group, bucket[0]..bucket[1]);
            let noise = stream(Purpose::EvalNoise, FIRST + group as u32);
            let trial = Trial { pairs: &pairs, image: subject.image, seed: subject.seed, stream: noise };
            let mut before = 0;
            loss.losses(&trial, 0..pairs.len(), &mut |done| on_batch(done - std::mem::replace(&mut before, done)))?;
            let gradient = take(subject, &slabs)?;
            if gradient.iter().any(|g| !g.is_finite()) {
                let what = format!("the gradient of timesteps {}..{}", bucket[0], bucket[1]);
                return Err(Error::NonFinite { what, step: 0 });
            }
            store.push(&gradient)?;
        }
    }
    let found = summarise(amounts, subject.ranges, &store.products()?);
    match found.buckets.iter().find(|b| b.raw == 0.0) {
        None => Ok(found),
        Some(b) => Err(Error::NonFinite {
            what: format!("the direction of the gradient of timesteps {:?}", b.timesteps),
            step: 0,
        }),
    }
}

/// Images of a group, each at another place of the bucket; places and images are the same in every bucket.
fn pairs(subject: &Subject, amounts: &Amounts, group: usize, bucket: Range<u32>) -> Vec<Pair> {
    let width = f64::from(bucket.end - bucket.start);
    let pair = |k: usize| {
        // Sets are often sorted by kind: neighbours go to different groups.
        let image = subject.images[(k * amounts.groups + group) % subject.images.len()];
        let draw = rng::uniform(subject.seed, stream(Purpose::EvalTimestep, FIRST + group as u32), k as u64);
        let place = width * (k as f64 + draw) / amounts.images as f64;
        Pair { image, t: (bucket.start + place as u32).min(bucket.end - 1) as usize }
    };
    (0..amounts.images).map(pair).collect()
}

/// The gradient that backward passes have added up, which starts again from zero.
fn take(subject: &Subject, slabs: &Slabs) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for storage in &slabs.storages {
        let values = subject.gpu.read(storage, 0, storage.elements)?;
        subject.gpu.write(storage, 0, &vec![0.0; values.len()])?;
        all.extend(values);
    }
    Ok(all)
}

/// Products between the groups of two weighted sums of buckets: [H][H], `products` being of bucket by bucket, in each the groups.
fn between(products: &[Vec<f64>], groups: usize, [a, b]: [&[f64]; 2]) -> Vec<Vec<f64>> {
    let sum = |h: usize, g: usize| {
        let pairs = (0..a.len()).flat_map(|j| (0..b.len()).map(move |k| (j, k))).filter(|&(j, k)| a[j] * b[k] != 0.0);
        pairs.map(|(j, k)| a[j] * b[k] * products[j * groups + h][k * groups + g]).sum()
    };
    (0..groups).map(|h| (0..groups).map(|g| sum(h, g)).collect()).collect()
}

/// The mean over different groups, without group `left_out`.
fn unbiased(between: &[Vec<f64>], left_out: Option<usize>) -> f64 {
    let kept: Vec<usize> = (0..between.len()).filter(|&h| Some(h) != left_out).collect();
    let pairs = kept.iter().flat_map(|&h| kept.iter().map(move |&g| (h, g))).filter(|(h, g)| h != g);
    pairs.map(|(h, g)| between[h][g]).sum::<f64>() / (kept.len() * (kept.len() - 1)) as f64
}

/// The mean over all groups.
fn raw(between: &[Vec<f64>]) -> f64 {
    between.iter().flatten().sum::<f64>() / (between.len() * between.len()) as f64
}

fn norm(products: &[Vec<f64>], groups: usize, timesteps: Range<u32>, weights: &[f64]) -> Norm {
    let own = between(products, groups, [weights, weights]);
    let squared = unbiased(&own, None);
    let n = groups as f64;
    let parts: Vec<f64> = (0..groups).map(|h| unbiased(&own, Some(h))).collect();
    let mean = parts.iter().sum::<f64>() / n;
    let squared_error = ((n - 1.0) / n * parts.iter().map(|p| (p - mean).powi(2)).sum::<f64>()).sqrt();
    let alone = (0..groups).map(|h| own[h][h]).sum::<f64>() / n;
    let noise = ((alone - squared).max(0.0) / n).sqrt();
    Norm { timesteps, raw: raw(&own).max(0.0).sqrt(), noise, squared, squared_error }
}

/// Everything that follows from the products of all gradients.
fn summarise(amounts: &Amounts, ranges: &Ranges, products: &[Vec<f64>]) -> Gradients {
    let (k, groups) = (amounts.bounds.len() - 1, amounts.groups);
    let bucket = |j: usize| amounts.bounds[j]..amounts.bounds[j + 1];
    // Of a mean over `timesteps`, each as likely: the buckets inside weigh as they are wide.
    let weights = |timesteps: &Range<u32>| -> Vec<f64> {
        let inside = |b: &Range<u32>| b.start >= timesteps.start && b.end <= timesteps.end;
        let share = |b: Range<u32>| if inside(&b) { b.len() as f64 / timesteps.len() as f64 } else { 0.0 };
        (0..k).map(|j| share(bucket(j))).collect()
    };
    let of = |timesteps: Range<u32>| {
        let weights = weights(&timesteps);
        norm(products, groups, timesteps, &weights)
    };
    let single = |j: usize| -> Vec<f64> { (0..k).map(|i| f64::from(u8::from(i == j))).collect() };
    let buckets: Vec<Norm> = (0..k).map(|j| of(bucket(j))).collect();
    let seen = |norm: &Norm| norm.squared > 0.0 && norm.significance() > 2.0;
    let (mut raw_cosines, mut cosines) = (vec![vec![0.0; k]; k], vec![vec![None; k]; k]);
    for i in 0..k {
        for j in 0..=i {
            let both = between(products, groups, [&single(i), &single(j)]);
            let (a, b) = (&buckets[i], &buckets[j]);
            raw_cosines[i][j] = raw(&both) / (a.raw * b.raw);
            // An estimate may leave [-1, 1] by its noise; an angle may not.
            let cosine = unbiased(&both, None) / (a.squared * b.squared).sqrt();
            cosines[i][j] = (seen(a) && seen(b)).then(|| cosine.clamp(-1.0, 1.0));
            (raw_cosines[j][i], cosines[j][i]) = (raw_cosines[i][j], cosines[i][j]);
        }
    }
    let amounts = amounts.clone();
    Gradients {
        amounts,
        raw_cosines,
        cosines,
        buckets,
        ranges: ranges.iter().map(of).collect(),
        whole: of(ranges.whole()),
    }
}

impl Gradients {
    /// Cosines of different buckets inside these timesteps, as measured.
    pub fn pairs(&self, timesteps: &Range<u32>) -> Vec<f64> {
        let inside = |j: &usize| {
            self.buckets[*j].timesteps.start >= timesteps.start && self.buckets[*j].timesteps.end <= timesteps.end
        };
        let own: Vec<usize> = (0..self.buckets.len()).filter(inside).collect();
        own.iter()
            .flat_map(|&i| own.iter().filter(move |&&j| j < i).map(move |&j| (i, j)))
            .map(|(i, j)| self.raw_cosines[i][j])
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn buckets_refine_the_ranges() {
        let even = Ranges::even(1000, 4).unwrap();
        assert_eq!(bounds(&even, 20), (0..=20).map(|i| 50 * i).collect::<Vec<_>>());
        let cut = Ranges::cut(1000, &[0, 10, 500, 1000]).unwrap();
        assert_eq!(bounds(&cut, 4), [0, 10, 255, 500, 750, 1000]);
        assert_eq!(bounds(&Ranges::even(3, 3).unwrap(), 50), [0, 1, 2, 3]);
    }

    /// Gradients of two buckets with opposite means of length 1, each measured in groups under noise of 12.5 in square.
    fn opposite(seed: u64, groups: usize) -> Gradients {
        const SIZE: usize = 50;
        let mean = |bucket: usize| if bucket == 0 { 1.0 } else { -1.0 } / (SIZE as f64).sqrt();
        let normal = |row: usize, e: usize| 0.5 * rng::normal4(seed, row as u64, e as u64)[0];
        let vector = |row: usize| (0..SIZE).map(|e| mean(row / groups) + normal(row, e)).collect::<Vec<f64>>();
        let all: Vec<Vec<f64>> = (0..2 * groups).map(vector).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let products: Vec<Vec<f64>> = all.iter().map(|a| all.iter().map(|b| dot(a, b)).collect()).collect();
        let amounts = Amounts { bounds: vec![0, 500, 1000], groups, images: 1 };
        summarise(&amounts, &Ranges::even(1000, 2).unwrap(), &products)
    }

    /// The whole has no gradient, each half has: the estimates without bias say so, the raw ones do not.
    #[test]
    fn noise_makes_no_gradient() {
        const SEEDS: u64 = 40;
        const GROUPS: usize = 50;
        let found: Vec<Gradients> = (0..SEEDS).map(|seed| opposite(seed, GROUPS)).collect();
        let average = |of: &dyn Fn(&Gradients) -> f64| found.iter().map(of).sum::<f64>() / SEEDS as f64;
        // The noise of a half's mean is 12.5 / 50, of the whole's half that.
        for half in [0, 1] {
            assert!((average(&|g| g.ranges[half].squared) - 1.0).abs() < 0.1);
            assert!((average(&|g| g.ranges[half].raw.powi(2)) - 1.25).abs() < 0.1);
            assert!((average(&|g| g.ranges[half].noise.powi(2)) - 0.25).abs() < 0.01);
            assert!(average(&|g| g.ranges[half].significance()) > 5.0);
        }
        assert!((average(&|g| g.whole.raw.powi(2)) - 0.125).abs() < 0.015);
        assert!(average(&|g| g.whole.squared).abs() < 0.015);
        // The standard error is that of the estimates: in units of it they scatter by about 1.
        let scatter = average(&|g| g.whole.significance().powi(2)).sqrt();
        assert!((0.6..1.6).contains(&scatter), "{scatter}");
        for g in &found {
            for norm in g.ranges.iter().chain([&g.whole]) {
                assert!((norm.raw.powi(2) - norm.squared - norm.noise.powi(2)).abs() < 1e-9, "{norm:?}");
            }
            assert!((g.raw_cosines[1][1] - 1.0).abs() < 1e-12 && g.raw_cosines[0][1] > -0.95);
            assert_eq!(g.pairs(&(0..1000)), [g.raw_cosines[0][1]]);
            assert!(g.pairs(&(0..500)).is_empty());
        }
        assert!(average(&|g| g.raw_cosines[0][1]) > -0.9);
        assert!((average(&|g| g.cosines[0][1].unwrap()) + 1.0).abs() < 0.1);
    }
}
