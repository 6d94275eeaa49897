// task_vector_dots: partials_ge = sum over the g-th chunk of 1,024 elements of gradient (theta_e - theta), all experts in one pass
// Called by kernels/merge.rs. CPU twin: reference/merge.rs. Test: kernels-test/conformance/merge.rs.
// Shapes: gradient (count), models as merge_task_vectors reads them, partials (groups, experts). Grid: one workgroup a chunk.
// Numerics: a lane sums every 64th element, then the lanes are summed by halves.
//% include "index.wgsl"
//% include "sum64.wgsl"

struct Params { count: u32, experts: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read> models: array<f32>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(64)
fn task_vector_dots(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let g = group_index(group, groups);
    let first = g * ${CHUNK}u;
    if first >= params.count {
        return;
    }
    let length = min(params.count - first, ${CHUNK}u);
    let base = first * (params.experts + 1u);
    for (var e = 0u; e < params.experts; e++) {
        let expert = base + (e + 1u) * ${CHUNK}u;
        var sum = 0.0;
        for (var i = lane; i < length; i += 64u) {
            sum += gradient[first + i] * (models[expert + i] - models[base + i]);
        }
        let total = sum64(lane, vec2<f32>(sum, 0.0)).x;
        if lane == 0u {
            partials[g * params.experts + e] = total;
        }
        // The next expert's sums go where this one's are.
        workgroupBarrier();
    }
}
