// conv2d_backward_weight: dw += the sum over pixels of x dy, the gradient of conv2d_forward with respect to w; x and dy rounded
// to f16, summed in f32
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), dy (batch, out_h, out_w, cout), dw (chunks, kh, kw, cin, cout): each chunk sums `chunk`
// rows of pixels of dy; channels in fours. Grid: one workgroup a tile of 64 terms (tap, channel of x) x 64 channels of dy.
enable f16;
enable wgpu_cooperative_matrix;
// Cooperative operations stand where all of a subgroup come by, which naga does not see; this is the rule that it goes by there.
diagnostic(off, derivative_uniformity);
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% include "coop_memory.wgsl"
//% set A_BY_TERM = true

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>;

// Which of the chunks.
var<private> piece: u32;

//% include "conv2d_weight_rows.wgsl"

fn store(row: u32, column: u32, sums: vec4<f32>) {
    let rows = params.kh * params.kw * params.cin;
    let columns = params.cout / 4u;
    if row < rows && column < columns {
        dw[(piece * rows + row) * columns + column] += sums;
    }
}

@compute @workgroup_size(128)
fn conv2d_backward_weight_coop(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                               @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
                               @builtin(num_subgroups) subgroups: u32) {
    let p = params;
    let tiles_k = (p.kh * p.kw * p.cin + 63u) / 64u;
    let tiles_n = (p.cout + 63u) / 64u;
    let tile = group_index(group, groups);
    piece = tile / (tiles_k * tiles_n);
    let lines = p.batch * p.out_h;
    if piece * p.chunk >= lines {
        return;
    }
    let row0 = tile % (tiles_k * tiles_n) / tiles_n * 64u;
    let column0 = tile % tiles_n * 16u;
    let first_term = piece * p.chunk * p.out_w;
    let last_term = min((piece + 1u) * p.chunk, lines) * p.out_w;
//% include "coop_multiply.wgsl"
}
