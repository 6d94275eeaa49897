// A tile of TY * RM rows x TX vec4 columns in workgroup memory, 16 terms at a time; a thread sums RM rows x 4 columns.
    // Included in an entry point that defines lane, row0, column0, first_term, last_term and, beside it, Row, row_of,
    // load_a and load_b (zero outside). With A_BY_TERM, a vec4 of A is 4 rows of one term, else 4 terms of one row. The next
    // 16 terms are on their way while these are multiplied.
//% set THREADS = TX * TY
//% set A_LOADS = TY * RM * 4 // THREADS
//% set B_LOADS = 16 // TY
//% set A_WIDE = TY * RM // 4
//% for l in range(A_LOADS)
//% if A_BY_TERM
    let a_row${l} = row_of(row0 + (lane + ${l * THREADS}u) % ${A_WIDE}u * 4u);
    let a_term${l} = (lane + ${l * THREADS}u) / ${A_WIDE}u;
//% else
    let a_row${l} = row_of(row0 + (lane + ${l * THREADS}u) / 4u);
    let a_term${l} = (lane + ${l * THREADS}u) % 4u * 4u;
//% endif
    var a${l} = load_a(a_row${l}, first_term + a_term${l}, last_term);
//% endfor
    let b_column = column0 + lane % ${TX}u;
//% for l in range(B_LOADS)
    var b${l} = load_b(first_term + ${l * TY}u + lane / ${TX}u, last_term, b_column);
//% endfor
//% for i in range(RM)
    var sum${i} = vec4<f32>();
//% endfor
    let thread_row = lane / ${TX}u * ${RM}u;
    let thread_column = lane % ${TX}u;
    for (var term = first_term; term < last_term; term += 16u) {
//% for l in range(A_LOADS)
        sh_a[lane + ${l * THREADS}u] = a${l};
//% endfor
//% for l in range(B_LOADS)
        sh_b[lane + ${l * THREADS}u] = b${l};
//% endfor
        workgroupBarrier();
        if term + 16u < last_term {
//% for l in range(A_LOADS)
            a${l} = load_a(a_row${l}, term + 16u + a_term${l}, last_term);
//% endfor
//% for l in range(B_LOADS)
            b${l} = load_b(term + ${16 + l * TY}u + lane / ${TX}u, last_term, b_column);
//% endfor
        }
        for (var t = 0u; t < 16u; t += 4u) {
//% if A_BY_TERM
//% for u in range(4)
            let w${u} = sh_b[(t + ${u}u) * ${TX}u + thread_column];
//% for q in range(RM // 4)
            let x${u}_${q} = sh_a[(t + ${u}u) * ${A_WIDE}u + thread_row / 4u + ${q}u];
//% for i in range(4)
            sum${4 * q + i} += x${u}_${q}.${"xyzw"[i]} * w${u};
//% endfor
//% endfor
//% endfor
//% else
//% for u in range(4)
            let w${u} = sh_b[(t + ${u}u) * ${TX}u + thread_column];
//% endfor
//% for i in range(RM)
            let x${i} = sh_a[(thread_row + ${i}u) * 4u + t / 4u];
//% for u in range(4)
            sum${i} += x${i}.${"xyzw"[u]} * w${u};
//% endfor
//% endfor
//% endif
        }
        workgroupBarrier();
    }
