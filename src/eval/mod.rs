//! Losses on held-out images, with their standard errors.

pub mod backbone;
pub mod features;
mod inception;
pub mod loss;
mod mobilenet;
pub mod resize;
pub mod score;
pub mod sets;
pub mod statistics;
pub mod weights;
