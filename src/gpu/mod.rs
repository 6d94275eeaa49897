//! The only room that knows wgpu: adapter, device, storage, pipelines, plan, replay.
//! Called by `train`, `deme`, `eval`, `cli` and the tests.

pub mod adapter;
pub mod autotune;
mod contest;
pub mod device;
pub mod memory;
pub mod pipeline;
mod pipeline_cache;
pub mod plan;
mod precision;
mod profile;
mod shader_module;
mod staging;
pub mod storage;
pub mod tuning;

pub use adapter::{AdapterChoice, AdapterSummary};
pub use autotune::Autotune;
pub use device::Gpu;
pub use plan::{Externals, Plan, PlanOptions};
pub use storage::Storage;
pub use tuning::{Tuning, TuningFile};
