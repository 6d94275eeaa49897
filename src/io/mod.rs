//! Files in and out: safetensors, pickled weights, JSON configurations, checkpoint folders, images.

pub mod archive;
pub mod atomic;
pub mod folder;
pub mod hash;
pub mod image;
pub mod json;
pub mod layout;
pub mod lock;
pub mod names;
pub mod pickle;
pub mod png;
pub mod safetensors;
pub mod shards;
pub mod source;
pub mod torch;
pub mod torchscript;
pub mod writer;
