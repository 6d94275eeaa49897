//! Noise, q(x_t | x_0) and the DDIM update against their twins; the generator's polynomials over their whole domain.
//! Called by `conformance.rs`.

use super::harness::case::Bench;
use super::harness::compare::{Twinned, U};
use super::harness::fault::Fault;
use super::harness::{Family, Tolerance, device};
use deme::kernels::ddim::{Predicts, coefficients, ddim_step};
use deme::kernels::noise::{blocks_per_image, key, noise, q_sample};
use deme::recording::{Op, Tensor};
use deme::reference::noise::{normal_radius, normal_turn};
use deme::shader::card::{Card, Params, plain};
use deme::shader::cards::noise::DdimStepParams;
use deme::shader::cards::pointwise::CountParams;
use deme::shape::{Shape, padded_channels};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("noise", Tolerance::Ulp(4.0)),
    ("q_sample", Tolerance::Sum(|_| 2)),
    ("ddim_step", Tolerance::Custom(ddim_bound)),
];

/// Eight roundings of every term of the update; a division by sqrt_alpha_bar magnifies those of x_0, one by
/// sqrt_one_minus_alpha_bar those of epsilon, a clamp does not.
fn ddim_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = DdimStepParams::of(&t.op.params);
    let [a, b, prev, direction, sigma] = [0, 1, 2, 3, 4].map(|i| t.reads[2][i].abs());
    let bound = |i: usize| {
        let (x, o) = (t.before[0][i].abs(), t.reads[0][i].abs());
        let noise = if p.has_noise == 0 { 0.0 } else { t.reads[1][i].abs() };
        let (x_0, epsilon) = match p.predicts {
            0 => ((x + b * o) / a, o),
            1 => (a * x + b * o, a * o + b * x),
            _ => (o, (x + a * o) / b),
        };
        8.0 * U * (prev * x_0 + direction * epsilon + sigma * noise)
    };
    vec![(0..t.outputs[0].len()).map(bound).collect()]
}

/// [N, H, W, C] with C as it is, not as stored.
const IMAGES: &[[u32; 4]] = &[
    [1, 1, 1, 1],
    [1, 1, 1, 4],
    [2, 1, 3, 3],
    [1, 8, 8, 1],
    [3, 8, 8, 3],
    [2, 5, 7, 2],
    [2, 4, 4, 4],
    [3, 3, 3, 5],
    [2, 5, 5, 6],
    [1, 3, 7, 7],
    [2, 4, 4, 8],
    [1, 16, 16, 3],
    [4, 1, 1, 3],
    [1, 17, 15, 4],
    [2, 2, 9, 12],
    [1, 32, 32, 3],
];

fn key_tensor(b: &mut Bench, seed: u64, stream: u64, first: u64) -> Tensor {
    b.words("key", &[6], key(seed, stream, first).to_vec())
}

fn stored(image: &[u32; 4]) -> [u32; 4] {
    let [n, h, w, c] = *image;
    [n, h, w, padded_channels(c)]
}

/// Pad channels of inputs hold anything; the kernels must not let it through.
fn q(b: &mut Bench, image: &[u32; 4]) -> deme::error::Result<(Tensor, Tensor)> {
    let shape = stored(image);
    let (x_0, epsilon) = (b.tensor("x_0", &shape), b.tensor("epsilon", &shape));
    let coefficients = b.tensor("coefficients", &[image[0], 4]);
    q_sample(&mut b.tape.rec, &x_0, &epsilon, &coefficients, image[3])
}

struct Step {
    clip: Option<f64>,
    predicts: Predicts,
    noisy: bool,
    alpha_bar: f64,
}

fn ddim(b: &mut Bench, image: &[u32; 4], step: &Step) -> deme::error::Result<()> {
    let shape = stored(image);
    let (x, output, epsilon) = (b.tensor("x", &shape), b.tensor("output", &shape), b.tensor("epsilon", &shape));
    let (a, prev) = (step.alpha_bar, 0.3 + 0.7 * step.alpha_bar);
    let sigma = if step.noisy { 0.4 * (1.0 - prev).sqrt() } else { 0.0 };
    let direction = (1.0 - prev - sigma * sigma).sqrt();
    let words = coefficients([a.sqrt(), (1.0 - a).sqrt(), prev.sqrt(), direction, sigma], step.clip);
    let coefficients = b.input("coefficients", &[8], &words.map(f32::from_bits));
    let noise = step.noisy.then_some(&epsilon);
    ddim_step(&mut b.tape.rec, &x, &output, noise, &coefficients, image[3], step.predicts)
}

pub fn cases(f: &mut Family) {
    for (i, image) in IMAGES.iter().enumerate() {
        for (first, seed) in [(0, 1), (0xffff_fffe, 0xdead_beef_0123_4567), (0x7_ffff_ffff, u64::MAX)] {
            f.case(&format!("noise {image:?} from block {first:#x}"), |b| {
                let key = key_tensor(b, seed.wrapping_add(i as u64 / 2), (4 << 32) + i as u64, first);
                let [n, h, w, c] = stored(image);
                noise(&mut b.tape.rec, &key, Shape::new([n, h, w, c]), image[3]).map(|_| ())
            });
        }
        f.case(&format!("q_sample {image:?}"), |b| q(b, image).map(|_| ()));
        for (predicts, alpha_bar) in [
            (Predicts::Epsilon, 0.004),
            (Predicts::V, 0.5),
            (Predicts::Epsilon, 0.9999),
            (Predicts::Sample, 0.004),
            (Predicts::Sample, 0.99),
        ] {
            let step = Step { clip: [None, Some(1.0), Some(0.5)][i % 3], predicts, noisy: i % 2 == 0, alpha_bar };
            f.case(&format!("ddim_step {image:?} {predicts:?} {alpha_bar}"), |b| ddim(b, image, &step));
        }
    }
    batches_agree(f);
    sweep(f);
    refusals(f);
    for fault in FAULTS {
        f.catches(fault, |b| match fault.word {
            "noise" => {
                let key = key_tensor(b, 7, (4 << 32) + 1, 0xffff_fff0);
                noise(&mut b.tape.rec, &key, Shape::new([3, 8, 8, 4]), 3).map(|_| ())
            }
            "q_sample" => q(b, &[3, 8, 8, 3]).map(|_| ()),
            _ => {
                let step = Step { clip: Some(1.0), predicts: Predicts::Epsilon, noisy: true, alpha_bar: 0.3 };
                ddim(b, &[3, 8, 8, 3], &step)
            }
        });
    }
    f.floor("noise", 40);
    f.floor("q_sample", 16);
    f.floor("ddim_step", 40);
}

fn refusals(f: &mut Family) {
    f.rejects(&["noise", "3 channels are stored as 4", "[1, 2, 2, 3]"], |b| {
        let key = key_tensor(b, 0, 0, 0);
        noise(&mut b.tape.rec, &key, Shape::new([1, 2, 2, 3]), 3)
    });
    f.rejects(&["noise", "[6]", "[5]"], |b| {
        let key = b.words("key", &[5], vec![0; 5]);
        noise(&mut b.tape.rec, &key, Shape::new([1, 2, 2, 4]), 3)
    });
    f.rejects(&["q_sample", "[1, 2, 2, 4]", "[1, 2, 4, 4]"], |b| {
        let (x_0, epsilon) = (b.tensor("x_0", &[1, 2, 2, 4]), b.tensor("epsilon", &[1, 2, 4, 4]));
        let coefficients = b.tensor("coefficients", &[1, 4]);
        q_sample(&mut b.tape.rec, &x_0, &epsilon, &coefficients, 3)
    });
    f.rejects(&["q_sample", "[2, 4]", "[1, 4]"], |b| {
        let (x_0, epsilon) = (b.tensor("x_0", &[2, 2, 2, 4]), b.tensor("epsilon", &[2, 2, 2, 4]));
        let coefficients = b.tensor("coefficients", &[1, 4]);
        q_sample(&mut b.tape.rec, &x_0, &epsilon, &coefficients, 3)
    });
    f.rejects(&["ddim_step", "[1, 2, 2, 4]", "[1, 4, 4, 1]"], |b| {
        let (x, output) = (b.tensor("x", &[1, 2, 2, 4]), b.tensor("output", &[1, 4, 4, 1]));
        let coefficients = b.tensor("coefficients", &[8]);
        ddim_step(&mut b.tape.rec, &x, &output, None, &coefficients, 3, Predicts::V)
    });
    f.rejects(&["ddim_step", "[8]", "[5]"], |b| {
        let (x, output) = (b.tensor("x", &[1, 2, 2, 4]), b.tensor("output", &[1, 2, 2, 4]));
        let coefficients = b.tensor("coefficients", &[5]);
        ddim_step(&mut b.tape.rec, &x, &output, None, &coefficients, 3, Predicts::V)
    });
}

/// Image 2 of a batch of three is, bit for bit, the image alone at its own first block.
fn batches_agree(f: &mut Family) {
    for channels in [1, 3, 5] {
        let stored = padded_channels(channels);
        let blocks = blocks_per_image(5, 3, channels);
        let mut draw = |images: u32, first: u64| {
            let mut out = Vec::new();
            f.case(&format!("noise of {images} images, {channels} channels"), |b| {
                let key = key_tensor(b, 11, 3 << 32, first);
                let x = noise(&mut b.tape.rec, &key, Shape::new([images, 5, 3, stored]), channels)?;
                let op = &b.tape.rec.ops[0];
                let dtypes: Vec<_> = b.tape.rec.buffers.iter().map(|b| b.dtype).collect();
                let after = device::run(op, &dtypes, &device::poisoned(op, &b.snapshot()), false, 1).unwrap();
                out = after[0][&(x.buffer.0 as usize)][device::GUARD..][..x.elements() as usize].to_vec();
                Ok(())
            });
            out
        };
        let (batch, alone) = (draw(3, 100), draw(1, 100 + 2 * blocks));
        let image = (15 * stored) as usize;
        if batch[2 * image..] != alone[..] {
            f.fail(format!("noise of {channels} channels depends on the batch"));
        }
    }
}

/// normal_radius and normal_turn for all 2^24 arguments. Their relative errors and that of the product's rounding add up
/// to less than 4 u, which is the least that 4 ULP can be: so every pair of arguments is within 4 ULP.
fn sweep(f: &mut Family) {
    const PIECE: u32 = 1 << 20;
    const SOURCE: &str = include_str!("noise_sweep.wgsl");
    let variant = plain(("noise_sweep", SOURCE), |_| u64::from(PIECE / 64));
    let card: &'static Card = Box::leak(Box::new(Card {
        word: "noise_sweep",
        params: CountParams::FIELDS,
        bindings: const { &[deme::shader::card::write("values")] },
        variants: Box::leak(Box::new([variant])),
        flops: |_| 0,
    }));
    let mut worst = [0f64; 3];
    for piece in 0..16u32 {
        let values = Tensor { buffer: deme::recording::BufferId(0), offset: 0, shape: Shape::new([PIECE, 3]) };
        let op =
            Op { card, params: vec![piece * PIECE], reads: vec![], writes: vec![values], updates: vec![], half: 0 };
        let before = device::poisoned(&op, &[vec![0; 3 * PIECE as usize]]);
        let after = match device::run(&op, &[deme::shape::DType::F32], &before, false, 1) {
            Ok(after) => after,
            Err(e) => return f.fail(format!("sweep: {e}")),
        };
        for (i, got) in after[0][&0][device::GUARD..].chunks_exact(3).take(PIECE as usize).enumerate() {
            let k = piece * PIECE + i as u32;
            let [cosine, sine] = normal_turn(k);
            for (j, expected) in [normal_radius(k + 1), cosine, sine].into_iter().enumerate() {
                let got = f64::from(f32::from_bits(got[j]));
                let error = if got == expected { 0.0 } else { (got - expected).abs() / expected.abs() / U };
                // f64::max would swallow a NaN.
                worst[j] = if error <= worst[j] { worst[j] } else { error };
            }
        }
    }
    super::harness::note(&format!("noise: relative errors of radius, cosine, sine: {worst:.2?} u\n"));
    let fine = worst[0] + worst[1].max(worst[2]) <= 3.0 && !worst.iter().any(|w| w.is_nan());
    if !fine {
        f.fail(format!("relative errors of radius, cosine, sine: {worst:?} u"));
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader(
        "carry lost",
        "noise",
        "noise",
        "add_wide(vec2<u32>(key[4], key[5]), i)",
        "vec2<u32>(key[4] + i, key[5])",
    ),
    Fault::shader("stream lost", "noise", "noise", "vec2<u32>(key[2], key[3])", "vec2<u32>(0u, key[3])"),
    Fault::shader("pad channel drawn", "noise", "noise", ">= params.channels", "> params.channels"),
    Fault::shader("blocks shared by images", "noise", "noise", "key[5]), i)", "key[5]), i % params.blocks)"),
    Fault::shader("the image's own coefficients", "q_sample", "q_sample", "i / params.image * 4u", "0u"),
    Fault::shader(
        "x_0 and noise swapped",
        "q_sample",
        "q_sample",
        "coefficients[at + 2u] * x_0[i]",
        "coefficients[at + 2u] * noise[i]",
    ),
    Fault::shader("pad channel kept", "ddim_step", "ddim_step", "select(next, 0.0, ", "select(next, next, "),
    Fault::shader("no clamp", "ddim_step", "ddim_step", "x_0 = clamp(x_0, -coefficients[5], coefficients[5]);", ""),
    Fault::shader("noise without sigma", "ddim_step", "ddim_step", "coefficients[4] * noise[i]", "noise[i]"),
];
