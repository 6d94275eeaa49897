//! The kernel registry: one card a kernel, its WGSL text, bindings and parameter struct.
//! Read by `recording` (shape of an op), `gpu` (pipelines), `reference` and the tests (every face of a kernel exists).

pub mod card;
pub mod cards;
pub mod elements;
pub mod template;
pub mod translate;

pub use card::{
    Access, Binding, Candidate, Card, Class, Constants, Field, FieldKind, Limits, Precision, Tiling, Variant, Windows,
};
