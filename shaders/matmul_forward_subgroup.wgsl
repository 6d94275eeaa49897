// matmul_forward: y = alpha x w + bias + addend
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), w (k, n), y (m, n), batched; bias (n). Grid: one subgroup of 8 lanes a tile of R rows x 8 C V columns.
// For CPU rasterisers: loads there cost far more than arithmetic, so a lane loads one term in eight of each row of x and
// the subgroup broadcasts it; no workgroup memory, no barriers, sums in registers.
//% include "index.wgsl"
//% include "matmul_params.wgsl"
//% set K4 = false
//% set VECTOR = {1: "f32", 2: "vec2<f32>", 4: "vec4<f32>"}[V]

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//% if WINDOW
@group(0) @binding(2) var<uniform> w: array<vec4<f32>, ${WINDOW}>;
//% else
@group(0) @binding(2) var<storage, read> w: array<${VECTOR}>;
//% endif
@group(0) @binding(3) var<storage, read> bias: array<${VECTOR}>;
@group(0) @binding(4) var<storage, read> addend: array<${VECTOR}>;
@group(0) @binding(5) var<storage, read_write> y: array<${VECTOR}>;

//% set ELEMENT = VECTOR
//% include "addend.wgsl"

@compute @workgroup_size(8)
fn matmul_forward_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(subgroup_invocation_id) lane: u32) {
//% include "matmul_lanes.wgsl"
}
