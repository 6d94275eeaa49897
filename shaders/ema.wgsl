// ema: average -= (1 - decay) (average - theta), as diffusers' EMAModel; nothing where status says not finite
// Called by kernels/optim.rs. CPU twin: reference/optim.rs. Test: kernels-test/conformance/optim.rs.
// Shapes: theta, average (count); status (7) of gradient_norm; scalars of adamw. Grid: one invocation an element.
//% include "index.wgsl"

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scalars: array<f32>;
@group(0) @binding(2) var<storage, read> status: array<f32>;
@group(0) @binding(3) var<storage, read> theta: array<f32>;
@group(0) @binding(4) var<storage, read_write> average: array<f32>;

@compute @workgroup_size(64)
fn ema(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i < params.count && status[1] != 0.0 {
        let at = 7u + 3u * min(u32(status[3]), ${SKIPS - 1}u);
        average[i] -= scalars[at] * (average[i] - theta[i]);
    }
}
