//! Holds a kernel's outputs to its f64 twin. Every comparison is written so that a NaN fails it.
//! Called by `family` and `fault`; family files choose the tolerances.

use deme::recording::Op;
use deme::reference::{Call, find};

/// How far an output may be from the twin (aesthetics: u = 2^-24, K = terms of the longest sum).
#[derive(Clone, Copy)]
pub enum Tolerance {
    /// Copies: the same bits as the twin's value rounded to f32.
    Exact,
    /// Units in the last place of the f32 nearest to the expected value.
    Ulp(f64),
    /// Sums of products: 2 K u sum |terms| an element, where sum |terms| is the twin on absolute values; and NMSE.
    Sum(fn(&Op) -> u64),
    /// An absolute bound per element of each output (writes, then updates); and NMSE <= 1e-11.
    Custom(fn(&Twinned) -> Vec<Vec<f64>>),
    /// As `Custom`, without NMSE: differences that may cancel to nothing, as the gradient of the only key's weight.
    Cancelling(fn(&Twinned) -> Vec<Vec<f64>>),
    /// For kernels whose business is to find non-finite values: where the twin's value is no finite f32, neither is the
    /// output; a finite value is held to the bound (as in `Custom`).
    Flagging(fn(&Twinned) -> Vec<Vec<f64>>),
}

/// Half the spacing of f32 at 1.
pub const U: f64 = 1.0 / 16_777_216.0;

/// One op with its inputs and its twin's outputs.
pub struct Twinned {
    pub op: Op,
    pub reads: Vec<Vec<f64>>,
    /// Updates before the op.
    pub before: Vec<Vec<f64>>,
    /// Writes, then updates.
    pub outputs: Vec<Vec<f64>>,
}

fn run_twin(op: &Op, reads: &[Vec<f64>], before: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let twin = find(op.card.word).unwrap_or_else(|| panic!("{} has no CPU twin", op.card.word));
    let mut writes: Vec<_> = op.writes.iter().map(|t| vec![f64::NAN; t.elements() as usize]).collect();
    let mut updates = before.to_vec();
    twin(&mut Call { params: &op.params, reads, writes: &mut writes, updates: &mut updates });
    writes.append(&mut updates);
    writes
}

impl Twinned {
    pub fn new(op: &Op, reads: Vec<Vec<f64>>, before: Vec<Vec<f64>>) -> Self {
        let outputs = run_twin(op, &reads, &before);
        Self { op: op.clone(), reads, before, outputs }
    }

    /// The twin on absolute values: sum |terms| of every output that is a sum of products of inputs.
    pub fn absolute(&self) -> Vec<Vec<f64>> {
        let abs =
            |side: &[Vec<f64>]| -> Vec<Vec<f64>> { side.iter().map(|v| v.iter().map(|x| x.abs()).collect()).collect() };
        run_twin(&self.op, &abs(&self.reads), &abs(&self.before))
    }
}

/// What storing a value near `x` in f16 may cost: half the spacing there. Below the normal range half the spacing at its end,
/// or all of x, which an adapter may flush to zero.
pub fn half_rounding(x: f64) -> f64 {
    let smallest = f64::from(half::f16::MIN_POSITIVE);
    if x.abs() < smallest { 2f64.powi(-25).max(x.abs()) } else { 2f64.powi(x.abs().log2().floor() as i32 - 11) }
}

/// From here on f32 is rounded to an infinite f16, at the latest.
const BEYOND_F16: f64 = 65520.0;

/// Spacing of f32 at `x`; below the normal range also what flushing to zero may lose.
pub fn ulp(x: f64) -> f64 {
    let smallest = f64::from(f32::MIN_POSITIVE);
    if x.abs() < smallest { smallest } else { 2f64.powi(x.abs().log2().floor() as i32 - 23) }
}

/// sum (a - b)^2 / sum b^2
pub fn nmse(got: &[f32], expected: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    let power: f64 = expected.iter().map(|b| b * b).sum();
    if error == 0.0 { 0.0 } else { error / power }
}

/// Every element within its own bound, and as many elements as expected.
pub fn within(got: &[f32], expected: &[f64], bound: &[f64]) -> Result<(), String> {
    if got.len() != expected.len() || bound.len() != expected.len() {
        return Err(format!("{} elements, expected {} (bounds: {})", got.len(), expected.len(), bound.len()));
    }
    let wrong: Vec<_> = (0..got.len())
        .filter(|&i| {
            let error = (f64::from(got[i]) - expected[i]).abs();
            let fine = error <= bound[i];
            !fine
        })
        .collect();
    let Some(&i) = wrong.first() else { return Ok(()) };
    Err(format!(
        "{} of {} elements off, the first at {i}: got {:e}, expected {:e}, bound {:e}",
        wrong.len(),
        got.len(),
        got[i],
        expected[i],
        bound[i]
    ))
}

/// NMSE is a statistic of a tensor: a handful of elements may all cancel, and has the bound per element alone.
const NMSE_ELEMENTS: usize = 16;

/// `rounding`: what storage may add to each element; no error is longer than the two one after the other.
fn nmse_below(got: &[f32], expected: &[f64], rounding: &[f64], limit: f64) -> Result<(), String> {
    let value = nmse(got, expected);
    let power: f64 = expected.iter().map(|b| b * b).sum();
    let stored: f64 = rounding.iter().map(|r| r * r).sum();
    let limit = if stored > 0.0 { (limit.sqrt() + (stored / power).sqrt()).powi(2) } else { limit };
    let fine = value <= limit || got.len() < NMSE_ELEMENTS;
    if fine { Ok(()) } else { Err(format!("NMSE {value:e}, limit {limit:e}")) }
}

impl Tolerance {
    /// Whether output `j` of the op is what the twin says.
    pub fn check(&self, t: &Twinned, j: usize, got: &[f32]) -> Result<(), String> {
        let (mut expected, mut got) = (t.outputs[j].clone(), got.to_vec());
        let half = t.op.half >> (t.op.reads.len() + j) & 1 == 1;
        let bounds = self.bounds(t, j);
        if half {
            overflowed(&mut got, &mut expected, &bounds)?;
        }
        let rounding = match half {
            true => expected.iter().zip(&bounds).map(|(e, bound)| half_rounding(e.abs() + bound)).collect(),
            false => vec![0.0; expected.len()],
        };
        let bounds: Vec<_> = bounds.iter().zip(&rounding).map(|(bound, r)| bound + r).collect();
        let (got, expected) = (&got, &expected);
        match self {
            Self::Exact => {
                let stored = |e: f64| if half { half::f16::from_f32(e as f32).to_f32() } else { e as f32 };
                if got.len() != expected.len() {
                    return Err(format!("{} elements, expected {}", got.len(), expected.len()));
                }
                let wrong = (0..got.len()).find(|&i| got[i].to_bits() != stored(expected[i]).to_bits());
                wrong.map_or(Ok(()), |i| Err(format!("element {i}: got {:e}, expected {:e}", got[i], expected[i])))
            }
            Self::Ulp(_) | Self::Cancelling(_) => within(got, expected, &bounds),
            Self::Sum(terms) => {
                within(got, expected, &bounds)?;
                nmse_below(got, expected, &rounding, if terms(&t.op) <= 4096 { 1e-11 } else { 1e-10 })
            }
            Self::Custom(_) => {
                within(got, expected, &bounds)?;
                nmse_below(got, expected, &rounding, 1e-11)
            }
            Self::Flagging(_) => {
                let (mut got, mut expected, mut bound) = (got.clone(), expected.clone(), bounds);
                for (i, value) in got.iter_mut().enumerate().take(expected.len()) {
                    if !(expected[i] as f32).is_finite() {
                        if value.is_finite() {
                            return Err(format!("element {i}: got {value:e}, expected {:e}", expected[i]));
                        }
                        (*value, expected[i], bound[i]) = (0.0, 0.0, 0.0);
                    }
                }
                within(&got, &expected, &bound)?;
                nmse_below(&got, &expected, &rounding, 1e-11)
            }
        }
    }

    /// The bound of each element of output `j` before it is stored.
    fn bounds(&self, t: &Twinned, j: usize) -> Vec<f64> {
        match self {
            Self::Exact => vec![0.0; t.outputs[j].len()],
            Self::Ulp(n) => t.outputs[j].iter().map(|&b| n * ulp(b)).collect(),
            Self::Sum(terms) => {
                let scale = 2.0 * terms(&t.op) as f64 * U;
                t.absolute()[j].iter().map(|s| scale * s + f64::from(f32::MIN_POSITIVE)).collect()
            }
            Self::Custom(bounds) | Self::Cancelling(bounds) | Self::Flagging(bounds) => bounds(t)[j].clone(),
        }
    }
}

/// What is beyond f16 for certain is stored as infinite, of its sign, and then compared no more.
fn overflowed(got: &mut [f32], expected: &mut [f64], bounds: &[f64]) -> Result<(), String> {
    for (i, (got, expected)) in got.iter_mut().zip(expected).enumerate() {
        let beyond = expected.is_finite() && expected.abs() - bounds[i] > BEYOND_F16;
        let between = got.is_infinite() && expected.abs() + bounds[i] >= BEYOND_F16;
        if beyond && f64::from(*got) != expected.signum() * f64::INFINITY {
            return Err(format!("element {i}: got {got:e}, expected {expected:e}, which f16 has not"));
        }
        if beyond || between {
            (*got, *expected) = (0.0, 0.0);
        }
    }
    Ok(())
}
