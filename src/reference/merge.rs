//! Twins of the merge and of its derivative by the weights (`shader::cards::merge`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::merge::{CHUNK, MergeParams};

pub const TWINS: &[(&str, Twin)] =
    &[("merge_task_vectors", merge_task_vectors), ("task_vector_dots", task_vector_dots)];

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

fn task_vector_dots(c: &mut Call) {
    let p = MergeParams::of(c.params);
    let (gradient, models) = (&c.reads[0], &c.reads[1]);
    let (chunk, experts) = (CHUNK as usize, p.experts as usize);
    let partials = c.writes[0].chunks_mut(experts);
    let models = models.chunks(chunk * (experts + 1));
    for ((partials, gradient), models) in partials.zip(gradient.chunks(chunk)).zip(models) {
        let theta = &models[..chunk];
        for (partial, expert) in partials.iter_mut().zip(models[chunk..].chunks(chunk)) {
            *partial = gradient.iter().zip(expert.iter().zip(theta)).map(|(g, (e, t))| g * (e - t)).sum();
        }
    }
}
