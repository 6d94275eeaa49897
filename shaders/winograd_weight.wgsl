// winograd_weight: U = G g G^T, the weights of F(2x2, 3x3) (Lavin and Gray 2015)
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: w (3, 3, cin, cout); u (16, cin, cout), or turned (16, cout, cin). Grid: one invocation an input channel and
// WIDTH output channels, or turned an output channel and WIDTH input channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { cin: u32, cout: u32, turned: u32 }
@group(0) @binding(0) var<uniform> params: Params;
//% if TURNED
@group(0) @binding(1) var<storage, read> w: array<f32>;
//% else
@group(0) @binding(1) var<storage, read> w: array<Lanes>;
//% endif
@group(0) @binding(2) var<storage, read_write> u: array<Lanes>;

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
    let g${tap} = vec4<f32>(w[row${tap}], w[row${tap} + params.cout], w[row${tap} + 2u * params.cout],
                            w[row${tap} + 3u * params.cout]);
//% else
    let g${tap} = w[row${tap}];
//% endif
//% endfor
//% else
    let at_u = i;
//% for tap in range(9)
    let g${tap} = w[i + ${tap}u * size];
//% endfor
//% endif
    // a = G g, column by column.
//% for c in range(3)
    let outer${c} = g${c} + g${c + 6};
    let a0${c} = g${c};
    let a1${c} = 0.5 * (outer${c} + g${c + 3});
    let a2${c} = 0.5 * (outer${c} - g${c + 3});
    let a3${c} = g${c + 6};
//% endfor
//% for r in range(4)
    let both${r} = a${r}0 + a${r}2;
    u[at_u + ${4 * r}u * size] = a${r}0;
    u[at_u + ${4 * r + 1}u * size] = 0.5 * (both${r} + a${r}1);
    u[at_u + ${4 * r + 2}u * size] = 0.5 * (both${r} - a${r}1);
    u[at_u + ${4 * r + 3}u * size] = a${r}2;
//% endfor
}
