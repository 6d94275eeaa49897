// merge_task_vectors: merged = theta + sum_i weights_i (theta_i - theta), any number of experts in one pass
// Called by kernels/merge.rs. CPU twin: reference/merge.rs. Test: kernels-test/conformance/merge.rs.
// Shapes: models = for each chunk of 1,024 elements the base's, then each expert's; weights (experts), merged (count).
// Grid: one invocation an element.
// Numerics: the terms are added with their rounding errors, so the bound does not grow with the number of experts.
//% include "index.wgsl"

struct Params { count: u32, experts: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> models: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> merged: array<f32>;

@compute @workgroup_size(64)
fn merge_task_vectors(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.count {
        return;
    }
    let base = i / ${CHUNK}u * ${CHUNK}u * (params.experts + 1u) + i % ${CHUNK}u;
    let theta = models[base];
    var sum = theta;
    var lost = 0.0;
    for (var e = 0u; e < params.experts; e++) {
        let term = weights[e] * (models[base + (e + 1u) * ${CHUNK}u] - theta);
        // Knuth's two-sum: `next` and what its rounding lost.
        let next = sum + term;
        let back = next - sum;
        lost += (sum - (next - back)) + (term - back);
        sum = next;
    }
    merged[i] = sum + lost;
}
