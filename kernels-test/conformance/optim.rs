//! Gradient norm, clipping, AdamW and EMA against their twins, and ten updates against AdamW in f64.
//! Called by `conformance.rs`.

use super::harness::case::{Bench, Fill};
use super::harness::compare::{Twinned, U};
use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::optim::{SCALARS, STATUS, adamw, ema, gradient_norm, initial, scalars};
use deme::recording::Tensor;
use deme::shader::cards::optim::{CHUNK, SKIPS};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("sum_squares", Tolerance::Flagging(sum_bound)),
    ("gradient_norm", Tolerance::Custom(norm_bound)),
    ("adamw", Tolerance::Custom(adamw_bound)),
    ("ema", Tolerance::Custom(ema_bound)),
];

const TINY: f64 = f32::MIN_POSITIVE as f64;

/// 2 K u sum |terms|: a lane sums 256 squares, the lanes are summed in six steps.
fn sum_bound(t: &Twinned) -> Vec<Vec<f64>> {
    vec![t.outputs[0].iter().map(|s| 2.0 * (256.0 + 6.0 + 1.0) * U * s).collect()]
}

/// Sums of positive terms: relative 2 K u, half of it after the square root, a few roundings on top. Flags, counts and scale
/// are exact.
fn norm_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let relative = (t.reads[0].len() as f64 / 64.0 + 6.0 + 16.0) * U;
    let status = &t.outputs[0];
    vec![vec![relative * status[0], 0.0, relative * status[2], 0.0, 0.0, 0.0, 0.0]]
}

/// Where the scalars of so many skipped updates are.
fn place(status: &[f64]) -> usize {
    5 + 3 * (status[3] as usize).min(SKIPS as usize - 1)
}

/// m and v: four roundings of their terms. theta: two of its own, sixteen of the step, and what m's error makes of it.
fn adamw_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let (scalars, status) = (&t.reads[0], &t.reads[1]);
    let n = t.before[0].len();
    if status[1] == 0.0 {
        return vec![vec![0.0; n]; 4];
    }
    let at = place(status);
    let element = |i: usize| {
        let g = (t.before[1][i] * status[0]).abs();
        let (m, v) = (t.outputs[2][i].abs(), t.outputs[3][i]);
        let first = 4.0 * U * (t.before[2][i].abs() + g) + TINY;
        let denominator = v.sqrt() / scalars[at + 1] + scalars[4];
        let step = scalars[at] / denominator;
        let theta = 2.0 * U * t.before[0][i].abs() + 16.0 * U * step * m + step * first;
        // Where v is so small that it may be flushed to zero, its root is what the denominator may lose.
        let flushed = step * m * TINY.sqrt() / scalars[at + 1] / denominator;
        [theta + if v < 1e6 * TINY { flushed } else { 0.0 }, 0.0, first, 4.0 * U * v + TINY]
    };
    let elements: Vec<_> = (0..n).map(element).collect();
    (0..4).map(|output| elements.iter().map(|e| e[output]).collect()).collect()
}

fn ema_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let terms = |i: usize| t.before[0][i].abs() + t.reads[2][i].abs();
    let bound = |i: usize| U * t.outputs[0][i].abs() + 4.0 * U * t.reads[0][place(&t.reads[1]) + 2] * terms(i);
    vec![(0..t.before[0].len()).map(|i| if t.reads[1][1] == 0.0 { 0.0 } else { bound(i) }).collect()]
}

struct Slab {
    theta: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    average: Tensor,
}

fn slab(b: &mut Bench, i: usize, n: u32, gradient: Fill) -> Slab {
    let mut tensor = |what: &str, fill: Fill| b.filled(&format!("{what} {i}"), &[n], fill);
    Slab {
        theta: tensor("theta", Fill::Normal),
        gradient: tensor("gradient", gradient),
        m: tensor("m", Fill::Uniform(-0.01, 0.01)),
        v: tensor("v", Fill::Uniform(0.0, 1e-4)),
        average: tensor("average", Fill::Normal),
    }
}

/// How the loss is scaled when the update comes.
#[derive(Clone, Copy)]
struct Scaling {
    skipped: f32,
    scale: f32,
    good: f32,
    interval: u32,
}

const UNSCALED: Scaling = Scaling { skipped: 2.0, scale: 1.0, good: 0.0, interval: 0 };

fn update(b: &mut Bench, slabs: &[(u32, Fill)], max_norm: f32, t: u64) -> Result<()> {
    scaled(b, slabs, max_norm, t, UNSCALED)
}

/// An update, as `train` records it.
fn scaled(b: &mut Bench, slabs: &[(u32, Fill)], max_norm: f32, t: u64, scaling: Scaling) -> Result<()> {
    let Scaling { skipped, scale, good, interval } = scaling;
    let words = scalars(1e-2, [0.95, 0.999], 1e-8, 1e-2, t, |made| 0.99 - 0.2 / (made + 1) as f64);
    let words: Vec<_> = words.into_iter().map(f32::from_bits).collect();
    let scalars = b.input("scalars", &[SCALARS], &words);
    let status = b.filled("status", &[STATUS], Fill::Values(vec![0.5, 1.0, 3.0, skipped, scale, good, 1.0 / scale]));
    let slabs: Vec<_> = slabs.iter().enumerate().map(|(i, (n, fill))| slab(b, i, *n, fill.clone())).collect();
    let gradients: Vec<_> = slabs.iter().map(|s| s.gradient).collect();
    let rec = &mut b.tape.rec;
    gradient_norm(rec, &gradients, max_norm, interval, &status)?;
    for s in &slabs {
        adamw(rec, &scalars, &status, &s.theta, &s.gradient, &s.m, &s.v)?;
        ema(rec, &scalars, &status, &s.theta, &s.average)?;
    }
    Ok(())
}

fn with(n: u32, value: f32) -> Fill {
    let mut values = vec![0.25; n as usize];
    values[n as usize / 2] = value;
    Fill::Values(values)
}

const SIZES: &[u32] = &[1, 63, 64, 65, 257, 1009, CHUNK - 1, CHUNK, CHUNK + 1];

pub fn cases(f: &mut Family) {
    for n in SIZES {
        for (max_norm, t) in [(1.0, 1), (0.0, 7), (1e6, 1000)] {
            f.case(&format!("{n}, clipped to {max_norm}, update {t}"), |b| {
                update(b, &[(*n, Fill::Normal)], max_norm, t)
            });
        }
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            f.case(&format!("{n} with {value}"), |b| update(b, &[(*n, with(*n, value))], 1.0, 3));
        }
        f.case(&format!("{n} zeros"), |b| update(b, &[(*n, Fill::Uniform(0.0, 0.0))], 1.0, 3));
        f.case(&format!("{n} tiny"), |b| update(b, &[(*n, Fill::Uniform(-1e-15, 1e-15))], 1.0, 1));
    }
    scalings(f);
    f.case("three slabs", |b| update(b, &[(100, Fill::Normal), (40_000, Fill::Normal), (7, Fill::Normal)], 1.0, 2));
    f.case("a slab of 70 chunks", |b| update(b, &[(70 * CHUNK, Fill::Normal)], 1.0, 2));
    f.case("NaN in the second slab", |b| update(b, &[(100, Fill::Normal), (80, with(80, f32::NAN))], 1.0, 2));
    ten_updates(f);
    for fault in FAULTS {
        f.catches(fault, |b| match fault.name {
            "update not skipped" | "skips not counted" | "NaN lost" => update(b, &[(300, with(300, f32::NAN))], 1.0, 2),
            "never halved" | "halved in one place" => scaled(b, &[(300, with(300, f32::NAN))], 1.0, 2, SCALED),
            _ if SCALING_FAULTS.contains(&fault.name) => scaled(b, &[(300, Fill::Normal)], 1.0, 9, SCALED),
            _ => update(b, &[(40_000, Fill::Normal)], 1.0, 2),
        });
    }
    refusals(f);
    for word in ["sum_squares", "gradient_norm", "adamw", "ema"] {
        f.floor(word, 40);
    }
}

/// Doubles with the next finite gradient.
const SCALED: Scaling = Scaling { skipped: 3.0, scale: 1024.0, good: 4.0, interval: 5 };

/// Scales at their ends and between, before and after they move, with finite gradients and others; as many skipped updates as
/// the scalars tell apart, and more.
fn scalings(f: &mut Family) {
    for (scale, good, interval) in
        [(65536.0, 0.0, 2000), (1024.0, 4.0, 5), (1024.0, 3.0, 5), (16_777_216.0, 1.0, 2), (1.0, 0.0, 1), (0.5, 0.0, 1)]
    {
        for (skipped, t) in [(0.0, 1), (31.0, 40), (40.0, 41)] {
            let scaling = Scaling { skipped, scale, good, interval };
            let size = scale as f64;
            f.case(&format!("scale {scale}, {good} of {interval}, {skipped} skipped"), |b| {
                scaled(b, &[(300, Fill::Uniform(-size, size))], 1.0, t, scaling)
            });
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let scaling = Scaling { skipped: 1.0, scale, good, interval };
            f.case(&format!("{bad} at scale {scale}"), |b| scaled(b, &[(65, with(65, bad))], 1.0, 3, scaling));
        }
    }
}

/// Ten updates with fresh gradients, in f32 on the GPU and in f64 as torch.optim.AdamW and diffusers' EMA write them
/// down: weights within 1e-6, above 1 relative (ten roundings of f32 are 6e-7).
fn ten_updates(f: &mut Family) {
    use deme::gpu::{Externals, Plan, PlanOptions};
    use deme::recording::Recording;
    use deme::rng::{Purpose, normal4, stream};
    const N: usize = 500;
    let normal = |sub: u32, i: usize| normal4(1, stream(Purpose::Weights, sub), i as u64 / 4)[i % 4];
    let (lr, [beta1, beta2], eps, decay, clip) = (1e-3, [0.95, 0.999], 1e-8, 1e-2, 1.0);
    let ema_decay = |t: u64| (1.0 - (t as f64).powf(-0.75)).clamp(0.0, 0.9999);

    let gpu = super::harness::device::gpu();
    let run = || -> Result<Vec<Vec<f32>>> {
        let mut rec = Recording::new("update");
        let mut externals = Externals::new();
        let mut slab = |rec: &mut Recording, key: &str, n: usize, value: &dyn Fn(usize) -> f64| -> Result<Tensor> {
            let storage = gpu.storage(key, n as u64)?;
            gpu.write(&storage, 0, &(0..n).map(|i| value(i) as f32).collect::<Vec<_>>())?;
            externals.insert(key.to_string(), storage);
            let shape = deme::shape::Shape::new([n as u32]);
            Ok(Tensor { buffer: rec.external(key, n as u64), offset: 0, shape })
        };
        let theta = slab(&mut rec, "theta", N, &|i| normal(0, i))?;
        let average = slab(&mut rec, "average", N, &|i| normal(0, i))?;
        let [gradient, m, v] = ["gradient", "m", "v"].map(|key| slab(&mut rec, key, N, &|_| 0.0));
        let (gradient, m, v) = (gradient?, m?, v?);
        let status = slab(&mut rec, "status", STATUS as usize, &|i| f64::from(initial(1.0)[i]))?;
        let input = rec.input("scalars", deme::shape::Shape::new([SCALARS]), deme::shape::DType::F32);
        gradient_norm(&mut rec, &[gradient], clip as f32, 0, &status)?;
        adamw(&mut rec, &input, &status, &theta, &gradient, &m, &v)?;
        ema(&mut rec, &input, &status, &theta, &average)?;
        let mut plan = Plan::new(gpu, rec, &externals, &PlanOptions::default())?;
        for t in 1..=10 {
            let fresh: Vec<_> = (0..N).map(|i| (0.1 * normal(t as u32, i)) as f32).collect();
            gpu.write(&externals["gradient"], 0, &fresh)?;
            plan.run(&[(input, &scalars(lr, [beta1, beta2], eps, decay, t, |made| ema_decay(made + 1)))])?;
            plan.wait()?;
        }
        [theta, average, gradient, status].iter().map(|x| plan.read(x)).collect()
    };

    let round = |x: f64| f64::from(x as f32);
    let mut theta: Vec<f64> = (0..N).map(|i| round(normal(0, i))).collect();
    let (mut average, mut m, mut v) = (theta.clone(), vec![0.0; N], vec![0.0; N]);
    for t in 1..=10u64 {
        let g: Vec<_> = (0..N).map(|i| round(0.1 * normal(t as u32, i))).collect();
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let factor = (clip / (norm + 1e-6)).min(1.0);
        for i in 0..N {
            let g = g[i] * factor;
            theta[i] *= 1.0 - lr * decay;
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let (m_hat, v_hat): (f64, f64) = (m[i] / (1.0 - beta1.powf(t as f64)), v[i] / (1.0 - beta2.powf(t as f64)));
            theta[i] -= lr * m_hat / (v_hat.sqrt() + eps);
            average[i] = ema_decay(t) * average[i] + (1.0 - ema_decay(t)) * theta[i];
        }
    }
    match run() {
        Err(e) => f.fail(format!("ten updates: {e}")),
        Ok(got) => {
            for (name, got, expected) in [("theta", &got[0], &theta), ("average", &got[1], &average)] {
                let bound: Vec<_> = expected.iter().map(|x| 1e-6 * x.abs().max(1.0)).collect();
                if let Err(e) = super::harness::compare::within(got, expected, &bound) {
                    f.fail(format!("ten updates: {name}: {e}"));
                }
            }
            if got[2].iter().any(|g| *g != 0.0) || got[3][3] != 0.0 {
                f.fail("ten updates: the gradient is not zero, or an update was skipped");
            }
        }
    }
}

fn refusals(f: &mut Family) {
    f.rejects(&["gradient_norm", "[7]", "[3]"], |b| {
        let (g, status) = (b.tensor("g", &[10]), b.tensor("status", &[3]));
        gradient_norm(&mut b.tape.rec, &[g], 1.0, 0, &status)
    });
    f.rejects(&["gradient_norm", "0 gradients"], |b| {
        let status = b.tensor("status", &[STATUS]);
        gradient_norm(&mut b.tape.rec, &[], 1.0, 0, &status)
    });
    f.rejects(&["gradient_norm", "NaN"], |b| {
        let (g, status) = (b.tensor("g", &[10]), b.tensor("status", &[STATUS]));
        gradient_norm(&mut b.tape.rec, &[g], f32::NAN, 0, &status)
    });
    f.rejects(&["adamw", "[10]", "[11]"], |b| {
        let [theta, g, m] = ["theta", "g", "m"].map(|label| b.tensor(label, &[10]));
        let (v, status) = (b.tensor("v", &[11]), b.tensor("status", &[STATUS]));
        let scalars = b.tensor("scalars", &[SCALARS]);
        adamw(&mut b.tape.rec, &scalars, &status, &theta, &g, &m, &v)
    });
    f.rejects(&["ema", "scalars", "[101]", "[7]"], |b| {
        let (theta, average) = (b.tensor("theta", &[10]), b.tensor("average", &[10]));
        let (status, scalars) = (b.tensor("status", &[STATUS]), b.tensor("scalars", &[7]));
        ema(&mut b.tape.rec, &scalars, &status, &theta, &average)
    });
}

const FAULTS: &[Fault] = &[
    Fault::shader("dropped barriers", "sum_squares", "sum_squares", "sum64(lane, vec2<f32>(sum, 0.0)).x", "sum"),
    Fault::shader("NaN lost", "sum_squares", "sum_squares", "partials[g] = total", "partials[g] = max(total, 0.0)"),
    Fault::shader("square lost", "sum_squares", "sum_squares", "x[i] * x[i]", "x[i]"),
    Fault::shader(
        "chunk's edge",
        "sum_squares",
        "sum_squares",
        "min((g + 1u) * ${CHUNK}u, ",
        "min((g + 1u) * ${CHUNK}u + 1u, ",
    ),
    Fault::shader("root lost", "gradient_norm", "gradient_norm", "sqrt(total)", "total"),
    Fault::shader("no clipping", "gradient_norm", "gradient_norm", "params.max_norm > 0.0", "false"),
    Fault::shader("clipped upwards", "gradient_norm", "gradient_norm", "min(1.0, ", "max(1.0, "),
    Fault::shader("skips not counted", "gradient_norm", "gradient_norm", "status[3] += 1.0", "status[3] += 0.0"),
    Fault::shader("update not skipped", "adamw", "adamw", "status[1] != 0.0", "true"),
    Fault::shader("gradient kept", "adamw", "adamw", "gradient[i] = 0.0", "gradient[i] = gradient[i]"),
    Fault::shader("decay after the step", "adamw", "adamw", "theta[i] * scalars[0] - ", "theta[i] - scalars[0] * "),
    Fault::shader(
        "eps under the root",
        "adamw",
        "adamw",
        "sqrt(second) / scalars[at + 1u] + scalars[4]",
        "sqrt(second + scalars[4]) / scalars[at + 1u]",
    ),
    Fault::shader("not clipped", "adamw", "adamw", "gradient[i] * status[0]", "gradient[i]"),
    Fault::shader("decay for 1 - decay", "ema", "ema", "scalars[at] *", "(1.0 - scalars[at]) *"),
    Fault::shader("never halved", "gradient_norm", "gradient_norm", "0.5 * scale", "scale"),
    Fault::shader("halved in one place", "gradient_norm", "gradient_norm", "2.0 * unscale", "unscale"),
    Fault::shader("doubled in one place", "gradient_norm", "gradient_norm", "0.5 * unscale", "unscale"),
    Fault::shader("never doubled", "gradient_norm", "gradient_norm", "2.0 * scale", "scale"),
    Fault::shader("doubled late", "gradient_norm", "gradient_norm", "status[5] >= ", "status[5] > "),
    Fault::shader("norm of the scaled one", "gradient_norm", "gradient_norm", "sqrt(total) * unscale", "sqrt(total)"),
    Fault::shader("left scaled", "gradient_norm", "gradient_norm", "factor * unscale", "factor"),
    Fault::shader("skips corrected for", "adamw", "adamw", "min(u32(status[3])", "min(0u"),
    Fault::shader("skips averaged", "ema", "ema", "min(u32(status[3])", "min(0u"),
];

/// Those that only a scaled gradient shows.
const SCALING_FAULTS: &[&str] = &[
    "never doubled",
    "doubled in one place",
    "doubled late",
    "norm of the scaled one",
    "left scaled",
    "skips corrected for",
    "skips averaged",
];
