// conv2d_backward_input: dx = dy * w, the gradient of conv2d_forward with respect to x
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: dy (batch, out_h, out_w, cout), w (kh, kw, cout, cin) transposed, dx (batch, in_h, in_w, cin); channels in fours.
// Grid: one workgroup a tile of TY RM pixels x 4 TX channels. A pixel of dx gathers from the outputs whose windows hold it.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% set A_BY_TERM = false

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>;

var<workgroup> sh_a: array<vec4<f32>, ${TY * RM * 4}>;
var<workgroup> sh_b: array<vec4<f32>, ${TX * 16}>;

//% include "conv2d_input_rows.wgsl"

@compute @workgroup_size(${TX * TY})
fn conv2d_backward_input_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                               @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let columns = p.cin / 4u;
    let tiles_n = (columns + ${TX - 1}u) / ${TX}u;
    let tile = group_index(group, groups);
    let row0 = tile / tiles_n * ${TY * RM}u;
    let pixels = p.batch * p.in_h * p.in_w;
    if row0 >= pixels {
        return;
    }
    let column0 = tile % tiles_n * ${TX}u;
    let first_term = 0u;
    let last_term = p.kh * p.kw * p.cout;
//% include "tile_multiply.wgsl"
    let row = row0 + thread_row;
    let column = column0 + thread_column;
    if column < columns {
//% for i in range(RM)
        if row + ${i}u < pixels {
            dx[(row + ${i}u) * columns + column] = sum${i};
        }
//% endfor
    }
}
