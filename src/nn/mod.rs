//! Layers and parameter slabs.

pub mod layers;
pub mod params;
pub mod slabs;

pub use layers::Net;
pub use params::{ParamLayout, Role};
pub use slabs::Slabs;
