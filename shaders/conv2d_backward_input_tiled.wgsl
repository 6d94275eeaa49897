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

// The image of a pixel of dx, and its place counted from the first window's start.
struct Row { image: u32, y: u32, x: u32, real: bool }

fn row_of(row: u32) -> Row {
    let p = params;
    let n = row / (p.in_h * p.in_w);
    let iy = row / p.in_w - n * p.in_h;
    return Row(n * p.out_h, iy + p.pad_top, row % p.in_w + p.pad_left, n < p.batch);
}

fn load_a(row: Row, term: u32, terms: u32) -> vec4<f32> {
    let tap = term / params.cout;
    // Wraps, and so fails the comparison, where the window would start above or left of the first.
    let ty = row.y - tap / ${KW}u;
    let tx = row.x - tap % ${KW}u;
    let oy = ty / ${STRIDE}u;
    let ox = tx / ${STRIDE}u;
    let whole = oy * ${STRIDE}u == ty && ox * ${STRIDE}u == tx;
    if row.real && term < terms && whole && oy < params.out_h && ox < params.out_w {
        return dy[(((row.image + oy) * params.out_w + ox) * params.cout + term % params.cout) / 4u];
    }
    return vec4<f32>();
}

fn load_b(term: u32, terms: u32, column: u32) -> vec4<f32> {
    let columns = params.cin / 4u;
    if term < terms && column < columns {
        return w[term * columns + column];
    }
    return vec4<f32>();
}

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
