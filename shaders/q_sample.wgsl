// q_sample: x_t = a x_0 + b noise and target = c x_0 + d noise, with (a, b, c, d) per image (DeMe eq. 1)
// Called by kernels/noise.rs. CPU twin: reference/noise.rs. Test: kernels-test/conformance/noise.rs.
// Shapes: x_0, noise, x_t, target (images, image); coefficients (images, 4). Pad channels are 0.
// Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32, image: u32, channels: u32, stride: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_0: array<f32>;
@group(0) @binding(2) var<storage, read> noise: array<f32>;
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read_write> x_t: array<f32>;
@group(0) @binding(5) var<storage, read_write> target_: array<f32>;

@compute @workgroup_size(64)
fn q_sample(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.count {
        return;
    }
    let at = i / params.image * 4u;
    let pad = i % params.stride >= params.channels;
    x_t[i] = select(coefficients[at] * x_0[i] + coefficients[at + 1u] * noise[i], 0.0, pad);
    target_[i] = select(coefficients[at + 2u] * x_0[i] + coefficients[at + 3u] * noise[i], 0.0, pad);
}
