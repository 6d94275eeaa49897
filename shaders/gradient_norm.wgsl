// gradient_norm: status = (factor, finite, norm, skipped, scale, good, 1 / scale) of a gradient times scale, from its
// partial sums of squares
// Called by kernels/optim.rs. CPU twin: reference/optim.rs. Test: kernels-test/conformance/optim.rs.
// Shapes: partials (count), status (7). Grid: one workgroup.
// Numerics: norm is the true gradient's. factor is torch's clip_grad_norm_, min(1, max_norm / (norm + 1e-6)), over scale; no
// clipping where max_norm is 0. Where the sum is not finite the factor, the flag and the norm are 0, and skipped counts one more.
// The scale, a power of two, moves as torch's GradScaler: half where the sum is not finite, twice after `interval` others in a
// row, which good counts; never where interval is 0. It ends at LARGEST, and stays where it has fallen below 1.
//% include "index.wgsl"
//% include "finite.wgsl"
//% include "sum64.wgsl"

struct Params { count: u32, max_norm: f32, interval: u32 }

const LARGEST = 16777216.0;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> status: array<f32>;

@compute @workgroup_size(64)
fn gradient_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    if group_index(group, groups) != 0u {
        return;
    }
    var sum = 0.0;
    for (var i = lane; i < params.count; i += 64u) {
        sum += partials[i];
    }
    let total = sum64(lane, vec2<f32>(sum, 0.0)).x;
    if lane != 0u {
        return;
    }
    let scale = status[4];
    // Kept, because a quotient need not be exact on a GPU.
    let unscale = status[6];
    if !is_finite(total) {
        status[0] = 0.0;
        status[1] = 0.0;
        status[2] = 0.0;
        status[3] += 1.0;
        if params.interval != 0u {
            status[5] = 0.0;
            if scale >= 1.0 {
                status[4] = 0.5 * scale;
                status[6] = 2.0 * unscale;
            }
        }
        return;
    }
    let norm = sqrt(total) * unscale;
    var factor = 1.0;
    if params.max_norm > 0.0 {
        factor = min(1.0, params.max_norm / (norm + 1e-6));
    }
    status[0] = factor * unscale;
    status[1] = 1.0;
    status[2] = norm;
    if params.interval == 0u {
        return;
    }
    status[5] += 1.0;
    if status[5] >= f32(params.interval) {
        status[5] = 0.0;
        if scale >= 1.0 && scale < LARGEST {
            status[4] = 2.0 * scale;
            status[6] = 0.5 * unscale;
        }
    }
}
