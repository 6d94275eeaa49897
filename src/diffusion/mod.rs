//! Noise schedules and samplers, in f64 on the host.
