//! The paper: ranges, timesteps, consistency, projection, expert, ensemble, merge, search.

pub mod merge;
pub mod ranges;
pub mod timesteps;
