// matmul_forward: y = alpha x w + bias + addend, x and w rounded to f16, summed in f32
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), w (k, n), y (m, n), batched; bias (n); all in fours. Grid: one workgroup a tile of 64 x 64.
enable f16;
enable wgpu_cooperative_matrix;
// Cooperative operations stand where all of a subgroup come by, which naga does not see; this is the rule that it goes by there.
diagnostic(off, derivative_uniformity);
//% include "index.wgsl"
//% include "matmul_params.wgsl"
//% include "coop_memory.wgsl"
//% set A_BY_TERM = false

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

//% set ELEMENT = "vec4<f32>"
//% include "addend.wgsl"

var<private> y_start: u32;

//% include "matmul_rows.wgsl"

fn store(row: u32, column: u32, sums: vec4<f32>) {
    if row < params.m && column < params.n / 4u {
        var offset = vec4<f32>();
        if params.has_bias != 0u {
            offset = bias[column];
        }
        let total = params.alpha * sums + offset;
        y[(y_start + row * params.ldy) / 4u + column] = with_addend(total, row, column, params.n / 4u);
    }
}

@compute @workgroup_size(128)
fn matmul_forward_coop(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
                       @builtin(num_subgroups) subgroups: u32) {
    let p = params;
    let tiles_m = (p.m + 63u) / 64u;
    let tiles_n = (p.n + 63u) / 64u;
    let tile = group_index(group, groups);
    let batch = tile / (tiles_m * tiles_n);
    if batch >= p.batch_outer * p.batch_inner {
        return;
    }
    let outer = batch / p.batch_inner;
    let inner = batch % p.batch_inner;
    x_start = outer * p.x_outer + inner * p.x_inner;
    w_start = outer * p.w_outer + inner * p.w_inner;
    y_start = outer * p.y_outer + inner * p.y_inner;
    let row0 = tile % (tiles_m * tiles_n) / tiles_n * 64u;
    let column0 = tile % tiles_n * 16u;
    let first_term = 0u;
    let last_term = p.k;
//% include "coop_multiply.wgsl"
}
