//! Bisecting: a recording that runs on the CPU up to op k and on the GPU after it ends like one that runs on the CPU alone,
//! for every k; k = 0 is the plan as it is used, storage shared by lifetime.

use super::harness::device::gpu;
use deme::gpu::{Externals, Plan, PlanOptions};
use deme::kernels::EXAMPLES;
use deme::recording::{BufferId, Recording, Role, Tensor, ZERO_KEY};
use deme::reference::interpret::{Rounding, State};
use deme::rng::uniform;
use deme::shape::{DType, Shape};
use std::collections::HashMap;

/// Contents of buffer `i`: positive, so that roots and logarithms are defined; small whole numbers where u32.
fn contents(rec: &Recording, i: usize) -> Vec<f64> {
    let b = &rec.buffers[i];
    let value = |e: u64| match b.dtype {
        DType::F32 | DType::F16 => f64::from((0.1 + 0.9 * uniform(11, i as u64, e)) as f32),
        DType::U32 => (i as u64 + e) as f64,
    };
    (0..b.elements).map(value).collect()
}

fn whole(rec: &Recording, i: usize) -> Tensor {
    let shape = Shape::new([rec.buffers[i].elements as u32]);
    Tensor { buffer: BufferId(i as u32), offset: 0, shape }
}

fn of_role(rec: &Recording, wanted: impl Fn(&Role) -> bool) -> Vec<usize> {
    (0..rec.buffers.len()).filter(|&i| wanted(&rec.buffers[i].role)).collect()
}

fn key(role: &Role) -> Option<&str> {
    match role {
        Role::External(key) if key != ZERO_KEY => Some(key),
        _ => None,
    }
}

/// Runs the first k ops on the CPU.
fn on_cpu(rec: &Recording, k: usize) -> State {
    let externals: HashMap<String, Vec<f64>> = of_role(rec, |r| key(r).is_some())
        .into_iter()
        .filter_map(|i| key(&rec.buffers[i].role).map(|k| (k.to_string(), contents(rec, i))))
        .collect();
    let mut state = State::new(rec, &externals, Rounding::Stored).unwrap();
    for i in of_role(rec, |r| *r == Role::Input) {
        state.set(&whole(rec, i), &contents(rec, i));
    }
    state.run(rec, 0..k).unwrap();
    state
}

#[test]
fn cpu_up_to_any_op_and_gpu_after_it_gives_the_same_result() {
    let mut compared = 0;
    for example in EXAMPLES {
        let rec = example().unwrap();
        let n = rec.ops.len();
        let expected = on_cpu(&rec, n);
        for k in [0, 1, n / 3, n / 2, n - 1] {
            let state = on_cpu(&rec, k);
            let mut externals = Externals::new();
            for i in of_role(&rec, |r| key(r).is_some()) {
                let name = key(&rec.buffers[i].role).unwrap();
                externals.insert(name.to_string(), gpu().storage(name, rec.buffers[i].elements).unwrap());
            }
            let options = PlanOptions { checked: true, ..PlanOptions::default() };
            let mut plan = Plan::new(gpu(), rec.clone(), &externals, &options).unwrap();
            let words: Vec<(Tensor, Vec<u32>)> = of_role(&rec, |r| *r == Role::Input)
                .into_iter()
                .map(|i| {
                    let word = |v: f64| match rec.buffers[i].dtype {
                        DType::F32 | DType::F16 => (v as f32).to_bits(),
                        DType::U32 => v as u32,
                    };
                    (whole(&rec, i), contents(&rec, i).into_iter().map(word).collect())
                })
                .collect();
            let inputs: Vec<_> = words.iter().map(|(t, w)| (*t, w.as_slice())).collect();
            let value = |id: BufferId| state.buffer(id).iter().map(|&v| v as f32).collect::<Vec<_>>();
            plan.run_from(k, &inputs, value).unwrap();
            plan.wait().unwrap();
            for i in of_role(&rec, |r| key(r).is_some()) {
                let got = plan.read(&whole(&rec, i)).unwrap();
                let want = expected.buffer(BufferId(i as u32));
                let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
                for (e, (g, w)) in got.iter().zip(want).enumerate() {
                    let error = (f64::from(*g) - w).abs() / scale;
                    let label = &rec.buffers[i].label;
                    assert!(error <= 1e-4, "{} from op {k}: {label}[{e}] is {g}, expected {w}", rec.name);
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 100, "{compared} buffers were compared");
}
