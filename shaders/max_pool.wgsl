// max_pool: y = the largest value of x in each window
// Called by kernels/pool.rs. CPU twin: reference/pool.rs. Test: kernels-test/conformance/pool.rs.
// Shapes: x (N, H, W, C), y (N, H', W', C). Grid: one invocation a pixel of y and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"
//% include "pool_window.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> y: array<Lanes>;

@compute @workgroup_size(64)
fn max_pool(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let i = group_index(group, groups) * 64u + lane;
    if i >= p.batch * p.out_h * p.out_w * (p.channels / ${WIDTH}u) {
        return;
    }
    let window = window_of(p, i);
    // Every window holds a pixel, so that this is never what remains.
    var largest = Lanes(-3.4028234e38);
    for (var r = 0u; r < p.kernel; r++) {
        let row = window.row + r;
        for (var c = 0u; c < p.kernel; c++) {
            let column = window.column + c;
            if row < p.in_h && column < p.in_w {
                largest = max(largest, x[pixel_at(p, window, row, column)]);
            }
        }
    }
    y[i] = largest;
}
