//! Noise schedules and samplers, in f64 on the host.
//! Called by training (noising, targets), sampling and evaluation; the GPU only sees the coefficients.

mod betas;
pub mod ddim;
pub mod denoising;
pub mod embedding;
pub mod pretrained;
pub mod sampler;
pub mod schedule;
pub mod spacing;
pub mod summary;
pub mod weighting;

pub use ddim::DdimStep;
pub use embedding::timestep_embedding;
pub use schedule::{Prediction, Schedule};
pub use spacing::{Spacing, Step};
pub use weighting::LossWeighting;
