//! Tiles of the matrix products and convolutions: which part of the output one workgroup computes.
//! Called by `gemm` and `conv`.

use crate::shader::card::{Class, Constants, Limits, Tiling, Variant, WINDOW_ELEMENTS, whole};

/// A tile of the `_subgroup` variants: R rows of 8 lanes of C vectors of V columns each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes {
    r: u32,
    v: u32,
    c: u32,
    rows: u32,
    columns: u32,
}

/// The tile for an output of this size; `strides` (or'ed together) tell whether its rows and w's start at whole vectors.
/// Costs measured on Mesa 25's lavapipe: vectors of 4 and 2 cost as much a column, of 1 1.7 times as much; sums must stay
/// within 32 registers of 8 lanes.
pub(super) fn lanes(rows: u32, columns: u32, strides: u32) -> Lanes {
    let cost = |v: u32| u64::from(columns.div_ceil(8 * v)) * if v == 1 { 17 } else { 10 * u64::from(v) };
    let fitting = [4, 2, 1].into_iter().filter(|&v| columns.is_multiple_of(v) && strides.is_multiple_of(v));
    let v = fitting.min_by_key(|&v| cost(v)).unwrap_or(1);
    let most = if v == 1 { 16 } else { 8 };
    Lanes { r: rows.next_power_of_two().min(most), v, c: 1, rows, columns }
}

impl Lanes {
    /// Where columns come in fours, loads from a window cost so much less that more rows share one: twice as many, though
    /// some sums leave the registers.
    pub(super) fn windowed(self, cut: Option<Cut>) -> (Self, Option<Cut>) {
        match cut {
            Some(_) if self.v == 4 => (Self { r: self.rows.next_power_of_two().clamp(self.r, 16), ..self }, cut),
            _ => (self, None),
        }
    }

    /// Two vectors a lane where that leaves hardly a tile part-filled: a row's terms, each a load, then serve twice the
    /// columns. Half as fast again with windows; without, loads of w cost more than those of x.
    pub(super) fn wide(self) -> Self {
        let wide = Self { c: 2, ..self };
        let filled = self.v == 4 && 9 * self.columns >= 8 * self.columns.next_multiple_of(16 * self.v);
        if filled { wide } else { self }
    }

    /// At least 8 rows, where each lane loads for one.
    pub(super) fn whole_rows(self) -> Self {
        Self { r: self.r.max(8), ..self }
    }

    /// 16 rows where columns come in fours: loads of a row's terms are shared by so many that windows gain nothing more.
    pub(super) fn tall(self) -> Self {
        let most = if self.v == 4 { 16 } else { self.r };
        Self { r: self.rows.next_power_of_two().clamp(self.r, most), ..self }
    }

    pub(super) fn constants(self) -> Constants {
        vec![("R", self.r), ("V", self.v)]
    }

    /// C, of the kernels that know it.
    pub(super) fn vectors(self) -> (&'static str, u32) {
        ("C", self.c)
    }

    pub(super) fn tiles(self) -> u64 {
        u64::from(self.rows.div_ceil(self.r)) * u64::from(self.columns.div_ceil(8 * self.v * self.c))
    }

    /// `r8v4`: rows and columns of a lane; `x2` where it has two vectors of them, `w` where one side comes in windows.
    pub(super) fn name(self, cut: Option<Cut>) -> String {
        let several = if self.c > 1 { format!("x{}", self.c) } else { String::new() };
        format!("r{}v{}{several}{}", self.r, self.v, if cut.is_some() { "w" } else { "" })
    }

    /// This tile and others of `least` rows or more, without windows; then, where there is a cut, with them, up to as many
    /// vectors a lane as this one has.
    pub(super) fn others(self, least: u32, cut: Option<Cut>) -> impl Iterator<Item = (Self, Option<Cut>)> {
        let most = self.rows.next_power_of_two().max(self.r);
        let heights = move || [4, 8, 16].into_iter().filter(move |&r| (least..=most).contains(&r));
        let windowed = cut.filter(|_| self.v == 4);
        let tiles = move |most: u32| (1..=most).flat_map(move |c| heights().map(move |r| Self { r, c, ..self }));
        let plain = tiles(1).map(|lanes| (lanes, None));
        plain.chain(windowed.into_iter().flat_map(move |cut| tiles(self.c).map(move |lanes| (lanes, Some(cut)))))
    }

    /// The ways of a variant without windows: `more` constants, `times` the tiles of one output.
    pub(super) fn menu(self, least: u32, more: &[(&'static str, u32)], times: u64) -> Vec<Tiling> {
        let way = |(lanes, _): (Self, Option<Cut>)| Tiling {
            name: lanes.name(None),
            constants: [&lanes.constants(), more].concat(),
            groups: times * lanes.tiles(),
            windows: None,
        };
        distinct(std::iter::once((self, None)).chain(self.others(least, None)).map(way))
    }
}

/// Tiles of matmul_forward_uniform, the default first: 16 rows of two vectors reach the most on llvmpipe of Mesa 26, narrow
/// outputs need fewer.
pub(super) fn uniform_menu(rows: u32, columns: u32, times: u64) -> Vec<Tiling> {
    let high = rows.next_power_of_two();
    let shapes = [(16, 2), (8, 2), (16, 1), (8, 1), (4, 2), (4, 1), (1, 1)].into_iter();
    let fitting = shapes.filter(|&(r, c)| r <= high && 16 * c < columns.next_multiple_of(32));
    let way = |(r, c)| {
        let lanes = Lanes { r, v: 4, c, rows, columns };
        let constants = vec![("R", r), ("C", c)];
        Tiling { name: lanes.name(None), constants, groups: times * lanes.tiles(), windows: None }
    };
    fitting.map(way).collect()
}

/// The first of each name.
pub(super) fn distinct(ways: impl Iterator<Item = Tiling>) -> Vec<Tiling> {
    let mut menu: Vec<Tiling> = Vec::new();
    for way in ways {
        if menu.iter().all(|known| known.name != way.name) {
            menu.push(way);
        }
    }
    menu
}

/// How a matrix [rows, columns] is taken in windows of whole rows (`shader::card::Windows`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Rows of each window, and of the matrix; the last window starts earlier where the one does not divide the other.
    rows: u32,
    total: u32,
    columns: u32,
    /// Matrices in each window, one behind the other; 1 where a matrix takes several windows.
    matrices: u32,
}

/// Windows start at multiples of 256 bytes: so many elements.
pub(super) const WINDOW_STEP: u32 = 64;

/// Rows from which a window of a larger matrix pays: each pass reads and writes the sums.
const WINDOW_ROWS: u32 = 64;

/// How [total, columns] is cut: one window where the matrix fits, else several of a power of two of rows, so that few sizes occur, each a pipeline.
/// None where the matrix does not come in whole eights, or is too wide.
pub(super) fn cut(total: u32, columns: u32) -> Option<Cut> {
    let most = (WINDOW_ELEMENTS / u64::from(columns)).min(u64::from(total)) as u32;
    let whole = total.is_multiple_of(8) && columns.is_multiple_of(8);
    let rows = if most == total { total } else { 1 << most.max(1).ilog2() };
    (whole && rows >= WINDOW_ROWS.min(total)).then_some(Cut { rows, total, columns, matrices: 1 })
}

impl Cut {
    /// As many of a batch of neighbouring matrices in each window as fit and divide the batch.
    pub(super) fn packed(self, batch: u32) -> Self {
        let fit = (WINDOW_ELEMENTS / self.elements()) as u32;
        let dividing = (1..=fit).rev().find(|&matrices| batch.is_multiple_of(matrices));
        Self { matrices: dividing.filter(|_| self.rows == self.total).unwrap_or(1), ..self }
    }

    pub(super) fn matrices(self) -> u32 {
        self.matrices
    }

    /// Of a window.
    pub(super) fn elements(self) -> u64 {
        u64::from(self.rows) * u64::from(self.columns) * u64::from(self.matrices)
    }

    /// Where the windows start, counted from the first element of the matrix or of the first of `matrices`.
    pub(super) fn starts(self) -> impl Iterator<Item = u64> {
        let last = self.total - self.rows;
        (0..self.total.div_ceil(self.rows)).map(move |i| u64::from((i * self.rows).min(last)) * u64::from(self.columns))
    }

    /// WINDOW: vectors of four in a window, or 0; MATRICES: in each.
    pub(super) fn constants(cut: Option<Self>) -> Constants {
        vec![
            ("WINDOW", cut.map_or(0, |cut| cut.elements() as u32 / 4)),
            ("MATRICES", cut.map_or(1, |cut| cut.matrices)),
        ]
    }
}

/// A variant for CPU rasterisers whose subgroups are 8 lanes.
pub(super) const fn subgroup(
    file: (&'static str, &'static str),
    constants: fn(&[u32]) -> Constants,
    groups: fn(&[u32]) -> u64,
    menu: fn(&[u32]) -> Vec<Tiling>,
) -> Variant {
    let fits = |_: &[u32], limits: &Limits| limits.subgroup == 8;
    Variant { stem: file.0, source: file.1, class: Class::Cpu, constants, fits, groups, windows: whole, menu }
}

/// Whether the `_coop` variants may take an output of this size over so many terms: where cooperative matrices may be used,
/// there are workgroups of 128, and half of a workgroup's tile is of use.
pub(super) fn cooperates([rows, columns, terms]: [u32; 3], limits: &Limits) -> bool {
    limits.cooperative > 0 && limits.invocations >= 128 && rows >= 32 && columns >= 32 && terms >= 16
}

/// Tiles of 64 x 64 that the `_coop` variants cut an output into.
pub(super) fn coop_tiles(rows: u32, columns: u32) -> u64 {
    u64::from(rows.div_ceil(64)) * u64::from(columns.div_ceil(64))
}

/// A tile of the `_tiled` variants: TY x TX threads of RM rows x 4 columns each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    rm: u32,
    ty: u32,
    tx: u32,
    rows: u32,
    columns: u32,
}

/// All tiles, as (RM, TY, TX): 16x32 to 128x128, each within the 256 invocations and 16 KiB that every adapter grants.
/// Every thread loads as many vectors as the others: TX divides 4 RM, TY divides 16; RM comes in fours.
const TILES: [(u32, u32, u32); 9] =
    [(4, 4, 8), (4, 8, 8), (4, 8, 16), (8, 8, 8), (4, 16, 16), (8, 8, 16), (8, 16, 16), (8, 8, 32), (16, 8, 32)];

/// Workgroups that a GPU wants before larger tiles pay.
const ENOUGH: f64 = 128.0;

/// The tile for `batch` outputs of this size: large tiles load less for each product, small ones waste less at the edges
/// and give more workgroups.
pub(super) fn tile(rows: u32, columns: u32, batch: u64) -> Tile {
    let options = [(8, 16, 16, 1.3), (4, 16, 16, 1.0), (4, 8, 8, 0.7)];
    let scored = options.map(|(rm, ty, tx, speed)| {
        let tile = Tile { rm, ty, tx, rows, columns };
        let computed = tile.tiles() as f64 * f64::from(rm * ty) * f64::from(4 * tx);
        let useful = f64::from(rows) * f64::from(columns) / computed;
        (tile, speed * useful * ((tile.tiles() * batch) as f64 / ENOUGH).min(1.0))
    });
    scored.into_iter().fold(scored[2], |best, next| if next.1 > best.1 { next } else { best }).0
}

impl Tile {
    pub(super) fn constants(self) -> Constants {
        vec![("RM", self.rm), ("TY", self.ty), ("TX", self.tx)]
    }

    pub(super) fn tiles(self) -> u64 {
        u64::from(self.rows.div_ceil(self.rm * self.ty)) * u64::from(self.columns.div_ceil(4 * self.tx))
    }

    /// `64x64r4`: rows x columns of the tile, rows of a thread.
    fn name(self) -> String {
        format!("{}x{}r{}", self.rm * self.ty, 4 * self.tx, self.rm)
    }

    /// This tile and those that do not reach far beyond the output: `more` constants, `times` the tiles of one output.
    pub(super) fn menu(self, more: &[(&'static str, u32)], times: u64) -> Vec<Tiling> {
        let (high, wide) = (self.rows.next_power_of_two().max(16), self.columns.next_power_of_two().max(32));
        let others = TILES.map(|(rm, ty, tx)| Self { rm, ty, tx, ..self });
        let apt = others.into_iter().filter(|tile| tile.rm * tile.ty <= high && 4 * tile.tx <= wide);
        let way = |tile: Self| Tiling {
            name: tile.name(),
            constants: [&tile.constants(), more].concat(),
            groups: times * tile.tiles(),
            windows: None,
        };
        distinct(std::iter::once(self).chain(apt).map(way))
    }
}
