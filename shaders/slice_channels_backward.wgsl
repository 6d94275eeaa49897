// slice_channels_backward: dx = dy at the channels first .. first + count, 0 elsewhere
// Called by kernels/resample.rs. CPU twin: reference/resample.rs. Test: kernels-test/conformance/resample.rs.
// Shapes: dy (R, count); dx (R, C). Grid: one invocation ROWS rows of WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { rows: u32, channels: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> dx: array<Lanes>;

@compute @workgroup_size(64)
fn slice_channels_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(local_invocation_index) lane: u32) {
    let width = params.channels / ${WIDTH}u;
    let offset = params.first / ${WIDTH}u;
    let kept = params.count / ${WIDTH}u;
    let i = group_index(group, groups) * 64u + lane;
    if i >= ((params.rows + ${ROWS}u - 1u) / ${ROWS}u) * width {
        return;
    }
    let c = i % width;
    let first = (i / width) * ${ROWS}u;
    let end = min(first + ${ROWS}u, params.rows);
    for (var r = first; r < end; r++) {
        if c >= offset && c < offset + kept {
            dx[r * width + c] = dy[r * kept + c - offset];
        } else {
            dx[r * width + c] = Lanes(0.0);
        }
    }
}
