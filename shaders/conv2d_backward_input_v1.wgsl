// conv2d_backward_input: dx = dy * w, the gradient of conv2d_forward with respect to x
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: dy (batch, out_h, out_w, cout), w (kh, kw, cout, cin) transposed, dx (batch, in_h, in_w, cin).
// Grid: one invocation an element of dx, which gathers from the outputs whose windows hold it.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(64)
fn conv2d_backward_input_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let i = group_index(group, groups) * 64u + lane;
    if i >= p.batch * p.in_h * p.in_w * p.cin {
        return;
    }
    let channel = i % p.cin;
    let pixel = i / p.cin;
    let n = pixel / (p.in_h * p.in_w);
    let iy = pixel / p.in_w % p.in_h;
    let ix = pixel % p.in_w;
    var sum = 0.0;
    for (var ky = 0u; ky < p.kh; ky++) {
        for (var kx = 0u; kx < p.kw; kx++) {
            // Wraps, and so fails the comparison, where the window would start above or left of the first.
            let ty = iy + p.pad_top - ky;
            let tx = ix + p.pad_left - kx;
            let oy = ty / p.stride;
            let ox = tx / p.stride;
            if oy < p.out_h && ox < p.out_w && oy * p.stride == ty && ox * p.stride == tx {
                let at_dy = ((n * p.out_h + oy) * p.out_w + ox) * p.cout;
                let at_w = (ky * p.kw + kx) * p.cout * p.cin + channel;
                for (var c = 0u; c < p.cout; c++) {
                    sum += dy[at_dy + c] * w[at_w + c * p.cin];
                }
            }
        }
    }
    dx[i] = sum;
}
