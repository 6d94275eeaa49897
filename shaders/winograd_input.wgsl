// winograd_input: V = B^T d B, the tiles of F(2x2, 3x3) or F(4x4, 3x3) (Lavin and Gray 2015), TILE pixels from one to the next
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: x (N, H, W, C), one zero around; v ((TILE + 2)^2, N ceil(H/TILE) ceil(W/TILE), C). Grid: one invocation a tile and
// WIDTH channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32, tile: u32, has_bias: u32, addend: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lanes>;
@group(0) @binding(2) var<storage, read_write> v: array<Lanes>;

// a<i><k> = B^T d<i><k> over the index i; with the points 0, 3/4, -3/4, 3/2, -3/2 and infinity for four pixels.
//% macro b_t(a, d, k)
//% if TILE == 2
    let ${a}0${k} = ${d}0${k} - ${d}2${k};
    let ${a}1${k} = ${d}1${k} + ${d}2${k};
    let ${a}2${k} = ${d}2${k} - ${d}1${k};
    let ${a}3${k} = ${d}1${k} - ${d}3${k};
//% else
    let even_${a}${k} = ${d}4${k} - 2.25 * ${d}2${k};
    let odd_${a}${k} = 0.75 * (${d}3${k} - 2.25 * ${d}1${k});
    let even_far_${a}${k} = ${d}4${k} - 0.5625 * ${d}2${k};
    let odd_far_${a}${k} = 1.5 * (${d}3${k} - 0.5625 * ${d}1${k});
    let ${a}0${k} = 1.265625 * ${d}0${k} - 2.8125 * ${d}2${k} + ${d}4${k};
    let ${a}1${k} = even_${a}${k} + odd_${a}${k};
    let ${a}2${k} = even_${a}${k} - odd_${a}${k};
    let ${a}3${k} = even_far_${a}${k} + odd_far_${a}${k};
    let ${a}4${k} = even_far_${a}${k} - odd_far_${a}${k};
    let ${a}5${k} = 1.265625 * ${d}1${k} - 2.8125 * ${d}3${k} + ${d}5${k};
//% endif
//% endmacro

@compute @workgroup_size(64)
fn winograd_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let p = params;
    let lanes = p.channels / ${WIDTH}u;
    let across = (p.width + ${TILE - 1}u) / ${TILE}u;
    let down = (p.height + ${TILE - 1}u) / ${TILE}u;
    let size = p.batch * down * across * lanes;
    let i = group_index(group, groups) * 64u + lane;
    if i >= size {
        return;
    }
    let tile = i / lanes;
    let strip = tile / across;
    let n = strip / down;
    // Where the tile starts; -1 at the edges, as numbers that wrap.
    let top = (strip - n * down) * ${TILE}u - 1u;
    let left = (tile - strip * across) * ${TILE}u - 1u;
    let first = ((n * p.height + top) * p.width + left) * lanes + i - tile * lanes;
    let row = p.width * lanes;
    // Column by column, then row by row: a<row><column>, and the other way round.
//% for c in range(TILE + 2)
//% for r in range(TILE + 2)
    let inside${r}${c} = top + ${r}u < p.height && left + ${c}u < p.width;
    let d${r}${c} = select(Lanes(), x[select(0u, first + ${r}u * row + ${c}u * lanes, inside${r}${c})], inside${r}${c});
//% endfor
${b_t("a", "d", c)}
//% endfor
//% for r in range(TILE + 2)
${b_t("v" ~ r ~ "_", "a" ~ r, "")}
//% for c in range(TILE + 2)
    v[i + ${(TILE + 2) * r + c}u * size] = v${r}_${c};
//% endfor
//% endfor
}
