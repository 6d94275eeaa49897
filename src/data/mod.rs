//! Images as training data: decoding, hold-out, order.

pub mod cifar;
pub mod dataset;
pub mod order;
pub mod source;
