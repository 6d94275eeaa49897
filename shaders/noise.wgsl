// noise: standard normals as a function of (seed, stream, block); the four elements of a block are neighbours
// Called by kernels/noise.rs. CPU twin: reference/noise.rs. Test: kernels-test/conformance/noise.rs.
// Shapes: key (6) = seed, stream, first block, each low word first; x (images, image). Pad channels are 0.
// Grid: one invocation a block. Image n has the blocks first + n blocks .. , whatever the batch.
//% include "index.wgsl"
//% include "philox.wgsl"
//% include "normal.wgsl"

struct Params { images: u32, image: u32, blocks: u32, channels: u32, stride: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> key: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn noise(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if i >= params.images * params.blocks {
        return;
    }
    let source = Philox(vec2<u32>(key[0], key[1]), vec2<u32>(key[2], key[3]));
    let values = normal4(philox(source, add_wide(vec2<u32>(key[4], key[5]), i)));
    let image = i / params.blocks;
    let first = i % params.blocks * 4u;
//% for j in range(4)
    if first + ${j}u < params.image {
        let pad = (first + ${j}u) % params.stride >= params.channels;
        x[image * params.image + first + ${j}u] = select(values[${j}], 0.0, pad);
    }
//% endfor
}
