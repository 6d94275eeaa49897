//! Cards of the matrix products, the transpose and the column sum.
//! Built by `kernels::matmul` (and `kernels::attention`); twins in `reference::gemm`.

use super::tiles::{
    Cut, Lanes, Tile, WINDOW_STEP, coop_tiles, cooperates, cut, distinct, lanes, subgroup, tile, uniform_menu,
};
use crate::shader::card::{
    Card, Class, Constants, Limits, Params, Tiling, Variant, Windows, plain, read, update, whole, write,
};
use crate::{params, wgsl};

params! {
    /// A batched product of x [m, k] and w [k, n] into y [m, n], or the gradient of one with respect to w.
    /// Strides are in elements; matrix (o, i) of the batch starts at o * outer + i * inner.
    pub struct MatmulParams {
        pub m: u32,
        pub n: u32,
        pub k: u32,
        pub batch_outer: u32,
        pub batch_inner: u32,
        /// Elements from one row to the next of x, w and y.
        pub ldx: u32,
        pub ldw: u32,
        pub ldy: u32,
        pub x_outer: u32,
        pub x_inner: u32,
        pub w_outer: u32,
        pub w_inner: u32,
        pub y_outer: u32,
        pub y_inner: u32,
        /// Factor on the product (not on the bias).
        pub alpha: f32,
        /// 1 where bias [n] is added to every row.
        pub has_bias: u32,
        /// Rows of y that share one of the addend's, which is added after the bias; 0: there is none. Of one product alone.
        pub addend: u32,
    }
}

impl MatmulParams {
    /// One product of contiguous matrices, alpha 1, no bias.
    pub fn plain(m: u32, n: u32, k: u32) -> Self {
        Self {
            m,
            n,
            k,
            batch_outer: 1,
            batch_inner: 1,
            ldx: k,
            ldw: n,
            ldy: n,
            x_outer: 0,
            x_inner: 0,
            w_outer: 0,
            w_inner: 0,
            y_outer: 0,
            y_inner: 0,
            alpha: 1.0,
            has_bias: 0,
            addend: 0,
        }
    }

    pub fn batch(&self) -> u64 {
        u64::from(self.batch_outer) * u64::from(self.batch_inner)
    }
}

params! {
    /// y [cols, rows] = x [rows, cols] transposed, batched as in `MatmulParams`.
    pub struct TransposeParams {
        pub rows: u32,
        pub cols: u32,
        pub batch_outer: u32,
        pub batch_inner: u32,
        pub ldx: u32,
        pub ldy: u32,
        pub x_outer: u32,
        pub x_inner: u32,
        pub y_outer: u32,
        pub y_inner: u32,
    }
}

impl TransposeParams {
    /// One contiguous matrix.
    pub fn plain(rows: u32, cols: u32) -> Self {
        Self {
            rows,
            cols,
            batch_outer: 1,
            batch_inner: 1,
            ldx: cols,
            ldy: rows,
            x_outer: 0,
            x_inner: 0,
            y_outer: 0,
            y_inner: 0,
        }
    }
}

params! {
    /// y [chunks, cols] += the sum of each `chunk` rows of x [rows, cols], contiguous.
    pub struct ColumnSumParams { pub rows: u32, pub cols: u32, pub chunk: u32 }
}

pub const CARDS: &[&Card] = &[&MATMUL_FORWARD, &MATMUL_BACKWARD_WEIGHT, &TRANSPOSE, &COLUMN_SUM];

fn matmul_flops(words: &[u32]) -> u64 {
    let p = MatmulParams::of(words);
    2 * p.batch() * u64::from(p.m) * u64::from(p.n) * u64::from(p.k)
}

/// Products that make a pass over one window worth its dispatch: some 100 us on two cores.
const PRODUCTS_A_PASS: u64 = 1 << 21;

/// How a batch of matrices [total, n] with these strides is taken in windows, where they start at whole steps and each
/// makes a pass of enough products with `rows` others.
fn windowed(p: &MatmulParams, total: u32, [ld, outer, inner]: [u32; 3], rows: u32) -> Option<Cut> {
    let aligned = ld == p.n && (outer | inner).is_multiple_of(WINDOW_STEP);
    let neighbours = p.batch_inner == 1 && u64::from(outer) == u64::from(total) * u64::from(p.n);
    let cut = cut(total, p.n).map(|cut| if neighbours { cut.packed(p.batch_outer) } else { cut });
    cut.filter(|cut| aligned && u64::from(rows) * cut.elements() >= PRODUCTS_A_PASS)
}

/// The windows of all matrices, that start at these strides.
fn windows(p: &MatmulParams, cut: Cut, outer: u32, inner: u32) -> Windows {
    let row = |o: u32| (0..p.batch_inner).map(move |i| u64::from(o * outer) + u64::from(i * inner));
    let matrices = (0..p.batch_outer).step_by(cut.matrices() as usize).flat_map(row);
    let starts = matrices.flat_map(|matrix| cut.starts().map(move |start| matrix + start)).collect();
    Windows { binding: 1, elements: cut.elements(), starts }
}

/// How w can be taken in windows.
fn forward_cut(p: &MatmulParams) -> Option<Cut> {
    windowed(p, p.k, [p.ldw, p.w_outer, p.w_inner], p.m)
}

/// Tile of the product without windows.
fn plain_lanes(words: &[u32]) -> Lanes {
    let p = MatmulParams::of(words);
    lanes(p.m, p.n, p.ldw | p.w_outer | p.w_inner | p.ldy | p.y_outer | p.y_inner)
}

/// Tile of the product, and the windows of w.
fn forward_lanes(words: &[u32]) -> (Lanes, Option<Cut>) {
    let p = MatmulParams::of(words);
    match plain_lanes(words).windowed(forward_cut(&p)) {
        (lanes, Some(cut)) => (lanes.wide(), Some(cut)),
        plain => plain,
    }
}

/// How dy can be taken in windows.
fn weight_cut(p: &MatmulParams) -> Option<Cut> {
    windowed(p, p.m, [p.ldy, p.y_outer, p.y_inner], p.k)
}

/// Tile of dw.
fn weight_lanes(words: &[u32]) -> Lanes {
    let p = MatmulParams::of(words);
    lanes(p.k, p.n, p.ldw | p.w_outer | p.w_inner | p.ldy | p.y_outer | p.y_inner).whole_rows().tall()
}

/// The default tile, the one that is taken where there can be no windows, and others of `least` rows or more, with and without
/// the cut whose matrices start at these strides.
fn lanes_menu(
    words: &[u32],
    default: (Lanes, Option<Cut>),
    plain: Lanes,
    least: u32,
    (cut, outer, inner): (Option<Cut>, u32, u32),
) -> Vec<Tiling> {
    let p = MatmulParams::of(words);
    let ways = [default, (plain, None)].into_iter().chain(default.0.others(least, cut));
    distinct(ways.map(|way| Tiling {
        name: way.0.name(way.1),
        constants: window_constants(way),
        groups: tiles_a_pass(words, way),
        windows: way.1.map(|cut| windows(&p, cut, outer, inner)),
    }))
}

fn window_constants((lanes, cut): (Lanes, Option<Cut>)) -> Constants {
    [lanes.constants(), vec![lanes.vectors()], Cut::constants(cut)].concat()
}

/// Tiles of all passes, or, with windows, of each.
fn tiles_a_pass(words: &[u32], (lanes, cut): (Lanes, Option<Cut>)) -> u64 {
    lanes.tiles() * cut.map_or(MatmulParams::of(words).batch(), |cut| u64::from(cut.matrices()))
}

/// Whether vectors of 4 lie on all sides.
fn in_fours(words: &[u32]) -> bool {
    let p = MatmulParams::of(words);
    let strides = p.x_outer | p.x_inner | p.w_outer | p.w_inner | p.y_outer | p.y_inner;
    (p.k | p.n | p.ldx | p.ldw | p.ldy | strides).is_multiple_of(4)
}

/// A variant for GPUs, and for CPU rasterisers that the one before does not fit, over vectors of 4 on all sides.
const fn tiled(
    file: (&'static str, &'static str),
    constants: fn(&[u32]) -> Constants,
    groups: fn(&[u32]) -> u64,
    menu: fn(&[u32]) -> Vec<Tiling>,
) -> Variant {
    let fits = |words: &[u32], _: &Limits| in_fours(words);
    Variant { stem: file.0, source: file.1, class: Class::Any, constants, fits, groups, windows: whole, menu }
}

/// Of matmul_forward_uniform.
fn uniform_tilings(words: &[u32]) -> Vec<Tiling> {
    let p = MatmulParams::of(words);
    uniform_menu(p.m, p.n, p.batch())
}

/// The first of them: tiles of one row fit all.
fn uniform_tiling(words: &[u32]) -> Tiling {
    uniform_tilings(words).swap_remove(0)
}

fn forward_tile(words: &[u32]) -> Tile {
    let p = MatmulParams::of(words);
    tile(p.m, p.n, p.batch())
}

fn weight_tile(words: &[u32]) -> Tile {
    let p = MatmulParams::of(words);
    tile(p.k, p.n, p.batch())
}

/// y = alpha x w + bias + addend
pub static MATMUL_FORWARD: Card = Card {
    word: "matmul_forward",
    params: MatmulParams::FIELDS,
    bindings: &[
        read("x").or_half(),
        read("w").or_half(),
        read("bias").or_half(),
        read("addend").or_half(),
        write("y").or_half(),
    ],
    variants: &[
        Variant {
            fits: |words, limits| {
                let p = MatmulParams::of(words);
                in_fours(words) && cooperates([p.m, p.n, p.k], limits)
            },
            ..plain(wgsl!("matmul_forward_coop"), |words| {
                let p = MatmulParams::of(words);
                p.batch() * coop_tiles(p.m, p.n)
            })
        },
        Variant {
            fits: |words, limits| limits.subgroup == 8 && !(limits.uniform_loads && in_fours(words)),
            windows: |words| {
                let p = MatmulParams::of(words);
                forward_lanes(words).1.map(|cut| windows(&p, cut, p.w_outer, p.w_inner))
            },
            ..subgroup(
                wgsl!("matmul_forward_subgroup"),
                |words| window_constants(forward_lanes(words)),
                |words| tiles_a_pass(words, forward_lanes(words)),
                |words| {
                    let p = MatmulParams::of(words);
                    lanes_menu(
                        words,
                        forward_lanes(words),
                        plain_lanes(words),
                        1,
                        (forward_cut(&p), p.w_outer, p.w_inner),
                    )
                },
            )
        },
        Variant {
            fits: |words, limits| limits.subgroup == 8 && in_fours(words),
            ..subgroup(
                wgsl!("matmul_forward_uniform"),
                |words| uniform_tiling(words).constants,
                |words| uniform_tiling(words).groups,
                uniform_tilings,
            )
        },
        tiled(
            wgsl!("matmul_forward_tiled"),
            |words| forward_tile(words).constants(),
            |words| MatmulParams::of(words).batch() * forward_tile(words).tiles(),
            |words| forward_tile(words).menu(&[], MatmulParams::of(words).batch()),
        ),
        plain(wgsl!("matmul_forward_v1"), |words| {
            let p = MatmulParams::of(words);
            (p.batch() * u64::from(p.m) * u64::from(p.n)).div_ceil(64)
        }),
    ],
    flops: matmul_flops,
};

/// dw += alpha x^T dy; the layout of w is dw's, the layout of y is dy's.
pub static MATMUL_BACKWARD_WEIGHT: Card = Card {
    word: "matmul_backward_weight",
    params: MatmulParams::FIELDS,
    bindings: &[read("x").or_half(), read("dy").or_half(), update("dw")],
    variants: &[
        Variant {
            fits: |words, limits| {
                let p = MatmulParams::of(words);
                in_fours(words) && cooperates([p.k, p.n, p.m], limits)
            },
            ..plain(wgsl!("matmul_backward_weight_coop"), |words| {
                let p = MatmulParams::of(words);
                p.batch() * coop_tiles(p.k, p.n)
            })
        },
        subgroup(
            wgsl!("matmul_backward_weight_subgroup"),
            |words| window_constants((weight_lanes(words), None)),
            |words| tiles_a_pass(words, (weight_lanes(words), None)),
            |words| {
                let p = MatmulParams::of(words);
                let lanes = weight_lanes(words);
                lanes_menu(words, (lanes, None), lanes, 8, (weight_cut(&p), p.y_outer, p.y_inner))
            },
        ),
        tiled(
            wgsl!("matmul_backward_weight_tiled"),
            |words| weight_tile(words).constants(),
            |words| MatmulParams::of(words).batch() * weight_tile(words).tiles(),
            |words| weight_tile(words).menu(&[], MatmulParams::of(words).batch()),
        ),
        plain(wgsl!("matmul_backward_weight_v1"), |words| {
            let p = MatmulParams::of(words);
            (p.batch() * u64::from(p.k) * u64::from(p.n)).div_ceil(64)
        }),
    ],
    flops: matmul_flops,
};

/// y = x^T
pub static TRANSPOSE: Card = Card {
    word: "transpose",
    params: TransposeParams::FIELDS,
    bindings: &[read("x").or_half(), write("y").or_half()],
    variants: &[plain(wgsl!("transpose"), |words| {
        let p = TransposeParams::of(words);
        let tiles = u64::from(p.rows.div_ceil(8)) * u64::from(p.cols.div_ceil(64));
        u64::from(p.batch_outer) * u64::from(p.batch_inner) * tiles
    })],
    flops: |_| 0,
};

/// y += the sums of the rows of x, chunk by chunk
pub static COLUMN_SUM: Card = Card {
    word: "column_sum",
    params: ColumnSumParams::FIELDS,
    bindings: &[read("x"), update("y")],
    variants: &[plain(wgsl!("column_sum"), |words| {
        let p = ColumnSumParams::of(words);
        (u64::from(p.rows.div_ceil(p.chunk)) * u64::from(p.cols)).div_ceil(64)
    })],
    flops: |words| {
        let p = ColumnSumParams::of(words);
        u64::from(p.rows) * u64::from(p.cols)
    },
};
