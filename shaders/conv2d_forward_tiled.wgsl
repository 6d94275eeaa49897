// conv2d_forward: y = x * w + bias + addend
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), w (kh, kw, cin, cout), bias (cout), y (batch, out_h, out_w, cout); channels in fours.
// Grid: one workgroup a tile of TY RM pixels x 4 TX channels: a matrix product whose rows of A are gathered as they are read.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% set A_BY_TERM = false

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

//% set ELEMENT = "vec4<f32>"
//% include "addend.wgsl"

var<workgroup> sh_a: array<vec4<f32>, ${TY * RM * 4}>;
var<workgroup> sh_b: array<vec4<f32>, ${TX * 16}>;

//% include "conv2d_rows.wgsl"

@compute @workgroup_size(${TX * TY})
fn conv2d_forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let columns = p.cout / 4u;
    let tiles_n = (columns + ${TX - 1}u) / ${TX}u;
    let tile = group_index(group, groups);
    let row0 = tile / tiles_n * ${TY * RM}u;
    let pixels = p.batch * p.out_h * p.out_w;
    if row0 >= pixels {
        return;
    }
    let column0 = tile % tiles_n * ${TX}u;
    let first_term = 0u;
    let last_term = p.kh * p.kw * p.cin;
//% include "tile_multiply.wgsl"
    let row = row0 + thread_row;
    let column = column0 + thread_column;
    if column < columns {
        var offset = vec4<f32>();
        if p.has_bias != 0u {
            offset = bias[column];
        }
//% for i in range(RM)
        if row + ${i}u < pixels {
            y[(row + ${i}u) * columns + column] = with_addend(sum${i} + offset, row + ${i}u, column, columns);
        }
//% endfor
    }
}
