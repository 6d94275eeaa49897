// weighted_mse_backward: dx = dlosses_n weights_n 2 (x - target) / elements, 0 in pad channels
// Called by kernels/loss.rs. CPU twin: reference/loss.rs. Test: kernels-test/conformance/loss.rs.
// Shapes: x, target, dx (images, image); weights, dlosses (images). Grid: one invocation an element.
//% include "index.wgsl"

struct Params { images: u32, image: u32, channels: u32, stride: u32, has_weights: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> target_: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> dlosses: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(64)
fn weighted_mse_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.images * params.image {
        return;
    }
    let n = i / params.image;
    var weight = dlosses[n];
    if params.has_weights != 0u {
        weight *= weights[n];
    }
    let elements = f32(params.image / params.stride * params.channels);
    dx[i] = select(2.0 * weight / elements * (x[i] - target_[i]), 0.0, i % params.stride >= params.channels);
}
