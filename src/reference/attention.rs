//! Twins of the attention kernels (`shader::cards::attention`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::attention::{AttentionParams, SoftmaxParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("softmax_forward", softmax_forward),
    ("softmax_backward", softmax_backward),
    ("attention_forward", attention_forward),
    ("attention_backward_delta", attention_backward_delta),
    ("attention_backward_query", attention_backward_query),
    ("attention_backward_key_value", attention_backward_key_value),
];

fn softmax_forward(c: &mut Call) {
    let columns = SoftmaxParams::of(c.params).columns as usize;
    for (y, x) in c.writes[0].chunks_exact_mut(columns).zip(c.reads[0].chunks_exact(columns)) {
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
        for (y, x) in y.iter_mut().zip(x) {
            *y = (x - largest).exp() / sum;
        }
    }
}

fn softmax_backward(c: &mut Call) {
    let columns = SoftmaxParams::of(c.params).columns as usize;
    let rows = c.reads[0].chunks_exact(columns).zip(c.reads[1].chunks_exact(columns));
    for (dx, (y, dy)) in c.writes[0].chunks_exact_mut(columns).zip(rows) {
        let sum: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
        for (j, dx) in dx.iter_mut().enumerate() {
            *dx = y[j] * (dy[j] - sum);
        }
    }
}

/// Where the heads lie.
struct Heads {
    p: AttentionParams,
    size: usize,
}

/// One query of one head: its place among [batch, heads, queries], and the head's ranges in q and (a key's) in k.
struct Query {
    index: usize,
    q: std::ops::Range<usize>,
    first_key: usize,
}

impl Heads {
    fn of(words: &[u32]) -> Self {
        let p = AttentionParams::of(words);
        Self { p, size: p.size as usize }
    }

    fn queries(&self) -> impl Iterator<Item = Query> + use<> {
        let [heads, queries, keys, size] = [self.p.heads, self.p.queries, self.p.keys, self.p.size].map(|v| v as usize);
        (0..self.p.batch as usize * heads * queries).map(move |index| {
            let (n, h, t) = (index / queries / heads, index / queries % heads, index % queries);
            let start = ((n * queries + t) * heads + h) * size;
            Query { index, q: start..start + size, first_key: (n * keys * heads + h) * size }
        })
    }

    /// The head's range of key s.
    fn key(&self, query: &Query, s: usize) -> std::ops::Range<usize> {
        let start = query.first_key + s * self.p.heads as usize * self.size;
        start..start + self.size
    }

    fn keys(&self) -> std::ops::Range<usize> {
        0..self.p.keys as usize
    }

    fn score(&self, query: &Query, s: usize, q: &[f64], k: &[f64]) -> f64 {
        f64::from(self.p.scale) * dot(&q[query.q.clone()], &k[self.key(query, s)])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// y += factor x
fn add_scaled(y: &mut [f64], factor: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}

fn attention_forward(c: &mut Call) {
    let heads = Heads::of(c.params);
    let ([q, k, v], [o, log_sum]) = (c.reads, &mut *c.writes) else { return };
    o.fill(0.0);
    for query in heads.queries() {
        let scores: Vec<_> = heads.keys().map(|s| heads.score(&query, s, q, k)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        for (s, score) in scores.iter().enumerate() {
            add_scaled(&mut o[query.q.clone()], (score - largest).exp() / sum, &v[heads.key(&query, s)]);
        }
        log_sum[query.index] = largest + sum.ln();
    }
}

fn attention_backward_delta(c: &mut Call) {
    for query in Heads::of(c.params).queries() {
        c.writes[0][query.index] = dot(&c.reads[0][query.q.clone()], &c.reads[1][query.q]);
    }
}

/// The weight of key s, and dL/d(its score).
fn weight_ds(heads: &Heads, query: &Query, s: usize, reads: [&Vec<f64>; 6]) -> (f64, f64) {
    let [q, k, v, log_sum, delta, dy] = reads;
    let weight = (heads.score(query, s, q, k) - log_sum[query.index]).exp();
    (weight, weight * (dot(&dy[query.q.clone()], &v[heads.key(query, s)]) - delta[query.index]))
}

fn attention_backward_query(c: &mut Call) {
    let heads = Heads::of(c.params);
    let [q, k, v, log_sum, delta, dy] = c.reads else { return };
    let dq = &mut c.writes[0];
    dq.fill(0.0);
    for query in heads.queries() {
        for s in heads.keys() {
            let (_, ds) = weight_ds(&heads, &query, s, [q, k, v, log_sum, delta, dy]);
            add_scaled(&mut dq[query.q.clone()], f64::from(heads.p.scale) * ds, &k[heads.key(&query, s)]);
        }
    }
}

fn attention_backward_key_value(c: &mut Call) {
    let heads = Heads::of(c.params);
    let ([q, k, v, log_sum, delta, dy], [dk, dv]) = (c.reads, &mut *c.writes) else { return };
    dk.fill(0.0);
    dv.fill(0.0);
    for query in heads.queries() {
        for s in heads.keys() {
            let (weight, ds) = weight_ds(&heads, &query, s, [q, k, v, log_sum, delta, dy]);
            let key = heads.key(&query, s);
            add_scaled(&mut dk[key.clone()], f64::from(heads.p.scale) * ds, &q[query.q.clone()]);
            add_scaled(&mut dv[key], weight, &dy[query.q.clone()]);
        }
    }
}
