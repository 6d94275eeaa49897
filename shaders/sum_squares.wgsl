// sum_squares: partials_g = sum of x^2 over the g-th chunk of 16,384 elements; 0 behind the last chunk
// Called by kernels/optim.rs. CPU twin: reference/optim.rs. Test: kernels-test/conformance/optim.rs.
// Shapes: x (count), partials (groups). Grid: one workgroup a partial sum.
// Numerics: a lane sums every 64th element, then the lanes are summed by halves.
//% include "index.wgsl"
//% include "sum64.wgsl"

struct Params { count: u32, partials: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(64)
fn sum_squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let g = group_index(group, groups);
    if g >= params.partials {
        return;
    }
    let end = min((g + 1u) * ${CHUNK}u, params.count);
    var sum = 0.0;
    for (var i = g * ${CHUNK}u + lane; i < end; i += 64u) {
        sum += x[i] * x[i];
    }
    let total = sum64(lane, vec2<f32>(sum, 0.0)).x;
    if lane == 0u {
        partials[g] = total;
    }
}
