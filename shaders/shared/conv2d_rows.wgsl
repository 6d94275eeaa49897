// Windows of x, gathered, and columns of w as the tiles of conv2d_forward take them: zero outside.
// The image of a pixel of y, and where its window starts (wrapping below 0 where it reaches into the padding).
struct Row { image: u32, y: u32, x: u32, real: bool }

fn row_of(row: u32) -> Row {
    let p = params;
    let n = row / (p.out_h * p.out_w);
    let oy = row / p.out_w - n * p.out_h;
    let ox = row % p.out_w;
    return Row(n * p.in_h, oy * p.stride - p.pad_top, ox * p.stride - p.pad_left, n < p.batch);
}

fn load_a(row: Row, term: u32, terms: u32) -> vec4<f32> {
    let tap = term / params.cin;
    let iy = row.y + tap / ${KW}u;
    let ix = row.x + tap % ${KW}u;
    if row.real && term < terms && iy < params.in_h && ix < params.in_w {
        return x[(((row.image + iy) * params.in_w + ix) * params.cin + term % params.cin) / 4u];
    }
    return vec4<f32>();
}

fn load_b(term: u32, terms: u32, column: u32) -> vec4<f32> {
    let columns = params.cout / 4u;
    if term < terms && column < columns {
        return w[term * columns + column];
    }
    return vec4<f32>();
}
