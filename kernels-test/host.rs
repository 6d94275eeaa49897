//! Everything that can be held to its word without an adapter: parsers, data, shaders' well-formedness, the
//! architecture's rules. Run by `cargo test --test host`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

#[path = "host/data.rs"]
mod data;
#[path = "host/data_fuzz.rs"]
mod data_fuzz;
#[path = "host/data_malformed.rs"]
mod data_malformed;
#[path = "host/weights.rs"]
mod weights;
#[path = "host/folders.rs"]
mod folders;

#[path = "host/analyze.rs"]
mod analyze;
#[path = "host/architecture.rs"]
mod architecture;
#[path = "host/fuse.rs"]
mod fuse;
#[path = "host/half.rs"]
mod half;
#[path = "host/large.rs"]
mod large;
#[path = "host/initial.rs"]
mod initial;
#[path = "host/shaders.rs"]
mod shaders;
#[path = "host/merge_methods.rs"]
mod merge_methods;
#[path = "host/merge.rs"]
mod merge;
#[path = "host/folders_malformed.rs"]
mod folders_malformed;
#[path = "host/torch_malformed.rs"]
mod torch_malformed;
#[path = "host/weights_fuzz.rs"]
mod weights_fuzz;
#[path = "host/weights_malformed.rs"]
mod weights_malformed;
#[path = "host/diffusion.rs"]
mod diffusion;
