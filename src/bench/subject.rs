//! Recordings made to be timed: a case's passes, and single ops, over storage filled with sensible numbers.
//! Called by `kernels`, `ceilings` and `unet`.

use std::collections::{HashMap, HashSet};

use super::cases::Kind;
use crate::error::{Error, Result};
use crate::gpu::{Externals, Gpu, Plan, PlanOptions, Storage};
use crate::kernels::conv2d::{Conv2dSpec, Padding, Route, conv2d, conv2d_by};
use crate::kernels::{attention, group_norm, matmul, merge, optim};
use crate::nn::params::SLAB_ELEMENTS;
use crate::recording::{Op, Recording, Role, Tensor};
use crate::shader::card::{Access, Variant};
use crate::shader::cards::merge::CHUNK;
use crate::shader::cards::winograd::Tile;
use crate::shape::{DType, Shape, padded_channels};
use crate::tape::Tape;

/// A recording whose external storage is filled when a plan is made of it.
#[derive(Clone)]
pub struct Subject {
    pub recording: Recording,
    /// Contents by external key; others get small numbers of both signs.
    fills: HashMap<String, Fill>,
}

#[derive(Clone)]
enum Fill {
    Values(Vec<f32>),
    /// Small and positive: second moments.
    Positive,
}

/// Which part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Backward,
    Both,
    /// An optimizer's or a merge's only one.
    Run,
}

impl Pass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Both => "forward+backward",
            Self::Run => "run",
        }
    }

    /// The passes that a kind has.
    pub fn of(kind: &Kind) -> &'static [Self] {
        match kind {
            Kind::Matmul { .. } | Kind::Conv2d { .. } | Kind::Attention { .. } | Kind::GroupNorm { .. } => {
                &[Self::Forward, Self::Backward, Self::Both]
            }
            Kind::Adamw { .. } | Kind::Merge { .. } => &[Self::Run],
            Kind::Unet { .. } => &[],
        }
    }
}

fn own(rec: &mut Recording, label: &str, extents: &[u32]) -> Result<Tensor> {
    let shape = Shape::from_slice("bench", extents)?;
    Ok(Tensor { buffer: rec.external(label, shape.elements()), offset: 0, shape })
}

/// One layer: its recording with gradients to `inputs` and `weights`, and how many ops are forward.
fn layer(
    inputs: &[&[u32]],
    weights: &[&[u32]],
    build: impl FnOnce(&mut Tape, &[Tensor]) -> Result<Tensor>,
) -> Result<(Recording, usize)> {
    let mut rec = Recording::new("bench");
    let mut tensors = Vec::new();
    for (i, extents) in inputs.iter().chain(weights).enumerate() {
        tensors.push(own(&mut rec, &format!("x{i}"), extents)?);
    }
    let mut gradients = Vec::new();
    for (i, extents) in weights.iter().enumerate() {
        gradients.push(own(&mut rec, &format!("gradient{i}"), extents)?);
    }
    let mut tape = Tape::new(rec);
    let (watched, parameters) = tensors.split_at(inputs.len());
    watched.iter().for_each(|x| tape.watch(x));
    parameters.iter().zip(gradients).for_each(|(&theta, gradient)| tape.parameter(theta, gradient));
    let y = build(&mut tape, &tensors)?;
    let forward = tape.rec.ops.len();
    let dy = own(&mut tape.rec, "dy", y.shape.dims())?;
    Ok((tape.backward(&[(y, dy)])?.0, forward))
}

impl Subject {
    /// A recording as it is, apart from what it reads before writing it.
    pub fn of(recording: Recording) -> Self {
        Self { recording: promoted(recording), fills: HashMap::new() }
    }

    /// A case's pass, as deme records it.
    pub fn new(kind: &Kind, pass: Pass) -> Result<Self> {
        Self::by(kind, pass, None)
    }

    /// The routes of a convolution that deme does not take, where there are several.
    pub fn other_routes(kind: &Kind) -> Result<Vec<Route>> {
        let Kind::Conv2d { batch, size, cin, cout, kernel: 3, stride: 1 } = *kind else { return Ok(Vec::new()) };
        let [cin, cout] = [cin, cout].map(padded_channels);
        let mut rec = Recording::default();
        let x = rec.transient("x", Shape::new([batch, size, size, cin]));
        let w = rec.transient("w", Shape::new([3, 3, cin, cout]));
        let taken = Route::of(&x, &w, Conv2dSpec::same(3))?;
        let all = [Route::Direct, Route::Winograd(Tile::Two), Route::Winograd(Tile::Four)];
        Ok(all.into_iter().filter(|route| *route != taken).collect())
    }

    /// A case's pass; a convolution's by this route.
    pub fn by(kind: &Kind, pass: Pass, route: Option<Route>) -> Result<Self> {
        let (mut rec, forward) = match *kind {
            Kind::Matmul { m, k, n } => {
                layer(&[&[m, k]], &[&[k, n]], |tape, t| matmul::matmul(tape, &t[0], &t[1], None))?
            }
            Kind::Conv2d { batch, size, cin, cout, kernel, stride } => {
                // Images are stored with four channels.
                let [cin, cout] = [cin, cout].map(padded_channels);
                let spec = Conv2dSpec { stride, padding: Padding::Symmetric(kernel / 2) };
                let (x, w) = ([batch, size, size, cin], [kernel, kernel, cin, cout]);
                layer(&[&x], &[&w], |tape, t| match route {
                    None => conv2d(tape, &t[0], &t[1], None, spec),
                    Some(route) => conv2d_by(tape, &t[0], &t[1], None, spec, route),
                })?
            }
            Kind::Attention { batch, tokens, heads, size } => {
                let shape = [batch, tokens, heads * size];
                layer(&[&shape, &shape, &shape], &[], |tape, t| {
                    attention::attention(tape, &t[0], &t[1], &t[2], heads, None)
                })?
            }
            Kind::GroupNorm { batch, size, channels, groups } => {
                layer(&[&[batch, size, size, channels]], &[&[channels], &[channels]], |tape, t| {
                    group_norm::group_norm(tape, &t[0], &t[1], &t[2], groups, 1e-6, true)
                })?
            }
            Kind::Adamw { count } => return adamw(count),
            Kind::Merge { count, experts } => return merged(count, experts),
            Kind::Unet { .. } => return Err(Error::shape("bench", "a network is no single layer")),
        };
        match pass {
            Pass::Forward => rec.ops.truncate(forward),
            Pass::Backward => drop(rec.ops.drain(..forward)),
            Pass::Both | Pass::Run => {}
        }
        Ok(Self::of(rec))
    }

    /// Op `i` alone.
    pub fn op(&self, i: usize) -> Self {
        let mut recording = Recording { ops: vec![self.recording.ops[i].clone()], ..self.recording.clone() };
        recording.name = self.recording.ops[i].card.word.to_owned();
        Self { recording: promoted(recording), fills: self.fills.clone() }
    }

    /// Makes it ready for the adapter: in the variants that end in `way.0` and their tilings called `way.1`, or in those that
    /// deme chooses.
    pub fn plan(&self, gpu: &Gpu, way: Option<(&str, &str)>) -> Result<Plan> {
        let used: HashSet<_> = self.recording.ops.iter().flat_map(Op::tensors).map(|(_, t)| t.buffer.0).collect();
        let mut externals = Externals::new();
        for (i, buffer) in (0..).zip(&self.recording.buffers) {
            let Role::External(key) = &buffer.role else { continue };
            if !used.contains(&i) {
                continue;
            }
            let storage = gpu.storage_as(key, buffer.elements, buffer.dtype)?;
            fill(gpu, &storage, buffer.dtype, self.fills.get(key))?;
            externals.insert(key.clone(), storage);
        }
        let options = PlanOptions {
            checked: false,
            variant: way.map(|(suffix, _)| suffix.to_owned()),
            tiling: way.map(|(_, tiling)| tiling.to_owned()),
        };
        Plan::new(gpu, self.recording.clone(), &externals, &options)
    }
}

/// Writes numbers: zeros and denormals would flatter or slow. Whole numbers stay 0.
fn fill(gpu: &Gpu, storage: &Storage, dtype: DType, how: Option<&Fill>) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let value = |i: u64| match how {
        Some(Fill::Values(values)) => values.get(i as usize).copied().unwrap_or_default(),
        Some(Fill::Positive) => (1 + i * 7919 % 1009) as f32 / 1009.0,
        None => (i * 7919 % 1009) as f32 / 504.5 - 0.999,
    };
    if dtype == DType::U32 {
        return Ok(());
    }
    let piece: Vec<f32> = (0..storage.elements.min(PIECE)).map(value).collect();
    for at in (0..storage.elements).step_by(PIECE as usize) {
        gpu.write(storage, at, &piece[..(storage.elements - at).min(PIECE) as usize])?;
    }
    Ok(())
}

/// Transient buffers that are used before they are written become external.
fn promoted(mut rec: Recording) -> Recording {
    let (mut written, mut needed) = (HashSet::new(), HashSet::new());
    for op in &rec.ops {
        for (access, t) in op.tensors() {
            if access != Access::Write && !written.contains(&t.buffer) {
                needed.insert(t.buffer);
            }
        }
        written.extend(op.writes.iter().map(|t| t.buffer));
    }
    for id in needed {
        let buffer = &mut rec.buffers[id.0 as usize];
        if buffer.role == Role::Transient {
            buffer.role = Role::External(format!("{} {}", buffer.label, id.0));
        }
    }
    rec
}

/// AdamW and the moving average over slabs, as an update has them.
fn adamw(count: u32) -> Result<Subject> {
    let mut rec = Recording::new("adamw");
    let scalars = own(&mut rec, "scalars", &[optim::SCALARS])?;
    let status = own(&mut rec, "status", &[optim::STATUS])?;
    let words = optim::scalars(1e-4, [0.9, 0.999], 1e-8, 1e-2, 100, |_| 0.999);
    let mut fills = HashMap::from([
        ("scalars".to_owned(), Fill::Values(words.into_iter().map(f32::from_bits).collect())),
        // Not clipped, finite, norm 1, none skipped, not scaled.
        ("status".to_owned(), Fill::Values(vec![1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])),
    ]);
    for (i, first) in (0..u64::from(count)).step_by(SLAB_ELEMENTS as usize).enumerate() {
        let n = (u64::from(count) - first).min(SLAB_ELEMENTS) as u32;
        let mut slab = |role: &str| own(&mut rec, &format!("{role}{i}"), &[n]);
        let (theta, gradient, m, v, average) =
            (slab("theta")?, slab("gradient")?, slab("m")?, slab("v")?, slab("ema")?);
        fills.insert(format!("v{i}"), Fill::Positive);
        optim::adamw(&mut rec, &scalars, &status, &theta, &gradient, &m, &v)?;
        optim::ema(&mut rec, &scalars, &status, &theta, &average)?;
    }
    Ok(Subject { recording: rec, fills })
}

/// Base and experts on the GPU, piece by piece as a search has them.
fn merged(count: u32, experts: u32) -> Result<Subject> {
    let mut rec = Recording::new("merge");
    let weights = own(&mut rec, "w", &[experts])?;
    let piece = SLAB_ELEMENTS / (u64::from(experts) + 1) / u64::from(CHUNK) * u64::from(CHUNK);
    for (i, first) in (0..u64::from(count)).step_by(piece as usize).enumerate() {
        let n = (u64::from(count) - first).min(piece);
        let all = merge::interleaved_elements(u64::from(experts) + 1, n);
        let models = own(&mut rec, &format!("models{i}"), &[all as u32])?;
        let out = own(&mut rec, &format!("merged{i}"), &[n as u32])?;
        merge::merge_task_vectors(&mut rec, &models, &weights, &out)?;
    }
    Ok(Subject { recording: rec, fills: HashMap::new() })
}

/// `_v1`, `_tiled`, ...: what is left of a variant's name without its kernel's.
pub fn suffix<'a>(word: &str, variant: &'a Variant) -> &'a str {
    variant.stem.strip_prefix(word).unwrap_or(variant.stem).trim_start_matches('_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::bench::cases;
    use crate::gpu::memory;

    #[test]
    fn every_pass_of_every_case_can_run_on_its_own() {
        for case in cases::all().unwrap() {
            for &pass in Pass::of(&case.kind) {
                let subject = Subject::new(&case.kind, pass).unwrap();
                assert!(!subject.recording.ops.is_empty(), "{} {}", case.id, pass.name());
                memory::assign(&subject.recording).unwrap();
                for i in 0..subject.recording.ops.len() {
                    memory::assign(&subject.op(i).recording).unwrap();
                }
            }
        }
    }

    #[test]
    fn all_routes_of_a_convolution_are_timed_and_take_different_kernels() {
        let kind =
            |kernel, channels| Kind::Conv2d { batch: 2, size: 16, cin: channels, cout: channels, kernel, stride: 1 };
        let [two, four] = [Tile::Two, Tile::Four].map(Route::Winograd);
        assert_eq!(Subject::other_routes(&kind(3, 128)).unwrap(), [Route::Direct, two]);
        assert_eq!(Subject::other_routes(&kind(3, 4)).unwrap(), [two, four]);
        assert_eq!(Subject::other_routes(&kind(1, 128)).unwrap(), []);
        let flops = |route| Subject::by(&kind(3, 128), Pass::Forward, route).unwrap().recording.cost().flops;
        assert!(flops(Some(two)) < flops(Some(Route::Direct)) / 2 + flops(Some(Route::Direct)) / 10);
        assert!(flops(None) < flops(Some(two)) * 3 / 4);
    }

    #[test]
    fn passes_add_up_to_the_whole() {
        let kind = Kind::Conv2d { batch: 2, size: 8, cin: 16, cout: 8, kernel: 3, stride: 1 };
        let cost = |pass| Subject::new(&kind, pass).unwrap().recording.cost();
        assert_eq!(cost(Pass::Forward) + cost(Pass::Backward), cost(Pass::Both));
        assert_eq!(cost(Pass::Forward).flops, 2 * 2 * 64 * 9 * 16 * 8);
    }
}
