// Taps of x, gathered, of which each is a row of dw, and pixels of dy as the tiles of conv2d_backward_weight take them: zero
// outside. A row is a tap (wrapping below 0 by the padding) and a channel of x.
struct Row { y: u32, x: u32, channel: u32, real: bool }

fn row_of(row: u32) -> Row {
    let tap = row / params.cin;
    let real = tap < params.kh * ${KW}u;
    return Row(tap / ${KW}u - params.pad_top, tap % ${KW}u - params.pad_left, row % params.cin, real);
}

// A term of the sum is a pixel of dy.
fn load_a(row: Row, term: u32, terms: u32) -> vec4<f32> {
    let p = params;
    let line = term / p.out_w;
    let n = line / p.out_h;
    let iy = (line - n * p.out_h) * p.stride + row.y;
    let ix = (term - line * p.out_w) * p.stride + row.x;
    if row.real && term < terms && iy < p.in_h && ix < p.in_w {
        return x[(((n * p.in_h + iy) * p.in_w + ix) * params.cin + row.channel) / 4u];
    }
    return vec4<f32>();
}

fn load_b(term: u32, terms: u32, column: u32) -> vec4<f32> {
    let columns = params.cout / 4u;
    if term < terms && column < columns {
        return dy[term * columns + column];
    }
    return vec4<f32>();
}
