//! deme: decouple-then-merge finetuning of diffusion models on any desktop GPU.
//!
//! The rooms, in order; each may use only those above it (a test in `kernels-test` enforces this):
//! `error < shape < rng < {io, shader} < recording < {reference, gpu} < tape < kernels < nn < model
//! < {diffusion, data} < train < {deme, eval} < bench < cli`. `ARCHITECTURE.md` is the map.

pub mod error;
pub mod shape;
pub mod rng;
pub mod io;
pub mod shader;
pub mod recording;
pub mod reference;
pub mod gpu;
pub mod tape;
pub mod kernels;
pub mod nn;
pub mod model;
pub mod diffusion;
pub mod data;
pub mod train;
pub mod deme;
pub mod eval;
pub mod bench;
pub mod cli;
