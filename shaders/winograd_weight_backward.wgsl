// winograd_weight_backward: dw += G^T dU G, the gradient of winograd_weight
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: du ((TILE + 2)^2, cin, cout); dw (3, 3, cin, cout). Grid: one invocation an input channel and WIDTH output channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { cin: u32, cout: u32, tile: u32, turned: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> du: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> dw: array<Lanes>;

// a<i><k> = G^T u<i><k> over the index i; the points are winograd_input's.
//% macro g_t(a, u, k)
//% if TILE == 2
    let even_${a}${k} = 0.5 * (${u}1${k} + ${u}2${k});
    let ${a}0${k} = ${u}0${k} + even_${a}${k};
    let ${a}1${k} = 0.5 * (${u}1${k} - ${u}2${k});
    let ${a}2${k} = even_${a}${k} + ${u}3${k};
//% else
    let even_${a}${k} = (-128.0 / 243.0) * (${u}1${k} + ${u}2${k});
    let odd_${a}${k} = (-128.0 / 243.0) * (${u}1${k} - ${u}2${k});
    let even_far_${a}${k} = (32.0 / 243.0) * (${u}3${k} + ${u}4${k});
    let odd_far_${a}${k} = (32.0 / 243.0) * (${u}3${k} - ${u}4${k});
    let ${a}0${k} = (64.0 / 81.0) * ${u}0${k} + even_${a}${k} + even_far_${a}${k};
    let ${a}1${k} = 0.75 * odd_${a}${k} + 1.5 * odd_far_${a}${k};
    let ${a}2${k} = 0.5625 * even_${a}${k} + 2.25 * even_far_${a}${k} + ${u}5${k};
//% endif
//% endmacro

@compute @workgroup_size(64)
fn winograd_weight_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let size = params.cin * params.cout / ${WIDTH}u;
    let i = group_index(group, groups) * 64u + lane;
    if i >= size {
        return;
    }
    // Column by column, then row by row: a<row><column>, and the other way round.
//% for c in range(TILE + 2)
//% for r in range(TILE + 2)
    let u${r}${c} = du[i + ${(TILE + 2) * r + c}u * size];
//% endfor
${g_t("a", "u", c)}
//% endfor
//% for r in range(3)
${g_t("w" ~ r ~ "_", "a" ~ r, "")}
//% for c in range(3)
    dw[i + ${3 * r + c}u * size] += w${r}_${c};
//% endfor
//% endfor
}
