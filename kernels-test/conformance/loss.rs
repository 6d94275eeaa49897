//! The losses against their twins, their gradients against difference quotients.
//! Called by `conformance.rs`.

use super::harness::case::{Bench, Fill};
use super::harness::compare::{Twinned, U};
use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::loss::{Weighing, deme_loss, squared_error, weighted_mse};
use deme::kernels::optim::{STATUS, initial};
use deme::recording::Tensor;
use deme::shader::card::Params;
use deme::shader::cards::loss::{DemeLossParams, WeightedMseParams};
use deme::shape::padded_channels;

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("weighted_mse", Tolerance::Custom(mse_bound)),
    ("weighted_mse_backward", Tolerance::Custom(backward_bound)),
    ("deme_loss", Tolerance::Custom(deme_bound)),
];

/// 2 K u sum |terms| for the mean over K elements of (|x| + |y|)^2 in each image, which bounds what rounding x - y does.
fn mean_bound(x: &[f64], y: &[f64], image: u32, stride: u32, channels: u32) -> Vec<f64> {
    let elements = f64::from(image / stride * channels);
    let images = x.chunks(image as usize).zip(y.chunks(image as usize));
    images
        .map(|(x, y)| {
            let real = (0..image as usize).filter(|j| *j as u32 % stride < channels);
            2.0 * U * real.map(|j| (x[j].abs() + y[j].abs()).powi(2)).sum::<f64>()
        })
        // A lane sums every 64th element, the lanes are six more terms; a few roundings on top.
        .map(|k_sum| k_sum / elements * (f64::from(image) / 64.0 + 12.0))
        .collect()
}

fn mse_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WeightedMseParams::of(&t.op.params);
    let bound = mean_bound(&t.reads[0], &t.reads[1], p.image, p.stride, p.channels);
    let weight = |n: usize| if p.has_weights == 0 { 1.0 } else { t.reads[2][n].abs() };
    vec![bound.iter().enumerate().map(|(n, b)| b * weight(n)).collect()]
}

fn backward_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = WeightedMseParams::of(&t.op.params);
    let elements = f64::from(p.image / p.stride * p.channels);
    let bound = |i: usize| {
        let n = i / p.image as usize;
        let weight = if p.has_weights == 0 { 1.0 } else { t.reads[2][n].abs() };
        16.0 * U * t.reads[3][n].abs() * weight * (t.reads[0][i].abs() + t.reads[1][i].abs()) / elements
    };
    vec![(0..t.outputs[0].len()).map(bound).collect()]
}

fn deme_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let p = DemeLossParams::of(&t.op.params);
    let elements = f64::from(p.image / p.stride * p.channels);
    let noise = mean_bound(&t.reads[0], &t.reads[1], p.image, p.stride, p.channels);
    let consistency = match p.has_teacher {
        0 => vec![0.0; noise.len()],
        _ => mean_bound(&t.reads[0], &t.reads[2], p.image, p.stride, p.channels),
    };
    let dx = |i: usize| {
        let x = t.reads[0][i].abs();
        let teacher = if p.has_teacher == 0 { 0.0 } else { f64::from(p.lambda) * (x + t.reads[2][i].abs()) };
        let factor = t.reads[4][4] * 2.0 * t.reads[3][i / p.image as usize].abs() / (f64::from(p.images) * elements);
        8.0 * U * factor * (x + t.reads[1][i].abs() + teacher)
    };
    vec![
        noise.iter().zip(&consistency).flat_map(|(a, b)| [*a, *b]).collect(),
        (0..t.outputs[1].len()).map(dx).collect(),
    ]
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
    [7, 1, 1, 3],
    [1, 17, 15, 4],
    [1, 4, 4, 3],
    [1, 32, 32, 3],
];

struct Inputs {
    x: Tensor,
    target: Tensor,
    teacher: Tensor,
    weights: Tensor,
    status: Tensor,
}

impl Inputs {
    fn weighing(&self, lambda: f32) -> Weighing<'_> {
        Weighing { weights: &self.weights, lambda, status: &self.status }
    }
}

/// Pad channels of inputs hold anything: they must not count.
fn inputs(b: &mut Bench, image: &[u32; 4], scale: f32) -> Inputs {
    let [n, h, w, c] = *image;
    let shape = [n, h, w, padded_channels(c)];
    Inputs {
        x: b.watched("x", &shape),
        target: b.tensor("target", &shape),
        teacher: b.tensor("teacher", &shape),
        weights: b.filled("weights", &[n], Fill::Uniform(0.1, 5.0)),
        status: b.filled("status", &[STATUS], Fill::Values(initial(scale).to_vec())),
    }
}

fn all(b: &mut Bench, image: &[u32; 4], lambda: f32, with_teacher: bool) -> Result<()> {
    let i = inputs(b, image, 1024.0);
    let teacher = with_teacher.then_some(&i.teacher);
    deme_loss(&mut b.tape.rec, &i.x, &i.target, teacher, i.weighing(lambda), image[3])?;
    let losses = weighted_mse(&mut b.tape, &i.x, &i.target, &i.weights, image[3])?;
    b.backward(&losses)?;
    squared_error(&mut b.tape.rec, &i.x, &i.target, image[3]).map(|_| ())
}

pub fn cases(f: &mut Family) {
    for image in IMAGES {
        for (lambda, teacher) in [(1.0, true), (0.3, true), (0.0, false)] {
            f.case(&format!("{image:?} lambda {lambda}"), |b| all(b, image, lambda, teacher));
        }
    }
    for image in &IMAGES[2..8] {
        f.gradient(&format!("weighted_mse {image:?}"), |b| {
            let Inputs { x, target, weights, .. } = inputs(b, image, 1.0);
            weighted_mse(&mut b.tape, &x, &target, &weights, image[3])
        });
    }
    for lambda in [0.0, 0.7, 1.0] {
        fused_is_the_sum(f, lambda);
    }
    for fault in FAULTS {
        f.catches(fault, |b| all(b, &[3, 8, 8, 3], 0.7, true));
    }
    refusals(f);
    for word in ["weighted_mse", "weighted_mse_backward", "deme_loss"] {
        f.floor(word, 40);
    }
}

/// deme_loss's dx is what the tape makes of the mean of weights_n (mse(target) + lambda mse(teacher)).
fn fused_is_the_sum(f: &mut Family, lambda: f32) {
    use deme::reference::interpret::{Rounding, State};
    use std::collections::HashMap;
    let image = [2, 3, 3, 3];
    let mut b = Bench::new(99);
    let i = inputs(&mut b, &image, 1.0);
    let check = |b: &mut Bench| -> Result<f64> {
        let (_, fused) = deme_loss(&mut b.tape.rec, &i.x, &i.target, Some(&i.teacher), i.weighing(lambda), 3)?;
        let noise = weighted_mse(&mut b.tape, &i.x, &i.target, &i.weights, 3)?;
        let teacher = weighted_mse(&mut b.tape, &i.x, &i.teacher, &i.weights, 3)?;
        let mean = b.filled("mean", &[2], Fill::Values(vec![0.5; 2]));
        let part = b.filled("part", &[2], Fill::Values(vec![0.5 * lambda; 2]));
        let (rec, gradients) = std::mem::take(&mut b.tape).backward(&[(noise, mean), (teacher, part)])?;
        let value = |w: &u32| f64::from(f32::from_bits(*w));
        let externals: HashMap<_, Vec<f64>> = b
            .contents
            .iter()
            .map(|(id, words)| (rec.buffers[id.0 as usize].label.clone(), words.iter().map(value).collect()))
            .collect();
        let mut state = State::new(&rec, &externals, Rounding::None)?;
        state.run(&rec, 0..rec.ops.len())?;
        let tape = gradients.get(&i.x).expect("x is watched");
        let pairs = state.get(&fused).into_iter().zip(state.get(&tape));
        Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d }))
    };
    match check(&mut b) {
        Ok(worst) if worst <= 1e-8 => {}
        other => f.fail(format!("the fused gradient is not the tape's at lambda {lambda}: {other:?}")),
    }
}

fn refusals(f: &mut Family) {
    f.rejects(&["weighted_mse", "[1, 2, 2, 4]", "[1, 2, 4, 4]"], |b| {
        let (x, y) = (b.tensor("x", &[1, 2, 2, 4]), b.tensor("y", &[1, 2, 4, 4]));
        squared_error(&mut b.tape.rec, &x, &y, 3)
    });
    f.rejects(&["weighted_mse", "[N, H, W, C]", "[4, 4]"], |b| {
        let (x, y) = (b.tensor("x", &[4, 4]), b.tensor("y", &[4, 4]));
        squared_error(&mut b.tape.rec, &x, &y, 3)
    });
    f.rejects(&["weighted_mse", "[2]", "[3]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 2, 2, 4]), b.tensor("y", &[2, 2, 2, 4]));
        let weights = b.tensor("weights", &[3]);
        weighted_mse(&mut b.tape, &x, &y, &weights, 3)
    });
    f.rejects(&["deme_loss", "[2, 2, 2, 4]", "[2, 2, 1, 4]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 2, 2, 4]), b.tensor("y", &[2, 2, 2, 4]));
        let (teacher, weights) = (b.tensor("teacher", &[2, 2, 1, 4]), b.tensor("weights", &[2]));
        let weighing = Weighing { weights: &weights, lambda: 1.0, status: &b.tensor("status", &[STATUS]) };
        deme_loss(&mut b.tape.rec, &x, &y, Some(&teacher), weighing, 3)
    });
    f.rejects(&["deme_loss", "5 channels", "[2, 2, 2, 4]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 2, 2, 4]), b.tensor("y", &[2, 2, 2, 4]));
        let weights = b.tensor("weights", &[2]);
        let weighing = Weighing { weights: &weights, lambda: 1.0, status: &b.tensor("status", &[STATUS]) };
        deme_loss(&mut b.tape.rec, &x, &y, None, weighing, 5)
    });
    f.rejects(&["deme_loss", "status", "[7]", "[4]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 2, 2, 4]), b.tensor("y", &[2, 2, 2, 4]));
        let weights = b.tensor("weights", &[2]);
        let weighing = Weighing { weights: &weights, lambda: 1.0, status: &b.tensor("status", &[4]) };
        deme_loss(&mut b.tape.rec, &x, &y, None, weighing, 3)
    });
}

const FAULTS: &[Fault] = &[
    Fault::shader("dropped barrier", "weighted_mse", "weighted_mse", "//% include \"sum64.wgsl\"", UNSYNCHRONISED),
    Fault::shader(
        "pad channels counted",
        "weighted_mse",
        "weighted_mse",
        "select(d * d, 0.0, ",
        "select(d * d, d * d, ",
    ),
    Fault::shader("mean over stored channels", "weighted_mse", "weighted_mse", "/ params.stride * params.channels", ""),
    Fault::shader("last elements lost", "weighted_mse", "weighted_mse", "j < params.image", "j + 64u < params.image"),
    Fault::shader("another image's weight", "weighted_mse", "weighted_mse", "weights[n]", "weights[0]"),
    Fault::shader("factor 2 lost", "weighted_mse_backward", "weighted_mse_backward", "2.0 * weight", "weight"),
    Fault::shader(
        "sign turned",
        "weighted_mse_backward",
        "weighted_mse_backward",
        "x[i] - target_[i]",
        "target_[i] - x[i]",
    ),
    Fault::shader("not scaled", "deme_loss", "deme_loss", "status[4] * ", ""),
    Fault::shader("consistency not weighted", "deme_loss", "deme_loss", "params.lambda * d.y", "d.y"),
    Fault::shader("teacher for target", "deme_loss", "deme_loss", "x[at] - target_[at]", "x[at] - teacher[at]"),
    Fault::shader("losses swapped", "deme_loss", "deme_loss", "totals.x / elements", "totals.y / elements"),
    Fault::shader("not divided by the batch", "deme_loss", "deme_loss", "(f32(params.images) * elements)", "elements"),
];

/// sum64 without its first barrier: the lanes of other subgroups are read before they have written.
const UNSYNCHRONISED: &str = "
var<workgroup> partial_sums: array<vec2<f32>, 64>;
fn sum64(lane: u32, value: vec2<f32>) -> vec2<f32> {
    partial_sums[lane] = value;
    var total = vec2<f32>(0.0, 0.0);
    if lane == 0u {
        for (var i = 0u; i < 64u; i++) {
            total += partial_sums[i];
        }
    }
    return total;
}";
