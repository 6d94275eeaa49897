// upsample_nearest_backward: dx[h, w] = the sum of dy[2h + i, 2w + j], i and j 0 or 1
// Called by kernels/resample.rs. CPU twin: reference/resample.rs. Test: kernels-test/conformance/resample.rs.
// Shapes: dy (N, 2H, 2W, C); dx (N, H, W, C). Grid: one invocation a pixel of dx and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> dx: array<Lanes>;

@compute @workgroup_size(64)
fn upsample_nearest_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                             @builtin(local_invocation_index) lane: u32) {
    let lanes = params.channels / ${WIDTH}u;
    let row = params.width * lanes;
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * params.height * row {
        return;
    }
    // Row r of the small image, all samples stacked, is rows 2r and 2r + 1 of the large one.
    let pixel = (i % row) / lanes;
    let at = (i / row) * 4u * row + pixel * 2u * lanes + i % lanes;
    dx[i] = (dy[at] + dy[at + lanes]) + (dy[at + 2u * row] + dy[at + 2u * row + lanes]);
}
