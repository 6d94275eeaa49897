// matmul_forward: y = alpha x w + bias + addend
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), w (k, n), y (m, n), batched; bias (n). Grid: one invocation an element of y.
//% include "index.wgsl"
//% include "matmul_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> addend: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

//% set ELEMENT = "f32"
//% include "addend.wgsl"

@compute @workgroup_size(64)
fn matmul_forward_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let p = params;
    let batch = i / (p.m * p.n);
    if batch >= p.batch_outer * p.batch_inner {
        return;
    }
    let outer = batch / p.batch_inner;
    let inner = batch % p.batch_inner;
    let row = i % (p.m * p.n) / p.n;
    let column = i % p.n;
    var at_x = outer * p.x_outer + inner * p.x_inner + row * p.ldx;
    var at_w = outer * p.w_outer + inner * p.w_inner + column;
    var sum = 0.0;
    for (var k = 0u; k < p.k; k++) {
        sum += x[at_x] * w[at_w];
        at_x += 1u;
        at_w += p.ldw;
    }
    sum *= p.alpha;
    if p.has_bias != 0u {
        sum += bias[column];
    }
    y[outer * p.y_outer + inner * p.y_inner + row * p.ldy + column] = with_addend(sum, row, column, p.n);
}
