//! What a training step in f16 stores in f16 and what in f32, its memory and its bytes. Called by `host.rs`; needs no GPU.

use deme::deme::expert::Expert;
use deme::deme::timesteps::{Coin, TimestepDraw};
use deme::gpu::memory;
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::model::tensors;
use deme::model::unet::Projections;
use deme::nn::ParamLayout;
use deme::recording::{Recording, Role};
use deme::shader::{Access, Precision};
use deme::shape::DType;
use deme::train::feed::Augment;
use deme::train::rate::RateSchedule;
use deme::train::settings::{AdamW, EmaSchedule, LossScaling, Settings};
use deme::train::step::{self, Network};
use std::collections::BTreeSet;
use std::path::Path;

/// Two levels with attention, the embedding as scale and shift.
const CONFIG: &str = r#"{"_class_name": "UNet2DModel", "block_out_channels": [32, 64], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8, "sample_size": 16, "resnet_time_scale_shift": "scale_shift"}"#;

/// A micro-batch with teacher, and an update.
fn recordings(precision: Precision) -> [Recording; 2] {
    let json: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    let config = UNetConfig::from_json(Path::new("config.json"), json.as_object().unwrap()).unwrap();
    let expected = tensors::expected(&config, Placement::None);
    let layout = ParamLayout::new(expected.iter().map(|t| (t.name.as_str(), t.shape.as_slice()))).unwrap();
    let settings = Settings {
        seed: 0,
        steps: 1,
        batch: 4,
        at_once: 4,
        accumulate: 1,
        adamw: AdamW { lr: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 },
        rate: RateSchedule::CONSTANT,
        clip: 1.0,
        scaling: LossScaling::DYNAMIC,
        ema: EmaSchedule { max_decay: 0.999, inv_gamma: 1.0, power: 0.75 },
        augment: Augment::default(),
        log_every: 0,
        eval_every: 0,
        sample_every: 0,
        export_every: 0,
        save_every: 0,
        keep: 1,
    };
    let network = Network {
        config: &config,
        layout: &layout,
        size: [16, 16],
        student_projections: Projections::Skip,
        teacher_projections: Projections::Skip,
        precision,
        recompute: false,
    };
    let timesteps =
        TimestepDraw { seed: 3, expert: 0, own: 0..500, total: 1000, p: 0.4, coin: Coin::MicroBatch, antithetic: true };
    let objective = Expert { timesteps, consistency: 1.0, weights: None };
    let micro = step::micro(network, &settings, &objective).unwrap().recording;
    [micro, step::update(&layout, &settings, precision).unwrap().recording]
}

#[test]
fn forward_activations_and_the_weights_that_run_are_in_f16_and_nothing_else() {
    let [micro, update] = recordings(Precision::F16);
    // Gradients copy weights and keys as they are, and compute in f32.
    let copies = ["w_t", "attention_transpose"];
    let forward =
        ["q_sample", "noise", "weighted_mse", "deme_loss", "accumulate", "group_norm_moments", "group_norm_statistics"];
    let mut halves = BTreeSet::new();
    // What follows the loss is the backward pass.
    let loss = micro.ops.iter().position(|op| op.card.word == "deme_loss").unwrap();
    for (i, op) in micro.ops.iter().enumerate() {
        for (access, t) in op.tensors() {
            let b = &micro.buffers[t.buffer.0 as usize];
            let (half, word) = (b.dtype == DType::F16, op.card.word);
            match (&b.role, access) {
                (Role::External(key), _) => {
                    assert_eq!(half, key.starts_with("theta_f16.") || key.starts_with("teacher."), "{key}");
                }
                (Role::Input, _) => assert!(!half, "{}", b.label),
                (_, Access::Write) if i > loss => {
                    assert_eq!(half, copies.contains(&b.label.as_str()), "{}", b.label)
                }
                (_, Access::Write) if word == "matmul_forward" || word == "conv2d_forward" => {
                    // Scores of attention, and the network's output.
                    let output = b.label == "conv2d" && t.shape.last() == 4;
                    assert_eq!(!half, b.label == "attention_scores" || output, "{} {}", b.label, t.shape);
                }
                (_, Access::Write) => assert_eq!(!half, forward.contains(&word), "{} of {word}", b.label),
                _ => {}
            }
            if half && access == Access::Write {
                halves.insert(word);
            }
        }
    }
    assert!(halves.len() >= 10, "{halves:?}");
    let written: Vec<_> = update.buffers.iter().filter(|b| b.dtype == DType::F16).map(|b| b.label.as_str()).collect();
    assert_eq!(written, ["theta_f16.0"]);
}

#[test]
fn in_f16_a_step_takes_less_memory_and_moves_fewer_bytes() {
    let [full, half] = [Precision::F32, Precision::F16].map(|precision| {
        let [micro, _] = recordings(precision);
        (memory::plan_bytes(&micro).unwrap(), micro.cost())
    });
    assert!(4 * half.0 < 3 * full.0, "{} bytes in f16, {} in f32", half.0, full.0);
    assert!(half.1.bytes < full.1.bytes, "{:?} in f16, {:?} in f32", half.1, full.1);
}

/// Rooms of shared buffers follow bytes, not elements; f16 of an odd length takes whole words.
#[test]
fn shared_buffers_are_counted_in_bytes() {
    use deme::shape::Shape;
    let mut rec = Recording::new("test").at(Precision::F16);
    let half = rec.activation("half", Shape::new([9]));
    let full = rec.transient("full", Shape::new([9]));
    assert_eq!(DType::F16.size(9), 20);
    let x = rec.external_as("x", 9, DType::F16);
    let x = deme::recording::Tensor { buffer: x, offset: 0, shape: half.shape };
    for (from, to) in [(&x, &half), (&half, &full)] {
        deme::kernels::pointwise::convert(&mut rec, from, to).unwrap();
    }
    assert_eq!(memory::assign(&rec).unwrap().transient_bytes(), 20 + 36);
    assert_eq!(rec.ops[0].cost().bytes, 18 + 18);
    assert_eq!(rec.ops.last().unwrap().cost().bytes, 18 + 36);
}

/// DDPM-CIFAR10 as it is measured: bytes on the GPU of an update with teacher and of a sampling step, and bytes that they move.
#[test]
fn a_real_network_takes_about_half_the_memory_in_f16() {
    use deme::bench::model::Model;
    use deme::bench::steps;
    use deme::train::state;
    let model = Model::named("ddpm-cifar10").unwrap();
    let bytes = |precision: Precision, batch: u32| {
        let [micro, update] = steps::training(&model, batch, 1.0, precision, false).unwrap().map(|r| r.recording);
        let sample = steps::inference(&model, batch, true, precision).unwrap().recording;
        let weights = model.layout.bytes(precision.stored());
        let plans = |all: &[&Recording]| all.iter().map(|r| memory::plan_bytes(r).unwrap()).sum::<u64>();
        let training = state::bytes(&model.layout, true, precision) + plans(&[&micro, &update]);
        let moved = micro.cost().bytes + update.cost().bytes;
        [plans(&[&micro]), training, weights + plans(&[&sample]), moved, sample.cost().bytes]
    };
    for batch in [16, 128] {
        let [full, half] = [Precision::F32, Precision::F16].map(|precision| bytes(precision, batch));
        let what = ["activations", "training", "sampling", "moved by an update", "moved by a sampling step"];
        for ((what, full), half) in what.into_iter().zip(full).zip(half) {
            let ratio = half as f64 / full as f64;
            println!("batch {batch}, {what}: {full} bytes in f32, {half} in f16, {ratio:.3}");
            assert!(ratio < 0.85, "{what} at batch {batch}: {ratio}");
        }
    }
}
