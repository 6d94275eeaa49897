// attention_backward_key_value: dk = scale ds^T q, dv = w^T dy, ds = w (dy v^T - delta), w = exp(scale q k^T - log_sum)
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: q, dy (N, T, heads size); k, v, dk, dv (N, S, heads size); log_sum, delta (N, heads, T); SIZE >= size.
// Grid: one workgroup 64 keys of a head, one invocation a key.
//% include "index.wgsl"

struct Params { batch: u32, heads: u32, queries: u32, keys: u32, size: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> log_sum: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> dk: array<f32>;
@group(0) @binding(8) var<storage, read_write> dv: array<f32>;

@compute @workgroup_size(64)
fn attention_backward_key_value_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                   @builtin(local_invocation_index) lane: u32) {
    let tiles = (params.keys + 64u - 1u) / 64u;
    let index = group_index(group, groups);
    if index >= params.batch * params.heads * tiles {
        return;
    }
    let head = index / tiles;
    let stride = params.heads * params.size;
    // Where this head begins in q's and in k's layout.
    let q_base = (head / params.heads) * params.queries * stride + (head % params.heads) * params.size;
    let k_base = (head / params.heads) * params.keys * stride + (head % params.heads) * params.size;
    let s = (index % tiles) * 64u + lane;
    if s >= params.keys {
        return;
    }
    let key = k_base + s * stride;
    var key_sums: array<f32, ${SIZE}>;
    var value_sums: array<f32, ${SIZE}>;
    for (var t = 0u; t < params.queries; t++) {
        let at = q_base + t * stride;
        var score = 0.0;
        var dw = 0.0;
        for (var j = 0u; j < params.size; j++) {
            score += q[at + j] * k[key + j];
            dw += dy[at + j] * v[key + j];
        }
        let weight = exp(params.scale * score - log_sum[head * params.queries + t]);
        let ds = params.scale * weight * (dw - delta[head * params.queries + t]);
        for (var j = 0u; j < params.size; j++) {
            key_sums[j] += ds * q[at + j];
            value_sums[j] += weight * dy[at + j];
        }
    }
    for (var j = 0u; j < params.size; j++) {
        dk[key + j] = key_sums[j];
        dv[key + j] = value_sums[j];
    }
}
