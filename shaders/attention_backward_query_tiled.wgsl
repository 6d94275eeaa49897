// attention_backward_query: dq = scale ds k, ds = w (dy v^T - delta), w = exp(scale q k^T - log_sum)
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: q, dy, dq (N, T, heads size); k, v (N, S, heads size); log_sum, delta (N, heads, T); 32 CHUNKS >= size.
// Grid: one workgroup 32 queries of a head, over tiles of 32 keys.
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
@group(0) @binding(7) var<storage, read_write> dq: array<f32>;

${ storage() }
@compute @workgroup_size(64)
fn attention_backward_query_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                  @builtin(local_invocation_index) lane: u32) {
    let tiles = (params.queries + 32u - 1u) / 32u;
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
//% for i in range(4)
    let query${i} = head * params.queries + min(first + row + ${i}u, params.queries - 1u);
    let log_sum${i} = log_sum[query${i}];
    let delta${i} = delta[query${i}];
//% endfor
//% for c in range(CHUNKS)
//% for i in range(4)
    var sums${c}_${i} = vec4<f32>(0.0);
//% endfor
//% endfor
    for (var s = 0u; s < params.keys; s += 32u) {
//% for i in range(4)
        var score${i} = vec4<f32>(0.0);
//% endfor
        for (var c = 0u; c < ${CHUNKS}u; c++) {
${ load("sh_a", "q", "q_base", "first", "queries", "c") }
${ load("sh_b", "k", "k_base", "s", "keys", "c") }
        workgroupBarrier();
${ multiply_transposed("score") }
        workgroupBarrier();
        }
//% for i in range(4)
        var dw${i} = vec4<f32>(0.0);
//% endfor
        for (var c = 0u; c < ${CHUNKS}u; c++) {
${ load("sh_a", "dy", "q_base", "first", "queries", "c") }
${ load("sh_b", "v", "k_base", "s", "keys", "c") }
        workgroupBarrier();
${ multiply_transposed("dw") }
        workgroupBarrier();
        }
//% for i in range(4)
        let ds${i} = exp(params.scale * score${i} - log_sum${i}) * (dw${i} - delta${i});
//% for k in range(4)
        sh_weights[(row + ${i}u) * 33u + column + ${k}u] =
            select(0.0, params.scale * ds${i}[${k}], s + column + ${k}u < params.keys);
//% endfor
//% endfor
        workgroupBarrier();
//% for c in range(CHUNKS)
${ load("sh_b", "k", "k_base", "s", "keys", c ~ "u") }
        workgroupBarrier();
${ multiply("sums" ~ c) }
        workgroupBarrier();
//% endfor
    }
//% for c in range(CHUNKS)
${ store("dq", "q_base", "first", "queries", c ~ "u", "sums" ~ c) }
//% endfor
}
