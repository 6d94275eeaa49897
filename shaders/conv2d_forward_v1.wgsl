// conv2d_forward: y = x * w + bias + addend
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), w (kh, kw, cin, cout), bias (cout), y (batch, out_h, out_w, cout).
// Grid: one invocation an element of y.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> addend: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

//% set ELEMENT = "f32"
//% include "addend.wgsl"

@compute @workgroup_size(64)
fn conv2d_forward_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let i = group_index(group, groups) * 64u + lane;
    if i >= p.batch * p.out_h * p.out_w * p.cout {
        return;
    }
    let channel = i % p.cout;
    let pixel = i / p.cout;
    let n = pixel / (p.out_h * p.out_w);
    let oy = pixel / p.out_w % p.out_h;
    let ox = pixel % p.out_w;
    var sum = 0.0;
    for (var ky = 0u; ky < p.kh; ky++) {
        for (var kx = 0u; kx < p.kw; kx++) {
            // Wraps, and so fails the comparison, above and left of x.
            let iy = oy * p.stride + ky - p.pad_top;
            let ix = ox * p.stride + kx - p.pad_left;
            if iy < p.in_h && ix < p.in_w {
                let at_x = ((n * p.in_h + iy) * p.in_w + ix) * p.cin;
                let at_w = (ky * p.kw + kx) * p.cin * p.cout + channel;
                for (var c = 0u; c < p.cin; c++) {
                    sum += x[at_x + c] * w[at_w + c * p.cout];
                }
            }
        }
    }
    if p.has_bias != 0u {
        sum += bias[channel];
    }
    y[i] = with_addend(sum, pixel, channel, p.cout);
}
