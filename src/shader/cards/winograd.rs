//! Cards of the transforms of Winograd's convolution F(2x2, 3x3) (Lavin and Gray 2015): weight, input and output, and the
//! gradients of the first and the last.
//! Built by `kernels::winograd`; twins in `reference::winograd`.

use crate::shader::card::{Card, Constants, Params, Variant, per64, plain, read, update, write};
use crate::{params, wgsl};

params! {
    /// w [3, 3, cin, cout] -> u [16, cin, cout], or turned [16, cout, cin].
    pub struct WinogradWeightParams {
        pub cin: u32,
        pub cout: u32,
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
    /// An image [batch, height, width, channels] and its tiles [16, batch ceil(height / 2) ceil(width / 2), channels].
    pub struct WinogradParams {
        pub batch: u32,
        pub height: u32,
        pub width: u32,
        pub channels: u32,
        /// 1 where bias [channels] is added to y; the other transforms ignore it.
        pub has_bias: u32,
    }
}

/// Elements of a tile of the input.
pub const PLACES: u32 = 16;

impl WinogradParams {
    /// Tiles of 2x2 pixels of y in the batch.
    pub fn tiles(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.height.div_ceil(2)) * u64::from(self.width.div_ceil(2))
    }
}

pub const CARDS: &[&Card] =
    &[&WINOGRAD_WEIGHT, &WINOGRAD_WEIGHT_BACKWARD, &WINOGRAD_INPUT, &WINOGRAD_OUTPUT, &WINOGRAD_OUTPUT_BACKWARD];

/// Four channels an invocation where their number allows it.
fn width(channels: u32) -> u32 {
    if channels.is_multiple_of(4) { 4 } else { 1 }
}

fn channels_width(words: &[u32]) -> Constants {
    vec![("WIDTH", width(WinogradParams::of(words).channels))]
}

fn tile_groups(words: &[u32]) -> u64 {
    let p = WinogradParams::of(words);
    (p.tiles() * u64::from(p.channels / width(p.channels))).div_ceil(64)
}

/// Additions and halvings of one tile or matrix of taps, over all channels.
fn tile_flops(words: &[u32], each: u64) -> u64 {
    let p = WinogradParams::of(words);
    each * p.tiles() * u64::from(p.channels)
}

/// U = G g G^T
pub static WINOGRAD_WEIGHT: Card = Card {
    word: "winograd_weight",
    params: WinogradWeightParams::FIELDS,
    bindings: &[read("w"), write("u")],
    variants: &[Variant {
        constants: |w| {
            let p = WinogradWeightParams::of(w);
            vec![("WIDTH", width(p.vectors())), ("TURNED", p.turned)]
        },
        ..plain(wgsl!("winograd_weight"), |w| {
            let p = WinogradWeightParams::of(w);
            per64(p.cin * p.cout / width(p.vectors()))
        })
    }],
    flops: |w| {
        let p = WinogradWeightParams::of(w);
        35 * u64::from(p.cin) * u64::from(p.cout)
    },
};

/// dw += G^T dU G
pub static WINOGRAD_WEIGHT_BACKWARD: Card = Card {
    word: "winograd_weight_backward",
    params: WinogradWeightParams::FIELDS,
    bindings: &[read("du"), update("dw")],
    variants: &[Variant {
        constants: |w| vec![("WIDTH", width(WinogradWeightParams::of(w).cout))],
        ..plain(wgsl!("winograd_weight_backward"), |w| {
            let p = WinogradWeightParams::of(w);
            per64(p.cin * p.cout / width(p.cout))
        })
    }],
    flops: |w| {
        let p = WinogradWeightParams::of(w);
        58 * u64::from(p.cin) * u64::from(p.cout)
    },
};

/// V = B^T d B
pub static WINOGRAD_INPUT: Card = Card {
    word: "winograd_input",
    params: WinogradParams::FIELDS,
    bindings: &[read("x"), write("v")],
    variants: &[Variant { constants: channels_width, ..plain(wgsl!("winograd_input"), tile_groups) }],
    flops: |w| tile_flops(w, 32),
};

/// y = A^T M A + bias
pub static WINOGRAD_OUTPUT: Card = Card {
    word: "winograd_output",
    params: WinogradParams::FIELDS,
    bindings: &[read("m"), read("bias"), write("y")],
    variants: &[Variant { constants: channels_width, ..plain(wgsl!("winograd_output"), tile_groups) }],
    flops: |w| tile_flops(w, 28),
};

/// dM = A dy A^T
pub static WINOGRAD_OUTPUT_BACKWARD: Card = Card {
    word: "winograd_output_backward",
    params: WinogradParams::FIELDS,
    bindings: &[read("dy"), write("dm")],
    variants: &[Variant { constants: channels_width, ..plain(wgsl!("winograd_output_backward"), tile_groups) }],
    flops: |w| tile_flops(w, 18),
};
