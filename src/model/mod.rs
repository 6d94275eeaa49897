//! Architectures; names follow the weight files.

pub mod config;
pub mod init;
pub mod projections;
pub mod tensors;
pub mod unet;
