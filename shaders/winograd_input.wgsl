// winograd_input: V = B^T d B, the 4x4 tiles of F(2x2, 3x3) (Lavin and Gray 2015), two pixels from one to the next
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: x (N, H, W, C), one zero around; v (16, N ceil(H/2) ceil(W/2), C). Grid: one invocation a tile and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32, has_bias: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> v: array<Lanes>;

@compute @workgroup_size(64)
fn winograd_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let lanes = p.channels / ${WIDTH}u;
    let across = (p.width + 1u) / 2u;
    let down = (p.height + 1u) / 2u;
    let size = p.batch * down * across * lanes;
    let i = group_index(group, groups) * 64u + lane;
    if i >= size {
        return;
    }
    let tile = i / lanes;
    let strip = tile / across;
    let n = strip / down;
    // Where the tile starts; -1 at the edges, as numbers that wrap.
    let top = (strip - n * down) * 2u - 1u;
    let left = (tile - strip * across) * 2u - 1u;
    let first = ((n * p.height + top) * p.width + left) * lanes + i - tile * lanes;
    let row = p.width * lanes;
//% for r in range(4)
//% for c in range(4)
    let inside${r}${c} = top + ${r}u < p.height && left + ${c}u < p.width;
    let d${r}${c} = select(Lanes(), x[select(0u, first + ${r}u * row + ${c}u * lanes, inside${r}${c})], inside${r}${c});
//% endfor
//% endfor
    // a = B^T d, column by column.
//% for c in range(4)
    let a0${c} = d0${c} - d2${c};
    let a1${c} = d1${c} + d2${c};
    let a2${c} = d2${c} - d1${c};
    let a3${c} = d1${c} - d3${c};
//% endfor
//% for r in range(4)
    v[i + ${4 * r}u * size] = a${r}0 - a${r}2;
    v[i + ${4 * r + 1}u * size] = a${r}1 + a${r}2;
    v[i + ${4 * r + 2}u * size] = a${r}2 - a${r}1;
    v[i + ${4 * r + 3}u * size] = a${r}1 - a${r}3;
//% endfor
}
