//! One training step, the run loop, checkpoints and metrics.
