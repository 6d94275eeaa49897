// Rows of x and columns of w as the tiles of matmul_forward take them: zero outside.
// The entry point sets x_start and w_start, where the matrices of its batch begin.
var<private> x_start: u32;
var<private> w_start: u32;

struct Row { start: u32, real: bool }

fn row_of(row: u32) -> Row {
    return Row(x_start + row * params.ldx, row < params.m);
}

fn load_a(row: Row, term: u32, terms: u32) -> vec4<f32> {
    if row.real && term < terms {
        return x[(row.start + term) / 4u];
    }
    return vec4<f32>();
}

fn load_b(term: u32, terms: u32, column: u32) -> vec4<f32> {
    if term < terms && column < params.n / 4u {
        return w[(w_start + term * params.ldw) / 4u + column];
    }
    return vec4<f32>();
}
