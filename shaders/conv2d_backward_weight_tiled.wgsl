// conv2d_backward_weight: dw += the sum over pixels of x dy, the gradient of conv2d_forward with respect to w
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), dy (batch, out_h, out_w, cout), dw (chunks, kh, kw, cin, cout): each chunk sums `chunk`
// rows of pixels of dy; channels in fours. Grid: one workgroup a tile of TY RM terms (tap, channel of x) x 4 TX channels of dy.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% set A_BY_TERM = true

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>;

var<workgroup> sh_a: array<vec4<f32>, ${TY * RM * 4}>;
var<workgroup> sh_b: array<vec4<f32>, ${TX * 16}>;

//% include "conv2d_weight_rows.wgsl"

@compute @workgroup_size(${TX * TY})
fn conv2d_backward_weight_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let columns = p.cout / 4u;
    let rows = p.kh * p.kw * p.cin;
    let tiles_k = (rows + ${TY * RM - 1}u) / ${TY * RM}u;
    let tiles_n = (columns + ${TX - 1}u) / ${TX}u;
    let tile = group_index(group, groups);
    let piece = tile / (tiles_k * tiles_n);
    let lines = p.batch * p.out_h;
    if piece * p.chunk >= lines {
        return;
    }
    let row0 = tile % (tiles_k * tiles_n) / tiles_n * ${TY * RM}u;
    let column0 = tile % tiles_n * ${TX}u;
    let first_term = piece * p.chunk * p.out_w;
    let last_term = min((piece + 1u) * p.chunk, lines) * p.out_w;
//% include "tile_multiply.wgsl"
    let row = row0 + thread_row;
    let column = column0 + thread_column;
    if column < columns {
//% for i in range(RM)
        if row + ${i}u < rows {
            dw[(piece * rows + row + ${i}u) * columns + column] += sum${i};
        }
//% endfor
    }
}
