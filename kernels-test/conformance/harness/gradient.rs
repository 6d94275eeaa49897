//! Gradients of the twins against central differences: f64 throughout, step 1e-5, relative 1e-6.
//! Called by `Family::gradient`.

use super::case::Bench;
use deme::recording::{BufferId, Recording, Role, Tensor};
use deme::reference::interpret::{Rounding, State};
use deme::shape::DType;

const STEP: f64 = 1e-5;
const RELATIVE: f64 = 1e-6;
/// Elements of each input that are differentiated by.
const SAMPLES: usize = 20;

fn initial(rec: &Recording, bench: &Bench) -> Result<State, String> {
    let mut externals = std::collections::HashMap::new();
    let value = |w: &u32, dtype| if dtype == DType::U32 { f64::from(*w) } else { f64::from(f32::from_bits(*w)) };
    for (i, b) in rec.buffers.iter().enumerate() {
        if let (Role::External(key), Some(words)) = (&b.role, bench.contents.get(&BufferId(i as u32))) {
            externals.insert(key.clone(), words.iter().map(|w| value(w, b.dtype)).collect::<Vec<_>>());
        }
    }
    let mut state = State::new(rec, &externals, Rounding::None).map_err(|e| e.to_string())?;
    for (i, b) in rec.buffers.iter().enumerate().filter(|(_, b)| b.role == Role::Input) {
        let id = BufferId(i as u32);
        let words = bench.contents.get(&id).ok_or_else(|| format!("{} has no contents", b.label))?;
        let shape = deme::shape::Shape::from_slice("case", &[b.elements as u32]).map_err(|e| e.to_string())?;
        let values: Vec<_> = words.iter().map(|w| value(w, b.dtype)).collect();
        state.set(&Tensor { buffer: id, offset: 0, shape }, &values);
    }
    Ok(state)
}

/// Compares d(seed . y)/dx for sampled elements of all parameters and watched tensors. Returns how many were compared.
pub fn check(mut bench: Bench, y: &Tensor) -> Result<usize, String> {
    let text = |e: deme::error::Error| e.to_string();
    let forward = bench.tape.rec.clone();
    bench.backward(y).map_err(text)?;
    let rec = &bench.tape.rec;
    let mut state = initial(rec, &bench)?;
    state.run(rec, 0..rec.ops.len()).map_err(text)?;
    let seed = rec.buffers.iter().position(|b| b.label == "seed 0").ok_or("no seed")?;
    let seed = state.buffer(BufferId(seed as u32)).to_vec();

    let gradients = bench.gradients.as_ref().ok_or("no gradients")?;
    let mut pairs = Vec::new();
    for (theta, place) in &bench.parameters {
        let before = initial(rec, &bench)?.get(place);
        let analytic = state.get(place).iter().zip(before).map(|(after, before)| after - before).collect();
        pairs.push((*theta, analytic));
    }
    for x in &bench.watched {
        let dx = gradients.get(x).ok_or("a watched tensor has no gradient")?;
        pairs.push((*x, state.get(&dx)));
    }

    let loss = |x: &Tensor, i: usize, step: f64| -> Result<f64, String> {
        let mut state = initial(&forward, &bench)?;
        let mut values = state.get(x);
        values[i] += step;
        state.set(x, &values);
        state.run(&forward, 0..forward.ops.len()).map_err(text)?;
        Ok(state.get(y).iter().zip(&seed).map(|(y, dy)| y * dy).sum())
    };
    let mut count = 0;
    for (x, analytic) in pairs {
        let rms = (analytic.iter().map(|g: &f64| g * g).sum::<f64>() / analytic.len() as f64).sqrt();
        let n = analytic.len();
        // Spread over the tensor, both ends included.
        let picks: std::collections::BTreeSet<_> = (0..SAMPLES).map(|s| s * (n - 1) / (SAMPLES - 1)).collect();
        for i in picks {
            let numeric = (loss(&x, i, STEP)? - loss(&x, i, -STEP)?) / (2.0 * STEP);
            let fine = (numeric - analytic[i]).abs() <= RELATIVE * analytic[i].abs().max(rms);
            if !fine {
                let label = &bench.tape.rec.buffers[x.buffer.0 as usize].label;
                return Err(format!("d {label}[{i}]: difference quotient {numeric:e}, tape {:e}", analytic[i]));
            }
            count += 1;
        }
    }
    if count == 0 { Err("nothing to differentiate by".into()) } else { Ok(count) }
}
