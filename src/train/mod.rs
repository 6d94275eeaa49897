//! One training step, the run loop, checkpoints and metrics.

pub mod checkpoint;
pub mod events;
pub mod feed;
pub mod metrics;
pub mod objective;
pub mod rate;
pub mod run;
pub mod run_folder;
pub mod settings;
pub mod state;
pub mod step;
