// softmax_backward: dx = y (dy - the row's sum of y dy)
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: y, dy, dx (rows, columns). Grid: one invocation a row (no barriers: what CPU rasterisers want).
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { rows: u32, columns: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<Lanes>;
@group(0) @binding(2) var<storage, read> dy: array<Lanes>;
@group(0) @binding(3) var<storage, read_write> dx: array<Lanes>;

fn total_of(v: Lanes) -> f32 {
//% if WIDTH == 4
    return (v.x + v.y) + (v.z + v.w);
//% else
    return v;
//% endif
}

@compute @workgroup_size(64)
fn softmax_backward_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let row = group_index(group, groups) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let width = params.columns / ${WIDTH}u;
    let start = row * width;
    var products = Lanes(0.0);
    for (var j = 0u; j < width; j++) {
        products += y[start + j] * dy[start + j];
    }
    let sum = total_of(products);
    for (var j = 0u; j < width; j++) {
        dx[start + j] = y[start + j] * (dy[start + j] - sum);
    }
}
