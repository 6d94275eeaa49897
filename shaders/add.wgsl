// add: z = x + y
// Called by kernels/pointwise.rs. CPU twin: reference/pointwise.rs. Test: kernels-test/conformance/pointwise.rs.
// Shapes: x, y, z (count). Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;

@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i < params.count {
        z[i] = x[i] + y[i];
    }
}
