// transpose: y = x^T
// Called by kernels/matmul.rs and kernels/attention.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (rows, cols), y (cols, rows), batched. Grid: one workgroup a tile of 8 rows x 64 columns, a lane a column.
//% include "index.wgsl"

struct Params {
    rows: u32, cols: u32,
    batch_outer: u32, batch_inner: u32,
    ldx: u32, ldy: u32,
    x_outer: u32, x_inner: u32, y_outer: u32, y_inner: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn transpose(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let tiles_down = (p.rows + 7u) / 8u;
    let tiles_across = (p.cols + 63u) / 64u;
    let tile = group_index(group, groups);
    let strip = tile / tiles_across;
    let batch = strip / tiles_down;
    let first = (strip - batch * tiles_down) * 8u;
    let column = (tile - strip * tiles_across) * 64u + lane;
    if batch >= p.batch_outer * p.batch_inner || column >= p.cols {
        return;
    }
    let outer = batch / p.batch_inner;
    let inner = batch - outer * p.batch_inner;
    let at_x = outer * p.x_outer + inner * p.x_inner + column;
    let at_y = outer * p.y_outer + inner * p.y_inner + column * p.ldy;
    for (var row = first; row < min(first + 8u, p.rows); row++) {
        y[at_y + row] = x[at_x + row * p.ldx];
    }
}
