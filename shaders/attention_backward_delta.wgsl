// attention_backward_delta: delta = the sum of o dy over each head
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: o, dy (N, T, heads size); delta (N, heads, T). Grid: one invocation a query of a head.
//% include "index.wgsl"

struct Params { batch: u32, heads: u32, queries: u32, keys: u32, size: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> o: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(64)
fn attention_backward_delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    // Heads of a query side by side, as o has them.
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * params.queries * params.heads {
        return;
    }
    var sum = 0.0;
    for (var j = 0u; j < params.size; j++) {
        sum += o[i * params.size + j] * dy[i * params.size + j];
    }
    let n = i / params.heads / params.queries;
    let t = (i / params.heads) % params.queries;
    delta[(n * params.heads + i % params.heads) * params.queries + t] = sum;
}
