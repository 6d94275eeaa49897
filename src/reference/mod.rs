//! The CPU twins: each kernel in f64, and the interpreter that runs a recording on them.
//! Called by tests and `doctor` only. Twins favour being easy to compare with the formula over speed.

pub mod attention;
pub mod broadcast;
pub mod interpret;
pub mod conv;
pub mod gemm;
pub mod loss;
pub mod merge;
pub mod noise;
pub mod optim;
pub mod norm;
pub mod peak;
pub mod pointwise;
pub mod pool;
pub mod resample;
pub mod winograd;

/// One kernel call on the CPU. Buffers of u32 hold whole numbers in f64. Writes arrive filled with NaN.
pub struct Call<'a> {
    /// The parameter struct's words; read them with `Params::of`.
    pub params: &'a [u32],
    /// In the card's order.
    pub reads: &'a [Vec<f64>],
    pub writes: &'a mut [Vec<f64>],
    pub updates: &'a mut [Vec<f64>],
}

pub type Twin = fn(&mut Call);

/// The twins of each family of cards.
const FAMILIES: &[&[(&str, Twin)]] = &[
    loss::TWINS,
    noise::TWINS,
    optim::TWINS,
    merge::TWINS,
    pointwise::TWINS,
    gemm::TWINS,
    conv::TWINS,
    winograd::TWINS,
    norm::TWINS,
    broadcast::TWINS,
    resample::TWINS,
    attention::TWINS,
    peak::TWINS,
    pool::TWINS,
];

/// What a product's epilogue adds to y at [row, column]: `rows` of y share one of the addend's, 0 for none.
fn addend(addend: &[f64], rows: u32, [row, column]: [usize; 2], columns: usize) -> f64 {
    row.checked_div(rows as usize).map_or(0.0, |row| addend[row * columns + column])
}

/// The nearest f16, infinite beyond its range: what a factor becomes in cooperative matrices.
pub fn as_f16(x: f64) -> f64 {
    half::f16::from_f64(x).to_f64()
}

/// The twin of a kernel word.
pub fn find(word: &str) -> Option<Twin> {
    FAMILIES.iter().flat_map(|f| f.iter()).find(|(w, _)| *w == word).map(|(_, twin)| *twin)
}
