//! The binary as a user meets it: commands, files, messages, exit codes. Run by `cargo test --test product`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "product/run.rs"]
mod run;

#[path = "product/doctor.rs"]
mod doctor;
#[path = "product/inspect.rs"]
mod inspect;
#[path = "product/merge.rs"]
mod merge;
#[path = "product/usage.rs"]
mod usage;
