// fill_zero: y = 0
// Called by the tape. CPU twin: reference/pointwise.rs. Test: kernels-test/conformance/pointwise.rs.
// Shapes: y (count). Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn fill_zero(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i < params.count {
        y[i] = 0.0;
    }
}
