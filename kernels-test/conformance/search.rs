//! The derivative of a merged model's loss by the merge weights, against difference quotients of that loss.
//! Called by `conformance.rs`.

use std::path::Path;

use super::harness::device::gpu;
use crate::support::fixtures::{fixture_tensor, json};
use deme::deme::blocks::Per;
use deme::deme::judge::{MergedLoss, Merger};
use deme::deme::search::Objective;
use deme::diffusion::denoising::{DenoisingLoss, LossSpec, Pair, Trial};
use deme::diffusion::schedule::Schedule;
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors;
use deme::model::unet::Projections;
use deme::nn::{ParamLayout, Role, Slabs};
use deme::rng::uniform;

const EXPERTS: usize = 3;

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// One weight an expert, and one an expert and block; six pairs in batches of four, so that the last batch is filled up.
#[test]
fn the_derivative_by_the_weights_is_that_of_the_loss() {
    let facts = json("deme_updates");
    let config = UNetConfig::from_json(Path::new("config.json"), facts["config"].as_object().unwrap()).unwrap();
    let schedule = Schedule::from_json(Path::new("scheduler.json"), facts["scheduler"].as_object().unwrap()).unwrap();
    let specs = tensors::expected(&config, Placement::None);
    let layout = ParamLayout::new(specs.iter().map(|t| (t.name.as_str(), t.shape.as_slice()))).unwrap();
    let read = |model: usize, name: &str| {
        let shape = layout.find(name).unwrap().layout.file_shape();
        let mut theta = fixture_tensor(1, name, &shape);
        if model > 0 {
            let other = fixture_tensor(1 + model as u64, name, &shape);
            theta.iter_mut().zip(other).for_each(|(t, o)| *t += 0.15 * (o - *t));
        }
        Ok(theta)
    };
    let sides = config.sample_size.unwrap();
    let spec = LossSpec { batch: 4, sides, projections: Projections::Skip };
    let [theta, slabs] = [Role::Theta, Role::Gradient].map(|role| Slabs::new(gpu(), &layout, role).unwrap());
    let mut plain = DenoisingLoss::new(gpu(), &config, &schedule, &layout, &theta, spec).unwrap();
    let both = (&theta, &slabs);
    let mut loss = DenoisingLoss::with_gradient(gpu(), &config, &schedule, &layout, both, spec).unwrap();
    let pairs: Vec<Pair> = (0..6).map(|k| Pair { image: k, t: 20 + 160 * k }).collect();
    let image = |i: usize, out: &mut [f32]| {
        out.iter_mut()
            .zip(0..)
            .for_each(|(v, k)| *v = if k % 4 < 3 { uniform(i as u64, 9, k) as f32 - 0.5 } else { 0.0 });
    };
    let trial = Trial { pairs: &pairs, image: &image, seed: 5, stream: 7 };
    for per in [Per::Model, Per::Block, Per::Layer] {
        let blocks = per.blocks(specs.iter().map(|t| t.name.as_str())).len();
        assert!(if per == Per::Model { blocks == 1 } else { blocks > 3 });
        let w: Vec<f64> = (0..blocks * EXPERTS).map(|i| 0.4 - 0.15 * (i % 5) as f64).collect();
        let mut merger = Merger::new(gpu(), &layout, EXPERTS as u32, per, &read, &theta).unwrap();
        let mut derivative = merger.derivative(gpu(), &slabs).unwrap();
        let mut graded = MergedLoss { merger: &mut merger, loss: &mut loss, derivative: Some(&mut derivative), trial };
        let (losses, gradient) = graded.losses_and_gradient(&w).unwrap();
        // The sums start from zero again, in the same order.
        assert_eq!(graded.losses_and_gradient(&w).unwrap(), (losses.clone(), gradient.clone()));
        let mut judged = MergedLoss { merger: &mut merger, loss: &mut plain, derivative: None, trial };
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * b;
        assert!(losses.iter().zip(&judged.losses(&w).unwrap()).all(near));
        assert!(judged.losses_and_gradient(&w).is_err());
        let largest = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        for (i, g) in gradient.iter().enumerate() {
            let mut at = |h: f64| {
                let mut moved = w.clone();
                moved[i] += h;
                mean(&judged.losses(&moved).unwrap())
            };
            let mut quotient = |h: f64| (at(h) - at(-h)) / (2.0 * h);
            let (wide, narrow) = (quotient(0.1), quotient(0.05));
            let expected = (4.0 * narrow - wide) / 3.0;
            let off = (g - expected).abs();
            assert!(off <= 1e-3 * largest, "{per:?}, weight {i}: {g}, difference quotient {expected} of {largest}");
        }
        assert!(judged.losses(&w[1..]).is_err());
    }
}
