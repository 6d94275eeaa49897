//! The binary as a user meets it: commands, files, messages, exit codes. Run by `cargo test --test product`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

#[path = "product/run.rs"]
mod run;
#[path = "product/train.rs"]
mod train;

#[path = "product/analyze.rs"]
mod analyze;
#[path = "product/cache.rs"]
mod cache;
#[path = "product/cuts.rs"]
mod cuts;
#[path = "product/demo.rs"]
mod demo;
#[path = "product/bench.rs"]
mod bench;
#[path = "product/doctor.rs"]
mod doctor;
#[path = "product/export.rs"]
mod export;
#[path = "product/finetune.rs"]
mod finetune;
#[path = "product/eval_fid.rs"]
mod eval_fid;
#[path = "product/large.rs"]
mod large;
#[path = "product/inspect.rs"]
mod inspect;
#[path = "product/kill.rs"]
mod kill;
#[path = "product/merge.rs"]
mod merge;
#[path = "product/precision.rs"]
mod precision;
#[path = "product/reproduce.rs"]
mod reproduce;
#[path = "product/resume.rs"]
mod resume;
#[path = "product/sample.rs"]
mod sample;
#[path = "product/scratch.rs"]
mod scratch;
#[path = "product/search.rs"]
mod search;
#[path = "product/tune.rs"]
mod tune;
#[path = "product/usage.rs"]
mod usage;
#[path = "product/weighting.rs"]
mod weighting;
