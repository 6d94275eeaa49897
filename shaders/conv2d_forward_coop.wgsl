// conv2d_forward: y = x * w + bias + addend, x and w rounded to f16, summed in f32
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), w (kh, kw, cin, cout), bias (cout), y (batch, out_h, out_w, cout); channels in fours.
// Grid: one workgroup a tile of 64 pixels x 64 channels: a matrix product whose rows of A are gathered as they are read.
enable f16;
enable wgpu_cooperative_matrix;
// Cooperative operations stand where all of a subgroup come by, which naga does not see; this is the rule that it goes by there.
diagnostic(off, derivative_uniformity);
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
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

//% include "conv2d_rows.wgsl"

fn store(row: u32, column: u32, sums: vec4<f32>) {
    let columns = params.cout / 4u;
    if row < params.batch * params.out_h * params.out_w && column < columns {
        var offset = vec4<f32>();
        if params.has_bias != 0u {
            offset = bias[column];
        }
        y[row * columns + column] = with_addend(sums + offset, row, column, columns);
    }
}

@compute @workgroup_size(128)
fn conv2d_forward_coop(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
                       @builtin(num_subgroups) subgroups: u32) {
    let p = params;
    let tiles_n = (p.cout + 63u) / 64u;
    let tile = group_index(group, groups);
    let row0 = tile / tiles_n * 64u;
    if row0 >= p.batch * p.out_h * p.out_w {
        return;
    }
    let column0 = tile % tiles_n * 16u;
    let first_term = 0u;
    let last_term = p.kh * p.kw * p.cin;
//% include "coop_multiply.wgsl"
}
