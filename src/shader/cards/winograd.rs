//! Cards of the transforms of Winograd's convolutions F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2015): weight, input and
//! output, and the gradients of the first and the last.
//! Built by `kernels::winograd`; twins in `reference::winograd`.

use crate::shader::card::{Card, Constants, Params, Variant, per64, plain, read, update, write};
use crate::{params, wgsl};

params! {
    /// w [3, 3, cin, cout] -> u [places, cin, cout], or turned [places, cout, cin].
    pub struct WinogradWeightParams {
        pub cin: u32,
        pub cout: u32,
        /// Pixels of a tile's side.
        pub tile: u32,
        /// 1 where the taps are turned by 180 degrees and their matrices transposed: the input gradient's. The gradient
        /// ignores it.
        pub turned: u32,
    }
}

impl WinogradWeightParams {
    /// The channels that are neighbours in u.
    fn vectors(&self) -> u32 {
        if self.turned != 0 { self.cin } else { self.cout }
    }
}

params! {
    /// An image [batch, height, width, channels] and its tiles [places, batch ceil(height / tile) ceil(width / tile), channels].
    pub struct WinogradParams {
        pub batch: u32,
        pub height: u32,
        pub width: u32,
        pub channels: u32,
        /// Pixels of a tile's side.
        pub tile: u32,
        /// 1 where bias [channels] is added to y; the other transforms ignore it.
        pub has_bias: u32,
        /// Pixels of y that share one of the addend's rows [channels]; 0: there is none. The other transforms ignore it.
        pub addend: u32,
    }
}

/// Pixels of y that one tile computes. The larger one needs 2.25 products a pixel where the smaller one needs 4, has less to
/// transform, and three times the rounding error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// F(2x2, 3x3)
    Two = 2,
    /// F(4x4, 3x3), at the points 0, 3/4, -3/4, 3/2, -3/2 and infinity: half the error of the usual 0, 1, -1, 2, -2.
    Four = 4,
}

impl Tile {
    /// The tile with this side, as the cards' parameters have it.
    pub fn of(side: u32) -> Self {
        if side == Self::Two.pixels() { Self::Two } else { Self::Four }
    }

    /// What is given for this one.
    fn pick<T>(self, [two, four]: [T; 2]) -> T {
        match self {
            Self::Two => two,
            Self::Four => four,
        }
    }

    /// Of one side.
    pub fn pixels(self) -> u32 {
        self as u32
    }

    /// Elements of a tile of the input: products of one tile and a pair of channels.
    pub fn places(self) -> u32 {
        (self.pixels() + 2).pow(2)
    }

    /// Tiles of a batch of images.
    pub fn tiles(self, batch: u32, height: u32, width: u32) -> u64 {
        let along = |pixels: u32| u64::from(pixels.div_ceil(self.pixels()));
        u64::from(batch) * along(height) * along(width)
    }
}

impl WinogradParams {
    /// Tiles in the batch.
    pub fn tiles(&self) -> u64 {
        Tile::of(self.tile).tiles(self.batch, self.height, self.width)
    }
}

pub const CARDS: &[&Card] =
    &[&WINOGRAD_WEIGHT, &WINOGRAD_WEIGHT_BACKWARD, &WINOGRAD_INPUT, &WINOGRAD_OUTPUT, &WINOGRAD_OUTPUT_BACKWARD];

/// Four channels an invocation where their number allows it.
fn width(channels: u32) -> u32 {
    if channels.is_multiple_of(4) { 4 } else { 1 }
}

fn tile_constants(words: &[u32]) -> Constants {
    let p = WinogradParams::of(words);
    vec![("WIDTH", width(p.channels)), ("TILE", p.tile)]
}

fn tile_groups(words: &[u32]) -> u64 {
    let p = WinogradParams::of(words);
    (p.tiles() * u64::from(p.channels / width(p.channels))).div_ceil(64)
}

/// Operations of one tile of either size, over all tiles and channels.
fn tile_flops(words: &[u32], each: [u64; 2]) -> u64 {
    let p = WinogradParams::of(words);
    Tile::of(p.tile).pick(each) * p.tiles() * u64::from(p.channels)
}

/// Operations of one matrix of taps for either tile, over all of them.
fn weight_flops(words: &[u32], each: [u64; 2]) -> u64 {
    let p = WinogradWeightParams::of(words);
    Tile::of(p.tile).pick(each) * u64::from(p.cin) * u64::from(p.cout)
}

/// U = G g G^T
pub static WINOGRAD_WEIGHT: Card = Card {
    word: "winograd_weight",
    params: WinogradWeightParams::FIELDS,
    bindings: &[read("w").or_half(), write("u")],
    variants: &[Variant {
        constants: |w| {
            let p = WinogradWeightParams::of(w);
            vec![("WIDTH", width(p.vectors())), ("TILE", p.tile), ("TURNED", p.turned)]
        },
        ..plain(wgsl!("winograd_weight"), |w| {
            let p = WinogradWeightParams::of(w);
            per64(p.cin * p.cout / width(p.vectors()))
        })
    }],
    flops: |w| weight_flops(w, [35, 135]),
};

/// dw += G^T dU G
pub static WINOGRAD_WEIGHT_BACKWARD: Card = Card {
    word: "winograd_weight_backward",
    params: WinogradWeightParams::FIELDS,
    bindings: &[read("du"), update("dw")],
    variants: &[Variant {
        constants: |w| {
            let p = WinogradWeightParams::of(w);
            vec![("WIDTH", width(p.cout)), ("TILE", p.tile)]
        },
        ..plain(wgsl!("winograd_weight_backward"), |w| {
            let p = WinogradWeightParams::of(w);
            per64(p.cin * p.cout / width(p.cout))
        })
    }],
    flops: |w| weight_flops(w, [51, 171]),
};

/// V = B^T d B
pub static WINOGRAD_INPUT: Card = Card {
    word: "winograd_input",
    params: WinogradParams::FIELDS,
    bindings: &[read("x").or_half(), write("v")],
    variants: &[Variant { constants: tile_constants, ..plain(wgsl!("winograd_input"), tile_groups) }],
    flops: |w| tile_flops(w, [32, 264]),
};

/// y = A^T M A + bias
pub static WINOGRAD_OUTPUT: Card = Card {
    word: "winograd_output",
    params: WinogradParams::FIELDS,
    bindings: &[read("m"), read("bias").or_half(), read("addend").or_half(), write("y").or_half()],
    variants: &[Variant { constants: tile_constants, ..plain(wgsl!("winograd_output"), tile_groups) }],
    flops: |w| tile_flops(w, [28, 176]),
};

/// dM = A dy A^T
pub static WINOGRAD_OUTPUT_BACKWARD: Card = Card {
    word: "winograd_output_backward",
    params: WinogradParams::FIELDS,
    bindings: &[read("dy"), write("dm")],
    variants: &[Variant { constants: tile_constants, ..plain(wgsl!("winograd_output_backward"), tile_groups) }],
    flops: |w| tile_flops(w, [18, 140]),
};
