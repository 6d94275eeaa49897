// peak_fma: y = the sum over c of what a chain that starts at (c + 1) x is after 16 `rounds` times a = factor a + x
// Called by kernels/peak.rs. CPU twin: reference/peak.rs. Test: kernels-test/conformance/peak.rs.
// Shapes: x, y (count), count a multiple of 4. Grid: one invocation four neighbouring elements.
// The chains are independent, so that their latency hides; 8 FMAs in flight a lane, no memory between first and last.
//% include "index.wgsl"

struct Params { count: u32, rounds: u32, factor: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn peak_fma(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.count / 4u {
        return;
    }
    let v = x[i];
    let factor = vec4<f32>(params.factor);
//% for c in range(CHAINS)
    var a${c} = v * ${c + 1}.0;
//% endfor
    for (var round = 0u; round < params.rounds; round++) {
//% for step in range(16)
//% for c in range(CHAINS)
        a${c} = fma(a${c}, factor, v);
//% endfor
//% endfor
    }
    var sum = a0;
//% for c in range(1, CHAINS)
    sum += a${c};
//% endfor
    y[i] = sum;
}
