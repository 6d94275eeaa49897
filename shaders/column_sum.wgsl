// column_sum: y += the sums of the rows of x, chunk by chunk
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (rows, cols), y (rows / chunk, cols). Grid: one invocation an element of y. Numerics: rows in order.
//% include "index.wgsl"

struct Params { rows: u32, cols: u32, chunk: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn column_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let first = i / params.cols * params.chunk;
    if first >= params.rows {
        return;
    }
    let column = i % params.cols;
    var sum = 0.0;
    for (var row = first; row < min(first + params.chunk, params.rows); row++) {
        sum += x[row * params.cols + column];
    }
    y[i] += sum;
}
