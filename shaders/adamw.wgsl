// adamw: one AdamW update (Loshchilov & Hutter 2019) in the order of torch.optim.AdamW; the gradient is then zero
// Called by kernels/optim.rs. CPU twin: reference/optim.rs. Test: kernels-test/conformance/optim.rs.
// Shapes: theta, m, v, gradient (count); status (7) of gradient_norm; scalars = 1 - lr weight_decay, 1 - beta1, beta2, 1 - beta2,
// eps, then lr / (1 - beta1^t), sqrt(1 - beta2^t), 1 - EMA decay for each count of skipped updates, which t leaves out.
// Grid: one invocation an element. Nothing but the gradient changes where status says that it is not finite.
//% include "index.wgsl"

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scalars: array<f32>;
@group(0) @binding(2) var<storage, read> status: array<f32>;
@group(0) @binding(3) var<storage, read_write> theta: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(5) var<storage, read_write> m: array<f32>;
@group(0) @binding(6) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(64)
fn adamw(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.count {
        return;
    }
    if status[1] != 0.0 {
        let at = 5u + 3u * min(u32(status[3]), ${SKIPS - 1}u);
        let g = gradient[i] * status[0];
        let first = m[i] + scalars[1] * (g - m[i]);
        let second = v[i] * scalars[2] + scalars[3] * g * g;
        m[i] = first;
        v[i] = second;
        theta[i] = theta[i] * scalars[0] - scalars[at] * (first / (sqrt(second) / scalars[at + 1u] + scalars[4]));
    }
    gradient[i] = 0.0;
}
