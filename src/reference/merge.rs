//! Twin of the merge (`shader::cards::merge`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::merge::{CHUNK, MergeParams};

pub const TWINS: &[(&str, Twin)] = &[("merge_task_vectors", merge_task_vectors)];

fn merge_task_vectors(c: &mut Call) {
    let p = MergeParams::of(c.params);
    let (models, weights) = (&c.reads[0], &c.reads[1]);
    let chunk = CHUNK as usize;
    for (i, merged) in c.writes[0].iter_mut().enumerate() {
        let base = i / chunk * chunk * (p.experts as usize + 1) + i % chunk;
        let theta = models[base];
        *merged = theta + weights.iter().zip(1..).map(|(w, e)| w * (models[base + e * chunk] - theta)).sum::<f64>();
    }
}
