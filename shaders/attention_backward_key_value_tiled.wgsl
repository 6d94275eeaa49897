// attention_backward_key_value: dk = scale ds^T q, dv = w^T dy, ds = w (dy v^T - delta), w = exp(scale q k^T - log_sum)
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: q, dy (N, T, heads size); k, v, dk, dv (N, S, heads size); log_sum, delta (N, heads, T); 32 CHUNKS >= size.
// Grid: one workgroup 32 keys of a head (rows of the tile), over tiles of 32 queries (its columns).
//% include "index.wgsl"
//% from "attention_tile.wgsl" import storage, load, multiply_transposed, multiply, store

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

${ storage() }
@compute @workgroup_size(64)
fn attention_backward_key_value_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                      @builtin(local_invocation_index) lane: u32) {
    let tiles = (params.keys + 32u - 1u) / 32u;
    let index = group_index(group, groups);
    if index >= params.batch * params.heads * tiles {
        return;
    }
    let head = index / tiles;
    let stride = params.heads * params.size;
    // Where this head begins in q's and in k's layout.
    let q_base = (head / params.heads) * params.queries * stride + (head % params.heads) * params.size;
    let k_base = (head / params.heads) * params.keys * stride + (head % params.heads) * params.size;
    let first = (index % tiles) * 32u;
    let row = (lane / 8u) * 4u;
    let column = (lane % 8u) * 4u;
//% for c in range(CHUNKS)
//% for i in range(4)
    var key_sums${c}_${i} = vec4<f32>(0.0);
//% endfor
//% endfor
//% for c in range(CHUNKS)
//% for i in range(4)
    var value_sums${c}_${i} = vec4<f32>(0.0);
//% endfor
//% endfor
    for (var t = 0u; t < params.queries; t += 32u) {
//% for i in range(4)
        var score${i} = vec4<f32>(0.0);
//% endfor
        for (var c = 0u; c < ${CHUNKS}u; c++) {
${ load("sh_a", "k", "k_base", "first", "keys", "c") }
${ load("sh_b", "q", "q_base", "t", "queries", "c") }
        workgroupBarrier();
${ multiply_transposed("score") }
        workgroupBarrier();
        }
        var log_sums = vec4<f32>(0.0);
        var deltas = vec4<f32>(0.0);
//% for k in range(4)
        let query${k} = head * params.queries + min(t + column + ${k}u, params.queries - 1u);
        log_sums[${k}] = log_sum[query${k}];
        deltas[${k}] = delta[query${k}];
//% endfor
//% for i in range(4)
        let weight${i} = exp(params.scale * score${i} - log_sums);
//% for k in range(4)
        sh_weights[(row + ${i}u) * 33u + column + ${k}u] =
            select(0.0, weight${i}[${k}], t + column + ${k}u < params.queries);
//% endfor
//% endfor
        workgroupBarrier();
//% for c in range(CHUNKS)
${ load("sh_b", "dy", "q_base", "t", "queries", c ~ "u") }
        workgroupBarrier();
${ multiply("value_sums" ~ c) }
        workgroupBarrier();
//% endfor
//% for i in range(4)
        var dw${i} = vec4<f32>(0.0);
//% endfor
        for (var c = 0u; c < ${CHUNKS}u; c++) {
${ load("sh_a", "v", "k_base", "first", "keys", "c") }
${ load("sh_b", "dy", "q_base", "t", "queries", "c") }
        workgroupBarrier();
${ multiply_transposed("dw") }
        workgroupBarrier();
        }
//% for i in range(4)
        let ds${i} = params.scale * weight${i} * (dw${i} - deltas);
//% for k in range(4)
        sh_weights[(row + ${i}u) * 33u + column + ${k}u] =
            select(0.0, ds${i}[${k}], t + column + ${k}u < params.queries);
//% endfor
//% endfor
        workgroupBarrier();
//% for c in range(CHUNKS)
${ load("sh_b", "q", "q_base", "t", "queries", c ~ "u") }
        workgroupBarrier();
${ multiply("key_sums" ~ c) }
        workgroupBarrier();
//% endfor
    }
//% for c in range(CHUNKS)
${ store("dk", "k_base", "first", "keys", c ~ "u", "key_sums" ~ c) }
//% endfor
//% for c in range(CHUNKS)
${ store("dv", "k_base", "first", "keys", c ~ "u", "value_sums" ~ c) }
//% endfor
}
