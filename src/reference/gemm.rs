//! Twins of the matrix products, the transpose and the column sum (`shader::cards::gemm`).
//! Found through `reference::find`.

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::gemm::{ColumnSumParams, MatmulParams, TransposeParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("matmul_forward", matmul_forward),
    ("matmul_backward_weight", matmul_backward_weight),
    ("transpose", transpose),
    ("column_sum", column_sum),
];

/// Where the matrices of x, w and y start, for every matrix of the batch.
fn batches(p: MatmulParams) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..p.batch_outer).flat_map(move |o| {
        (0..p.batch_inner).map(move |i| {
            let start = |outer: u32, inner: u32| (o * outer + i * inner) as usize;
            (start(p.x_outer, p.x_inner), start(p.w_outer, p.w_inner), start(p.y_outer, p.y_inner))
        })
    })
}

fn matmul_forward(c: &mut Call) {
    let p = MatmulParams::of(c.params);
    let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
    let (x, w, bias, addend) = (&c.reads[0], &c.reads[1], &c.reads[2], &c.reads[3]);
    for (x0, w0, y0) in batches(p) {
        for row in 0..m {
            let mut sums = vec![0.0; n];
            for l in 0..k {
                let v = x[x0 + row * p.ldx as usize + l];
                let w_row = &w[w0 + l * p.ldw as usize..][..n];
                sums.iter_mut().zip(w_row).for_each(|(s, w)| *s += v * w);
            }
            for (column, sum) in sums.iter().enumerate() {
                let b = if p.has_bias != 0 { bias[column] } else { 0.0 };
                let addend = super::addend(addend, p.addend, [row, column], n);
                c.writes[0][y0 + row * p.ldy as usize + column] = f64::from(p.alpha) * sum + b + addend;
            }
        }
    }
}

fn matmul_backward_weight(c: &mut Call) {
    let p = MatmulParams::of(c.params);
    let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
    let (x, dy) = (&c.reads[0], &c.reads[1]);
    for (x0, w0, y0) in batches(p) {
        for row in 0..m {
            let dy_row = &dy[y0 + row * p.ldy as usize..][..n];
            for l in 0..k {
                let v = f64::from(p.alpha) * x[x0 + row * p.ldx as usize + l];
                let dw_row = &mut c.updates[0][w0 + l * p.ldw as usize..][..n];
                dw_row.iter_mut().zip(dy_row).for_each(|(dw, dy)| *dw += v * dy);
            }
        }
    }
}

fn transpose(c: &mut Call) {
    let p = TransposeParams::of(c.params);
    for (o, i) in (0..p.batch_outer).flat_map(|o| (0..p.batch_inner).map(move |i| (o, i))) {
        let (x0, y0) = (o * p.x_outer + i * p.x_inner, o * p.y_outer + i * p.y_inner);
        for (row, column) in (0..p.rows).flat_map(|r| (0..p.cols).map(move |c| (r, c))) {
            c.writes[0][(y0 + column * p.ldy + row) as usize] = c.reads[0][(x0 + row * p.ldx + column) as usize];
        }
    }
}

fn column_sum(c: &mut Call) {
    let p = ColumnSumParams::of(c.params);
    for (row, x) in c.reads[0].chunks_exact(p.cols as usize).enumerate() {
        let y = &mut c.updates[0][row / p.chunk as usize * p.cols as usize..];
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}
