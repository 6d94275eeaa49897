// concat_channels: y = a and b side by side
// Called by kernels/resample.rs. CPU twin: reference/resample.rs. Test: kernels-test/conformance/resample.rs.
// Shapes: a (R, A); b (R, B); y (R, A + B). Grid: one invocation ROWS rows of WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { rows: u32, a_channels: u32, b_channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Lanes>;
@group(0) @binding(2) var<storage, read> b: array<Lanes>;
@group(0) @binding(3) var<storage, read_write> y: array<Lanes>;

@compute @workgroup_size(64)
fn concat_channels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let a_width = params.a_channels / ${WIDTH}u;
    let b_width = params.b_channels / ${WIDTH}u;
    let width = a_width + b_width;
    let i = group_index(group, groups) * 64u + lane;
    if i >= ((params.rows + ${ROWS}u - 1u) / ${ROWS}u) * width {
        return;
    }
    let c = i % width;
    let first = (i / width) * ${ROWS}u;
    let end = min(first + ${ROWS}u, params.rows);
    for (var r = first; r < end; r++) {
        if c < a_width {
            y[r * width + c] = a[r * a_width + c];
        } else {
            y[r * width + c] = b[r * b_width + c - a_width];
        }
    }
}
