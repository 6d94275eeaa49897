//! The merge and its derivative by the weights against their twins, within the bounds that they promise.
//! Called by `conformance.rs`.

use super::harness::case::{Bench, Fill};
use super::harness::compare::{Twinned, U};
use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::error::Result;
use deme::kernels::merge::{interleave, merge_task_vectors, task_vector_dots};
use deme::rng::{Purpose, normal4, stream};
use deme::shader::card::Params;
use deme::shader::cards::merge::{CHUNK, MergeParams};

pub const TOLERANCES: &[(&str, Tolerance)] =
    &[("merge_task_vectors", Tolerance::Custom(bound)), ("task_vector_dots", Tolerance::Cancelling(dots_bound))];

/// 4 u (|theta| + sum |w_i| (|theta| + |theta_i|))
fn bound(t: &Twinned) -> Vec<Vec<f64>> {
    let experts = MergeParams::of(&t.op.params).experts as usize;
    let chunk = CHUNK as usize;
    let (models, weights) = (&t.reads[0], &t.reads[1]);
    let element = |i: usize| {
        let at = |model: usize| models[i / chunk * chunk * (experts + 1) + model * chunk + i % chunk].abs();
        let terms: f64 = (0..experts).map(|e| weights[e].abs() * (at(0) + at(e + 1))).sum();
        4.0 * U * (at(0) + terms)
    };
    vec![(0..t.outputs[0].len()).map(element).collect()]
}

/// 2 K u sum |terms|: a lane sums 16 of them, the lanes are summed in six steps, difference and product are rounded.
fn dots_bound(t: &Twinned) -> Vec<Vec<f64>> {
    let experts = MergeParams::of(&t.op.params).experts as usize;
    let chunk = CHUNK as usize;
    let (gradient, models) = (&t.reads[0], &t.reads[1]);
    let partial = |i: usize| {
        let (first, expert) = (i / experts * chunk, i % experts);
        let base = first * (experts + 1);
        let elements = first..gradient.len().min(first + chunk);
        let term = |e: usize| {
            let at = |model: usize| models[base + model * chunk + e - first];
            (gradient[e] * (at(expert + 1) - at(0))).abs()
        };
        2.0 * (16.0 + 6.0 + 2.0) * U * elements.map(term).sum::<f64>()
    };
    vec![(0..t.outputs[0].len()).map(partial).collect()]
}

/// Base of normals; experts that differ from it by `drift` of normals.
fn models(experts: u32, count: u32, drift: f64) -> Vec<Vec<f32>> {
    let normal = |model: u32, i: u32| normal4(5, stream(Purpose::Weights, model), u64::from(i / 4))[(i % 4) as usize];
    let value = |model: u32, i: u32| match model {
        0 => normal(0, i) as f32,
        _ => (normal(0, i) + drift * normal(model, i)) as f32,
    };
    (0..=experts).map(|model| (0..count).map(|i| value(model, i)).collect()).collect()
}

fn merge(b: &mut Bench, models: &[Vec<f32>], weights: &[f32]) -> Result<()> {
    let words = interleave(models)?;
    let interleaved = b.filled("models", &[words.len() as u32], Fill::Values(words));
    let weights = b.input("weights", &[weights.len() as u32], weights);
    let merged = b.tensor("merged", &[models[0].len() as u32]);
    merge_task_vectors(&mut b.tape.rec, &interleaved, &weights, &merged)
}

/// The derivative by each weight; the dots start from other numbers, so a lost addition shows.
fn dots(b: &mut Bench, models: &[Vec<f32>]) -> Result<()> {
    let words = interleave(models)?;
    let interleaved = b.filled("models", &[words.len() as u32], Fill::Values(words));
    let gradient = b.tensor("gradient", &[models[0].len() as u32]);
    let dots = b.tensor("dots", &[models.len() as u32 - 1]);
    task_vector_dots(&mut b.tape.rec, &gradient, &interleaved, &dots)
}

/// Alternating signs, of the size that the paper's searches end with.
fn weights(experts: u32) -> Vec<f32> {
    (0..experts).map(|e| 0.37 * (e + 1) as f32 * if e % 2 == 0 { 1.0 } else { -0.7 }).collect()
}

pub fn cases(f: &mut Family) {
    for count in [1, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 5000] {
        for experts in [1, 2, 3, 4, 8, 20] {
            f.case(&format!("{experts} experts of {count}"), |b| {
                merge(b, &models(experts, count, 0.01), &weights(experts))
            });
        }
    }
    for drift in [1e-6, 1.0] {
        f.case(&format!("4 experts, drift {drift}"), |b| merge(b, &models(4, 3000, drift), &weights(4)));
    }
    for count in [1, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 5000] {
        for experts in [1, 2, 3, 4, 8, 20] {
            f.case(&format!("dots of {experts} experts, {count}"), |b| dots(b, &models(experts, count, 0.01)));
        }
    }
    f.case("dots over many chunks", |b| dots(b, &models(2, 600 * CHUNK + 3, 0.01)));
    base_comes_back(f);
    f.rejects(&["merge_task_vectors", "[100, 99]"], |_| interleave(&[vec![0.0; 100], vec![0.0; 99]]));
    f.rejects(&["merge_task_vectors", "[]"], |_| interleave(&[]));
    f.rejects(&["merge_task_vectors", "[100]", "[2]", "3072", "[2048]"], |b| {
        let models = b.tensor("models", &[2 * CHUNK]);
        let (weights, merged) = (b.tensor("weights", &[2]), b.tensor("merged", &[100]));
        merge_task_vectors(&mut b.tape.rec, &models, &weights, &merged)
    });
    f.rejects(&["task_vector_dots", "[100]", "[2]", "3072", "[2048]"], |b| {
        let models = b.tensor("models", &[2 * CHUNK]);
        let (gradient, dots) = (b.tensor("gradient", &[100]), b.tensor("dots", &[2]));
        task_vector_dots(&mut b.tape.rec, &gradient, &models, &dots)
    });
    for fault in FAULTS {
        f.catches(fault, |b| merge(b, &models(3, 2500, 0.01), &weights(3)));
    }
    for fault in DOTS_FAULTS {
        f.catches(fault, |b| dots(b, &models(3, 2500, 0.01)));
    }
    f.floor("merge_task_vectors", 40);
    f.floor("task_vector_dots", 40);
}

/// Weights of zero, and experts equal to the base, give the base bit for bit.
fn base_comes_back(f: &mut Family) {
    use super::harness::device;
    let apart = models(3, 2500, 0.01);
    let same = vec![apart[0].clone(); 4];
    for (models, weights, name) in [(&apart, [0.0; 3], "weights 0"), (&same, [0.3, -0.8, 1.7], "experts equal")] {
        let mut b = Bench::new(1);
        let text = |e: deme::error::Error| e.to_string();
        let merged = merge(&mut b, models, &weights).map_err(text).and_then(|()| {
            let op = &b.tape.rec.ops[0];
            let dtypes: Vec<_> = b.tape.rec.buffers.iter().map(|b| b.dtype).collect();
            let after = device::run(op, &dtypes, &device::poisoned(op, &b.snapshot()), false, 1)?;
            let buffer = &after[0][&(op.writes[0].buffer.0 as usize)];
            Ok(buffer[device::GUARD..][..2500].to_vec())
        });
        let base: Vec<_> = models[0].iter().map(|v| v.to_bits()).collect();
        if merged != Ok(base) {
            f.fail(format!("{name}: the merge is not the base"));
        }
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader(
        "last expert lost",
        "merge_task_vectors",
        "merge_task_vectors",
        "e < params.experts",
        "e + 1u < params.experts",
    ),
    Fault::shader("experts added, not task vectors", "merge_task_vectors", "merge_task_vectors", "] - theta)", "])"),
    Fault::shader("first weight for all", "merge_task_vectors", "merge_task_vectors", "weights[e]", "weights[0]"),
    Fault::shader(
        "chunks not skipped",
        "merge_task_vectors",
        "merge_task_vectors",
        "(params.experts + 1u) +",
        "params.experts +",
    ),
    Fault::shader(
        "rounded to f16",
        "merge_task_vectors",
        "merge_task_vectors",
        "merged[i] = sum + lost",
        "merged[i] = unpack2x16float(pack2x16float(vec2<f32>(sum))).x",
    ),
];

const DOTS_FAULTS: &[Fault] = &[
    Fault::shader(
        "last expert lost",
        "task_vector_dots",
        "task_vector_dots",
        "e < params.experts",
        "e + 1u < params.experts",
    ),
    Fault::shader(
        "with the experts, not the task vectors",
        "task_vector_dots",
        "task_vector_dots",
        " - models[base + i]",
        "",
    ),
    Fault::shader("the last lane lost", "task_vector_dots", "task_vector_dots", "i < length", "i + 1u < length"),
    Fault::shader(
        "chunks not skipped",
        "task_vector_dots",
        "task_vector_dots",
        "(params.experts + 1u);",
        "params.experts;",
    ),
    Fault::shader(
        "lane 0 for all lanes",
        "task_vector_dots",
        "task_vector_dots",
        "partial_sums[lane + ${half}u]",
        "partial_sums[lane]",
    ),
    Fault::shader(
        "one sum for all experts",
        "task_vector_dots",
        "task_vector_dots",
        "g * params.experts + e",
        "g * params.experts",
    ),
];
