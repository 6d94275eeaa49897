// group_norm_backward_moments: sums of dz and dz xhat over each chunk of pixels of each channel,
// xhat = (x - mean_g) rstd_g, z = gamma_c xhat + beta_c, dz = dy silu'(z) where SILU is 1, else dy
// Called by kernels/group_norm.rs. CPU twin: reference/norm.rs. Test: kernels-test/conformance/norm.rs.
// Shapes: x, dy (N, P, C); statistics (N, G) of (mean, rstd); gamma, beta (C); moments (N, chunks, 2, C).
// Grid: one invocation a chunk and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, chunk: u32, silu: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> gamma: array<Lanes>;
@group(0) @binding(4) var<storage, read> beta: array<Lanes>;
@group(0) @binding(5) var<storage, read> dy: array<Lanes>;
@group(0) @binding(6) var<storage, read_write> moments: array<Lanes>;
//% set tables = ["statistics"]
//% include "group_lookup.wgsl"

@compute @workgroup_size(64)
fn group_norm_backward_moments(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                               @builtin(local_invocation_index) lane: u32) {
    let width = params.channels / ${WIDTH}u;
    let chunks = (params.pixels + params.chunk - 1u) / params.chunk;
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.batch * chunks * width {
        return;
    }
    let c = i % width;
    let n = (i / width) / chunks;
    let first = ((i / width) % chunks) * params.chunk;
    let count = min(params.chunk, params.pixels - first);
    let start = (n * params.pixels + first) * width + c;
    let s = load_statistics(n, c);
    let scale = gamma[c];
    let offset = beta[c];
    var sum = Lanes(0.0);
    var product = Lanes(0.0);
    for (var p = 0u; p < count; p++) {
        let xhat = (x[start + p * width] - s.first) * s.second;
        var dz = dy[start + p * width];
//% if SILU == 1
        let z = xhat * scale + offset;
        let sigmoid = 1.0 / (1.0 + exp(-z));
        dz *= sigmoid * (1.0 + z * (1.0 - sigmoid));
//% endif
        sum += dz;
        product += dz * xhat;
    }
    let out = (i / width) * 2u * width + c;
    moments[out] = sum;
    moments[out + width] = product;
}
