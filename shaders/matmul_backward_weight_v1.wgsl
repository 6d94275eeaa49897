// matmul_backward_weight: dw += alpha x^T dy
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), dy (m, n), dw (k, n), batched. Grid: one invocation an element of dw.
//% include "index.wgsl"
//% include "matmul_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;

@compute @workgroup_size(64)
fn matmul_backward_weight_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                             @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let p = params;
    let batch = i / (p.k * p.n);
    if batch >= p.batch_outer * p.batch_inner {
        return;
    }
    let outer = batch / p.batch_inner;
    let inner = batch % p.batch_inner;
    let row = i % (p.k * p.n) / p.n;
    let column = i % p.n;
    var at_x = outer * p.x_outer + inner * p.x_inner + row;
    var at_dy = outer * p.y_outer + inner * p.y_inner + column;
    var sum = 0.0;
    for (var m = 0u; m < p.m; m++) {
        sum += x[at_x] * dy[at_dy];
        at_x += p.ldx;
        at_dy += p.ldy;
    }
    dw[outer * p.w_outer + inner * p.w_inner + row * p.ldw + column] += p.alpha * sum;
}
