// conv2d_backward_weight: dw += the sum over pixels of x dy, the gradient of conv2d_forward with respect to w
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), dy (batch, out_h, out_w, cout), dw (chunks, kh, kw, cin, cout): each chunk sums `chunk`
// rows of pixels of dy. Grid: one subgroup of 8 lanes a tile of R terms (tap, channel of x) x 8 V channels of dy.
// For CPU rasterisers, as matmul_backward_weight_subgroup.
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% set VECTOR = {1: "f32", 2: "vec2<f32>", 4: "vec4<f32>"}[V]

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<${VECTOR}>;
@group(0) @binding(3) var<storage, read_write> dw: array<${VECTOR}>;

@compute @workgroup_size(8)
fn conv2d_backward_weight_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                   @builtin(subgroup_invocation_id) lane: u32) {
    let p = params;
    let columns = p.cout / ${V}u;
    let terms = p.kh * p.kw * p.cin;
    let tiles_n = (columns + 7u) / 8u;
    let tiles_k = (terms + ${R - 1}u) / ${R}u;
    let tile = group_index(group, groups);
    let piece = tile / (tiles_k * tiles_n);
    let first = piece * p.chunk;
    let rows = p.batch * p.out_h;
    if first >= rows {
        return;
    }
    let tile_k = tile / tiles_n - piece * tiles_k;
    let term = tile_k * ${R}u;
    let column = tile % tiles_n * 8u + lane;
    let from_dy = min(column, columns - 1u);
//% for q in range(R // 8)
    // The tap and channel that this lane loads for the ${8 * q} + lane-th row of the tile.
    let mine${q} = min(term + lane + ${8 * q}u, terms - 1u);
    let tap${q} = mine${q} / p.cin;
    let channel${q} = mine${q} - tap${q} * p.cin;
    let ky${q} = tap${q} / p.kw - p.pad_top;
    let kx${q} = tap${q} % p.kw - p.pad_left;
//% endfor
//% for r in range(R)
    var sum${r} = ${VECTOR}();
//% endfor
    for (var row = first; row < min(first + p.chunk, rows); row++) {
        let n = row / p.out_h;
        let oy = row - n * p.out_h;
        var at_dy = row * p.out_w * columns + from_dy;
//% for q in range(R // 8)
        let iy${q} = oy * p.stride + ky${q};
        let inside${q} = iy${q} < p.in_h;
        var ix${q} = kx${q};
        let at_x${q} = (n * p.in_h + iy${q}) * p.in_w * p.cin + channel${q};
//% endfor
        for (var ox = 0u; ox < p.out_w; ox++) {
            let dy_o = dy[at_dy];
            at_dy += columns;
//% for q in range(R // 8)
            let valid${q} = inside${q} && ix${q} < p.in_w;
            let x${q} = select(0.0, x[select(0u, at_x${q} + ix${q} * p.cin, valid${q})], valid${q});
            ix${q} += p.stride;
//% endfor
//% for r in range(R)
            sum${r} = fma(${VECTOR}(subgroupBroadcast(x${r // 8}, ${r % 8}u)), dy_o, sum${r});
//% endfor
        }
    }
    if column < columns {
//% for r in range(R)
        if term + ${r}u < terms {
            dw[(piece * terms + term + ${r}u) * columns + column] += sum${r};
        }
//% endfor
    }
}
