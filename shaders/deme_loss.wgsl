// deme_loss: losses_n = mean (x - target)^2 and mean (x - teacher)^2 of each image, and
// dx = scale 2 weights_n / (images elements) ((x - target) + lambda (x - teacher)) (DeMe eq. 5), 0 in pad channels
// Called by kernels/loss.rs. CPU twin: reference/loss.rs. Test: kernels-test/conformance/loss.rs.
// Shapes: x, target, teacher, dx (images, image); weights (images); status (7) of gradient_norm, where the scale is; losses
// (images, 2). Grid: one workgroup an image.
//% include "index.wgsl"
//% include "sum64.wgsl"

struct Params { images: u32, image: u32, channels: u32, stride: u32, has_teacher: u32, lambda: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> target_: array<f32>;
@group(0) @binding(3) var<storage, read> teacher: array<f32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;
@group(0) @binding(5) var<storage, read> status: array<f32>;
@group(0) @binding(6) var<storage, read_write> losses: array<f32>;
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(64)
fn deme_loss(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let n = group_index(group, groups);
    if n >= params.images {
        return;
    }
    let elements = f32(params.image / params.stride * params.channels);
    let factor = status[4] * 2.0 * weights[n] / (f32(params.images) * elements);
    var sums = vec2<f32>(0.0, 0.0);
    for (var j = lane; j < params.image; j += 64u) {
        let at = n * params.image + j;
        let pad = j % params.stride >= params.channels;
        var d = vec2<f32>(x[at] - target_[at], 0.0);
        if params.has_teacher != 0u {
            d.y = x[at] - teacher[at];
        }
        sums += select(d * d, vec2<f32>(0.0, 0.0), pad);
        dx[at] = select(factor * (d.x + params.lambda * d.y), 0.0, pad);
    }
    let totals = sum64(lane, sums);
    if lane == 0u {
        losses[2u * n] = totals.x / elements;
        losses[2u * n + 1u] = totals.y / elements;
    }
}
