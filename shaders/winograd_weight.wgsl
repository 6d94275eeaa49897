// winograd_weight: U = G g G^T, the weights of F(2x2, 3x3) or F(4x4, 3x3) (Lavin and Gray 2015)
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: w (3, 3, cin, cout); u ((TILE + 2)^2, cin, cout), or turned ((TILE + 2)^2, cout, cin). Grid: one invocation an input
// channel and WIDTH output channels, or turned an output channel and WIDTH input channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { cin: u32, cout: u32, tile: u32, turned: u32 }
@group(0) @binding(0) var<uniform> params: Params;
//% if TURNED
@group(0) @binding(1) var<storage, read> w: array<f32>;
//% else
@group(0) @binding(1) var<storage, read> w: array<Lanes>;
//% endif
@group(0) @binding(2) var<storage, read_write> u: array<Lanes>;

// a<i><k> = G g<i><k> over the index i; the points are winograd_input's.
//% macro g_rows(a, g, k)
//% if TILE == 2
    let outer_${a}${k} = ${g}0${k} + ${g}2${k};
    let ${a}0${k} = ${g}0${k};
    let ${a}1${k} = 0.5 * (outer_${a}${k} + ${g}1${k});
    let ${a}2${k} = 0.5 * (outer_${a}${k} - ${g}1${k});
    let ${a}3${k} = ${g}2${k};
//% else
    let even_${a}${k} = ${g}0${k} + 0.5625 * ${g}2${k};
    let odd_${a}${k} = 0.75 * ${g}1${k};
    let even_far_${a}${k} = ${g}0${k} + 2.25 * ${g}2${k};
    let odd_far_${a}${k} = 1.5 * ${g}1${k};
    let ${a}0${k} = (64.0 / 81.0) * ${g}0${k};
    let ${a}1${k} = (-128.0 / 243.0) * (even_${a}${k} + odd_${a}${k});
    let ${a}2${k} = (-128.0 / 243.0) * (even_${a}${k} - odd_${a}${k});
    let ${a}3${k} = (32.0 / 243.0) * (even_far_${a}${k} + odd_far_${a}${k});
    let ${a}4${k} = (32.0 / 243.0) * (even_far_${a}${k} - odd_far_${a}${k});
    let ${a}5${k} = ${g}2${k};
//% endif
//% endmacro

@compute @workgroup_size(64)
fn winograd_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let size = params.cin * params.cout / ${WIDTH}u;
    let i = group_index(group, groups) * 64u + lane;
    if i >= size {
        return;
    }
//% if TURNED
    // The taps from the last to the first, a row of w for each of WIDTH input channels.
    let cin = i / params.cout;
    let at_w = cin * ${WIDTH}u * params.cout + i - cin * params.cout;
    let at_u = (i - cin * params.cout) * (params.cin / ${WIDTH}u) + cin;
//% for tap in range(9)
    let row${tap} = at_w + ${8 - tap}u * size * ${WIDTH}u;
//% if WIDTH == 4
    let g${tap // 3}${tap % 3} = vec4<f32>(w[row${tap}], w[row${tap} + params.cout], w[row${tap} + 2u * params.cout],
                       w[row${tap} + 3u * params.cout]);
//% else
    let g${tap // 3}${tap % 3} = w[row${tap}];
//% endif
//% endfor
//% else
    let at_u = i;
//% for tap in range(9)
    let g${tap // 3}${tap % 3} = w[i + ${tap}u * size];
//% endfor
//% endif
    // Column by column, then row by row: a<row><column>, and the other way round.
//% for c in range(3)
${g_rows("a", "g", c)}
//% endfor
//% for r in range(TILE + 2)
${g_rows("u" ~ r ~ "_", "a" ~ r, "")}
//% for c in range(TILE + 2)
    u[at_u + ${(TILE + 2) * r + c}u * size] = u${r}_${c};
//% endfor
//% endfor
}
