//! Twins of the kernels that measure ceilings (`shader::cards::peak`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::peak::{CHAINS, PeakFmaParams, STEPS};

pub const TWINS: &[(&str, Twin)] = &[("peak_fma", peak_fma), ("peak_copy", peak_copy)];

fn peak_fma(c: &mut Call) {
    let p = PeakFmaParams::of(c.params);
    for (y, &x) in c.writes[0].iter_mut().zip(&c.reads[0]) {
        let chain = |start: u32| (0..STEPS * p.rounds).fold(f64::from(start) * x, |a, _| f64::from(p.factor) * a + x);
        *y = (1..=CHAINS).map(chain).sum();
    }
}

fn peak_copy(c: &mut Call) {
    c.writes[0].copy_from_slice(&c.reads[0]);
}
