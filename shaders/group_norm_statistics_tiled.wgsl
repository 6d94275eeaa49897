// group_norm_statistics: mean and 1 / sqrt(variance + eps) of each group, from the moments of its chunks
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: moments (N, chunks, 2, C); statistics (N, G) of (mean, rstd).
// Grid: one workgroup a group. Numerics: the variance from the deviations of the chunks' means, a fixed tree of sums.
//% include "index.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, chunk: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> moments: array<f32>;
@group(0) @binding(2) var<storage, read_write> statistics: array<vec2<f32>>;

var<workgroup> sh_sum: array<f32, 64>;

fn total(lane: u32, value: f32) -> f32 {
    sh_sum[lane] = value;
    workgroupBarrier();
    for (var step = 32u; step > 0u; step /= 2u) {
        if lane < step {
            sh_sum[lane] += sh_sum[lane + step];
        }
        workgroupBarrier();
    }
    let sum = sh_sum[0];
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(64)
fn group_norm_statistics_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let index = group_index(group, groups);
    if index >= params.batch * params.groups {
        return;
    }
    let chunks = (params.pixels + params.chunk - 1u) / params.chunk;
    let members = params.channels / params.groups;
    let start = (index / params.groups) * chunks * 2u * params.channels + (index % params.groups) * members;
    let elements = f32(params.pixels) * f32(members);
    var sum = 0.0;
    for (var e = lane; e < chunks * members; e += 64u) {
        let k = e / members;
        let count = f32(min(params.chunk, params.pixels - k * params.chunk));
        sum += count * moments[start + k * 2u * params.channels + e % members];
    }
    let mean = total(lane, sum) / elements;
    var squares = 0.0;
    for (var e = lane; e < chunks * members; e += 64u) {
        let k = e / members;
        let count = f32(min(params.chunk, params.pixels - k * params.chunk));
        let at = start + k * 2u * params.channels + e % members;
        let d = moments[at] - mean;
        squares += moments[at + params.channels] + count * d * d;
    }
    let variance = total(lane, squares) / elements;
    if lane == 0u {
        statistics[index] = vec2<f32>(mean, 1.0 / sqrt(variance + params.eps));
    }
}
