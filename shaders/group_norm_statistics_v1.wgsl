// group_norm_statistics: mean and 1 / sqrt(variance + eps) of each group, from the moments of its chunks
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: moments (N, chunks, 2, C); statistics (N, G) of (mean, rstd).
// Grid: one invocation a group (no barriers: what CPU rasterisers want). Numerics: as in group_norm_statistics_tiled.
//% include "index.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, chunk: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> moments: array<f32>;
@group(0) @binding(2) var<storage, read_write> statistics: array<vec2<f32>>;

@compute @workgroup_size(64)
fn group_norm_statistics_v1(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let index = group_index(group, groups) * 64u + lane;
    if index >= params.batch * params.groups {
        return;
    }
    let chunks = (params.pixels + params.chunk - 1u) / params.chunk;
    let members = params.channels / params.groups;
    let start = (index / params.groups) * chunks * 2u * params.channels + (index % params.groups) * members;
    let elements = f32(params.pixels) * f32(members);
    var sum = 0.0;
    for (var k = 0u; k < chunks; k++) {
        let count = f32(min(params.chunk, params.pixels - k * params.chunk));
        for (var c = 0u; c < members; c++) {
            sum += count * moments[start + k * 2u * params.channels + c];
        }
    }
    let mean = sum / elements;
    var squares = 0.0;
    for (var k = 0u; k < chunks; k++) {
        let count = f32(min(params.chunk, params.pixels - k * params.chunk));
        for (var c = 0u; c < members; c++) {
            let at = start + k * 2u * params.channels + c;
            let d = moments[at] - mean;
            squares += moments[at + params.channels] + count * d * d;
        }
    }
    statistics[index] = vec2<f32>(mean, 1.0 / sqrt(squares / elements + params.eps));
}
