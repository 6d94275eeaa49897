// conv2d_backward_input: dx = dy * w, the gradient of conv2d_forward with respect to x; dy and w rounded to f16, summed in f32
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: dy (batch, out_h, out_w, cout), w (kh, kw, cout, cin) transposed, dx (batch, in_h, in_w, cin); channels in fours.
// Grid: one workgroup a tile of 64 pixels x 64 channels. A pixel of dx gathers from the outputs whose windows hold it.
enable f16;
enable wgpu_cooperative_matrix;
// Cooperative operations stand where all of a subgroup come by, which naga does not see; this is the rule that it goes by there.
diagnostic(off, derivative_uniformity);
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% include "coop_memory.wgsl"
//% set A_BY_TERM = false

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>;

//% include "conv2d_input_rows.wgsl"

fn store(row: u32, column: u32, sums: vec4<f32>) {
    let columns = params.cin / 4u;
    if row < params.batch * params.in_h * params.in_w && column < columns {
        dx[row * columns + column] = sums;
    }
}

@compute @workgroup_size(128)
fn conv2d_backward_input_coop(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                              @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
                              @builtin(num_subgroups) subgroups: u32) {
    let p = params;
    let tiles_n = (p.cin + 63u) / 64u;
    let tile = group_index(group, groups);
    let row0 = tile / tiles_n * 64u;
    if row0 >= p.batch * p.in_h * p.in_w {
        return;
    }
    let column0 = tile % tiles_n * 16u;
    let first_term = 0u;
    let last_term = p.kh * p.kw * p.cout;
//% include "coop_multiply.wgsl"
}
