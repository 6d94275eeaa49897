// group_norm_backward_statistics: means over each group of gamma dz and gamma dz xhat
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: sums (N, 2, C) of dz and dz xhat over the pixels; gamma (C); means (N, G) of pairs.
// Grid: one invocation a group.
//% include "index.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, chunk: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read_write> means: array<vec2<f32>>;

@compute @workgroup_size(64)
fn group_norm_backward_statistics(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                  @builtin(local_invocation_index) lane: u32) {
    let index = group_index(group, groups) * 64u + lane;
    if index >= params.batch * params.groups {
        return;
    }
    let members = params.channels / params.groups;
    let first = (index % params.groups) * members;
    let start = (index / params.groups) * 2u * params.channels;
    var total = vec2<f32>(0.0);
    for (var c = first; c < first + members; c++) {
        total += gamma[c] * vec2<f32>(sums[start + c], sums[start + params.channels + c]);
    }
    means[index] = total / (f32(params.pixels) * f32(members));
}
