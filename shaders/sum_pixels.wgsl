// sum_pixels: y = the sum of x over each chunk of pixels
// Called by kernels/broadcast.rs. CPU twin: reference/broadcast.rs. Test: kernels-test/conformance/broadcast.rs.
// Shapes: x (N, P, C); y (N, chunks, C). Grid: one invocation a chunk and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, chunk: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> y: array<Lanes>;

@compute @workgroup_size(64)
fn sum_pixels(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let width = params.channels / ${WIDTH}u;
    let blocks = (params.pixels + params.chunk - 1u) / params.chunk;
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * blocks * width {
        return;
    }
    let c = i % width;
    let n = (i / width) / blocks;
    let first = ((i / width) % blocks) * params.chunk;
    let count = min(params.chunk, params.pixels - first);
    let start = (n * params.pixels + first) * width + c;
    var sum = Lanes(0.0);
    for (var p = 0u; p < count; p++) {
        sum += x[start + p * width];
    }
    y[i] = sum;
}
