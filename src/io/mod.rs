//! Files in and out: safetensors, pickled weights, JSON configurations, checkpoint folders, images.

pub mod json;
pub mod layout;
pub mod names;
pub mod source;
pub mod archive;
pub mod image;
pub mod png;
