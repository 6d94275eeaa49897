//! Attention over tokens, by one of two routes with the same result.
//! Called by `nn`. Shapes: q, o [N, ..., C] with T tokens a sample; k, v [N, ..., C] with S tokens; C = heads d.

use super::matmul::{matmul_backward_weight, matmul_forward, transpose};
use super::{count, none, own};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::attention::{
    ATTENTION_BACKWARD_DELTA, ATTENTION_BACKWARD_KEY_VALUE, ATTENTION_BACKWARD_QUERY, ATTENTION_FORWARD,
    AttentionParams, LARGEST_HEAD, SOFTMAX_BACKWARD, SOFTMAX_FORWARD, SoftmaxParams,
};
use crate::shader::cards::gemm::{MatmulParams, TransposeParams};
use crate::shader::cards::pointwise::{CountParams, FILL_ZERO};
use crate::shape::Shape;
use crate::tape::{Contribution, Rule, Tape};

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Product, softmax, product: as fast as the matrix products, but the weights [N, heads, T, S] are stored.
    Products,
    /// Fused with online softmax: stores one number a query, and recomputes the weights backwards.
    Fused,
}

/// Bytes of weights up to which they are stored: what one binding holds on every adapter. Below, time decides: measured, the
/// products are 3 to 15 times as fast as the fused kernels on a CPU rasteriser (docs/benchmarks.md). Above, memory does.
const STORED: u64 = 128 << 20;

impl Route {
    /// Products while the weights [N, heads, T, S] take at most 128 MiB, fused above, and products again for heads that
    /// the fused kernels do not support.
    fn choose(p: &AttentionParams) -> Self {
        if weights_shape(p).elements().saturating_mul(4) <= STORED || p.size > LARGEST_HEAD {
            Self::Products
        } else {
            Self::Fused
        }
    }
}

fn weights_shape(p: &AttentionParams) -> Shape {
    Shape::new([p.batch, p.heads, p.queries, p.keys])
}

fn parameters(q: &Tensor, k: &Tensor, v: &Tensor, heads: u32, scale: Option<f32>) -> Result<AttentionParams> {
    let fail = |what: &str| {
        Err(Error::shape("attention", format!("q {}, k {}, v {}, {heads} heads: {what}", q.shape, k.shape, v.shape)))
    };
    let channels = q.shape.last();
    if [q, k, v].iter().any(|t| t.shape.dims().len() < 2 || t.elements() == 0) {
        return fail("expected [N, ..., C]");
    }
    if k.shape != v.shape || k.shape.last() != channels || k.shape.dims()[0] != q.shape.dims()[0] {
        return fail("the batch or the channels differ");
    }
    if heads == 0 || !channels.is_multiple_of(heads) {
        return fail("the channels are not a multiple of the heads");
    }
    let (batch, size) = (q.shape.dims()[0], channels / heads);
    let scale = scale.unwrap_or_else(|| (1.0 / f64::from(size).sqrt()) as f32);
    let tokens = |t: &Tensor| Ok(count("attention", t)? / batch / channels);
    Ok(AttentionParams { batch, heads, queries: tokens(q)?, keys: tokens(k)?, size, scale })
}

/// o = softmax(scale q k^T) v for each head of C / `heads` neighbouring channels; scale 1 / sqrt(d) unless given.
pub fn attention(
    tape: &mut Tape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: u32,
    scale: Option<f32>,
) -> Result<Tensor> {
    let p = parameters(q, k, v, heads, scale)?;
    attention_by(tape, q, k, v, heads, scale, Route::choose(&p))
}

/// `attention` by a given route.
pub fn attention_by(
    tape: &mut Tape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: u32,
    scale: Option<f32>,
    route: Route,
) -> Result<Tensor> {
    let p = parameters(q, k, v, heads, scale)?;
    let (q, k, v) = (*q, *k, *v);
    let o = tape.rec.activation("attention", q.shape);
    match route {
        Route::Products => {
            let weights = weights(&mut tape.rec, &p, &q, &k)?;
            matmul_forward(&mut tape.rec, &output_product(&p), &weights, &v, None, &o)?;
            tape.push(&[q, k, v], &[o], ProductsRule { p, q, k, v, weights });
        }
        Route::Fused => {
            if p.size > LARGEST_HEAD {
                let what = format!("heads of {} channels, the fused kernels take up to {LARGEST_HEAD}", p.size);
                return Err(Error::shape("attention", what));
            }
            let log_sum = tape.rec.transient("attention_log_sum", Shape::new([p.batch, p.heads, p.queries]));
            tape.rec.push(&ATTENTION_FORWARD, &p, &[q, k, v], &[o, log_sum], &[])?;
            tape.push(&[q, k, v], &[o], FusedRule { p, q, k, v, o, log_sum });
        }
    }
    Ok(o)
}

/// Each head [S, d] of k or v, transposed: [N, heads, d, S].
fn transposed(rec: &mut Recording, p: &AttentionParams, x: &Tensor) -> Result<Tensor> {
    let y = rec.transient_as("attention_transpose", Shape::new([p.batch, p.heads, p.size, p.keys]), rec.dtype(x));
    let channels = p.heads * p.size;
    let layout = TransposeParams {
        rows: p.keys,
        cols: p.size,
        batch_outer: p.batch,
        batch_inner: p.heads,
        ldx: channels,
        ldy: p.keys,
        x_outer: p.keys * channels,
        x_inner: p.size,
        y_outer: channels * p.keys,
        y_inner: p.size * p.keys,
    };
    transpose(rec, &layout, x, &y)?;
    Ok(y)
}

/// [T, d] of q or dL/do times a transposed [d, S] -> [N, heads, T, S], times `alpha`.
fn score_product(p: &AttentionParams, alpha: f32) -> MatmulParams {
    let channels = p.heads * p.size;
    MatmulParams {
        ldx: channels,
        batch_outer: p.batch,
        batch_inner: p.heads,
        x_outer: p.queries * channels,
        x_inner: p.size,
        w_outer: channels * p.keys,
        w_inner: p.size * p.keys,
        y_outer: p.heads * p.queries * p.keys,
        y_inner: p.queries * p.keys,
        alpha,
        ..MatmulParams::plain(p.queries, p.keys, p.size)
    }
}

/// [T, S] of the weights times [S, d] of v or k -> [T, d] in the layout of q.
fn output_product(p: &AttentionParams) -> MatmulParams {
    let channels = p.heads * p.size;
    MatmulParams {
        ldw: channels,
        ldy: channels,
        batch_outer: p.batch,
        batch_inner: p.heads,
        x_outer: p.heads * p.queries * p.keys,
        x_inner: p.queries * p.keys,
        w_outer: p.keys * channels,
        w_inner: p.size,
        y_outer: p.queries * channels,
        y_inner: p.size,
        ..MatmulParams::plain(p.queries, p.size, p.keys)
    }
}

/// `scores`' rows, as the softmax takes them.
fn rows(scores: &Tensor) -> Result<SoftmaxParams> {
    let columns = scores.shape.last();
    Ok(SoftmaxParams { rows: count("attention", scores)? / columns, columns })
}

/// softmax(scale q k^T); the scores, short-lived exponents, are f32 whatever activations are stored in.
fn weights(rec: &mut Recording, p: &AttentionParams, q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let k_t = transposed(rec, p, k)?;
    let scores = rec.transient("attention_scores", weights_shape(p));
    let rows = rows(&scores)?;
    matmul_forward(rec, &score_product(p, p.scale), q, &k_t, None, &scores)?;
    let weights = rec.activation("attention_weights", scores.shape);
    rec.push(&SOFTMAX_FORWARD, &rows, &[scores], &[weights], &[])?;
    Ok(weights)
}

/// dv = w^T do; dw = do v^T; ds = w (dw - sum w dw); dq = scale ds k; dk = scale ds^T q
struct ProductsRule {
    p: AttentionParams,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
}

impl ProductsRule {
    /// x^T dy for x [N, heads, T, S] and dy in the layout of q -> [S, d] in the layout of k, times `alpha`.
    fn transposed_product(&self, rec: &mut Recording, x: &Tensor, dy: &Tensor, alpha: f32) -> Result<Tensor> {
        let dw = rec.transient("attention_backward", self.k.shape);
        rec.push(&FILL_ZERO, &CountParams { count: count("attention", &dw)? }, &[], &[dw], &[])?;
        matmul_backward_weight(rec, &MatmulParams { alpha, ..output_product(&self.p) }, x, dy, &dw)?;
        Ok(dw)
    }
}

impl Rule for ProductsRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let Self { p, q, k, v, weights } = self;
        let mut contributions = none(needs);
        if needs[2] {
            contributions[2] = Contribution::Whole(self.transposed_product(rec, weights, &dy, 1.0)?);
        }
        if !needs[0] && !needs[1] {
            return Ok(contributions);
        }
        let v_t = transposed(rec, p, v)?;
        let d_weights = rec.transient("attention_d_weights", weights.shape);
        matmul_forward(rec, &score_product(p, 1.0), &dy, &v_t, None, &d_weights)?;
        let d_scores = rec.transient("attention_d_scores", weights.shape);
        rec.push(&SOFTMAX_BACKWARD, &rows(weights)?, &[*weights, d_weights], &[d_scores], &[])?;
        if needs[0] {
            let dq = rec.transient("attention_backward", q.shape);
            let product = MatmulParams { alpha: p.scale, ..output_product(p) };
            matmul_forward(rec, &product, &d_scores, k, None, &dq)?;
            contributions[0] = Contribution::Whole(dq);
        }
        if needs[1] {
            contributions[1] = Contribution::Whole(self.transposed_product(rec, &d_scores, q, p.scale)?);
        }
        Ok(contributions)
    }
}

/// The same with the weights recomputed: w = exp(scale q k^T - log_sum), sum w dw = sum o do = delta
struct FusedRule {
    p: AttentionParams,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    log_sum: Tensor,
}

impl Rule for FusedRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(none(needs)) };
        let Self { p, q, k, v, o, log_sum } = *self;
        let delta = rec.transient("attention_backward_delta", log_sum.shape);
        rec.push(&ATTENTION_BACKWARD_DELTA, &p, &[o, dy], &[delta], &[])?;
        let reads = [q, k, v, log_sum, delta, dy];
        let mut contributions = none(needs);
        if needs[0] {
            let dq = rec.transient("attention_backward_query", q.shape);
            rec.push(&ATTENTION_BACKWARD_QUERY, &p, &reads, &[dq], &[])?;
            contributions[0] = Contribution::Whole(dq);
        }
        if needs[1] || needs[2] {
            let dk = rec.transient("attention_backward_key", k.shape);
            let dv = rec.transient("attention_backward_value", v.shape);
            rec.push(&ATTENTION_BACKWARD_KEY_VALUE, &p, &reads, &[dk, dv], &[])?;
            contributions[1] = Contribution::Whole(dk);
            contributions[2] = Contribution::Whole(dv);
        }
        Ok(contributions)
    }
}

/// Small calls of every kernel here, by both routes, with key counts a multiple of four and not.
pub fn examples() -> Result<Recording> {
    let mut tape = Tape::new(Recording::new("attention"));
    let mut seeds = Vec::new();
    for (keys, route) in [(8, Route::Products), (7, Route::Products), (7, Route::Fused)] {
        let name = |what: &str| format!("{what} {keys} {route:?}");
        let q = own(&mut tape.rec, &name("q"), [2, 5, 12]);
        let k = own(&mut tape.rec, &name("k"), [2, keys, 12]);
        let v = own(&mut tape.rec, &name("v"), [2, keys, 12]);
        for x in [&q, &k, &v] {
            tape.watch(x);
        }
        let o = attention_by(&mut tape, &q, &k, &v, 3, None, route)?;
        seeds.push((o, q));
    }
    Ok(tape.backward(&seeds)?.0)
}
