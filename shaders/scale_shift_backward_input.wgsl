// scale_shift_backward_input: dx = dy (1 + scale)
// Called by kernels/broadcast.rs. CPU twin: reference/broadcast.rs. Test: kernels-test/conformance/broadcast.rs.
// Shapes: dy, dx (N, P, C); scale (N, C). Grid: one invocation ROWS pixels of WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scale: array<Lanes>;
@group(0) @binding(2) var<storage, read> dy: array<Lanes>;
@group(0) @binding(3) var<storage, read_write> dx: array<Lanes>;

@compute @workgroup_size(64)
fn scale_shift_backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                              @builtin(local_invocation_index) lane: u32) {
    let width = params.channels / ${WIDTH}u;
    let blocks = (params.pixels + ${ROWS}u - 1u) / ${ROWS}u;
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * blocks * width {
        return;
    }
    let c = i % width;
    let n = (i / width) / blocks;
    let first = ((i / width) % blocks) * ${ROWS}u;
    let count = min(${ROWS}u, params.pixels - first);
    let start = (n * params.pixels + first) * width + c;
    let factor = 1.0 + scale[n * width + c];
    for (var p = 0u; p < count; p++) {
        dx[start + p * width] = dy[start + p * width] * factor;
    }
}
