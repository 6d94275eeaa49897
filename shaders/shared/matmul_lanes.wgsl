// y of one subgroup of 8 lanes, a tile of R rows x 8 C V columns: the body of matmul_forward_subgroup and, with K4,
// matmul_forward_uniform, whose lanes all load the same four terms of a row.
    let p = params;
    let tiles_n = (p.n + ${8 * V * C - 1}u) / ${8 * V * C}u;
    let tiles = (p.m + ${R - 1}u) / ${R}u * tiles_n;
    let index = group_index(group, groups);
//% if WINDOW
    // This pass takes the window's matrices, or of one its terms in the window: `first` to `end`, the first held being `base`.
    let held = ${4 * WINDOW // MATRICES}u / p.n;
    let parts = (p.k + held - 1u) / held;
    let matrix = index / tiles;
    let batch = p.window / parts * ${MATRICES}u + matrix;
    let first = p.window % parts * held;
    let end = min(first + held, p.k);
    let base = min(first, p.k - held);
    let tile = index - matrix * tiles;
    if matrix >= ${MATRICES}u {
        return;
    }
//% else
    let batch = index / tiles;
    let first = 0u;
    let end = p.k;
    let tile = index - batch * tiles;
    if batch >= p.batch_outer * p.batch_inner {
        return;
    }
//% endif
    let outer = batch / p.batch_inner;
    let inner = batch - outer * p.batch_inner;
    // Neighbours share their columns of w, which stay in the cache; by rows first, all of w would pass through it for each.
    let tiles_m = tiles / tiles_n;
    let tile_n = tile / tiles_m;
    let row = (tile - tile_n * tiles_m) * ${R}u;
    let column = tile_n * ${8 * C}u + lane;
    let columns = p.n / ${V}u;
    let x_start = outer * p.x_outer + inner * p.x_inner;
    let w_step = p.ldw / ${V}u;
//% if WINDOW
    var at_w = min(column, columns - 1u) + (matrix * held + first - base) * w_step;
//% else
    var at_w = (outer * p.w_outer + inner * p.w_inner) / ${V}u + min(column, columns - 1u);
//% if not K4
    let w_last = at_w + (p.k - 1u) * w_step;
//% endif
//% endif
//% for c in range(1, C)
    // Past the last column the last one is read again; the difference may wrap.
    let apart${c} = min(column + ${8 * c}u, columns - 1u) - min(column, columns - 1u);
//% endfor
//% for r in range(R)
    let at_x${r} = x_start + min(row + ${r}u, p.m - 1u) * p.ldx;
//% for c in range(C)
    var sum${r}_${c} = ${VECTOR}();
//% endfor
//% endfor
//% if K4
    for (var k = first; k < end; k += 4u) {
//% for r in range(R)
        let x${r} = x[(at_x${r} + k) / 4u];
//% endfor
//% for u in range(4)
        let w${u}_0 = w[at_w];
//% for c in range(1, C)
        let w${u}_${c} = w[at_w + apart${c}];
//% endfor
        at_w += w_step;
//% for r in range(R)
//% for c in range(C)
        sum${r}_${c} = fma(${VECTOR}(x${r}[${u}]), w${u}_${c}, sum${r}_${c});
//% endfor
//% endfor
//% endfor
    }
//% else
    for (var k = first; k < end; k += 8u) {
//% if WINDOW
//% for r in range(R)
        let x${r} = x[at_x${r} + k + lane];
//% endfor
//% else
        let at = min(k + lane, p.k - 1u);
        let inside = k + lane < p.k;
//% for r in range(R)
        let x${r} = select(0.0, x[at_x${r} + at], inside);
//% endfor
//% endif
//% set EIGHTS = WINDOW > 0
//% include "subgroup_rows.wgsl"
    }
//% endif
//% for c in range(C)
    let column${c} = column + ${8 * c}u;
    if column${c} < columns {
        var offset = ${VECTOR}();
        if p.has_bias != 0u {
            offset = bias[column${c}];
        }
        let y_start = (outer * p.y_outer + inner * p.y_inner) / ${V}u + column${c};
//% for r in range(R)
        if row + ${r}u < p.m {
//% if WINDOW
            var before${r} = offset;
            if first != 0u {
                before${r} = y[y_start + (row + ${r}u) * (p.ldy / ${V}u)];
            }
            var total${r} = before${r} + p.alpha * sum${r}_${c};
            if end == p.k {
                total${r} = with_addend(total${r}, row + ${r}u, column${c}, columns);
            }
            y[y_start + (row + ${r}u) * (p.ldy / ${V}u)] = total${r};
//% else
            let total${r} = p.alpha * sum${r}_${c} + offset;
            y[y_start + (row + ${r}u) * (p.ldy / ${V}u)] = with_addend(total${r}, row + ${r}u, column${c}, columns);
//% endif
        }
//% endfor
    }
//% endfor
