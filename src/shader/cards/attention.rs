//! Cards of attention: the softmax over rows between two matrix products, and the fused kernels with online softmax,
//! whose backward pass recomputes the weights from the log-sum-exp, by blocks of queries and of keys (no atomics).
//! Built by `kernels::attention`; twins in `reference::attention`.

use crate::shader::card::{Card, Class, Constants, Params, Variant, per64, plain, read, single, whole, write};
use crate::{params, wgsl};

params! {
    /// x, y [rows, columns].
    pub struct SoftmaxParams { pub rows: u32, pub columns: u32 }
}

params! {
    /// q, o [batch, queries, heads * size]; k, v [batch, keys, heads * size]; a value a query [batch, heads, queries].
    pub struct AttentionParams {
        pub batch: u32,
        pub heads: u32,
        pub queries: u32,
        pub keys: u32,
        /// Channels of a head.
        pub size: u32,
        pub scale: f32,
    }
}

/// Largest head of the fused kernels.
pub const LARGEST_HEAD: u32 = 512;
/// Largest head whose accumulators the tiled kernels keep in registers.
pub const LARGEST_TILED_HEAD: u32 = 160;
/// Queries and keys of a tile.
const TILE: u32 = 32;

pub const CARDS: &[&Card] = &[
    &SOFTMAX_FORWARD,
    &SOFTMAX_BACKWARD,
    &ATTENTION_FORWARD,
    &ATTENTION_BACKWARD_DELTA,
    &ATTENTION_BACKWARD_QUERY,
    &ATTENTION_BACKWARD_KEY_VALUE,
];

fn softmax_constants(words: &[u32]) -> Constants {
    vec![("WIDTH", if SoftmaxParams::of(words).columns.is_multiple_of(4) { 4 } else { 1 })]
}

fn softmax_elements(words: &[u32]) -> u64 {
    let p = SoftmaxParams::of(words);
    u64::from(p.rows) * u64::from(p.columns)
}

const fn softmax(file: (&'static str, &'static str), class: Class, groups: fn(&[u32]) -> u64) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class,
        constants: softmax_constants,
        fits: |_, _| true,
        groups,
        windows: whole,
        menu: single,
    }
}

/// y = exp(x) / the row's sum of exp(x)
pub static SOFTMAX_FORWARD: Card = Card {
    word: "softmax_forward",
    params: SoftmaxParams::FIELDS,
    bindings: &[read("x"), write("y").or_half()],
    variants: &[
        softmax(wgsl!("softmax_forward_tiled"), Class::Gpu, |w| u64::from(SoftmaxParams::of(w).rows)),
        softmax(wgsl!("softmax_forward_v1"), Class::Any, |w| per64(SoftmaxParams::of(w).rows)),
    ],
    flops: |w| 16 * softmax_elements(w),
};

/// dx = y (dy - the row's sum of y dy)
pub static SOFTMAX_BACKWARD: Card = Card {
    word: "softmax_backward",
    params: SoftmaxParams::FIELDS,
    bindings: &[read("y").or_half(), read("dy"), write("dx")],
    variants: &[
        softmax(wgsl!("softmax_backward_tiled"), Class::Gpu, |w| u64::from(SoftmaxParams::of(w).rows)),
        softmax(wgsl!("softmax_backward_v1"), Class::Any, |w| per64(SoftmaxParams::of(w).rows)),
    ],
    flops: |w| 4 * softmax_elements(w),
};

/// Workgroups of one tile of queries (or keys) of one head.
fn tiles(words: &[u32], length: fn(&AttentionParams) -> u32, tile: u32) -> u64 {
    let p = AttentionParams::of(words);
    u64::from(p.batch) * u64::from(p.heads) * u64::from(length(&p).div_ceil(tile))
}

fn queries(p: &AttentionParams) -> u32 {
    p.queries
}

fn keys(p: &AttentionParams) -> u32 {
    p.keys
}

/// Multiply-adds of one product over all heads, as FLOPs.
fn product_flops(words: &[u32]) -> u64 {
    let p = AttentionParams::of(words);
    let scores = u64::from(p.batch) * u64::from(p.heads) * u64::from(p.queries) * u64::from(p.keys);
    2 * scores * u64::from(p.size)
}

const fn tiled(file: (&'static str, &'static str), groups: fn(&[u32]) -> u64) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class: Class::Gpu,
        constants: |w| vec![("CHUNKS", AttentionParams::of(w).size.div_ceil(TILE))],
        fits: |w, _| AttentionParams::of(w).size <= LARGEST_TILED_HEAD,
        groups,
        windows: whole,
        menu: single,
    }
}

/// One invocation a query or key, with its head in a private array of a power of two: few pipelines.
const fn naive(file: (&'static str, &'static str), groups: fn(&[u32]) -> u64) -> Variant {
    Variant {
        stem: file.0,
        source: file.1,
        class: Class::Any,
        constants: |w| vec![("SIZE", AttentionParams::of(w).size.next_power_of_two().max(32))],
        fits: |_, _| true,
        groups,
        windows: whole,
        menu: single,
    }
}

/// o = softmax(scale q k^T) v; log_sum = the log of the sum of exp(scale q k^T) of each query
pub static ATTENTION_FORWARD: Card = Card {
    word: "attention_forward",
    params: AttentionParams::FIELDS,
    bindings: &[read("q").or_half(), read("k").or_half(), read("v").or_half(), write("o").or_half(), write("log_sum")],
    variants: &[
        tiled(wgsl!("attention_forward_tiled"), |w| tiles(w, queries, TILE)),
        naive(wgsl!("attention_forward_v1"), |w| tiles(w, queries, 64)),
    ],
    flops: |w| 2 * product_flops(w),
};

/// delta [batch, heads, queries] = the sum of o do over each head
pub static ATTENTION_BACKWARD_DELTA: Card = Card {
    word: "attention_backward_delta",
    params: AttentionParams::FIELDS,
    bindings: &[read("o").or_half(), read("dy"), write("delta")],
    variants: &[plain(wgsl!("attention_backward_delta"), |w| {
        let p = AttentionParams::of(w);
        (u64::from(p.batch) * u64::from(p.heads) * u64::from(p.queries)).div_ceil(64)
    })],
    flops: |w| product_flops(w) / u64::from(AttentionParams::of(w).keys),
};

/// dq = scale ds k, ds = w (do v^T - delta), w = exp(scale q k^T - log_sum)
pub static ATTENTION_BACKWARD_QUERY: Card = Card {
    word: "attention_backward_query",
    params: AttentionParams::FIELDS,
    bindings: &[
        read("q").or_half(),
        read("k").or_half(),
        read("v").or_half(),
        read("log_sum"),
        read("delta"),
        read("dy"),
        write("dq"),
    ],
    variants: &[
        tiled(wgsl!("attention_backward_query_tiled"), |w| tiles(w, queries, TILE)),
        naive(wgsl!("attention_backward_query_v1"), |w| tiles(w, queries, 64)),
    ],
    flops: |w| 3 * product_flops(w),
};

/// dk = scale ds^T q, dv = w^T do, with ds and w as in the query's gradient
pub static ATTENTION_BACKWARD_KEY_VALUE: Card = Card {
    word: "attention_backward_key_value",
    params: AttentionParams::FIELDS,
    bindings: &[
        read("q").or_half(),
        read("k").or_half(),
        read("v").or_half(),
        read("log_sum"),
        read("delta"),
        read("dy"),
        write("dk"),
        write("dv"),
    ],
    variants: &[
        tiled(wgsl!("attention_backward_key_value_tiled"), |w| tiles(w, keys, TILE)),
        naive(wgsl!("attention_backward_key_value_v1"), |w| tiles(w, keys, 64)),
    ],
    flops: |w| 4 * product_flops(w),
};
