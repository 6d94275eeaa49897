// Columns of x, of which each is a row of dw, and rows of dy as the tiles of matmul_backward_weight take them: zero outside.
// A term of the sum is a row of x and of dy. The entry point sets x_start and dy_start, where the matrices of its batch begin.
var<private> x_start: u32;
var<private> dy_start: u32;

struct Row { start: u32, real: bool }

fn row_of(row: u32) -> Row {
    return Row(x_start + row, row < params.k);
}

fn load_a(row: Row, term: u32, terms: u32) -> vec4<f32> {
    if row.real && term < terms {
        return x[(row.start + term * params.ldx) / 4u];
    }
    return vec4<f32>();
}

fn load_b(term: u32, terms: u32, column: u32) -> vec4<f32> {
    if term < terms && column < params.n / 4u {
        return dy[(dy_start + term * params.ldy) / 4u + column];
    }
    return vec4<f32>();
}
