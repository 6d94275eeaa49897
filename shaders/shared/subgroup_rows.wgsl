// One subgroup of 8 lanes; a lane holds V columns of R rows. Of the values x<r> (lane u holds the u-th of eight terms of
            // row r) each is broadcast in turn and multiplied with the lane's columns of w, so that eight terms of a row cost one
            // load. Past the last term x is 0, and the last row of w is read again; with EIGHTS
            // the terms are a multiple of eight.
//% for u in range(8)
            let w${u} = w[at_w];
//% if EIGHTS
            at_w += w_step;
//% else
            at_w = min(at_w + w_step, w_last);
//% endif
//% for r in range(R)
            sum${r} = fma(${VECTOR}(subgroupBroadcast(x${r}, ${u}u)), w${u}, sum${r});
//% endfor
//% endfor
