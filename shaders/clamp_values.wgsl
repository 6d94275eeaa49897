// clamp_values: y = min(max(x, low), high), a rectifier (0 to the largest f32) or ReLU6 (0 to 6)
// Called by kernels/pool.rs. CPU twin: reference/pool.rs. Test: kernels-test/conformance/pool.rs.
// Shapes: x, y (count). Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32, low: f32, high: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn clamp_values(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i < params.count {
        y[i] = clamp(x[i], params.low, params.high);
    }
}
