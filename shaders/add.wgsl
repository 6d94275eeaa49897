// add: z = x + y
// Called by kernels/pointwise.rs. CPU twin: reference/pointwise.rs. Test: kernels-test/conformance/pointwise.rs.
// Shapes: x, y, z (count). Grid: one invocation eight times WIDTH elements, 64 apart.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read> y: array<Lanes>;
@group(0) @binding(3) var<storage, read_write> z: array<Lanes>;

@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let count = params.count / ${WIDTH}u;
    let first = group_index(group, groups) * 512u + lane;
    for (var i = first; i < min(first + 512u, count); i += 64u) {
        z[i] = x[i] + y[i];
    }
}
