//! Cards of the merge of task vectors (DeMe eq. 8) and of its derivative by the weights.
//! Built by `kernels::merge`; twins in `reference::merge`.

use crate::shader::card::{Card, Class, Params, Variant, per64, read, single, whole, write};
use crate::{params, wgsl};

/// Base and experts are interleaved by chunks of this many elements, so that any number of experts is one binding.
pub const CHUNK: u32 = 1024;

params! {
    pub struct MergeParams {
        /// Elements of the merged piece, or of the gradient; the models are padded to whole chunks.
        pub count: u32,
        pub experts: u32,
    }
}

pub const CARDS: &[&Card] = &[&MERGE_TASK_VECTORS, &TASK_VECTOR_DOTS];

const MERGE_TASK_VECTORS_WGSL: (&str, &str) = wgsl!("merge_task_vectors");

/// merged = theta + sum_i weights_i (theta_i - theta)
pub static MERGE_TASK_VECTORS: Card = Card {
    word: "merge_task_vectors",
    params: MergeParams::FIELDS,
    bindings: &[read("models"), read("weights"), write("merged")],
    variants: &[Variant {
        stem: MERGE_TASK_VECTORS_WGSL.0,
        source: MERGE_TASK_VECTORS_WGSL.1,
        class: Class::Any,
        constants: |_| vec![("CHUNK", CHUNK)],
        fits: |_, _| true,
        groups: |w| per64(MergeParams::of(w).count),
        windows: whole,
        menu: single,
    }],
    flops: |w| {
        let p = MergeParams::of(w);
        9 * u64::from(p.count) * u64::from(p.experts)
    },
};

const TASK_VECTOR_DOTS_WGSL: (&str, &str) = wgsl!("task_vector_dots");

/// Partial sums of gradient (theta_i - theta), which are dL/dw_i where gradient is dL/d(merged)
pub static TASK_VECTOR_DOTS: Card = Card {
    word: "task_vector_dots",
    params: MergeParams::FIELDS,
    bindings: &[read("gradient"), read("models"), write("partials")],
    variants: &[Variant {
        stem: TASK_VECTOR_DOTS_WGSL.0,
        source: TASK_VECTOR_DOTS_WGSL.1,
        class: Class::Any,
        constants: |_| vec![("CHUNK", CHUNK)],
        fits: |_, _| true,
        groups: |w| u64::from(MergeParams::of(w).count.div_ceil(CHUNK)),
        windows: whole,
        menu: single,
    }],
    flops: |w| {
        let p = MergeParams::of(w);
        3 * u64::from(p.count) * u64::from(p.experts)
    },
};
