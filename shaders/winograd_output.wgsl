// winograd_output: y = A^T M A + bias + addend, the pixels of each tile of F(2x2, 3x3) or F(4x4, 3x3) (Lavin and Gray 2015)
// Called by kernels/winograd.rs. CPU twin: reference/winograd.rs. Test: kernels-test/conformance/winograd.rs.
// Shapes: m ((TILE + 2)^2, N ceil(H/TILE) ceil(W/TILE), C), bias (C); y (N, H, W, C). Grid: one invocation a tile and WIDTH
// channels.
//% include "index.wgsl"
//% include "lanes.wgsl"

struct Params { batch: u32, height: u32, width: u32, channels: u32, tile: u32, has_bias: u32, addend: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> m: array<Lanes>;
@group(0) @binding(2) var<storage, read> bias: array<Lanes>;
@group(0) @binding(3) var<storage, read> addend: array<Lanes>;
@group(0) @binding(4) var<storage, read_write> y: array<Lanes>;

//% set ELEMENT = "Lanes"
//% include "addend.wgsl"

// a<i><k> = A^T m<i><k> over the index i; the points are winograd_input's.
//% macro a_t(a, m, k)
//% if TILE == 2
    let ${a}0${k} = ${m}0${k} + ${m}1${k} + ${m}2${k};
    let ${a}1${k} = ${m}1${k} - ${m}2${k} - ${m}3${k};
//% else
    let even_${a}${k} = ${m}1${k} + ${m}2${k};
    let odd_${a}${k} = ${m}1${k} - ${m}2${k};
    let even_far_${a}${k} = ${m}3${k} + ${m}4${k};
    let odd_far_${a}${k} = ${m}3${k} - ${m}4${k};
    let ${a}0${k} = ${m}0${k} + even_${a}${k} + even_far_${a}${k};
    let ${a}1${k} = 0.75 * odd_${a}${k} + 1.5 * odd_far_${a}${k};
    let ${a}2${k} = 0.5625 * even_${a}${k} + 2.25 * even_far_${a}${k};
    let ${a}3${k} = 0.421875 * odd_${a}${k} + 3.375 * odd_far_${a}${k} + ${m}5${k};
//% endif
//% endmacro

@compute @workgroup_size(64)
fn winograd_output(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    let top = (strip - n * down) * ${TILE}u;
    let left = (tile - strip * across) * ${TILE}u;
    var offset = Lanes();
    if p.has_bias != 0u {
        offset = bias[i - tile * lanes];
    }
    // Column by column, then row by row: a<row><column>, and the other way round.
//% for c in range(TILE + 2)
//% for r in range(TILE + 2)
    let m${r}${c} = m[i + ${(TILE + 2) * r + c}u * size];
//% endfor
${a_t("a", "m", c)}
//% endfor
    let first = (n * p.height + top) * p.width + left;
    let channel = i - tile * lanes;
    // The last tiles may reach beyond the image, by whole rows and columns.
//% for r in range(TILE)
    if top + ${r}u < p.height {
${a_t("y" ~ r ~ "_", "a" ~ r, "")}
//% for c in range(TILE)
        if left + ${c}u < p.width {
            let pixel${r}_${c} = first + ${r}u * p.width + ${c}u;
            y[pixel${r}_${c} * lanes + channel] = with_addend(y${r}_${c} + offset, pixel${r}_${c}, channel, lanes);
        }
//% endfor
    }
//% endfor
}
