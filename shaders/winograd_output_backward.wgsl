// winograd_output_backward: dM = A dy A^T, the gradient of winograd_output with respect to the products
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: dy (N, H, W, C); dm (16, N ceil(H/2) ceil(W/2), C). Grid: one invocation a tile and WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32, has_bias: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> dm: array<Lanes>;

@compute @workgroup_size(64)
fn winograd_output_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    let first = ((n * p.height + top) * p.width + left) * lanes + i - tile * lanes;
    // The last row and column of an odd size have no second pixel.
    let right = left + 1u < p.width;
    let below = top + 1u < p.height;
    let row = p.width * lanes;
    let d00 = dy[first];
    let d01 = select(Lanes(), dy[select(0u, first + lanes, right)], right);
    let d10 = select(Lanes(), dy[select(0u, first + row, below)], below);
    let d11 = select(Lanes(), dy[select(0u, first + row + lanes, below && right)], below && right);
    // a = A d, column by column.
//% for c in range(2)
    let a0${c} = d0${c};
    let a1${c} = d0${c} + d1${c};
    let a2${c} = d0${c} - d1${c};
    let a3${c} = -d1${c};
//% endfor
//% for r in range(4)
    dm[i + ${4 * r}u * size] = a${r}0;
    dm[i + ${4 * r + 1}u * size] = a${r}0 + a${r}1;
    dm[i + ${4 * r + 2}u * size] = a${r}0 - a${r}1;
    dm[i + ${4 * r + 3}u * size] = -a${r}1;
//% endfor
}
