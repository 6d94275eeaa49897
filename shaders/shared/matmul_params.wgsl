// MatmulParams of cards/gemm.rs: a batched product x (m, k), w (k, n), y (m, n); strides in elements.
struct Params {
    m: u32, n: u32, k: u32,
    batch_outer: u32, batch_inner: u32,
    ldx: u32, ldw: u32, ldy: u32,
    x_outer: u32, x_inner: u32, w_outer: u32, w_inner: u32, y_outer: u32, y_inner: u32,
    alpha: f32,
    has_bias: u32,
    addend: u32,
//% if WINDOW is defined and WINDOW
    // Which window of w, matrix by matrix (see `Windows` in shader/card.rs).
    window: u32,
//% endif
}
