//! Builders of the merge theta + sum_i w_i (theta_i - theta) on the GPU (DeMe eq. 8) and of its derivative by w, and the
//! layout that they read. Called by `deme`, once a piece of a slab.

use super::{count, matmul, own};
use crate::error::{Error, Result};
use crate::recording::{Recording, Tensor};
use crate::shader::cards::merge::{CHUNK, MERGE_TASK_VECTORS, MergeParams, TASK_VECTOR_DOTS};
use crate::shape::Shape;

/// Elements of `models` (the base counts as one) of `count` elements each when they are interleaved.
pub fn interleaved_elements(models: u64, count: u64) -> u64 {
    models * count.next_multiple_of(u64::from(CHUNK))
}

/// Elements of each of `models` models that can be merged at once where all of them together have `room` elements.
pub fn piece(models: u64, room: u64) -> u64 {
    let chunk = u64::from(CHUNK);
    (room / models / chunk).max(1) * chunk
}

/// Base and experts, equally long, chunk by chunk; the last chunk is padded with zeros.
pub fn interleave(models: &[Vec<f32>]) -> Result<Vec<f32>> {
    let n = models.first().map_or(0, Vec::len);
    if n == 0 || models.iter().any(|m| m.len() != n) {
        let lengths: Vec<_> = models.iter().map(Vec::len).collect();
        return Err(Error::shape("merge_task_vectors", format!("models of {lengths:?} elements")));
    }
    let chunk = CHUNK as usize;
    let mut all = Vec::with_capacity(interleaved_elements(models.len() as u64, n as u64) as usize);
    for start in (0..n).step_by(chunk) {
        for model in models {
            let piece = &model[start..n.min(start + chunk)];
            all.extend_from_slice(piece);
            all.resize(all.len() + chunk - piece.len(), 0.0);
        }
    }
    Ok(all)
}

/// Writes theta + sum_i w_i (theta_i - theta) over `merged` [count]: `models` as `interleave` lays them out, `weights`
/// [N experts]. Within 4 u (|theta| + sum |w_i| (|theta| + |theta_i|)).
pub fn merge_task_vectors(rec: &mut Recording, models: &Tensor, weights: &Tensor, merged: &Tensor) -> Result<()> {
    let params = sizes("merge_task_vectors", models, weights, merged)?;
    rec.push(&MERGE_TASK_VECTORS, &params, &[*models, *weights], &[*merged], &[])
}

/// Adds <gradient, theta_i - theta> to `dots` [N experts], `gradient` [count] being of the merged piece: where it is dL/d(merged),
/// that is dL/dw_i. The gradient is read once for all experts; the sums are made in a fixed order, chunk by chunk.
pub fn task_vector_dots(rec: &mut Recording, gradient: &Tensor, models: &Tensor, dots: &Tensor) -> Result<()> {
    let params = sizes("task_vector_dots", models, dots, gradient)?;
    let partials = rec.transient("partial dots", Shape::new([params.count.div_ceil(CHUNK), params.experts]));
    rec.push(&TASK_VECTOR_DOTS, &params, &[*gradient, *models], &[partials], &[])?;
    matmul::column_sum(rec, &partials, dots)
}

/// The parameters, where `models` are as long as `each` of them [count] and their number, `experts` [N] and a base, say.
fn sizes(op: &'static str, models: &Tensor, experts: &Tensor, each: &Tensor) -> Result<MergeParams> {
    let n = count(op, experts)?;
    let expected = interleaved_elements(u64::from(n) + 1, each.elements());
    count(op, models)?;
    if models.elements() != expected {
        let (each, w) = (each.shape, experts.shape);
        let message = format!("{each} by weights {w} takes {expected} interleaved elements, got {}", models.shape);
        return Err(Error::shape(op, message));
    }
    Ok(MergeParams { count: count(op, each)?, experts: n })
}

/// Three experts over a slab that is not a whole number of chunks.
pub fn examples() -> Result<Recording> {
    let mut rec = Recording::new("merge");
    let models = own(&mut rec, "models", [4 * 2 * CHUNK]);
    let weights = own(&mut rec, "weights", [3]);
    let merged = own(&mut rec, "merged", [CHUNK + 100]);
    merge_task_vectors(&mut rec, &models, &weights, &merged)?;
    let gradient = own(&mut rec, "gradient", [CHUNK + 100]);
    let dots = own(&mut rec, "dots", [3]);
    task_vector_dots(&mut rec, &gradient, &models, &dots)?;
    Ok(rec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_every_model_fits_the_room() {
        for (models, room) in (2..200).flat_map(|models| [(models, 32 << 20), (models, 1 << 18)]) {
            let piece = piece(models, room);
            assert!(piece > 0 && interleaved_elements(models, piece) <= room, "{models} models: {piece}");
        }
    }
}
