//! Layers and parameter slabs.
