// group_norm_moments: mean and sum of squared deviations of each chunk of pixels of each channel
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: x (N, P, C); moments (N, chunks, 2, C).
// Grid: one invocation a chunk and WIDTH channels. Numerics: two passes over the chunk, the second from cache.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, chunk: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> moments: array<Lanes>;

@compute @workgroup_size(64)
fn group_norm_moments(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let width = params.channels / ${WIDTH}u;
    let chunks = (params.pixels + params.chunk - 1u) / params.chunk;
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * chunks * width {
        return;
    }
    let c = i % width;
    let n = (i / width) / chunks;
    let first = ((i / width) % chunks) * params.chunk;
    let count = min(params.chunk, params.pixels - first);
    let start = (n * params.pixels + first) * width + c;
    var sum = Lanes(0.0);
    for (var p = 0u; p < count; p++) {
        sum += x[start + p * width];
    }
    let mean = sum / f32(count);
    var squares = Lanes(0.0);
    for (var p = 0u; p < count; p++) {
        let d = x[start + p * width] - mean;
        squares += d * d;
    }
    let out = (i / width) * 2u * width + c;
    moments[out] = mean;
    moments[out + width] = squares;
}
