// group_norm_forward: y = (x - mean_g) * rstd_g * gamma_c + beta_c, then y sigmoid(y) where SILU is 1
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: x, y (N, P, C); statistics (N, G) of (mean, rstd); gamma, beta (C).
// Grid: one invocation ROWS pixels of WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, chunk: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> gamma: array<Lanes>;
@group(0) @binding(4) var<storage, read> beta: array<Lanes>;
@group(0) @binding(5) var<storage, read_write> y: array<Lanes>;
//% set tables = ["statistics"]
//% include "group_lookup.wgsl"

@compute @workgroup_size(64)
fn group_norm_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let width = params.channels / ${WIDTH}u;
    let blocks = (params.pixels + ${ROWS}u - 1u) / ${ROWS}u;
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * blocks * width {
        return;
    }
    let c = i % width;
    let n = (i / width) / blocks;
    let first = ((i / width) % blocks) * ${ROWS}u;
    let count = min(${ROWS}u, params.pixels - first);
    let start = (n * params.pixels + first) * width + c;
    let s = load_statistics(n, c);
    let factor = s.second * gamma[c];
    let offset = beta[c];
    for (var p = 0u; p < count; p++) {
        let z = (x[start + p * width] - s.first) * factor + offset;
//% if SILU == 1
        y[start + p * width] = z / (1.0 + exp(-z));
//% else
        y[start + p * width] = z;
//% endif
    }
}
