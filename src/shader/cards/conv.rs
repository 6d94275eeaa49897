//! Cards of the convolution: forward, and its gradients with respect to input and weight.
//! Built by `kernels::conv2d`; twins in `reference::conv`.

use super::tiles::{Lanes, Tile, coop_tiles, cooperates, lanes, subgroup, tile};
use crate::shader::card::{Card, Class, Constants, Limits, Params, Tiling, Variant, plain, read, update, whole, write};
use crate::{params, wgsl};

params! {
    /// x [batch, in_h, in_w, cin], w [kh, kw, cin, cout], y [batch, out_h, out_w, cout].
    pub struct Conv2dParams {
        pub batch: u32,
        pub in_h: u32,
        pub in_w: u32,
        pub cin: u32,
        pub out_h: u32,
        pub out_w: u32,
        pub cout: u32,
        pub kh: u32,
        pub kw: u32,
        pub stride: u32,
        pub pad_top: u32,
        pub pad_left: u32,
        pub has_bias: u32,
        /// Rows of pixels of dy that one sum of conv2d_backward_weight covers; the others ignore it.
        pub chunk: u32,
        /// Pixels of y that share one of the addend's rows [cout], which is added after the bias; 0: there is none. The gradients
        /// ignore it.
        pub addend: u32,
    }
}

impl Conv2dParams {
    /// Pixels of y in the batch.
    pub fn out_pixels(&self) -> u32 {
        self.batch * self.out_h * self.out_w
    }

    /// Pixels of x in the batch.
    pub fn in_pixels(&self) -> u32 {
        self.batch * self.in_h * self.in_w
    }

    /// Products in one element of y: kh kw cin.
    pub fn terms(&self) -> u32 {
        self.kh * self.kw * self.cin
    }

    /// Sums that conv2d_backward_weight makes of each weight.
    pub fn chunks(&self) -> u32 {
        (self.batch * self.out_h).div_ceil(self.chunk)
    }
}

pub const CARDS: &[&Card] = &[&CONV2D_FORWARD, &CONV2D_BACKWARD_INPUT, &CONV2D_BACKWARD_WEIGHT];

fn flops(words: &[u32]) -> u64 {
    let p = Conv2dParams::of(words);
    2 * u64::from(p.out_pixels()) * u64::from(p.terms()) * u64::from(p.cout)
}

fn forward_lanes(words: &[u32]) -> Lanes {
    let p = Conv2dParams::of(words);
    lanes(p.out_pixels(), p.cout, p.cout)
}

fn input_lanes(words: &[u32]) -> Lanes {
    let p = Conv2dParams::of(words);
    lanes(p.in_pixels(), p.cin, p.cin)
}

fn weight_lanes(words: &[u32]) -> Lanes {
    let p = Conv2dParams::of(words);
    lanes(p.terms(), p.cout, p.cout).whole_rows()
}

/// Whether vectors of 4 lie on all sides.
fn in_fours(p: &Conv2dParams) -> bool {
    (p.cin | p.cout).is_multiple_of(4)
}

/// A variant for GPUs, and for CPU rasterisers that the one before does not fit, over channels in fours.
const fn tiled(
    file: (&'static str, &'static str),
    constants: fn(&[u32]) -> Constants,
    groups: fn(&[u32]) -> u64,
    menu: fn(&[u32]) -> Vec<Tiling>,
) -> Variant {
    let fits = |words: &[u32], _: &Limits| in_fours(&Conv2dParams::of(words));
    Variant { stem: file.0, source: file.1, class: Class::Any, constants, fits, groups, windows: whole, menu }
}

fn forward_tile(words: &[u32]) -> Tile {
    let p = Conv2dParams::of(words);
    tile(p.out_pixels(), p.cout, 1)
}

fn input_tile(words: &[u32]) -> Tile {
    let p = Conv2dParams::of(words);
    tile(p.in_pixels(), p.cin, 1)
}

fn weight_tile(words: &[u32]) -> Tile {
    let p = Conv2dParams::of(words);
    tile(p.terms(), p.cout, u64::from(p.chunks()))
}

/// The tile's constants, and those by which the shader divides.
fn with(mut constants: Constants, more: &[(&'static str, u32)]) -> Constants {
    constants.extend(more);
    constants
}

/// Of conv2d_forward_subgroup beside its tile.
fn forward_taps(words: &[u32]) -> [(&'static str, u32); 1] {
    [("WHOLE_TAPS", u32::from(Conv2dParams::of(words).cin.is_multiple_of(8)))]
}

/// Of conv2d_backward_input_subgroup beside its tile.
fn input_taps(words: &[u32]) -> [(&'static str, u32); 3] {
    let p = Conv2dParams::of(words);
    let phases = if p.in_h.is_multiple_of(p.stride) && p.in_w.is_multiple_of(p.stride) { p.stride } else { 1 };
    [("WHOLE_TAPS", u32::from(p.cout.is_multiple_of(8))), ("STRIDE", p.stride), ("PHASES", phases)]
}

/// The width of the window, by which the tiled and cooperative variants divide.
fn width(words: &[u32]) -> [(&'static str, u32); 1] {
    [("KW", Conv2dParams::of(words).kw)]
}

fn width_and_stride(words: &[u32]) -> [(&'static str, u32); 2] {
    [("KW", Conv2dParams::of(words).kw), ("STRIDE", Conv2dParams::of(words).stride)]
}

fn chunks(words: &[u32]) -> u64 {
    u64::from(Conv2dParams::of(words).chunks())
}

/// y = x * w + bias
pub static CONV2D_FORWARD: Card = Card {
    word: "conv2d_forward",
    params: Conv2dParams::FIELDS,
    bindings: &[
        read("x").or_half(),
        read("w").or_half(),
        read("bias").or_half(),
        read("addend").or_half(),
        write("y").or_half(),
    ],
    variants: &[
        Variant {
            constants: |words| width(words).to_vec(),
            fits: |words, limits| {
                let p = Conv2dParams::of(words);
                in_fours(&p) && cooperates([p.out_pixels(), p.cout, p.terms()], limits)
            },
            ..plain(wgsl!("conv2d_forward_coop"), |words| {
                let p = Conv2dParams::of(words);
                coop_tiles(p.out_pixels(), p.cout)
            })
        },
        subgroup(
            wgsl!("conv2d_forward_subgroup"),
            |words| with(forward_lanes(words).constants(), &forward_taps(words)),
            |words| forward_lanes(words).tiles(),
            |words| forward_lanes(words).menu(1, &forward_taps(words), 1),
        ),
        tiled(
            wgsl!("conv2d_forward_tiled"),
            |words| with(forward_tile(words).constants(), &width(words)),
            |words| forward_tile(words).tiles(),
            |words| forward_tile(words).menu(&width(words), 1),
        ),
        plain(wgsl!("conv2d_forward_v1"), |words| {
            let p = Conv2dParams::of(words);
            (u64::from(p.out_pixels()) * u64::from(p.cout)).div_ceil(64)
        }),
    ],
    flops,
};

/// dx = dy * w, with w transposed to [kh, kw, cout, cin].
pub static CONV2D_BACKWARD_INPUT: Card = Card {
    word: "conv2d_backward_input",
    params: Conv2dParams::FIELDS,
    bindings: &[read("dy"), read("w").or_half(), write("dx")],
    variants: &[
        Variant {
            constants: |words| width_and_stride(words).to_vec(),
            fits: |words, limits| {
                let p = Conv2dParams::of(words);
                in_fours(&p) && cooperates([p.in_pixels(), p.cin, p.kh * p.kw * p.cout], limits)
            },
            ..plain(wgsl!("conv2d_backward_input_coop"), |words| {
                let p = Conv2dParams::of(words);
                coop_tiles(p.in_pixels(), p.cin)
            })
        },
        subgroup(
            wgsl!("conv2d_backward_input_subgroup"),
            |words| with(input_lanes(words).constants(), &input_taps(words)),
            |words| input_lanes(words).tiles(),
            |words| input_lanes(words).menu(1, &input_taps(words), 1),
        ),
        tiled(
            wgsl!("conv2d_backward_input_tiled"),
            |words| with(input_tile(words).constants(), &width_and_stride(words)),
            |words| input_tile(words).tiles(),
            |words| input_tile(words).menu(&width_and_stride(words), 1),
        ),
        plain(wgsl!("conv2d_backward_input_v1"), |words| {
            let p = Conv2dParams::of(words);
            (u64::from(p.in_pixels()) * u64::from(p.cin)).div_ceil(64)
        }),
    ],
    flops,
};

/// dw += the sum over pixels of x dy, `chunk` rows of pixels to each of the [chunks, kh, kw, cin, cout] sums.
pub static CONV2D_BACKWARD_WEIGHT: Card = Card {
    word: "conv2d_backward_weight",
    params: Conv2dParams::FIELDS,
    bindings: &[read("x").or_half(), read("dy"), update("dw")],
    variants: &[
        Variant {
            constants: |words| width(words).to_vec(),
            fits: |words, limits| {
                let p = Conv2dParams::of(words);
                in_fours(&p) && cooperates([p.terms(), p.cout, p.chunk * p.out_w], limits)
            },
            ..plain(wgsl!("conv2d_backward_weight_coop"), |words| {
                let p = Conv2dParams::of(words);
                chunks(words) * coop_tiles(p.terms(), p.cout)
            })
        },
        subgroup(
            wgsl!("conv2d_backward_weight_subgroup"),
            |words| weight_lanes(words).constants(),
            |words| chunks(words) * weight_lanes(words).tiles(),
            |words| weight_lanes(words).menu(8, &[], chunks(words)),
        ),
        tiled(
            wgsl!("conv2d_backward_weight_tiled"),
            |words| with(weight_tile(words).constants(), &width(words)),
            |words| chunks(words) * weight_tile(words).tiles(),
            |words| weight_tile(words).menu(&width(words), chunks(words)),
        ),
        plain(wgsl!("conv2d_backward_weight_v1"), |words| {
            let p = Conv2dParams::of(words);
            (u64::from(p.chunks()) * u64::from(p.terms()) * u64::from(p.cout)).div_ceil(64)
        }),
    ],
    flops,
};
