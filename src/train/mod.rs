//! One training step, the run loop, checkpoints and metrics.

pub mod checkpoint;
pub mod metrics;
pub mod run_folder;
pub mod settings;
