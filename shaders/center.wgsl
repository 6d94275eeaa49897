// center: y = 2 x - 1, pad channels 0
// Called by kernels/pointwise.rs. CPU twin: reference/pointwise.rs. Test: kernels-test/conformance/pointwise.rs.
// Shapes: x, y (pixels, stride), of which `channels` are real. Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32, channels: u32, stride: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn center(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i < params.count {
        y[i] = select(0.0, 2.0 * x[i] - 1.0, i % params.stride < params.channels);
    }
}
