// A tile of 64 rows x 64 columns by cooperative matrices, EDGE x EDGE at a time: four blocks of 32 x 32, one a subgroup. Factors
    // come as f32, are rounded to f16 on their way into workgroup memory, 32 terms at a time, and are summed in f32.
    // Included in an entry point that defines lane, subgroup, subgroups, row0, column0, first_term, last_term and, beside it,
    // Row, row_of, load_a and load_b (zero outside) as for tile_multiply.wgsl, A_BY_TERM too, and store, which is given four
    // sums at a place.
    // Subgroups may be of any size that divides 128: where there are fewer than four, blocks are taken in turns.
//% set TILES = 32 // EDGE
//% set STRIP = 256 // EDGE
//% for l in range(4)
//% if A_BY_TERM
    let a_row${l} = row_of(row0 + lane % 16u * 4u);
    let a_term${l} = lane / 16u + ${8 * l}u;
    let a_place${l} = a_term${l} * 72u + lane % 16u * 4u;
//% else
    let a_row${l} = row_of(row0 + lane / 8u + ${16 * l}u);
    let a_term${l} = lane % 8u * 4u;
    let a_place${l} = (lane / 8u + ${16 * l}u) * 40u + a_term${l};
//% endif
//% endfor
    let b_term = lane / 16u;
    let b_column = column0 + lane % 16u;
    let turn = min(subgroups, 4u);
    for (var first_block = 0u; first_block < 4u; first_block += turn) {
        let block = first_block + subgroup;
        let busy = subgroup < turn && block < 4u;
        let block_row = block / 2u * 32u;
        let block_column = block % 2u * 32u;
//% for i in range(TILES)
//% for j in range(TILES)
        var sum${i}_${j} = coop_mat${EDGE}x${EDGE}<f32, C>();
//% endfor
//% endfor
//% for l in range(4)
        var a${l} = load_a(a_row${l}, first_term + a_term${l}, last_term);
        var b${l} = load_b(first_term + b_term + ${8 * l}u, last_term, b_column);
//% endfor
        for (var term = first_term; term < last_term; term += 32u) {
//% for l in range(4)
            let half_a${l} = to_half(a${l});
            let half_b${l} = to_half(b${l});
//% for c in range(4)
            sh_a[a_place${l} + ${c}u] = half_a${l}.${"xyzw"[c]};
            sh_b[(b_term + ${8 * l}u) * 72u + lane % 16u * 4u + ${c}u] = half_b${l}.${"xyzw"[c]};
//% endfor
//% endfor
            workgroupBarrier();
            if term + 32u < last_term {
//% for l in range(4)
                a${l} = load_a(a_row${l}, term + 32u + a_term${l}, last_term);
                b${l} = load_b(term + 32u + b_term + ${8 * l}u, last_term, b_column);
//% endfor
            }
            if busy {
//% for t in range(0, 32, EDGE)
//% for i in range(TILES)
//% if A_BY_TERM
                let x${t}_${i} = coopLoad<coop_mat${EDGE}x${EDGE}<f16, A>>(&sh_a[${72 * t}u + block_row + ${EDGE * i}u], 72u);
//% else
                let x${t}_${i} = coopLoadT<coop_mat${EDGE}x${EDGE}<f16, A>>(&sh_a[(block_row + ${EDGE * i}u) * 40u + ${t}u], 40u);
//% endif
                let w${t}_${i} = coopLoadT<coop_mat${EDGE}x${EDGE}<f16, B>>(&sh_b[${72 * t}u + block_column + ${EDGE * i}u], 72u);
//% endfor
//% for i in range(TILES)
//% for j in range(TILES)
                sum${i}_${j} = coopMultiplyAdd(x${t}_${i}, w${t}_${j}, sum${i}_${j});
//% endfor
//% endfor
//% endfor
            }
            workgroupBarrier();
        }
        // Out through workgroup memory, 256 sums of each block at a time: EDGE rows of 256 / EDGE columns.
//% for s in range(4)
//% set i = s * STRIP // 32
//% set j = s * STRIP % 32 // EDGE
        if busy {
//% for more in range(STRIP // EDGE)
            coopStoreT(sum${i}_${j + more}, &sh_c[subgroup * 256u + ${EDGE * more}u], ${STRIP}u);
//% endfor
        }
        workgroupBarrier();
//% for l in range(2)
        {
            let slot = lane / 64u + ${2 * l}u;
            let place = lane % 64u;
            let done = first_block + slot;
            if slot < turn && done < 4u {
                let at = lane * 4u + ${512 * l}u;
                let sums = vec4<f32>(sh_c[at], sh_c[at + 1u], sh_c[at + 2u], sh_c[at + 3u]);
                store(row0 + done / 2u * 32u + ${EDGE * i}u + place / ${STRIP // 4}u,
                      column0 + done % 2u * 8u + ${EDGE * j // 4}u + place % ${STRIP // 4}u, sums);
            }
        }
//% endfor
        workgroupBarrier();
//% endfor
    }
