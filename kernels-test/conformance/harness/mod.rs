//! The conformance harness: records ops over seeded tensors, runs each of them on the GPU in every variant, and holds it
//! to its f64 twin. Called by the family files beside this folder.
//!
//! A family file has `TOLERANCES` (one a kernel word) and `cases(&mut Family)`, and a line in `conformance.rs`.
//! In a case, `build` records ops through the builders; the harness then takes the recording apart and checks op by op,
//! so every op's inputs are what the GPU computed before it and its tolerance is that of one kernel.

pub mod case;
pub mod compare;
pub mod device;
pub mod family;
pub mod fault;
pub mod gradient;

pub use compare::Tolerance;
pub use family::{Entry, Family};

/// Prints past the test runner's capture: the counts belong in every log.
pub fn note(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}
