//! The paper: ranges, timesteps, consistency, projection, expert, ensemble, merge, search.
