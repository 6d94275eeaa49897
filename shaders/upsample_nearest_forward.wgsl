// upsample_nearest_forward: y[2h + i, 2w + j] = x[h, w], i and j 0 or 1
// Called by kernels/resample.rs. CPU twin: reference/resample.rs. Test: kernels-test/conformance/resample.rs.
// Shapes: x (N, H, W, C); y (N, 2H, 2W, C). Grid: one invocation a pixel of x and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> y: array<Lanes>;

@compute @workgroup_size(64)
fn upsample_nearest_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    let value = x[i];
    y[at] = value;
    y[at + lanes] = value;
    y[at + 2u * row] = value;
    y[at + 2u * row + lanes] = value;
}
