//! Training with weights and activations in f16: how far its gradients are from those in f32, and what happens beyond the range.
//! Called by `conformance.rs`.

use super::harness::device::gpu;
use super::harness::note;
use super::training::Alone;
use deme::gpu::Externals;
use deme::nn::Role;
use deme::shader::Precision;
use deme::shape::DType;
use deme::train::step;

/// The gradient of a micro-batch at the first weights, the loss's scale divided out.
fn gradient(alone: &Alone) -> Vec<f32> {
    let mut trainer = alone.trainer();
    trainer.micro_batch(&alone.feed(0)).unwrap();
    let mut externals = Externals::new();
    trainer.state.bind(&mut externals);
    let slab = &externals[&Role::Gradient.slab_key(0)];
    let scale = alone.settings.scaling.at(alone.setup.precision).start;
    alone.gpu.read(slab, 0, slab.elements).unwrap().into_iter().map(|g| g / scale).collect()
}

/// Each tensor that is stored in f16 is off by 2^-11 of itself at most. To first order, and where no layer makes a relative
/// error larger (the norms see to that), the gradient is then off by that much for every one of them, once through the forward
/// pass and once through the factors of the backward pass; in the root mean square over many, by its root.
#[test]
fn gradients_with_f16_storage_stay_near_those_in_f32() {
    if !gpu().has_f16() {
        return;
    }
    let [full, half] = [Precision::F32, Precision::F16].map(|precision| gradient(&Alone::at(precision)));
    let alone = Alone::at(Precision::F16);
    let micro = step::micro(alone.setup.network(), &alone.settings, &alone.objective).unwrap().recording;
    let stored = micro.buffers.iter().filter(|b| b.dtype == DType::F16).count() as f64;
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let error = square(&mut full.iter().zip(&half).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let relative = (error / square(&mut full.iter().map(|a| f64::from(*a)))).sqrt();
    let bound = 2.0 * stored.sqrt() * 2f64.powi(-11);
    note(&format!("gradient with f16 storage: off by {relative:.1e}, bound {bound:.1e}\n"));
    assert!(relative > 0.0 && relative <= bound, "off by {relative:e}, bound {bound:e} of {stored} tensors");
}

/// An activation that f16 does not have becomes infinite, at every scale of the loss, and ends the run; in f32 the norms that follow
/// bring it back.
#[test]
fn what_is_beyond_f16_is_noticed() {
    let alone = |precision| {
        let alone = Alone::at(precision);
        let mut trainer = alone.trainer();
        let at = alone.setup.layout.find("conv_in.weight").unwrap().offset;
        for slabs in [Some(&trainer.state.theta), trainer.state.half()].into_iter().flatten() {
            alone.gpu.write(&slabs.storages[0], at, &[6e4; 32]).unwrap();
        }
        // The scale of 2^16 halves with each update.
        (0..17).try_for_each(|update| {
            alone.update(&mut trainer, update).unwrap();
            trainer.check(update + 1).map(|_| ())
        })
    };
    alone(Precision::F32).unwrap();
    if gpu().has_f16() {
        let message = "the gradient itself, whatever the loss is multiplied by, is not finite at step 17";
        assert_eq!(alone(Precision::F16).unwrap_err().to_string(), message);
    }
}
