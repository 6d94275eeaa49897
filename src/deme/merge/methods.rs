//! How one tensor of base and experts becomes one of the merged model, in f64, rounded once. Called by `deme::merge`.

use super::Weights;
use crate::error::{Error, Result};
use crate::rng::{Purpose, stream, uniform};

/// What is done with the task vectors tau_i = theta_i - theta.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// theta + sum w_i tau_i (paper, eq. 8)
    Task,
    /// TIES (arXiv 2306.01708): of each tau_i the fraction `density` of its largest elements in each tensor; where signs of the
    /// w_i tau_i disagree, those of the larger sum alone; their mean by weight, times `lambda`.
    Ties { density: f64, lambda: f64 },
    /// DARE (arXiv 2311.03099): each element of each tau_i kept with probability `density` and divided by it, then as Task.
    Dare { density: f64, seed: u64 },
    /// From expert 0 (weight 0) to expert 1 (weight 1) on the arc between their tensors; the base takes no part.
    Slerp,
    /// The mean of the experts; the base and the weights take no part.
    Soup,
}

impl Method {
    /// What it computes, for deme.json.
    pub fn formula(self) -> &'static str {
        match self {
            Self::Task => "theta + sum of w_i (theta_i - theta)",
            Self::Ties { .. } => {
                "theta + lambda times the mean by w_i of those trimmed theta_i - theta that have the elected sign"
            }
            Self::Dare { .. } => "theta + sum of w_i drop(theta_i - theta) / density",
            Self::Slerp => "sin((1 - w) a) / sin(a) theta_0 + sin(w a) / sin(a) theta_1, a the angle between them",
            Self::Soup => "mean of theta_i",
        }
    }

    /// Refuses another number of experts or weights than the method takes, and numbers that make no sense.
    pub(super) fn check(self, experts: usize, weights: &Weights) -> Result<()> {
        let given = weights.len();
        match self {
            Self::Slerp if experts != 2 => {
                let message = format!("an arc between {experts} experts");
                return Err(Error::usage(message, "slerp takes exactly two --experts"));
            }
            Self::Slerp if given != 1 => {
                let message = format!("{given} weights for an arc");
                return Err(Error::usage(message, "slerp takes one weight, 0 for expert 0 and 1 for expert 1"));
            }
            Self::Soup if experts == 0 => return Err(Error::usage("a soup of no experts", "name one at least")),
            Self::Task | Self::Ties { .. } | Self::Dare { .. } if given != experts => {
                let message = format!("{given} weights for {experts} experts");
                return Err(Error::usage(message, "give one weight for each expert, in the experts' order"));
            }
            _ => {}
        }
        match self {
            Self::Ties { density, .. } | Self::Dare { density, .. } if !(density > 0.0 && density <= 1.0) => {
                Err(Error::usage(format!("a density of {density}"), "it is a fraction above 0, at most 1"))
            }
            Self::Ties { lambda, .. } if !lambda.is_finite() => {
                Err(Error::usage(format!("a lambda of {lambda}"), "it is a finite number, such as 1"))
            }
            _ => Ok(()),
        }
    }

    /// The merged tensor called `name`; `w` has one weight an expert, or for Slerp one.
    pub(super) fn combine(self, name: &str, theta: Vec<f32>, experts: &[Vec<f32>], w: &[f64]) -> Vec<f32> {
        match self {
            Self::Task => task(theta, experts, w),
            Self::Ties { density, lambda } => ties(theta, experts, w, [density, lambda]),
            Self::Dare { density, seed } => dare(name, theta, experts, w, (density, seed)),
            Self::Slerp => slerp(experts, w),
            Self::Soup => soup(experts),
        }
    }
}

/// theta + sum w_i (theta_i - theta), element by element.
fn task(theta: Vec<f32>, experts: &[Vec<f32>], weights: &[f64]) -> Vec<f32> {
    let active: Vec<(f64, &Vec<f32>)> = weights.iter().copied().zip(experts).filter(|(w, _)| *w != 0.0).collect();
    // theta + (theta_i - theta) is theta_i in exact arithmetic only: the difference may not fit f64.
    if let [(1.0, expert)] = active[..] {
        return expert.clone();
    }
    let kept = |_: usize, _: usize| 1.0;
    summed(theta, &active, kept)
}

/// theta + sum w_i kept(i, e) (theta_i - theta) over the weighted experts, e being the element.
fn summed(theta: Vec<f32>, active: &[(f64, &Vec<f32>)], kept: impl Fn(usize, usize) -> f64) -> Vec<f32> {
    let mut merged = theta;
    let mut terms = Vec::with_capacity(active.len());
    for (e, value) in merged.iter_mut().enumerate() {
        let base = *value;
        terms.clear();
        for (i, (w, expert)) in active.iter().enumerate() {
            let factor = kept(i, e);
            // Equal values contribute nothing, not even +0 to a theta of -0; nor do dropped ones.
            if factor != 0.0 && expert[e].to_bits() != base.to_bits() {
                terms.push(w * factor * (f64::from(expert[e]) - f64::from(base)));
            }
        }
        if !terms.is_empty() {
            *value = (f64::from(base) + sum(&mut terms)) as f32;
        }
    }
    merged
}

/// Sorted, so that the sum is a function of the set of terms, not of their order.
fn sum(terms: &mut [f64]) -> f64 {
    terms.sort_unstable_by(f64::total_cmp);
    terms.iter().sum()
}

/// The elements of a task vector that TIES keeps: the floor(density n) largest, of equal ones the first; all at density 1.
fn largest(theta: &[f32], expert: &[f32], density: f64) -> Vec<bool> {
    let size = |i: &usize| (f64::from(expert[*i]) - f64::from(theta[*i])).abs();
    let keep = if density >= 1.0 { theta.len() } else { (density * theta.len() as f64) as usize };
    let mut order: Vec<usize> = (0..theta.len()).collect();
    order.sort_by(|a, b| size(b).total_cmp(&size(a)));
    let mut kept = vec![false; theta.len()];
    order.into_iter().take(keep).for_each(|i| kept[i] = true);
    kept
}

fn ties(theta: Vec<f32>, experts: &[Vec<f32>], weights: &[f64], [density, lambda]: [f64; 2]) -> Vec<f32> {
    let kept: Vec<Vec<bool>> = experts.iter().map(|e| largest(&theta, e, density)).collect();
    let mut merged = theta;
    for (e, value) in merged.iter_mut().enumerate() {
        let base = *value;
        let term = |(i, w): (usize, &f64)| {
            let tau = f64::from(experts[i][e]) - f64::from(base);
            (kept[i][e] && *w * tau != 0.0).then_some((*w, tau))
        };
        let terms: Vec<(f64, f64)> = weights.iter().enumerate().filter_map(term).collect();
        let elected = sum(&mut terms.iter().map(|(w, tau)| w * tau).collect::<Vec<_>>()) >= 0.0;
        let agree: Vec<(f64, f64)> = terms.into_iter().filter(|(w, tau)| (w * tau > 0.0) == elected).collect();
        // The mean of a single one is itself, which a quotient need not be.
        let mean = match agree[..] {
            [] => continue,
            [(w, tau)] => w.signum() * tau,
            _ => {
                let total = sum(&mut agree.iter().map(|(w, tau)| w * tau).collect::<Vec<_>>());
                total / sum(&mut agree.iter().map(|(w, _)| w.abs()).collect::<Vec<_>>())
            }
        };
        *value = (f64::from(base) + lambda * mean) as f32;
    }
    merged
}

/// FNV-1a, 64 bits: a tensor's own random numbers, whatever the others are.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

fn dare(name: &str, theta: Vec<f32>, experts: &[Vec<f32>], weights: &[f64], (density, seed): (f64, u64)) -> Vec<f32> {
    if density >= 1.0 {
        return task(theta, experts, weights);
    }
    let numbered: Vec<(u32, f64, &Vec<f32>)> =
        (0..).zip(weights).zip(experts).map(|((i, &w), e)| (i, w, e)).filter(|(_, w, _)| *w != 0.0).collect();
    let active: Vec<(f64, &Vec<f32>)> = numbered.iter().map(|&(_, w, e)| (w, e)).collect();
    let seed = seed ^ hash(name);
    let kept = |i: usize, e: usize| {
        let draw = uniform(seed, stream(Purpose::MergeDrop, numbered[i].0), e as u64);
        if draw < density { 1.0 / density } else { 0.0 }
    };
    summed(theta, &active, kept)
}

/// Above this cosine two tensors are taken for one direction, and the arc for the line.
const COLLINEAR: f64 = 0.9995;

fn slerp(experts: &[Vec<f32>], weights: &[f64]) -> Vec<f32> {
    let ([a, b], [t]) = (experts, weights) else { return Vec::new() };
    match *t {
        0.0 => return a.clone(),
        1.0 => return b.clone(),
        _ => {}
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    let cosine = if lengths > 0.0 { dot(a, b) / lengths } else { 1.0 };
    let (from, to) = if cosine.abs() > COLLINEAR {
        (1.0 - t, *t)
    } else {
        let angle = cosine.acos();
        (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
    };
    a.iter().zip(b).map(|(a, b)| (from * f64::from(*a) + to * f64::from(*b)) as f32).collect()
}

fn soup(experts: &[Vec<f32>]) -> Vec<f32> {
    let first = experts.first().map_or(0, Vec::len);
    let mean = |e: usize| {
        let mut values: Vec<f64> = experts.iter().map(|x| f64::from(x[e])).collect();
        // Of equal values the sign of zero is kept too.
        if values.iter().all(|v| v.to_bits() == values[0].to_bits()) {
            return experts[0][e];
        }
        (sum(&mut values) / experts.len() as f64) as f32
    };
    (0..first).map(mean).collect()
}
