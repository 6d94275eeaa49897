//! Training that saves memory: activations made again, micro-batches in parts. Called by `conformance.rs`.

use super::harness::device::gpu;
use super::training::Alone;
use deme::shader::Precision;
use deme::train::objective::Objective;
use deme::train::settings::Settings;
use deme::train::step::{self, Trainer};

/// Bits of the gradient and of the loss sums after two micro-batches, each in parts of `at_once`; and how many ops a replay has.
fn bits(alone: &Alone, at_once: u32) -> (Vec<u32>, Vec<u32>, usize) {
    let settings = Settings { at_once, ..alone.settings.clone() };
    let (gpu, network) = (&alone.gpu, alone.setup.network());
    let ops = step::micro(network, &settings, &alone.objective).unwrap().recording.ops.len();
    let mut trainer = Trainer::new(gpu, network, &settings, &alone.objective, alone.setup.state(gpu, 2)).unwrap();
    for micro in 0..2 {
        let timesteps = alone.objective.timesteps(micro, settings.batch as usize);
        let first = micro * u64::from(settings.batch);
        for (at, part) in (first..).step_by(at_once as usize).zip(timesteps.chunks(at_once as usize)) {
            trainer.micro_batch(&alone.feeder().feed(at, part).unwrap()).unwrap();
        }
    }
    let losses = trainer.loss_sums().unwrap();
    (trainer.take_gradient().unwrap().into_iter().map(f32::to_bits).collect(), losses, ops)
}

#[test]
fn activations_made_again_change_no_bit() {
    let precisions = if gpu().has_f16() { vec![Precision::F32, Precision::F16] } else { vec![Precision::F32] };
    for precision in precisions {
        let mut alone = Alone::at(precision);
        let kept = bits(&alone, 2);
        alone.setup.recompute = true;
        let again = bits(&alone, 2);
        assert!(again.2 > kept.2 + 10, "{} ops again, {} kept", again.2, kept.2);
        assert!((&again.0, &again.1) == (&kept.0, &kept.1), "{precision}: gradients or losses differ");
        assert!(kept.0.iter().any(|&g| f32::from_bits(g) != 0.0));
    }
}

/// The same samples with the same noise; only the order of the sums differs.
#[test]
fn a_micro_batch_in_parts_has_the_gradient_of_the_whole() {
    let alone = Alone::at(Precision::F32);
    let [whole, parts] = [2, 1].map(|at_once| bits(&alone, at_once));
    let values = |bits: &[u32]| bits.iter().map(|&b| f64::from(f32::from_bits(b))).collect::<Vec<_>>();
    let (whole, parts) = ([values(&whole.0), values(&whole.1)], [values(&parts.0), values(&parts.1)]);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut whole[0].iter().zip(&parts[0]).map(|(a, b)| a - b)) / norm(&mut whole[0].iter().copied());
    assert!(error < 1e-5, "gradients differ by {error:e}");
    // Sums over the samples of the distance to the target; that to the teacher, which is the student still, is 0.
    let [a, b] = [&whole[1], &parts[1]].map(|sums| sums.iter().step_by(2).sum::<f64>());
    assert!(a > 0.0 && (a - b).abs() <= 1e-6 * a, "losses {b} in parts, {a} as a whole");
}
