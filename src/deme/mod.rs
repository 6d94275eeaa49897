//! The paper: ranges, timesteps, consistency, projection, expert, ensemble, merge, search, analysis.

pub mod analyze;
pub mod blocks;
pub mod channel_projection;
pub mod consistency;
pub mod cuts;
pub mod expert;
pub mod fold;
pub mod judge;
pub mod merge;
pub mod ranges;
pub mod search;
pub mod timesteps;
