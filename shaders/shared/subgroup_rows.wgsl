// One subgroup of 8 lanes; a lane holds C vectors of V columns, 8 vectors apart, of R rows. Of the values x<r> (lane u
            // holds the u-th of eight terms of row r) each is broadcast in turn and multiplied with the lane's columns of w, so that
            // eight terms of a row cost one load. Past the last term x is 0, and the last row of w is read again; with EIGHTS
            // the terms are a multiple of eight. Column c of w is `apart<c>` after the first.
//% for u in range(8)
            let w${u}_0 = w[at_w];
//% for c in range(1, C)
            let w${u}_${c} = w[at_w + apart${c}];
//% endfor
//% if EIGHTS
            at_w += w_step;
//% else
            at_w = min(at_w + w_step, w_last);
//% endif
//% for r in range(R)
            let term${r}_${u} = ${VECTOR}(subgroupBroadcast(x${r}, ${u}u));
//% for c in range(C)
            sum${r}_${c} = fma(term${r}_${u}, w${u}_${c}, sum${r}_${c});
//% endfor
//% endfor
//% endfor
