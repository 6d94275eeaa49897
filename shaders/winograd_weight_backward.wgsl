// winograd_weight_backward: dw += G^T dU G, the gradient of winograd_weight
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: du (16, cin, cout); dw (3, 3, cin, cout). Grid: one invocation an input channel and WIDTH output channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { cin: u32, cout: u32, turned: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> du: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> dw: array<Lanes>;

@compute @workgroup_size(64)
fn winograd_weight_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let size = params.cin * params.cout / ${WIDTH}u;
    let i = group_index(group, groups) * 64u + lane;
    if i >= size {
        return;
    }
    // a = G^T u, column by column.
//% for c in range(4)
//% for r in range(4)
    let u${r}${c} = du[i + ${4 * r + c}u * size];
//% endfor
    let inner${c} = 0.5 * (u1${c} + u2${c});
    let a0${c} = u0${c} + inner${c};
    let a1${c} = 0.5 * (u1${c} - u2${c});
    let a2${c} = inner${c} + u3${c};
//% endfor
//% for r in range(3)
    let both${r} = 0.5 * (a${r}1 + a${r}2);
    dw[i + ${3 * r}u * size] += a${r}0 + both${r};
    dw[i + ${3 * r + 1}u * size] += 0.5 * (a${r}1 - a${r}2);
    dw[i + ${3 * r + 2}u * size] += both${r} + a${r}3;
//% endfor
}
