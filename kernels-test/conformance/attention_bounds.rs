//! How far each attention kernel may be from its twin: first-order error propagation through the formulas, in units of
//! u = 2^-24, with WGSL's interval of 3 + 2 |x| units in the last place for exp(x). Called by `attention`.

use super::harness::compare::{Twinned, U};
use deme::shader::card::Params;
use deme::shader::cards::attention::{AttentionParams, SoftmaxParams};

/// What flushing a number below the normal range may lose.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Relative error of exp(x) where x itself is off by `error`.
fn exp_error(x: f64, error: f64) -> f64 {
    error + (3.0 + 2.0 * x.abs()) * 2.0 * U
}

pub fn softmax_forward(t: &Twinned) -> Vec<Vec<f64>> {
    let columns = SoftmaxParams::of(&t.op.params).columns as usize;
    let row = |(x, y): (&[f64], &[f64])| -> Vec<f64> {
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let relative = |x: f64| exp_error(x - largest, (x - largest).abs() * 2.0 * U);
        let sum: f64 = x.iter().zip(y).map(|(x, y)| y * relative(*x)).sum::<f64>() + 2.0 * columns as f64 * U;
        x.iter().zip(y).map(|(x, y)| y * (relative(*x) + sum + 8.0 * U) + 2.0 * TINY).collect()
    };
    vec![t.reads[0].chunks_exact(columns).zip(t.outputs[0].chunks_exact(columns)).flat_map(row).collect()]
}

pub fn softmax_backward(t: &Twinned) -> Vec<Vec<f64>> {
    let columns = SoftmaxParams::of(&t.op.params).columns as usize;
    let row = |(y, dy): (&[f64], &[f64])| -> Vec<f64> {
        let sum: f64 = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).sum();
        let off = 2.0 * (columns as f64 + 2.0) * U * sum;
        y.iter().zip(dy).map(|(y, dy)| y.abs() * (4.0 * U * (dy.abs() + sum) + off) + TINY).collect()
    };
    vec![t.reads[0].chunks_exact(columns).zip(t.reads[1].chunks_exact(columns)).flat_map(row).collect()]
}

/// The layout of an op's heads, for one (sample, head, query) after the other.
struct Heads(AttentionParams);

impl Heads {
    fn of(t: &Twinned) -> Self {
        Self(AttentionParams::of(&t.op.params))
    }

    fn row<'a>(&self, values: &'a [f64], tokens: u32, n: u32, h: u32, token: u32) -> &'a [f64] {
        let start = (((n * tokens + token) * self.0.heads + h) * self.0.size) as usize;
        &values[start..start + self.0.size as usize]
    }

    fn query<'a>(&self, values: &'a [f64], [n, h, t]: [u32; 3]) -> &'a [f64] {
        self.row(values, self.0.queries, n, h, t)
    }

    fn key<'a>(&self, values: &'a [f64], [n, h, _]: [u32; 3], s: u32) -> &'a [f64] {
        self.row(values, self.0.keys, n, h, s)
    }

    /// (n, h, t) in the order of the values of a query.
    fn all(&self) -> Vec<[u32; 3]> {
        let p = self.0;
        let heads = (0..p.batch).flat_map(|n| (0..p.heads).map(move |h| (n, h)));
        heads.flat_map(|(n, h)| (0..p.queries).map(move |t| [n, h, t])).collect()
    }

    /// A score and its error.
    fn score(&self, q: &[f64], k: &[f64]) -> (f64, f64) {
        let scale = f64::from(self.0.scale);
        let score = scale * dot(q, k);
        (score, 2.0 * (q.len() as f64 + 1.0) * U * scale.abs() * absolute_dot(q, k) + 2.0 * U * score.abs())
    }

    fn add(&self, sums: &mut [f64], tokens: u32, [n, h, _]: [u32; 3], token: u32, factor: f64, x: &[f64]) {
        let start = (((n * tokens + token) * self.0.heads + h) * self.0.size) as usize;
        for (sum, x) in sums[start..].iter_mut().zip(x) {
            *sum += factor * x.abs();
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn absolute_dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

pub fn attention_forward(t: &Twinned) -> Vec<Vec<f64>> {
    let heads = Heads::of(t);
    let p = heads.0;
    let [q, k, v] = t.reads.as_slice() else { panic!("three reads") };
    let mut outputs = vec![TINY; t.outputs[0].len()];
    let mut log_sums = Vec::new();
    for (index, at) in heads.all().into_iter().enumerate() {
        let log_sum = t.outputs[1][index];
        let scores: Vec<_> = (0..p.keys).map(|s| heads.score(heads.query(q, at), heads.key(k, at, s))).collect();
        // Online softmax multiplies earlier sums by exp(old largest - new largest) whenever the largest grows.
        let (mut largest, mut fades) = (scores[0].0, 0.0);
        for (score, _) in &scores {
            if *score > largest {
                fades += exp_error(score - largest, 0.0) + 2.0 * U;
                largest = *score;
            }
        }
        let worst = scores.iter().map(|(_, e)| *e).fold(0.0, f64::max);
        let relative = |score: f64| fades + exp_error(score - largest, 2.0 * worst + (score - largest).abs() * 2.0 * U);
        let weight = |score: f64| (score - log_sum).exp();
        let sum = scores.iter().map(|(s, _)| weight(*s) * relative(*s)).sum::<f64>() + 2.0 * f64::from(p.keys) * U;
        for (s, (score, _)) in (0..).zip(&scores) {
            let factor = weight(*score) * (relative(*score) + sum + 2.0 * (f64::from(p.keys) + 6.0) * U);
            heads.add(&mut outputs, p.queries, at, at[2], factor, heads.key(v, at, s));
        }
        // log: 2^-21 near 1, three units in the last place elsewhere.
        log_sums.push(worst + sum + 2f64.powi(-21) + 8.0 * U * ((log_sum - largest).abs() + log_sum.abs()));
    }
    vec![outputs, log_sums]
}

/// For each query and key: its place, the weight and dL/d(score), each with its error.
fn weights(t: &Twinned, mut each: impl FnMut(&Heads, [u32; 3], u32, [f64; 4])) {
    let heads = Heads::of(t);
    let [q, k, v, log_sum, delta, dy] = t.reads.as_slice() else { panic!("six reads") };
    for (index, at) in heads.all().into_iter().enumerate() {
        for s in 0..heads.0.keys {
            let (score, score_error) = heads.score(heads.query(q, at), heads.key(k, at, s));
            let x = score - log_sum[index];
            let error = score_error + 2.0 * U * (score.abs() + log_sum[index].abs());
            let (weight, relative) = (x.exp(), exp_error(x, error));
            let (dy, v) = (heads.query(dy, at), heads.key(v, at, s));
            let dw = dot(dy, v);
            let dw_error = 2.0 * (dy.len() as f64 + 1.0) * U * absolute_dot(dy, v);
            let ds_error = relative * (dw - delta[index]).abs() + dw_error + 4.0 * U * (dw.abs() + delta[index].abs());
            each(
                &heads,
                at,
                s,
                [weight, weight * relative + TINY, weight * (dw - delta[index]), weight * ds_error + TINY],
            );
        }
    }
}

pub fn attention_backward_query(t: &Twinned) -> Vec<Vec<f64>> {
    let mut bound = vec![TINY; t.outputs[0].len()];
    weights(t, |heads, at, s, [_, _, ds, ds_error]| {
        let sum_error = 2.0 * (f64::from(heads.0.keys) + 4.0) * U;
        let factor = f64::from(heads.0.scale) * (ds_error + sum_error * ds.abs());
        heads.add(&mut bound, heads.0.queries, at, at[2], factor, heads.key(&t.reads[1], at, s));
    });
    vec![bound]
}

pub fn attention_backward_key_value(t: &Twinned) -> Vec<Vec<f64>> {
    let mut keys = vec![TINY; t.outputs[0].len()];
    let mut values = keys.clone();
    weights(t, |heads, at, s, [weight, weight_error, ds, ds_error]| {
        let sum_error = 2.0 * (f64::from(heads.0.queries) + 4.0) * U;
        let factor = f64::from(heads.0.scale) * (ds_error + sum_error * ds.abs());
        heads.add(&mut keys, heads.0.keys, at, s, factor, heads.query(&t.reads[0], at));
        let factor = weight_error + sum_error * weight;
        heads.add(&mut values, heads.0.keys, at, s, factor, heads.query(&t.reads[5], at));
    });
    vec![keys, values]
}
