//! Matrix products: the linear layer with its gradient, and the batched products that attention is made of.
//! Called by `nn`, `kernels::conv2d` (1x1) and `kernels::attention`.

use super::own;
use super::pointwise::add;
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::gemm::{
    COLUMN_SUM, ColumnSumParams, MATMUL_BACKWARD_WEIGHT, MATMUL_FORWARD, MatmulParams, TRANSPOSE, TransposeParams,
};
use crate::shader::cards::pointwise::{CountParams, FILL_ZERO};
use crate::shape::{DType, Shape};
use crate::tape::{Contribution, Rule, Tape};

/// Errors unless the last element of a batched matrix lies within `t`.
fn within(op: &'static str, name: &str, t: &Tensor, batch: [(u32, u32); 2], rows: (u32, u32), cols: u32) -> Result<()> {
    let level = |(count, stride): (u32, u32)| u64::from(count.saturating_sub(1)) * u64::from(stride);
    let end = level(batch[0]) + level(batch[1]) + level(rows) + u64::from(cols);
    if end <= t.elements() && end <= u64::from(u32::MAX) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{name} {} has {} elements, its layout needs {end}", t.shape, t.elements())))
}

fn check(op: &'static str, p: &MatmulParams, x: &Tensor, w: &Tensor, y: &Tensor) -> Result<()> {
    let batch = |outer, inner| [(p.batch_outer, outer), (p.batch_inner, inner)];
    if [p.m, p.n, p.k, p.batch_outer, p.batch_inner].contains(&0) {
        return Err(Error::shape(op, format!("empty product {} x {} x {}, batch {}", p.m, p.k, p.n, p.batch())));
    }
    // A kernel's invocations are numbered in u32.
    let widest = u64::from(p.m).max(u64::from(p.k)) * u64::from(p.n) * p.batch();
    if widest > u64::from(u32::MAX) {
        return Err(Error::shape(op, format!("{widest} outputs, at most 2^32 - 1 are supported")));
    }
    within(op, "x", x, batch(p.x_outer, p.x_inner), (p.m, p.ldx), p.k)?;
    within(op, "w", w, batch(p.w_outer, p.w_inner), (p.k, p.ldw), p.n)?;
    within(op, "y", y, batch(p.y_outer, p.y_inner), (p.m, p.ldy), p.n)
}

/// y = alpha x w + bias, batched by `p` (whose `has_bias` is set here). Every element of y must belong to some output.
pub fn matmul_forward(
    rec: &mut Recording,
    p: &MatmulParams,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    check("matmul_forward", p, x, w, y)?;
    if let Some(b) = bias.filter(|b| b.elements() != u64::from(p.n)) {
        return Err(Error::shape("matmul_forward", format!("bias {} for {} columns", b.shape, p.n)));
    }
    let p = MatmulParams { has_bias: u32::from(bias.is_some()), ..*p };
    let absent = rec.absent();
    rec.push(&MATMUL_FORWARD, &p, &[*x, *w, bias.copied().unwrap_or(absent), absent], &[*y], &[])
}

/// dw += alpha x^T dy, batched by the `p` of the forward product: w's layout is dw's, y's is dy's.
/// A fresh dw must have been filled with zero.
pub fn matmul_backward_weight(
    rec: &mut Recording,
    p: &MatmulParams,
    x: &Tensor,
    dy: &Tensor,
    dw: &Tensor,
) -> Result<()> {
    check("matmul_backward_weight", p, x, dw, dy)?;
    rec.push(&MATMUL_BACKWARD_WEIGHT, &MatmulParams { has_bias: 0, ..*p }, &[*x, *dy], &[], &[*dw])
}

/// y = x^T, batched by `p`.
pub fn transpose(rec: &mut Recording, p: &TransposeParams, x: &Tensor, y: &Tensor) -> Result<()> {
    let batch = |outer, inner| [(p.batch_outer, outer), (p.batch_inner, inner)];
    within("transpose", "x", x, batch(p.x_outer, p.x_inner), (p.rows, p.ldx), p.cols)?;
    within("transpose", "y", y, batch(p.y_outer, p.y_inner), (p.cols, p.ldy), p.rows)?;
    rec.push(&TRANSPOSE, p, &[*x], &[*y], &[])
}

/// Rows of a column sum that one invocation adds up.
const ROWS_PER_SUM: u32 = 256;

/// y [cols] += the sum of the rows of x, seen as a matrix of as many columns.
pub fn column_sum(rec: &mut Recording, x: &Tensor, y: &Tensor) -> Result<()> {
    let cols = y.elements();
    if cols == 0 || x.elements() == 0 || !x.elements().is_multiple_of(cols) || x.elements() > u64::from(u32::MAX) {
        return Err(Error::shape("column_sum", format!("{} has no rows of {}", x.shape, y.shape)));
    }
    let (rows, cols) = ((x.elements() / cols) as u32, cols as u32);
    let chunk = if rows < 2 * ROWS_PER_SUM { rows } else { ROWS_PER_SUM };
    let p = ColumnSumParams { rows, cols, chunk };
    through_chunks(rec, rows.div_ceil(chunk), y, |rec, y| rec.push(&COLUMN_SUM, &p, &[*x], &[], &[*y]))
}

/// `add_into` adds to y directly, or, where it makes several sums of each element, to fresh [chunks, elements of y] whose
/// rows are then added to y.
pub(super) fn through_chunks(
    rec: &mut Recording,
    chunks: u32,
    y: &Tensor,
    add_into: impl FnOnce(&mut Recording, &Tensor) -> Result<()>,
) -> Result<()> {
    if chunks == 1 {
        return add_into(rec, y);
    }
    let count = super::count("sum", y)?;
    let sums = rec.transient("sums", Shape::new([chunks, count]));
    rec.push(&FILL_ZERO, &CountParams { count: super::count("sum", &sums)? }, &[], &[sums], &[])?;
    add_into(rec, &sums)?;
    column_sum(rec, &sums, y)
}

/// Into how many sums over `terms` a [rows, cols] gradient is cut: 64 tiles of 64 x 64 keep a GPU busy, while 2,048 terms
/// make the sums' traffic small beside the products.
pub(super) fn summed_in_chunks(terms: u32, rows: u32, cols: u32) -> u32 {
    let tiles = rows.div_ceil(64).saturating_mul(cols.div_ceil(64));
    (64 / tiles).min(terms / 2048).max(1)
}

/// dw += x^T dy of one plain product.
fn backward_weight(rec: &mut Recording, p: &MatmulParams, x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let wanted = summed_in_chunks(p.m, p.k, p.n);
    let chunks = (1..=wanted).rev().find(|&chunks| p.m.is_multiple_of(chunks)).unwrap_or(1);
    let m = p.m / chunks;
    let (x_outer, w_outer, y_outer) = (m * p.k, p.k * p.n, m * p.n);
    let p = MatmulParams { m, batch_outer: chunks, x_outer, w_outer, y_outer, ..*p };
    through_chunks(rec, chunks, dw, |rec, dw| matmul_backward_weight(rec, &p, x, dy, dw))
}

/// The linear layer y = x w + bias: x [..., k], w [k, n], bias [n] -> y [..., n].
pub fn matmul(tape: &mut Tape, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let stored = tape.rec.stored();
    matmul_as(tape, x, w, bias, stored)
}

/// `matmul` with y of this element type.
pub fn matmul_as(tape: &mut Tape, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stored: DType) -> Result<Tensor> {
    let (&[k, n], true) = (w.shape.dims(), w.shape.dims().len() == 2) else {
        return Err(Error::shape("matmul", format!("w must be [k, n], got {}", w.shape)));
    };
    let m = u32::try_from(x.shape.rows()).ok().filter(|_| x.shape.last() == k && !x.shape.dims().is_empty());
    let Some(m) = m else {
        return Err(Error::shape("matmul", format!("x {} does not fit w {}", x.shape, w.shape)));
    };
    let mut extents = x.shape.dims().to_vec();
    extents.pop();
    extents.push(n);
    let y = tape.rec.transient_as("matmul", Shape::from_slice("matmul", &extents)?, stored);
    let p = MatmulParams::plain(m, n, k);
    matmul_forward(&mut tape.rec, &p, x, w, bias, &y)?;
    let inputs: Vec<_> = [Some(x), Some(w), bias].into_iter().flatten().copied().collect();
    tape.push(&inputs, &[y], MatmulRule { p, x: *x, w: *w });
    Ok(y)
}

/// dx = dy w^T, dw += x^T dy, dbias += the sum of dy's rows.
struct MatmulRule {
    p: MatmulParams,
    x: Tensor,
    w: Tensor,
}

impl Rule for MatmulRule {
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>> {
        let Some(dy) = dy[0] else { return Ok(needs.iter().map(|_| Contribution::None).collect()) };
        let Self { p, x, w } = *self;
        let mut contributions = Vec::with_capacity(needs.len());
        contributions.push(if needs[0] {
            let w_t = rec.transient_as("w_t", Shape::new([p.n, p.k]), rec.dtype(&w));
            transpose(rec, &TransposeParams::plain(p.k, p.n), &w, &w_t)?;
            let dx = rec.transient("matmul_backward_input", x.shape);
            matmul_forward(rec, &MatmulParams::plain(p.m, p.k, p.n), &dy, &w_t, None, &dx)?;
            Contribution::Whole(dx)
        } else {
            Contribution::None
        });
        contributions.push(Contribution::Into(Box::new(move |rec, dw| backward_weight(rec, &p, &x, &dy, &dw))));
        if needs.len() == 3 {
            contributions.push(Contribution::Into(Box::new(move |rec, db| column_sum(rec, &dy, &db))));
        }
        Ok(contributions)
    }
}

/// Every kernel of this family, in tiles of every width and in chunks: [4096, 6] -> 128 -> 32 -> 16 -> 5
/// columns; the second product takes its matrix, and its gradient, in windows.
pub fn examples() -> Result<Recording> {
    let mut tape = Tape::new(Recording::new("matmul"));
    let x = own(&mut tape.rec, "x", [2, 2048, 6]);
    let mut y = x;
    for (k, n) in [(6, 128), (128, 32), (32, 16), (16, 5)] {
        let [w, dw] = ["w", "dw"].map(|label| own(&mut tape.rec, &format!("{label}{n}"), [k, n]));
        let [b, db] = ["b", "db"].map(|label| own(&mut tape.rec, &format!("{label}{n}"), [n]));
        tape.parameter(w, dw);
        tape.parameter(b, db);
        y = matmul(&mut tape, &y, &w, Some(&b))?;
        if n == 32 {
            // A residual, which the product takes over.
            let residual = own(&mut tape.rec, "residual", [2, 2048, n]);
            y = add(&mut tape, &y, &residual)?;
        }
    }
    let dy = own(&mut tape.rec, "dy", [2, 2048, 5]);
    Ok(tape.backward(&[(y, dy)])?.0.fused())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn errors_name_op_and_shapes() {
        let mut tape = Tape::default();
        let x = tape.rec.transient("x", Shape::new([2, 3, 5]));
        let w = tape.rec.transient("w", Shape::new([4, 7]));
        let message = matmul(&mut tape, &x, &w, None).unwrap_err().to_string();
        assert!(message.contains("matmul") && message.contains("[2, 3, 5]") && message.contains("[4, 7]"), "{message}");
        let y = tape.rec.transient("y", Shape::new([2, 3, 7]));
        let p = MatmulParams { batch_outer: 2, x_outer: 15, ..MatmulParams::plain(3, 7, 4) };
        assert!(matmul_forward(&mut tape.rec, &p, &x, &w, None, &y).is_ok());
        let p = MatmulParams { x_outer: 19, ..p };
        assert!(matmul_forward(&mut tape.rec, &p, &x, &w, None, &y).is_err());
    }

    #[test]
    fn a_frozen_input_costs_no_product() {
        let mut tape = Tape::default();
        let x = tape.rec.transient("x", Shape::new([6, 5]));
        let w = tape.rec.transient("w", Shape::new([5, 7]));
        let dw = tape.rec.transient("dw", Shape::new([5, 7]));
        let dy = tape.rec.transient("dy", Shape::new([6, 7]));
        tape.parameter(w, dw);
        let y = matmul(&mut tape, &x, &w, None).unwrap();
        let (rec, _) = tape.backward(&[(y, dy)]).unwrap();
        let words: Vec<_> = rec.ops.iter().map(|op| op.card.word).collect();
        assert_eq!(words, ["matmul_forward", "matmul_backward_weight"]);
    }
}
