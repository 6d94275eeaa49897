//! Cards that combine an activation [batch, pixels, channels] with values [batch, channels], and the sums over pixels
//! that are their gradients.
//! Built by `kernels::broadcast`; twins in `reference::broadcast`.

use super::norm::{PIXELS_PER_LANE, lane_width, per_block};
use crate::shader::card::{Binding, Card, Class, Constants, Params, Variant, read, single, whole, write};
use crate::{params, wgsl};

params! {
    /// x, y [batch, pixels, channels]; t [batch, channels].
    pub struct PixelParams { pub batch: u32, pub pixels: u32, pub channels: u32 }
}

params! {
    /// x [batch, pixels, channels] -> y [batch, ceil(pixels / chunk), channels].
    pub struct SumPixelsParams { pub batch: u32, pub pixels: u32, pub channels: u32, pub chunk: u32 }
}

pub const CARDS: &[&Card] =
    &[&ADD_CHANNEL_BIAS, &SUM_PIXELS, &SCALE_SHIFT_FORWARD, &SCALE_SHIFT_BACKWARD_INPUT, &SCALE_SHIFT_BACKWARD_SCALE];

/// Both parameter structs begin with batch, pixels, channels.
fn constants(words: &[u32]) -> Constants {
    vec![("WIDTH", lane_width(words[2])), ("ROWS", PIXELS_PER_LANE)]
}

fn pixel_groups(words: &[u32]) -> u64 {
    let p = PixelParams::of(words);
    per_block(p.batch, p.pixels, p.channels, PIXELS_PER_LANE)
}

fn chunk_groups(words: &[u32]) -> u64 {
    let p = SumPixelsParams::of(words);
    per_block(p.batch, p.pixels, p.channels, p.chunk)
}

fn elements(words: &[u32]) -> u64 {
    words[..3].iter().map(|&w| u64::from(w)).product()
}

const fn variant(file: (&'static str, &'static str), groups: fn(&[u32]) -> u64) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class: Class::Any,
        constants,
        fits: |_, _| true,
        groups,
        windows: whole,
        menu: single,
    }
}

const fn pixel_card(word: &'static str, bindings: &'static [Binding], variants: &'static [Variant]) -> Card {
    Card { word, params: PixelParams::FIELDS, bindings, variants, flops: |w| 2 * elements(w) }
}

const fn sum_card(word: &'static str, bindings: &'static [Binding], variants: &'static [Variant]) -> Card {
    Card { word, params: SumPixelsParams::FIELDS, bindings, variants, flops: |w| 2 * elements(w) }
}

/// y = x + t
pub static ADD_CHANNEL_BIAS: Card = pixel_card(
    "add_channel_bias",
    &[read("x").or_half(), read("t").or_half(), write("y").or_half()],
    &[variant(wgsl!("add_channel_bias"), pixel_groups)],
);

/// y = the sum of x over each chunk of pixels
pub static SUM_PIXELS: Card =
    sum_card("sum_pixels", &[read("x"), write("y")], &[variant(wgsl!("sum_pixels"), chunk_groups)]);

/// y = x (1 + scale) + shift
pub static SCALE_SHIFT_FORWARD: Card = pixel_card(
    "scale_shift_forward",
    &[read("x").or_half(), read("scale").or_half(), read("shift").or_half(), write("y").or_half()],
    &[variant(wgsl!("scale_shift_forward"), pixel_groups)],
);

/// dx = dy (1 + scale)
pub static SCALE_SHIFT_BACKWARD_INPUT: Card = pixel_card(
    "scale_shift_backward_input",
    &[read("scale").or_half(), read("dy"), write("dx")],
    &[variant(wgsl!("scale_shift_backward_input"), pixel_groups)],
);

/// dscale = the sum of x dy over each chunk of pixels
pub static SCALE_SHIFT_BACKWARD_SCALE: Card = sum_card(
    "scale_shift_backward_scale",
    &[read("x").or_half(), read("dy"), write("dscale")],
    &[variant(wgsl!("scale_shift_backward_scale"), chunk_groups)],
);
