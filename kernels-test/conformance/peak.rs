//! The kernels that measure ceilings compute what they say, or their rates would mean nothing.
//! Called by `conformance.rs`.

use super::harness::fault::Fault;
use super::harness::{Family, Tolerance};
use deme::kernels::peak::{peak_copy, peak_fma};

/// A chain halves its error each step and adds one rounding, so it ends within 2 ULP; the chains have one sign.
pub const TOLERANCES: &[(&str, Tolerance)] = &[("peak_fma", Tolerance::Ulp(6.0)), ("peak_copy", Tolerance::Exact)];

const COUNTS: [u32; 16] = [4, 8, 12, 60, 252, 256, 260, 1020, 1024, 3068, 3072, 3076, 4092, 4096, 4100, 20_000];

pub fn cases(f: &mut Family) {
    for (i, count) in (0..).zip(COUNTS) {
        f.case(&format!("both over {count}"), |b| {
            let (x, y, z) = (b.tensor("x", &[count]), b.tensor("y", &[count]), b.tensor("z", &[count]));
            peak_fma(&mut b.tape.rec, &x, &y, i % 5)?;
            peak_copy(&mut b.tape.rec, &x, &z)
        });
    }
    // Above 65,535 workgroups the grid folds into two dimensions.
    f.case("folded grid", |b| {
        let (x, y) = (b.tensor("x", &[1_050_000, 16]), b.tensor("y", &[1_050_000, 16]));
        peak_fma(&mut b.tape.rec, &x, &y, 1)
    });
    f.rejects(&["peak_copy", "[8]", "[4]"], |b| {
        let (x, y) = (b.tensor("x", &[8]), b.tensor("y", &[4]));
        peak_copy(&mut b.tape.rec, &x, &y)
    });
    f.rejects(&["peak_fma", "6 elements", "multiple of 4"], |b| {
        let (x, y) = (b.tensor("x", &[6]), b.tensor("y", &[6]));
        peak_fma(&mut b.tape.rec, &x, &y, 1)
    });
    for fault in FAULTS {
        f.catches(fault, |b| {
            let (x, y, z) = (b.tensor("x", &[5000]), b.tensor("y", &[5000]), b.tensor("z", &[5000]));
            peak_fma(&mut b.tape.rec, &x, &y, 2)?;
            peak_copy(&mut b.tape.rec, &x, &z)
        });
    }
    for word in ["peak_fma", "peak_copy"] {
        f.floor(word, 16);
    }
}

const FAULTS: &[Fault] = &[
    Fault::shader("a chain lost", "peak_fma", "peak_fma", "sum += a${c};", ""),
    Fault::shader("nothing multiplied", "peak_fma", "peak_fma", "fma(a${c}, factor, v)", "a${c}"),
    Fault::shader("bound off by one", "peak_fma", "peak_fma", "params.count / 4u", "params.count / 4u - 1u"),
    Fault::shader("a load shared", "peak_copy", "peak_copy", "let v2 = x[first + 512u]", "let v2 = x[first + 256u]"),
    Fault::shader("no tail", "peak_copy", "peak_copy", "i < count; i", "i < count - 1u; i"),
];
