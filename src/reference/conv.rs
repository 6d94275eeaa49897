//! Twins of the convolution and its gradients (`shader::cards::conv`).
//! Found through `reference::find`.

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::conv::Conv2dParams;

pub const TWINS: &[(&str, Twin)] = &[
    ("conv2d_forward", conv2d_forward),
    ("conv2d_backward_input", conv2d_backward_input),
    ("conv2d_backward_weight", conv2d_backward_weight),
];

/// Calls `f` with (pixel of y, pixel of x, tap) for every pair that the convolution connects, in the order of y.
fn pairs(p: Conv2dParams, mut f: impl FnMut(usize, usize, usize)) {
    for (n, oy, ox) in grid(p.batch, p.out_h, p.out_w) {
        for (_, ky, kx) in grid(1, p.kh, p.kw) {
            let y = i64::from(oy * p.stride + ky) - i64::from(p.pad_top);
            let x = i64::from(ox * p.stride + kx) - i64::from(p.pad_left);
            if (0..i64::from(p.in_h)).contains(&y) && (0..i64::from(p.in_w)).contains(&x) {
                let from = (i64::from(n) * i64::from(p.in_h) + y) * i64::from(p.in_w) + x;
                f(((n * p.out_h + oy) * p.out_w + ox) as usize, from as usize, (ky * p.kw + kx) as usize);
            }
        }
    }
}

fn grid(a: u32, b: u32, c: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// to += from w, with w [from.len(), to.len()]
fn add_product(to: &mut [f64], from: &[f64], w: &[f64]) {
    for (x, row) in from.iter().zip(w.chunks_exact(to.len())) {
        to.iter_mut().zip(row).for_each(|(y, w)| *y += x * w);
    }
}

fn conv2d_forward(c: &mut Call) {
    let p = Conv2dParams::of(c.params);
    let (cin, cout) = (p.cin as usize, p.cout as usize);
    let (x, w, bias, addend) = (&c.reads[0], &c.reads[1], &c.reads[2], &c.reads[3]);
    for (pixel, y) in c.writes[0].chunks_exact_mut(cout).enumerate() {
        for (channel, y) in y.iter_mut().enumerate() {
            let bias = if p.has_bias != 0 { bias[channel] } else { 0.0 };
            *y = bias + super::addend(addend, p.addend, [pixel, channel], cout);
        }
    }
    pairs(p, |to, from, tap| {
        let y = &mut c.writes[0][to * cout..][..cout];
        add_product(y, &x[from * cin..][..cin], &w[tap * cin * cout..][..cin * cout]);
    });
}

fn conv2d_backward_input(c: &mut Call) {
    let p = Conv2dParams::of(c.params);
    let (cin, cout) = (p.cin as usize, p.cout as usize);
    let (dy, w) = (&c.reads[0], &c.reads[1]);
    c.writes[0].fill(0.0);
    pairs(p, |to, from, tap| {
        let dx = &mut c.writes[0][from * cin..][..cin];
        add_product(dx, &dy[to * cout..][..cout], &w[tap * cin * cout..][..cin * cout]);
    });
}

fn conv2d_backward_weight(c: &mut Call) {
    let p = Conv2dParams::of(c.params);
    let (cin, cout) = (p.cin as usize, p.cout as usize);
    let (x, dy) = (&c.reads[0], &c.reads[1]);
    pairs(p, |to, from, tap| {
        let chunk = to / p.out_w as usize / p.chunk as usize;
        let dw = &mut c.updates[0][(chunk * (p.kh * p.kw) as usize + tap) * cin * cout..][..cin * cout];
        for (x, dw) in x[from * cin..][..cin].iter().zip(dw.chunks_exact_mut(cout)) {
            dw.iter_mut().zip(&dy[to * cout..][..cout]).for_each(|(dw, dy)| *dw += x * dy);
        }
    });
}
