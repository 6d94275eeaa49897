// matmul_forward: y = alpha x w + bias + addend
// Called by kernels/matmul.rs. CPU twin: reference/gemm.rs. Test: kernels-test/conformance/gemm.rs.
// Shapes: x (m, k), w (k, n), y (m, n), batched; bias (n); all in fours. Grid: one subgroup of 8 lanes a tile of R rows x 32 C
// columns. For CPU rasterisers that load once what is the same for all lanes (llvmpipe of Mesa 26): each lane loads the
// same four terms of a row.
//% set V = 4
//% set WINDOW = 0
//% set K4 = true
//% set VECTOR = "vec4<f32>"
//% include "index.wgsl"
//% include "matmul_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

//% set ELEMENT = VECTOR
//% include "addend.wgsl"

@compute @workgroup_size(8)
fn matmul_forward_uniform(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(subgroup_invocation_id) lane: u32) {
//% include "matmul_lanes.wgsl"
}
