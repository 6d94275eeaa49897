// softmax_forward: y = exp(x - m) / the row's sum of exp(x - m), m the row's largest x
// Called by kernels/attention.rs. CPU twin: reference/attention.rs. Test: kernels-test/conformance/attention.rs.
// Shapes: x, y (rows, columns). Grid: one workgroup a row; a fixed tree of sums.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { rows: u32, columns: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> y: array<Lanes>;

var<workgroup> sh_part: array<f32, 64>;

fn largest_of(v: Lanes) -> f32 {
//% if WIDTH == 4
    return max(max(v.x, v.y), max(v.z, v.w));
//% else
    return v;
//% endif
}

fn total_of(v: Lanes) -> f32 {
//% if WIDTH == 4
    return (v.x + v.y) + (v.z + v.w);
//% else
    return v;
//% endif
}

@compute @workgroup_size(64)
fn softmax_forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let row = group_index(group, groups);
    if row >= params.rows {
        return;
    }
    let width = params.columns / ${WIDTH}u;
    let start = row * width;
    var most = Lanes(-3.4028234e38);
    for (var j = lane; j < width; j += 64u) {
        most = max(most, x[start + j]);
    }
    sh_part[lane] = largest_of(most);
    workgroupBarrier();
    for (var step = 32u; step > 0u; step /= 2u) {
        if lane < step {
            sh_part[lane] = max(sh_part[lane], sh_part[lane + step]);
        }
        workgroupBarrier();
    }
    let largest = sh_part[0];
    workgroupBarrier();
    var sum = Lanes(0.0);
    for (var j = lane; j < width; j += 64u) {
        sum += exp(x[start + j] - largest);
    }
    sh_part[lane] = total_of(sum);
    workgroupBarrier();
    for (var step = 32u; step > 0u; step /= 2u) {
        if lane < step {
            sh_part[lane] += sh_part[lane + step];
        }
        workgroupBarrier();
    }
    let factor = 1.0 / sh_part[0];
    for (var j = lane; j < width; j += 64u) {
        y[start + j] = exp(x[start + j] - largest) * factor;
    }
}
