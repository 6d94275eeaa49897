//! Losses on held-out images, with their standard errors.

pub mod loss;
