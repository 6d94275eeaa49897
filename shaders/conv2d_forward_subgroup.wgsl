// conv2d_forward: y = x * w + bias + addend
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: x (batch, in_h, in_w, cin), w (kh, kw, cin, cout), bias (cout), y (batch, out_h, out_w, cout).
// Grid: one subgroup of 8 lanes a tile of R pixels x 8 V channels. For CPU rasterisers: see matmul_forward_subgroup.
//% set C = 1
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% set VECTOR = {1: "f32", 2: "vec2<f32>", 4: "vec4<f32>"}[V]

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<${VECTOR}>;
@group(0) @binding(3) var<storage, read> bias: array<${VECTOR}>;
@group(0) @binding(4) var<storage, read> addend: array<${VECTOR}>;
@group(0) @binding(5) var<storage, read_write> y: array<${VECTOR}>;

//% set ELEMENT = VECTOR
//% include "addend.wgsl"

@compute @workgroup_size(8)
fn conv2d_forward_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(subgroup_invocation_id) lane: u32) {
    let p = params;
    let columns = p.cout / ${V}u;
    let tiles_n = (columns + 7u) / 8u;
    let pixels = p.batch * p.out_h * p.out_w;
    let tile = group_index(group, groups);
    let tile_m = tile / tiles_n;
    let row = tile_m * ${R}u;
    if row >= pixels {
        return;
    }
    let column = (tile - tile_m * tiles_n) * 8u + lane;
    let w_start = min(column, columns - 1u);
    let w_step = columns;
    // Of each pixel: where its window starts (wrapping below 0 where it reaches into the padding).
    var n = row / (p.out_h * p.out_w);
    var oy = row / p.out_w - n * p.out_h;
    var ox = row % p.out_w;
//% for r in range(R)
    let iy${r} = oy * p.stride - p.pad_top;
    let ix${r} = ox * p.stride - p.pad_left;
    let at_x${r} = ((n * p.in_h + iy${r}) * p.in_w + ix${r}) * p.cin;
    let real${r} = row + ${r}u < pixels;
    var sum${r}_0 = ${VECTOR}();
    ox += 1u;
    if ox == p.out_w {
        ox = 0u;
        oy += 1u;
        if oy == p.out_h {
            oy = 0u;
            n += 1u;
        }
    }
//% endfor
//% if WHOLE_TAPS
    // cin % 8 == 0: eight terms never cross from one tap into the next.
    for (var tap = 0u; tap < p.kh * p.kw; tap++) {
        let ky = tap / p.kw;
        let kx = tap - ky * p.kw;
        let offset = (ky * p.in_w + kx) * p.cin;
//% for r in range(R)
        let valid${r} = real${r} && iy${r} + ky < p.in_h && ix${r} + kx < p.in_w;
        let from${r} = select(0u, at_x${r} + offset, valid${r}) + lane;
//% endfor
        let needed = false
//% for r in range(R)
            || valid${r}
//% endfor
        ;
        if !needed {
            continue;
        }
        var at_w = w_start + tap * p.cin * w_step;
        for (var c = 0u; c < p.cin; c += 8u) {
//% for r in range(R)
            let x${r} = select(0.0, x[from${r} + c], valid${r});
//% endfor
//% set EIGHTS = true
//% include "subgroup_rows.wgsl"
        }
    }
//% else
    let terms = p.kh * p.kw * p.cin;
    let w_last = w_start + (terms - 1u) * w_step;
    var at_w = w_start;
    for (var k = 0u; k < terms; k += 8u) {
        let term = min(k + lane, terms - 1u);
        let tap = term / p.cin;
        let ky = tap / p.kw;
        let kx = tap - ky * p.kw;
        let offset = (ky * p.in_w + kx) * p.cin + term - tap * p.cin;
//% for r in range(R)
        let valid${r} = k + lane < terms && real${r} && iy${r} + ky < p.in_h && ix${r} + kx < p.in_w;
        let x${r} = select(0.0, x[select(0u, at_x${r} + offset, valid${r})], valid${r});
//% endfor
//% set EIGHTS = false
//% include "subgroup_rows.wgsl"
    }
//% endif
    if column < columns {
        var offset = ${VECTOR}();
        if p.has_bias != 0u {
            offset = bias[column];
        }
//% for r in range(R)
        if real${r} {
            y[(row + ${r}u) * columns + column] = with_addend(sum${r}_0 + offset, row + ${r}u, column, columns);
        }
//% endfor
    }
}
