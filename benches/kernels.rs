//! Times every kernel in every variant that fits this adapter: `cargo bench --bench kernels -- [--filter TEXT] [--smoke]`.
//! Prints `<word>/<shape>/<variant>`, GFLOP/s and the median and best time; `--smoke` runs the examples' shapes once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot run should stop")]

use deme::error::Result;
use deme::gpu::{AdapterChoice, Externals, Gpu, Plan, PlanOptions};
use deme::kernels::EXAMPLES;
use deme::kernels::conv2d::{Conv2dSpec, Padding, conv2d};
use deme::kernels::matmul::matmul;
use deme::recording::{BufferId, Op, Recording, Tensor};
use deme::shader::Class;
use deme::shape::{DType, Shape};
use deme::tape::Tape;
use std::collections::HashSet;
use std::time::Instant;

/// Forward and backward of one layer, whose ops are then timed one by one.
fn layer(
    build: impl FnOnce(&mut Tape, &Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    x: Shape,
    w: Shape,
) -> Result<Recording> {
    let mut rec = Recording::new("bench");
    let mut fresh = |label: &str, shape: Shape| rec.transient(label, shape);
    let bias = Shape::new([w.last()]);
    let (x, w, dw, b, db) = (fresh("x", x), fresh("w", w), fresh("dw", w), fresh("b", bias), fresh("db", bias));
    let mut tape = Tape::new(rec);
    tape.watch(&x);
    tape.parameter(w, dw);
    tape.parameter(b, db);
    let y = build(&mut tape, &x, &w, &b)?;
    let dy = tape.rec.transient("dy", y.shape);
    Ok(tape.backward(&[(y, dy)])?.0)
}

/// m, k, n of linear layers; batch, size, cin, cout, stride of 3x3 convolutions.
struct Shapes {
    linear: &'static [[u32; 3]],
    convolution: &'static [[u32; 5]],
}

const SHAPES: Shapes = Shapes {
    linear: &[[1024, 1024, 1024], [8192, 64, 32], [2048, 64, 64], [512, 256, 128], [8, 128, 128], [8192, 128, 4]],
    convolution: &[
        [8, 32, 128, 128, 1],
        [8, 32, 4, 32, 1],
        [8, 32, 32, 32, 1],
        [8, 32, 64, 32, 1],
        [8, 32, 96, 32, 1],
        [8, 32, 32, 4, 1],
        [8, 32, 32, 32, 2],
        [8, 16, 64, 64, 1],
        [8, 16, 192, 64, 1],
        [8, 16, 64, 64, 2],
        [8, 8, 128, 128, 1],
        [8, 8, 256, 128, 1],
    ],
};

/// Layers of the models in use, and the examples, which call every kernel.
fn recordings(smoke: bool) -> Vec<Recording> {
    let examples = EXAMPLES.iter().map(|example| example());
    if smoke {
        return examples.collect::<Result<_>>().unwrap();
    }
    let linear = SHAPES
        .linear
        .iter()
        .map(|&[m, k, n]| layer(|tape, x, w, b| matmul(tape, x, w, Some(b)), Shape::new([m, k]), Shape::new([k, n])));
    let convolution = SHAPES.convolution.iter().map(|&[batch, size, cin, cout, stride]| {
        let padding = if stride == 2 { Padding::RightBottom } else { Padding::Symmetric(1) };
        let (x, w) = (Shape::new([batch, size, size, cin]), Shape::new([3, 3, cin, cout]));
        layer(|tape, x, w, b| conv2d(tape, x, w, Some(b), Conv2dSpec { stride, padding }), x, w)
    });
    linear.chain(convolution).chain(examples).collect::<Result<_>>().unwrap()
}

/// The op alone, over externals named by their number.
fn alone(rec: &Recording, op: &Op, gpu: &Gpu) -> (Recording, Externals) {
    let mut single = Recording::new(op.card.word);
    let mut externals = Externals::new();
    let mut moved = |t: &Tensor| -> Tensor {
        let BufferId(i) = t.buffer;
        let elements = rec.buffers[i as usize].elements;
        let key = i.to_string();
        if !externals.contains_key(&key) {
            let storage = gpu.storage(&key, elements).unwrap();
            // Zeros and denormals would flatter or slow; small numbers of both signs keep sums small. Indices are 0.
            let scale = if rec.buffers[i as usize].dtype == DType::F32 { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..elements).map(|i| scale * ((i * 7919 % 1009) as f32 / 504.5 - 1.0)).collect();
            gpu.write(&storage, 0, &values).unwrap();
            externals.insert(key.clone(), storage);
        }
        Tensor { buffer: single.external(&key, elements), ..*t }
    };
    let mut map = |tensors: &[Tensor]| -> Vec<Tensor> { tensors.iter().map(&mut moved).collect() };
    let op = Op { reads: map(&op.reads), writes: map(&op.writes), updates: map(&op.updates), ..op.clone() };
    single.ops.push(op);
    (single, externals)
}

/// Seconds of each of several runs, after a first that compiles.
fn time(plan: &mut Plan, smoke: bool) -> Vec<f64> {
    let mut run = || {
        let start = Instant::now();
        plan.run(&[]).unwrap();
        plan.wait().unwrap();
        start.elapsed().as_secs_f64()
    };
    let first = run();
    if smoke {
        return vec![first];
    }
    let mut seconds: Vec<_> = (0..3).map(|_| run()).collect();
    while seconds.iter().sum::<f64>() < 0.3 && seconds.len() < 101 {
        seconds.push(run());
    }
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let smoke = arguments.iter().any(|a| a == "--smoke");
    let filter = arguments.iter().position(|a| a == "--filter").and_then(|i| arguments.get(i + 1)).cloned();
    let gpu = Gpu::open(&AdapterChoice::default()).unwrap();
    println!("{}", gpu.summary());
    let mut seen = HashSet::new();
    for rec in recordings(smoke) {
        for op in &rec.ops {
            if !seen.insert((op.card.word, op.params.clone())) {
                continue;
            }
            let usual = op.card.choose(&op.params, gpu.class(), &gpu.limits()).unwrap().stem;
            for variant in op.card.variants.iter().filter(|v| (v.fits)(&op.params, &gpu.limits())) {
                let suffix = variant.stem.strip_prefix(op.card.word).unwrap().trim_start_matches('_');
                let shapes: Vec<_> = op.tensors().map(|(_, t)| t.shape.to_string().replace(", ", "x")).collect();
                let id = format!("{}/{}/{suffix}", op.card.word, shapes.join(""));
                if filter.as_ref().is_some_and(|f| !id.contains(f.as_str())) {
                    continue;
                }
                // A GPU's tiles are slow on a CPU rasteriser, and the naive kernels anywhere.
                let slow = variant.class == Class::Gpu && gpu.class() == Class::Cpu || suffix == "v1";
                if !smoke && filter.is_none() && slow && variant.stem != usual {
                    continue;
                }
                let (single, externals) = alone(&rec, op, &gpu);
                let options = PlanOptions { checked: false, variant: Some(suffix.to_string()) };
                let mut plan = Plan::new(&gpu, single, &externals, &options).unwrap();
                let seconds = time(&mut plan, smoke);
                let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
                let cost = op.cost();
                println!(
                    "{id:90} {:8.2} GFLOP/s {:7.2} GB/s  best {:9.3} ms  median {:9.3} ms{}",
                    cost.flops as f64 / best / 1e9,
                    cost.bytes as f64 / best / 1e9,
                    best * 1e3,
                    median * 1e3,
                    if variant.stem == usual { "  *" } else { "" }
                );
            }
        }
    }
}
