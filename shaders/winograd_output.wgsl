// winograd_output: y = A^T M A + bias, the 2x2 pixels of each tile of F(2x2, 3x3) (Lavin and Gray 2015)
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: m (16, N ceil(H/2) ceil(W/2), C), bias (C); y (N, H, W, C). Grid: one invocation a tile and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32, has_bias: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> m: array<Lanes>;
@group(0) @binding(2) var<storage, read> bias: array<Lanes>;
@group(0) @binding(3) var<storage, read_write> y: array<Lanes>;

@compute @workgroup_size(64)
fn winograd_output(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    let top = (strip - n * down) * 2u;
    let left = (tile - strip * across) * 2u;
    var offset = Lanes();
    if p.has_bias != 0u {
        offset = bias[i - tile * lanes];
    }
    // a = A^T m, column by column.
//% for c in range(4)
//% for r in range(4)
    let m${r}${c} = m[i + ${4 * r + c}u * size];
//% endfor
    let a0${c} = m0${c} + m1${c} + m2${c};
    let a1${c} = m1${c} - m2${c} - m3${c};
//% endfor
    let first = ((n * p.height + top) * p.width + left) * lanes + i - tile * lanes;
    // The last row and column of an odd size have no second pixel.
    let right = left + 1u < p.width;
    y[first] = a00 + a01 + a02 + offset;
    if right {
        y[first + lanes] = a01 - a02 - a03 + offset;
    }
    if top + 1u < p.height {
        let below = first + p.width * lanes;
        y[below] = a10 + a11 + a12 + offset;
        if right {
            y[below + lanes] = a11 - a12 - a13 + offset;
        }
    }
}
