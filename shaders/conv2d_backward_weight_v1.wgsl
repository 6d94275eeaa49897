// conv2d_backward_weight: dw += the sum over pixels of x dy, the gradient of conv2d_forward with respect to w
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), dy (batch, out_h, out_w, cout), dw (chunks, kh, kw, cin, cout): each chunk sums `chunk`
// rows of pixels of dy. Grid: one invocation an element of dw.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;

@compute @workgroup_size(64)
fn conv2d_backward_weight_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                             @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let i = group_index(group, groups) * 64u + lane;
    let weights = p.kh * p.kw * p.cin * p.cout;
    let rows = p.batch * p.out_h;
    let first = i / weights * p.chunk;
    if first >= rows {
        return;
    }
    let channel = i % p.cout;
    let term = i % weights / p.cout;
    let tap = term / p.cin;
    let ky = tap / p.kw;
    let kx = tap % p.kw;
    var sum = 0.0;
    for (var row = first; row < min(first + p.chunk, rows); row++) {
        let n = row / p.out_h;
        // Wraps, and so fails the comparison, above and left of x.
        let iy = row % p.out_h * p.stride + ky - p.pad_top;
        for (var ox = 0u; ox < p.out_w; ox++) {
            let ix = ox * p.stride + kx - p.pad_left;
            if iy < p.in_h && ix < p.in_w {
                let at_x = ((n * p.in_h + iy) * p.in_w + ix) * p.cin + term % p.cin;
                sum += x[at_x] * dy[(row * p.out_w + ox) * p.cout + channel];
            }
        }
    }
    dw[i] += sum;
}
