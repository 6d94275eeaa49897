//! Schedules, timesteps, DDIM steps, trajectories and embeddings against values recorded from diffusers 0.42.1.
//! Recorded by scripts/fixtures/schedules.py; no adapter.

use std::path::Path;

use deme::diffusion::{Schedule, Spacing, timestep_embedding};
use serde_json::{Map, Value, json};

use crate::support::fixtures::{self, Golden, fixture_tensor};

fn schedule(config: &Value) -> Schedule {
    Schedule::from_json(Path::new("golden"), config.as_object().unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The largest |a - b| / |b| of two equally long lists; infinite where b = 0 and a is not, or something is NaN.
fn worst_relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() / b.abs() };
    got.iter().zip(want).map(error).map(|e| if e.is_nan() { f64::INFINITY } else { e }).fold(0.0, f64::max)
}

#[test]
fn tables_agree_with_float32_diffusers() {
    let golden = Golden::open("schedules");
    let configs = golden.facts["configs"].as_object().unwrap();
    assert!(configs.len() >= 8);
    for (name, config) in configs.iter().filter(|(name, _)| *name != "zero_snr") {
        let schedule = schedule(config);
        for (table, got) in [("betas", &schedule.betas), ("alphas_cumprod", &schedule.alpha_bar)] {
            let want: Vec<f64> = golden.values(&format!("{name}.{table}")).iter().map(|&x| f64::from(x)).collect();
            let worst = worst_relative(got, &want);
            println!("{name}.{table}: {worst:.1e}");
            assert!(worst <= 1e-6, "{name}.{table}: {worst:e}");
        }
    }
}

/// The rescaling takes float32 differences of sqrt(alpha_bar), whose last bit depends on the machine's square root, and
/// multiplies a thousand of their ratios: near the end, where they vanish, only an absolute bound can hold.
#[test]
fn the_rescaled_table_agrees_and_ends_in_pure_noise() {
    let golden = Golden::open("schedules");
    let schedule = schedule(&golden.facts["configs"]["zero_snr"]);
    let want = golden.values("zero_snr.alphas_cumprod");
    let distance = |(a, &b): (&f64, &f32)| (a.sqrt() - f64::from(b).sqrt()).abs();
    let worst = schedule.alpha_bar.iter().zip(want).map(distance).fold(0.0, f64::max);
    println!("sqrt(alpha_bar): {worst:.1e}");
    assert!(schedule.alpha_bar.len() == 1000 && want.len() == 1000);
    assert!(worst <= 1e-6, "{worst:e}");
    assert_eq!(schedule.alpha_bar[999], 0.0);
}

#[test]
fn a_table_with_one_wrong_entry_is_noticed() {
    let golden = Golden::open("schedules");
    let mut betas = schedule(&golden.facts["configs"]["linear"]).betas;
    let want: Vec<f64> = golden.values("linear.betas").iter().map(|&x| f64::from(x)).collect();
    betas[417] *= 1.0 + 3e-6;
    assert!(worst_relative(&betas, &want) > 1e-6);
    betas[417] = f64::NAN;
    assert!(worst_relative(&betas, &want) > 1e-6);
}

fn plain(total: &Value, offset: u64) -> Schedule {
    schedule(&json!({ "num_train_timesteps": total, "steps_offset": offset }))
}

fn visited(schedule: &Schedule, spacing: Spacing, n: usize) -> Vec<u64> {
    schedule.steps(spacing, n).unwrap().iter().map(|step| step.t as u64).collect()
}

#[test]
fn timesteps_are_those_of_diffusers() {
    let lists = fixtures::json("timesteps");
    let lists = lists.as_array().unwrap();
    assert!(lists.len() >= 70, "{}", lists.len());
    for case in lists {
        let schedule = plain(&case["total"], case["offset"].as_u64().unwrap());
        let spacing: Spacing = case["spacing"].as_str().unwrap().parse().unwrap();
        let n = case["steps"].as_u64().unwrap() as usize;
        let want: Vec<u64> = case["timesteps"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
        assert_eq!(visited(&schedule, spacing, n), want, "{case}");
        for step in schedule.steps(spacing, n).unwrap() {
            assert_eq!(step.t_prev, step.t.checked_sub(schedule.timesteps() / n), "diffusers' previous timestep");
        }
    }
}

#[test]
fn timesteps_are_those_of_diffusers_for_every_count() {
    let facts = fixtures::json("schedules");
    for total in [1000, 500, 40] {
        let schedule = plain(&json!(total), 0);
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            let list = |n| visited(&schedule, spacing, n).iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let text = (1..=total).map(list).collect::<Vec<_>>().join(";");
            let want = facts["digests"][format!("{spacing}_{total}")].as_u64().unwrap();
            assert_eq!(u64::from(crc32fast::hash(text.as_bytes())), want, "{spacing} {total}");
        }
    }
}

#[test]
fn trajectories_of_a_closed_form_model_agree() {
    let configs = fixtures::json("schedules")["configs"].clone();
    let golden = fixtures::json("trajectories");
    let (start, noise) = (numbers(&golden["start"]), numbers(&golden["noise"]));
    let model = |x: f64, t: usize| 0.6 * x + 0.3 * (0.01 * t as f64).sin() * (3.0 * x).cos();
    let runs = golden["runs"].as_array().unwrap();
    assert!(runs.len() >= 140);
    for run in runs {
        let schedule = schedule(&configs[run["config"].as_str().unwrap()]);
        let spacing = run["spacing"].as_str().unwrap().parse().unwrap();
        let steps = schedule.steps(spacing, run["steps"].as_u64().unwrap() as usize).unwrap();
        let mut path = Vec::new();
        let mut x = start.clone();
        for step in steps {
            let ddim = schedule.ddim_step(step, run["eta"].as_f64().unwrap()).unwrap();
            for (x, noise) in x.iter_mut().zip(&noise) {
                *x = ddim.apply(*x, model(*x, step.t), *noise);
            }
            path.push(x.clone());
        }
        let first = distance(&path[0], &numbers(&run["first"]));
        let last = distance(&x, &numbers(&run["last"]));
        println!("{} {spacing} {} {}: {first:.1e} {last:.1e}", run["config"], run["steps"], run["eta"]);
        // The formula is the same in f64, so what remains is the tables: see the two tests above.
        let tolerance = if run["config"] == "zero_snr" { 1e-5 } else { 1e-7 };
        assert!(first <= tolerance && last <= tolerance, "{run}: first step {first:e}, last {last:e}");
    }
}

/// The largest |a - b|, relative to the largest |b| (at least 1).
fn distance(got: &[f64], want: &[f64]) -> f64 {
    let range = want.iter().fold(1.0, |m: f64, b| m.max(b.abs()));
    let error = |(a, b): (&f64, &f64)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() / range };
    got.iter().zip(want).map(error).fold(0.0, f64::max)
}

#[test]
fn embeddings_agree() {
    let golden = Golden::open("schedules");
    let mut count = 0;
    for name in golden.names().filter(|name| name.starts_with("embedding.")) {
        let field = |at: usize, key: &str| name.splitn(5, '.').nth(at).unwrap().strip_prefix(key).unwrap();
        let (t, dim) = (field(1, "t").parse().unwrap(), field(2, "dim").parse().unwrap());
        let got = timestep_embedding(t, dim, field(3, "flip") == "1", field(4, "shift").parse().unwrap()).unwrap();
        let want = golden.values(name);
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {worst:.1e}");
        assert_eq!(got.len(), want.len());
        assert!(worst <= 1e-5, "{name}: {worst:e}");
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn the_generator_is_the_one_that_recorded() {
    let facts: Map<String, Value> = serde_json::from_value(fixtures::json("generator")).unwrap();
    assert!(facts.len() >= 5);
    for (name, case) in facts {
        let shape: Vec<u64> = case["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
        let got = fixture_tensor(case["seed"].as_u64().unwrap(), &name, &shape);
        let want: Vec<f32> = numbers(&case["values"]).iter().map(|&x| x as f32).collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn golden_files_are_as_recorded() {
    use sha2::{Digest, Sha256};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-test/golden");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert!(sums.lines().count() >= 40);
    for line in sums.lines() {
        let (want, file) = line.split_once("  ").unwrap();
        let digest = Sha256::digest(std::fs::read(folder.join(file)).unwrap());
        let got: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(got, want, "{file} is not what scripts/fixtures/record.py wrote");
    }
}
