//! The only room that knows wgpu: adapter, device, plan, replay.
