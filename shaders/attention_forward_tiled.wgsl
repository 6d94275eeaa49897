// attention_forward: o = softmax(scale q k^T) v; log_sum = the log of each query's sum of exp(scale q k^T)
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: q, o (N, T, heads size); k, v (N, S, heads size); log_sum (N, heads, T); 32 CHUNKS >= size.
// Grid: one workgroup 32 queries of a head, over tiles of 32 keys. Numerics: online softmax.
//% include "index.wgsl"
//% from "attention_tile.wgsl" import storage, load, multiply_transposed, multiply, store

struct Params { batch: u32, heads: u32, queries: u32, keys: u32, size: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;
@group(0) @binding(5) var<storage, read_write> log_sum: array<f32>;

${ storage() }
// Of each query: the largest score, the sum of the weights, and what the newest tile's largest scales earlier sums by.
var<workgroup> sh_largest: array<f32, 32>;
var<workgroup> sh_total: array<f32, 32>;
var<workgroup> sh_fade: array<f32, 32>;

@compute @workgroup_size(64)
fn attention_forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    if lane < 32u {
        sh_largest[lane] = -3.4028234e38;
        sh_total[lane] = 0.0;
    }
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
//% for k in range(4)
        sh_weights[(row + ${i}u) * 33u + column + ${k}u] = params.scale * score${i}[${k}];
//% endfor
//% endfor
        workgroupBarrier();
        if lane < 32u {
            let count = min(32u, params.keys - s);
            var most = sh_largest[lane];
            for (var j = 0u; j < count; j++) {
                most = max(most, sh_weights[lane * 33u + j]);
            }
            let fade = exp(sh_largest[lane] - most);
            var total = sh_total[lane] * fade;
            for (var j = 0u; j < count; j++) {
                let weight = exp(sh_weights[lane * 33u + j] - most);
                sh_weights[lane * 33u + j] = weight;
                total += weight;
            }
            for (var j = count; j < 32u; j++) {
                sh_weights[lane * 33u + j] = 0.0;
            }
            sh_largest[lane] = most;
            sh_total[lane] = total;
            sh_fade[lane] = fade;
        }
        workgroupBarrier();
//% for c in range(CHUNKS)
//% for i in range(4)
        sums${c}_${i} *= sh_fade[row + ${i}u];
//% endfor
//% endfor
//% for c in range(CHUNKS)
${ load("sh_b", "v", "k_base", "s", "keys", c ~ "u") }
        workgroupBarrier();
${ multiply("sums" ~ c) }
        workgroupBarrier();
//% endfor
    }
//% for i in range(4)
    let total${i} = sh_total[row + ${i}u];
//% endfor
//% for c in range(CHUNKS)
//% for i in range(4)
    sums${c}_${i} /= total${i};
//% endfor
//% endfor
//% for c in range(CHUNKS)
${ store("o", "q_base", "first", "queries", c ~ "u", "sums" ~ c) }
//% endfor
    if lane < 32u && first + lane < params.queries {
        log_sum[head * params.queries + first + lane] = sh_largest[lane] + log(sh_total[lane]);
    }
}
