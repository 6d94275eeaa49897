//! Architectures; names follow the weight files.
