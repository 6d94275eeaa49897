//! Upsampling, concatenation and slices: copies to the bit, one sum of four.
//! Called by `conformance.rs`.

use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::kernels::pointwise::add;
use deme::kernels::resample::{concat_channels, slice_channels, split_channels, upsample_nearest};

pub const TOLERANCES: &[(&str, Tolerance)] = &[
    ("upsample_nearest_forward", Tolerance::Exact),
    ("upsample_nearest_backward", Tolerance::Sum(|_| 4)),
    ("concat_channels", Tolerance::Exact),
    ("slice_channels_forward", Tolerance::Exact),
    ("slice_channels_backward", Tolerance::Exact),
];

const IMAGES: [[u32; 4]; 16] = [
    [1, 1, 1, 1],
    [1, 1, 1, 4],
    [1, 1, 2, 3],
    [2, 3, 1, 5],
    [1, 2, 2, 8],
    [3, 5, 7, 2],
    [2, 7, 5, 12],
    [1, 8, 8, 32],
    [2, 4, 4, 64],
    [1, 16, 16, 4],
    [1, 13, 11, 7],
    [5, 3, 3, 20],
    [1, 1, 33, 4],
    [1, 64, 1, 1],
    [2, 6, 6, 36],
    [1, 9, 9, 31],
];

/// Rows, channels of a, channels of b.
const PAIRS: [[u32; 3]; 16] = [
    [1, 1, 1],
    [1, 4, 4],
    [7, 3, 5],
    [8, 4, 8],
    [9, 8, 4],
    [17, 1, 31],
    [64, 32, 64],
    [65, 64, 32],
    [3, 6, 2],
    [5, 4, 2],
    [5, 2, 4],
    [100, 12, 20],
    [255, 1, 3],
    [257, 4, 4],
    [31, 128, 64],
    [2, 257, 255],
];

pub fn cases(f: &mut Family) {
    for [n, h, w, c] in IMAGES {
        f.case(&format!("upsample {n}x{h}x{w}x{c}"), |b| {
            let x = b.watched("x", &[n, h, w, c]);
            let y = upsample_nearest(&mut b.tape, &x)?;
            b.backward(&y)
        });
    }
    for [rows, a, c] in PAIRS {
        f.case(&format!("concat {rows} x ({a} + {c})"), |b| {
            let (x, y) = (b.watched("x", &[rows, a]), b.watched("y", &[rows, c]));
            let z = concat_channels(&mut b.tape, &x, &y)?;
            b.backward(&z)
        });
        f.case(&format!("slice {c} of {rows} x {}", a + c), |b| {
            let x = b.watched("x", &[rows, a + c]);
            let y = slice_channels(&mut b.tape, &x, a, c)?;
            b.backward(&y)
        });
    }
    f.gradient("upsample", |b| {
        let x = b.watched("x", &[2, 3, 2, 5]);
        upsample_nearest(&mut b.tape, &x)
    });
    f.gradient("x beside x", |b| {
        let x = b.watched("x", &[2, 3, 2, 5]);
        concat_channels(&mut b.tape, &x, &x)
    });
    f.gradient("halves swapped, and a skip", |b| {
        let x = b.watched("x", &[2, 3, 2, 6]);
        let (first, second) = split_channels(&mut b.tape, &x)?;
        let y = concat_channels(&mut b.tape, &second, &first)?;
        add(&mut b.tape, &x, &y)
    });
    f.rejects(&["upsample_nearest", "[6, 4]"], |b| {
        let x = b.tensor("x", &[6, 4]);
        upsample_nearest(&mut b.tape, &x)
    });
    f.rejects(&["concat_channels", "[2, 3, 4]", "[2, 4, 4]"], |b| {
        let (x, y) = (b.tensor("x", &[2, 3, 4]), b.tensor("y", &[2, 4, 4]));
        concat_channels(&mut b.tape, &x, &y)
    });
    f.rejects(&["slice_channels", "[2, 8]", "6 .. 6 + 3"], |b| {
        let x = b.tensor("x", &[2, 8]);
        slice_channels(&mut b.tape, &x, 6, 3)
    });
    f.rejects(&["split_channels", "[2, 7]"], |b| {
        let x = b.tensor("x", &[2, 7]);
        split_channels(&mut b.tape, &x)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let x = b.watched("x", &[1, 4, 6, 8]);
            let (first, second) = split_channels(&mut b.tape, &x)?;
            let y = concat_channels(&mut b.tape, &second, &first)?;
            let z = upsample_nearest(&mut b.tape, &y)?;
            b.backward(&z)
        });
    }
    for (word, _) in TOLERANCES {
        f.floor(word, 16);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader(
        "rows and columns exchanged",
        "upsample_nearest_forward",
        "upsample_nearest_forward",
        "(i % row) / lanes",
        "(i / row) % params.width",
    ),
    Fault::shader(
        "one of four lost",
        "upsample_nearest_backward",
        "upsample_nearest_backward",
        " + dy[at + 2u * row + lanes]",
        "",
    ),
    Fault::shader("a and b exchanged", "concat_channels", "concat_channels", "c < a_width", "c >= b_width"),
    Fault::shader(
        "last row lost",
        "slice_channels_forward",
        "slice_channels_forward",
        "first + ${ROWS}u, params.rows",
        "first + ${ROWS}u, params.rows - 1u",
    ),
    Fault::shader(
        "nothing elsewhere",
        "slice_channels_backward",
        "slice_channels_backward",
        "Lanes(0.0)",
        "Lanes(1e-30)",
    ),
];
