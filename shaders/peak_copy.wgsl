// peak_copy: y = x
// Called by kernels/peak.rs. CPU twin: reference/peak.rs. Test: kernels-test/conformance/peak.rs.
// Shapes: x, y (count), count a multiple of 4. Grid: one workgroup 1,024 vectors of four, four an invocation.
//% include "index.wgsl"

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(256)
fn peak_copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let count = params.count / 4u;
    let first = group_index(group, groups) * 1024u + lane;
    if first + 768u < count {
        // All loads before the stores: more of them in flight.
        let v0 = x[first];
        let v1 = x[first + 256u];
        let v2 = x[first + 512u];
        let v3 = x[first + 768u];
        y[first] = v0;
        y[first + 256u] = v1;
        y[first + 512u] = v2;
        y[first + 768u] = v3;
        return;
    }
    for (var i = first; i < count; i += 256u) {
        y[i] = x[i];
    }
}
