// weighted_mse: losses_n = weights_n mean (x - target)^2 over an image's channels that are not padding
// Called by kernels/loss.rs. CPU twin: reference/loss.rs. Test: kernels-test/conformance/loss.rs.
// Shapes: x, target (images, image); weights, losses (images). Grid: one workgroup an image.
// Numerics: each lane sums every 64th element, then the lanes are summed by halves.
//% include "index.wgsl"
//% include "sum64.wgsl"

struct Params { images: u32, image: u32, channels: u32, stride: u32, has_weights: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> target_: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> losses: array<f32>;

@compute @workgroup_size(64)
fn weighted_mse(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let n = group_index(group, groups);
    if n >= params.images {
        return;
    }
    var sum = 0.0;
    for (var j = lane; j < params.image; j += 64u) {
        let at = n * params.image + j;
        let d = x[at] - target_[at];
        sum += select(d * d, 0.0, j % params.stride >= params.channels);
    }
    let total = sum64(lane, vec2<f32>(sum, 0.0)).x;
    if lane == 0u {
        var weight = 1.0;
        if params.has_weights != 0u {
            weight = weights[n];
        }
        losses[n] = weight * total / f32(params.image / params.stride * params.channels);
    }
}
