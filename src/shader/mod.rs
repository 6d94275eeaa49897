//! The kernel registry: one card a kernel, its WGSL text, bindings and parameter struct.
