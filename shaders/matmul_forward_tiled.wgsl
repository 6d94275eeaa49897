// matmul_forward: y = alpha x w + bias + addend
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), w (k, n), y (m, n), batched; bias (n); all in fours. Grid: one workgroup a tile of TY RM x 4 TX.
//% include "index.wgsl"
//% include "matmul_params.wgsl"
//% set A_BY_TERM = false

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

//% set ELEMENT = "vec4<f32>"
//% include "addend.wgsl"

var<workgroup> sh_a: array<vec4<f32>, ${TY * RM * 4}>;
var<workgroup> sh_b: array<vec4<f32>, ${TX * 16}>;
//% include "matmul_rows.wgsl"

@compute @workgroup_size(${TX * TY})
fn matmul_forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let tiles_m = (p.m + ${TY * RM - 1}u) / ${TY * RM}u;
    let tiles_n = (p.n + ${TX * 4 - 1}u) / ${TX * 4}u;
    let tile = group_index(group, groups);
    let batch = tile / (tiles_m * tiles_n);
    if batch >= p.batch_outer * p.batch_inner {
        return;
    }
    let outer = batch / p.batch_inner;
    let inner = batch % p.batch_inner;
    x_start = outer * p.x_outer + inner * p.x_inner;
    w_start = outer * p.w_outer + inner * p.w_inner;
    let row0 = tile % (tiles_m * tiles_n) / tiles_n * ${TY * RM}u;
    let column0 = tile % tiles_n * ${TX}u;
    let first_term = 0u;
    let last_term = p.k;
//% include "tile_multiply.wgsl"
    let row = row0 + thread_row;
    let column = column0 + thread_column;
    if column < p.n / 4u {
        var offset = vec4<f32>();
        if p.has_bias != 0u {
            offset = bias[column];
        }
        let y_start = (outer * p.y_outer + inner * p.y_inner) / 4u + column;
//% for i in range(RM)
        if row + ${i}u < p.m {
            let total = p.alpha * sum${i} + offset;
            y[y_start + (row + ${i}u) * (p.ldy / 4u)] = with_addend(total, row + ${i}u, column, p.n / 4u);
        }
//% endfor
    }
}
