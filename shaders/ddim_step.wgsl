// ddim_step: x_t -> x_t_prev (Song et al. 2020, eq. 12), in diffusers' order; the clamp does not correct epsilon
// Called by kernels/ddim.rs. CPU twin: reference/noise.rs. Test: kernels-test/conformance/noise.rs.
// Shapes: output, noise, x (count); coefficients (8) = sqrt_alpha_bar, sqrt_one_minus_alpha_bar, sqrt_alpha_bar_prev,
// direction, sigma, clip, 0, 0. Pad channels become 0. Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32, channels: u32, stride: u32, predicts: u32, has_noise: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> output: array<f32>;
@group(0) @binding(2) var<storage, read> noise: array<f32>;
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn ddim_step(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.count {
        return;
    }
    let a = coefficients[0];
    let b = coefficients[1];
    var x_0: f32;
    var epsilon: f32;
    if params.predicts == 0u {
        x_0 = (x[i] - b * output[i]) / a;
        epsilon = output[i];
    } else if params.predicts == 1u {
        x_0 = a * x[i] - b * output[i];
        epsilon = a * output[i] + b * x[i];
    } else {
        x_0 = output[i];
        epsilon = (x[i] - a * output[i]) / b;
    }
    x_0 = clamp(x_0, -coefficients[5], coefficients[5]);
    var next = coefficients[2] * x_0 + coefficients[3] * epsilon;
    if params.has_noise != 0u {
        next += coefficients[4] * noise[i];
    }
    x[i] = select(next, 0.0, i % params.stride >= params.channels);
}
