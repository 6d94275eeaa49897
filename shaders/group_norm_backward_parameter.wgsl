// group_norm_backward_parameter: dbeta (component 0) or dgamma (component 1) += the sum over the batch
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: sums (N, 2, C) of dz and dz xhat over the pixels; gradient (C). Grid: one invocation a channel.
//% include "index.wgsl"

struct Params { batch: u32, channels: u32, component: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(64)
fn group_norm_backward_parameter(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                 @builtin(local_invocation_index) lane: u32) {
    let c = group_index(group, groups) * 64u + lane;
    if c >= params.channels {
        return;
    }
    var total = 0.0;
    for (var n = 0u; n < params.batch; n++) {
        total += sums[(n * 2u + params.component) * params.channels + c];
    }
    gradient[c] += total;
}
