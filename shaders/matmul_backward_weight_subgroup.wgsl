// matmul_backward_weight: dw += alpha x^T dy
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), dy (m, n), dw (k, n), batched. Grid: one subgroup of 8 lanes a tile of R rows x 8 V columns of dw.
// For CPU rasterisers, as matmul_forward_subgroup: lane u loads x's column of row u, and broadcasts it.
//% include "index.wgsl"
//% include "matmul_params.wgsl"
//% set VECTOR = {1: "f32", 2: "vec2<f32>", 4: "vec4<f32>"}[V]

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//% if WINDOW
@group(0) @binding(2) var<uniform> dy: array<vec4<f32>, ${WINDOW}>;
//% else
@group(0) @binding(2) var<storage, read> dy: array<${VECTOR}>;
//% endif
@group(0) @binding(3) var<storage, read_write> dw: array<${VECTOR}>;

@compute @workgroup_size(8)
fn matmul_backward_weight_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                   @builtin(subgroup_invocation_id) lane: u32) {
    let p = params;
    let tiles_n = (p.n + ${8 * V - 1}u) / ${8 * V}u;
    let tiles = (p.k + ${R - 1}u) / ${R}u * tiles_n;
    let index = group_index(group, groups);
//% if WINDOW
    // This pass takes the window's matrices, or of one its rows in the window: `first` to `end`, the first held being `base`.
    let held = ${4 * WINDOW // MATRICES}u / p.n;
    let parts = (p.m + held - 1u) / held;
    let matrix = index / tiles;
    let batch = p.window / parts * ${MATRICES}u + matrix;
    let first = p.window % parts * held;
    let end = min(first + held, p.m);
    let base = min(first, p.m - held);
    let tile = index - matrix * tiles;
    if matrix >= ${MATRICES}u {
        return;
    }
//% else
    let batch = index / tiles;
    let first = 0u;
    let end = p.m;
    let tile = index - batch * tiles;
    if batch >= p.batch_outer * p.batch_inner {
        return;
    }
//% endif
    let outer = batch / p.batch_inner;
    let inner = batch - outer * p.batch_inner;
    let tile_k = tile / tiles_n;
    let row = tile_k * ${R}u;
    let column = (tile - tile_k * tiles_n) * 8u + lane;
    let columns = p.n / ${V}u;
    let x_start = outer * p.x_outer + inner * p.x_inner + first * p.ldx;
//% for q in range(R // 8)
    var at_x${q} = x_start + min(row + lane + ${8 * q}u, p.k - 1u);
//% endfor
//% if WINDOW
    var at_dy = min(column, columns - 1u) + (matrix * held + first - base) * (p.ldy / ${V}u);
//% else
    var at_dy = (outer * p.y_outer + inner * p.y_inner) / ${V}u + min(column, columns - 1u);
//% endif
//% for r in range(R)
    var sum${r} = ${VECTOR}();
//% endfor
    for (var m = first; m < end; m++) {
        let dy_m = dy[at_dy];
        at_dy += p.ldy / ${V}u;
//% for q in range(R // 8)
        let x${q} = x[at_x${q}];
        at_x${q} += p.ldx;
//% endfor
//% for r in range(R)
        sum${r} = fma(${VECTOR}(subgroupBroadcast(x${r // 8}, ${r % 8}u)), dy_m, sum${r});
//% endfor
    }
    if column < columns {
        let dw_start = (outer * p.w_outer + inner * p.w_inner) / ${V}u + column;
//% for r in range(R)
        if row + ${r}u < p.k {
            dw[dw_start + (row + ${r}u) * (p.ldw / ${V}u)] += p.alpha * sum${r};
        }
//% endfor
    }
}
