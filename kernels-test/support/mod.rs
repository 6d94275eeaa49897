//! What several test binaries share. Not every binary uses all of it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared by test binaries")]

pub mod features;
pub mod fixtures;
