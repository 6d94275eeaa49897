//! Products with an addend in their epilogue, as `Recording::fused` makes them: as large as y, or a row for several of y's.
//! Called by the families `gemm`, `conv` and `winograd`, whose floors ask for both in each variant.

use super::conv::{self, RIGHT, recorded};
use super::gemm::layer;
use super::harness::Family;
use super::harness::case::Bench;
use super::harness::family::addend_rows;
use super::harness::fault::Fault;
use super::winograd::{self, TILES, planted};
use deme::error::Result;
use deme::kernels::broadcast::add_channel_bias;
use deme::kernels::pointwise::add;
use deme::kernels::winograd::winograd_output;
use deme::recording::{Op, Tensor};
use deme::shader::cards::winograd::Tile;
use deme::shape::Shape;

/// The terms that an addend is of a sum.
pub fn terms(op: &Op) -> u64 {
    u64::from(addend_rows(op).is_some_and(|rows| rows > 0))
}

/// y and a residual, or a bias for each of `samples` and channel, added by the product that makes y.
fn plus(b: &mut Bench, y: &Tensor, samples: Option<u32>) -> Result<()> {
    let ops = b.tape.rec.ops.len();
    match samples {
        None => {
            let residual = b.tensor("residual", y.shape.dims());
            add(&mut b.tape, y, &residual)?;
        }
        Some(n) => {
            let columns = y.shape.last();
            let rows = (y.elements() / u64::from(n * columns)) as u32;
            let (t, y) = (b.tensor("t", &[n, columns]), y.reshape("case", Shape::new([n, rows, columns]))?);
            add_channel_bias(&mut b.tape, &y, &t)?;
        }
    }
    b.tape.rec = std::mem::take(&mut b.tape.rec).fused();
    assert_eq!(b.tape.rec.ops.len(), ops, "the sum has not been fused");
    Ok(())
}

/// m, k, n, and the addend's rows, or as many as y's: in every variant, and in one window and in two.
const MATMULS: [([u32; 3], Option<u32>); 8] = [
    ([5, 7, 11], None),
    ([64, 64, 64], None),
    ([64, 64, 64], Some(4)),
    ([65, 68, 60], Some(5)),
    ([65, 68, 60], None),
    ([2048, 32, 32], Some(2)),
    ([1040, 264, 64], None),
    ([1040, 264, 64], Some(5)),
];

fn matmul_plus(b: &mut Bench, shape: [u32; 3], samples: Option<u32>) -> Result<()> {
    let y = layer(b, shape)?;
    plus(b, &y, samples)
}

const fn in_matmul(name: &'static str, stem: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault::shader(name, "matmul_forward", stem, from, to)
}

/// At edges of tiles whose rows are of several samples, and in two windows.
const SAMPLED: [u32; 3] = [68, 36, 100];
const WINDOWED: [u32; 3] = [1040, 264, 64];

const MATMUL_FAULTS: &[(Fault, [u32; 3])] = &[
    (in_matmul("addend of a row of y", "matmul_forward_v1", "row / params.addend", "row"), SAMPLED),
    (in_matmul("addend lost", "matmul_forward_subgroup", "value + addend[", "value + 0.0 * addend["), SAMPLED),
    (
        in_matmul("addend of the tile's first row", "matmul_forward_tiled", "row + ${i}u, column", "row, column"),
        SAMPLED,
    ),
    (in_matmul("addend of other columns", "matmul_forward_coop", "row, column,", "row, column / 2u,"), SAMPLED),
    (in_matmul("addend in each pass", "matmul_forward_subgroup", "end == p.k", "end > 0u"), WINDOWED),
];

pub fn matmuls(f: &mut Family) {
    for (shape, samples) in MATMULS {
        let name = format!("m, k, n = {shape:?}, plus an addend of {samples:?} samples");
        f.case(&name, |b| matmul_plus(b, shape, samples));
    }
    for (fault, shape) in MATMUL_FAULTS {
        f.catches(fault, |b| matmul_plus(b, *shape, Some(4)));
    }
}

/// The first two fit every variant.
const CONVOLUTIONS: [conv::Case; 4] =
    [[2, 8, 8, 32, 32, 3, 2, 1], [4, 9, 12, 20, 68, 3, 2, RIGHT], [3, 5, 4, 4, 36, 3, 2, 1], [2, 9, 6, 5, 7, 3, 2, 1]];

fn conv2d_plus(b: &mut Bench, case: conv::Case, samples: Option<u32>) -> Result<()> {
    let x = b.tensor("x", &case[..4]);
    let y = recorded(b, &x, case)?;
    plus(b, &y, samples)
}

const CONV2D_FAULTS: &[Fault] = &[
    in_conv2d("addend of a pixel of y", "conv2d_forward_v1", "row / params.addend", "row"),
    in_conv2d("addend lost", "conv2d_forward_subgroup", "value + addend[", "value + 0.0 * addend["),
    in_conv2d("addend of the tile's first row", "conv2d_forward_tiled", "row + ${i}u, column", "row, column"),
    in_conv2d("addend of other channels", "conv2d_forward_coop", "row, column,", "row, column / 2u,"),
];

const fn in_conv2d(name: &'static str, stem: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault::shader(name, "conv2d_forward", stem, from, to)
}

pub fn convolutions(f: &mut Family) {
    for case in CONVOLUTIONS {
        for samples in [None, Some(case[0])] {
            let name = format!("{case:?}, plus an addend of {samples:?} samples");
            f.case(&name, |b| conv2d_plus(b, case, samples));
        }
    }
    // Nine pixels a sample: rows of a tile are of several samples.
    for fault in CONV2D_FAULTS {
        f.catches(fault, |b| conv2d_plus(b, [5, 5, 6, 20, 68, 3, 2, 1], Some(5)));
    }
}

/// y of m, and a bias where the height is even.
fn output_plus(b: &mut Bench, case: winograd::Case, tile: Tile, samples: Option<u32>) -> Result<()> {
    let [batch, height, width, _, channels] = case;
    let [down, across] = [height, width].map(|side| side.div_ceil(tile.pixels()));
    let m = b.tensor("m", &[tile.places(), batch * down * across, channels]);
    let bias = height.is_multiple_of(2).then(|| b.tensor("bias", &[channels]));
    let y = b.tape.rec.transient("y", Shape::new([batch, height, width, channels]));
    winograd_output(&mut b.tape.rec, &m, tile, bias.as_ref(), &y)?;
    plus(b, &y, samples)
}

const OUTPUT_FAULTS: &[(Fault, Option<u32>)] = &[
    (planted("addend lost", "winograd_output", "value + addend[", "value + 0.0 * addend["), None),
    (
        planted("addend of the tile's first pixel", "winograd_output", "pixel${r}_${c}, channel,", "first, channel,"),
        None,
    ),
    (planted("addend of a pixel of y", "winograd_output", "row / params.addend", "row"), Some(2)),
];

pub fn transforms(f: &mut Family) {
    for (case, tile) in winograd::SHAPES.into_iter().step_by(5).flat_map(|case| TILES.map(|tile| (case, tile))) {
        for samples in [None, Some(case[0])] {
            let name = format!("{case:?} by {tile:?}, plus an addend of {samples:?} samples");
            f.case(&name, |b| output_plus(b, case, tile, samples));
        }
    }
    for (fault, samples) in OUTPUT_FAULTS {
        f.catches(fault, |b| output_plus(b, [2, 5, 6, 8, 8], Tile::Four, *samples));
    }
}
