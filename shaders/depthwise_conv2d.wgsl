// depthwise_conv2d: y = bias + each channel's window of x times that channel's weights
// Called by kernels/pool.rs. CPU twin: reference/pool.rs. Test: kernels-test/conformance/pool.rs.
// Shapes: x (N, H, W, C), y (N, H', W', C), w (kernel kernel, C), bias (C). Grid: one invocation a pixel of y and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"
//% include "pool_window.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read> w: array<Lanes>;
@group(0) @binding(3) var<storage, read> bias: array<Lanes>;
@group(0) @binding(4) var<storage, read_write> y: array<Lanes>;

@compute @workgroup_size(64)
fn depthwise_conv2d(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let i = group_index(group, groups) * 64u + lane;
    if i >= p.batch * p.out_h * p.out_w * (p.channels / ${WIDTH}u) {
        return;
    }
    let window = window_of(p, i);
    var sum = bias[window.lane];
    for (var r = 0u; r < p.kernel; r++) {
        let row = window.row + r;
        for (var c = 0u; c < p.kernel; c++) {
            let column = window.column + c;
            if row < p.in_h && column < p.in_w {
                let tap = (r * p.kernel + c) * (p.channels / ${WIDTH}u) + window.lane;
                sum += w[tap] * x[pixel_at(p, window, row, column)];
            }
        }
    }
    y[i] = sum;
}
