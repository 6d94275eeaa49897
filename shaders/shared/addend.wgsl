// The last of a product's epilogue: a value with its addend, of which `params.addend` rows of y share a row (0: there is none).
// Columns are counted in vectors, ELEMENT is one.
fn with_addend(value: ${ELEMENT}, row: u32, column: u32, columns: u32) -> ${ELEMENT} {
    if params.addend == 0u {
        return value;
    }
    return value + addend[row / params.addend * columns + column];
}
