// noise_sweep: normal_radius and normal_turn for one argument an invocation
// Called by noise.rs beside it. Shapes: values (invocations, 3).
//% include "index.wgsl"
//% include "normal.wgsl"

struct Params { first: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> values: array<f32>;

@compute @workgroup_size(64)
fn noise_sweep(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let turn = normal_turn(params.first + i);
    values[3u * i] = normal_radius(params.first + i + 1u);
    values[3u * i + 1u] = turn.x;
    values[3u * i + 2u] = turn.y;
}
