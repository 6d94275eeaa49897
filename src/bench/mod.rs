//! Measuring: the cases, their recordings, clocks and ceilings, and what becomes of the numbers.
//! Called by `cli::bench`.

pub mod cases;
pub mod ceilings;
pub mod kernels;
pub mod measure;
pub mod model;
pub mod page;
pub(crate) mod plots;
pub mod results;
pub mod steps;
pub mod subject;
pub mod unet;
