// Pixels of dy, gathered, and columns of the transposed w as the tiles of conv2d_backward_input take them: zero outside.
// A row is a pixel of dx: its image, and its place counted from the first window's start.
struct Row { image: u32, y: u32, x: u32, real: bool }

fn row_of(row: u32) -> Row {
    let p = params;
    let n = row / (p.in_h * p.in_w);
    let iy = row / p.in_w - n * p.in_h;
    return Row(n * p.out_h, iy + p.pad_top, row % p.in_w + p.pad_left, n < p.batch);
}

fn load_a(row: Row, term: u32, terms: u32) -> vec4<f32> {
    let tap = term / params.cout;
    // Wraps, and so fails the comparison, where the window would start above or left of the first.
    let ty = row.y - tap / ${KW}u;
    let tx = row.x - tap % ${KW}u;
    let oy = ty / ${STRIDE}u;
    let ox = tx / ${STRIDE}u;
    let whole = oy * ${STRIDE}u == ty && ox * ${STRIDE}u == tx;
    if row.real && term < terms && whole && oy < params.out_h && ox < params.out_w {
        return dy[(((row.image + oy) * params.out_w + ox) * params.cout + term % params.cout) / 4u];
    }
    return vec4<f32>();
}

fn load_b(term: u32, terms: u32, column: u32) -> vec4<f32> {
    let columns = params.cin / 4u;
    if term < terms && column < columns {
        return w[term * columns + column];
    }
    return vec4<f32>();
}
