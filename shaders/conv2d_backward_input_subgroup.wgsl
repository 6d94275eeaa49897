// conv2d_backward_input: dx = dy * w, the gradient of conv2d_forward with respect to x
// Called by kernels/conv2d.rs. CPU twin: reference/conv.rs. Test: kernels-test/conformance/conv.rs.
// Shapes: dy (batch, out_h, out_w, cout), w (kh, kw, cout, cin) transposed, dx (batch, in_h, in_w, cin).
// Grid: one subgroup of 8 lanes a tile of R pixels x 8 V channels. For CPU rasterisers: see matmul_forward_subgroup.
// A pixel of dx gathers from the outputs whose windows hold it. With stride S, pixels are taken phase by phase (y % S, x % S),
// so that the pixels of a tile need the same taps, a ninth to four ninths of a 3x3 window at stride 2.
//% set C = 1
//% include "index.wgsl"
//% include "conv2d_params.wgsl"
//% set VECTOR = {1: "f32", 2: "vec2<f32>", 4: "vec4<f32>"}[V]

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<${VECTOR}>;
@group(0) @binding(3) var<storage, read_write> dx: array<${VECTOR}>;

@compute @workgroup_size(8)
fn conv2d_backward_input_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(subgroup_invocation_id) lane: u32) {
    let p = params;
    let columns = p.cin / ${V}u;
    let tiles_n = (columns + 7u) / 8u;
    let pixels = p.batch * p.in_h * p.in_w;
    let tile = group_index(group, groups);
    let tile_m = tile / tiles_n;
    let row = tile_m * ${R}u;
    if row >= pixels {
        return;
    }
    let column = (tile - tile_m * tiles_n) * 8u + lane;
    let w_start = min(column, columns - 1u);
    let w_step = columns;
    let high = p.in_h / ${PHASES}u;
    let wide = p.in_w / ${PHASES}u;
    var n = row / (p.in_h * p.in_w);
    let within = row - n * p.in_h * p.in_w;
    var phase = within / (high * wide);
    var y = (within - phase * high * wide) / wide;
    var x = within % wide;
//% for r in range(R)
    let iy${r} = y * ${PHASES}u + phase / ${PHASES}u;
    let ix${r} = x * ${PHASES}u + phase % ${PHASES}u;
    let out${r} = (n * p.in_h + iy${r}) * p.in_w + ix${r};
    let at_dy${r} = n * p.out_h;
    let real${r} = row + ${r}u < pixels;
    var sum${r}_0 = ${VECTOR}();
    x += 1u;
    if x == wide {
        x = 0u;
        y += 1u;
        if y == high {
            y = 0u;
            phase += 1u;
            if phase == ${PHASES * PHASES}u {
                phase = 0u;
                n += 1u;
            }
        }
    }
//% endfor
//% if WHOLE_TAPS
    // cout % 8 == 0: eight terms never cross from one tap into the next.
    for (var tap = 0u; tap < p.kh * p.kw; tap++) {
        let ky = tap / p.kw;
        let kx = tap - ky * p.kw;
//% for r in range(R)
        // Wraps, and so fails the comparison, where the window would start above or left of the first.
        let ty${r} = iy${r} + p.pad_top - ky;
        let tx${r} = ix${r} + p.pad_left - kx;
        let oy${r} = ty${r} / ${STRIDE}u;
        let ox${r} = tx${r} / ${STRIDE}u;
        let valid${r} = real${r} && oy${r} < p.out_h && ox${r} < p.out_w
            && oy${r} * ${STRIDE}u == ty${r} && ox${r} * ${STRIDE}u == tx${r};
        let from${r} = select(0u, ((at_dy${r} + oy${r}) * p.out_w + ox${r}) * p.cout, valid${r}) + lane;
//% endfor
        let needed = false
//% for r in range(R)
            || valid${r}
//% endfor
        ;
        if !needed {
            continue;
        }
        var at_w = w_start + tap * p.cout * w_step;
        for (var c = 0u; c < p.cout; c += 8u) {
//% for r in range(R)
            let x${r} = select(0.0, dy[from${r} + c], valid${r});
//% endfor
//% set EIGHTS = true
//% include "subgroup_rows.wgsl"
        }
    }
//% else
    let terms = p.kh * p.kw * p.cout;
    let w_last = w_start + (terms - 1u) * w_step;
    var at_w = w_start;
    for (var k = 0u; k < terms; k += 8u) {
        let term = min(k + lane, terms - 1u);
        let tap = term / p.cout;
        let ky = tap / p.kw;
        let kx = tap - ky * p.kw;
        let channel = term - tap * p.cout;
//% for r in range(R)
        // Wraps, and so fails the comparison, where the window would start above or left of the first.
        let ty${r} = iy${r} + p.pad_top - ky;
        let tx${r} = ix${r} + p.pad_left - kx;
        let oy${r} = ty${r} / ${STRIDE}u;
        let ox${r} = tx${r} / ${STRIDE}u;
        let valid${r} = k + lane < terms && real${r} && oy${r} < p.out_h && ox${r} < p.out_w
            && oy${r} * ${STRIDE}u == ty${r} && ox${r} * ${STRIDE}u == tx${r};
        let from${r} = ((at_dy${r} + oy${r}) * p.out_w + ox${r}) * p.cout + channel;
        let x${r} = select(0.0, dy[select(0u, from${r}, valid${r})], valid${r});
//% endfor
//% set EIGHTS = false
//% include "subgroup_rows.wgsl"
    }
//% endif
    if column < columns {
//% for r in range(R)
        if real${r} {
            dx[out${r} * columns + column] = sum${r}_0;
        }
//% endfor
    }
}
