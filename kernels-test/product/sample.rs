//! `deme sample`: trajectories from given noise against diffusers, batches, ensembles, files, refusals.

use crate::run::{deme, emoji, snapshot, tiny};
use crate::support::fixtures::{Golden, fixture_tensor};
use deme::io::png;
use deme::io::safetensors::SafetensorsFile;
use deme::io::source::TensorSource;
use deme::io::writer;
use std::collections::BTreeMap;
use std::path::Path;

fn path(p: &Path) -> String {
    p.display().to_string()
}

fn tensor(file: &Path) -> Vec<f32> {
    SafetensorsFile::open(file).unwrap().read_f32("sample").unwrap()
}

/// Samples with the given further options; returns the saved tensor.
fn sample(dir: &Path, model: &Path, name: &str, more: &[&str]) -> Vec<f32> {
    let (out, saved) = (path(&dir.join(format!("{name}.png"))), dir.join(format!("{name}.safetensors")));
    let mut words = vec!["sample", "--out", &out];
    let (model, tensor_file) = (path(model), path(&saved));
    words.extend(["--model", &model, "--save-tensor", &tensor_file]);
    words.extend(more);
    deme(words).exits(0);
    tensor(&saved)
}

#[test]
fn pictures_from_given_noise_are_those_of_diffusers() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Golden::open("ddim_emoji32");
    let seed = golden.facts["seed"].as_u64().unwrap();
    let shape = [2, 3, 32, 32];
    let noise = fixture_tensor(seed, "input.sample", &shape);
    let file = dir.path().join("noise.safetensors");
    writer::write(&file, &[("noise", &shape, &noise)], &BTreeMap::new()).unwrap();
    for (spacing, steps) in [("leading", "7"), ("trailing", "12"), ("linspace", "7")] {
        let got = sample(
            dir.path(),
            &emoji(),
            &format!("{spacing}{steps}"),
            &["--noise", &path(&file), "--spacing", spacing, "--steps", steps],
        );
        let expected = golden.values(&format!("sample.{spacing}.{steps}.eta0"));
        assert_eq!(got.len(), expected.len());
        let worst = got.iter().zip(expected).map(|(g, e)| (g - e).abs()).fold(0.0, |a, b| if b <= a { a } else { b });
        // 1e-3 of the pictures' range, -1 to 1.
        assert!(worst <= 2e-3, "{spacing} {steps}: {worst}");
    }
}

#[test]
fn a_picture_depends_on_its_number_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny(&dir.path().join("model"), 1);
    for eta in ["0", "1"] {
        let common = ["--steps", "3", "--eta", eta, "--seed", "5"];
        let all = sample(dir.path(), &model, &format!("all{eta}"), &[&common[..], &["--num", "5"]].concat());
        let split = sample(
            dir.path(),
            &model,
            &format!("split{eta}"),
            &[&common[..], &["--num", "5", "--batch", "2"]].concat(),
        );
        let fewer = sample(dir.path(), &model, &format!("fewer{eta}"), &[&common[..], &["--num", "3"]].concat());
        assert_eq!(all, split);
        assert_eq!(all[..fewer.len()], fewer);
    }
    assert_ne!(tensor(&dir.path().join("all0.safetensors")), tensor(&dir.path().join("all1.safetensors")));
}

#[test]
fn an_ensemble_of_one_expert_is_the_model_and_each_expert_has_its_range() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = [1, 2].map(|seed| tiny(&dir.path().join(format!("m{seed}")), seed));
    let (model, other) = (path(&a), path(&b));
    let plain = sample(dir.path(), &a, "plain", &["--num", "2", "--steps", "4"]);
    let same =
        sample(dir.path(), &a, "same", &["--num", "2", "--steps", "4", "--ensemble", "--experts", &model, &model]);
    assert_eq!(plain, same);
    // One step, at t = 0 (leading): only the first expert runs. Trailing: t = 999, only the last.
    let experts = ["--ensemble", "--experts", &model, &other];
    for (spacing, runs) in [("leading", &a), ("trailing", &b)] {
        let common = ["--num", "2", "--steps", "1", "--spacing", spacing];
        let ensemble = sample(dir.path(), &a, &format!("e{spacing}"), &[&common[..], &experts[..]].concat());
        assert_eq!(ensemble, sample(dir.path(), runs, &format!("m{spacing}"), &common));
    }
}

#[test]
fn files_carry_their_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let model = path(&tiny(&dir.path().join("model"), 1));
    let out = dir.path().join("pictures");
    deme(["sample", "--model", &model, "--num", "3", "--steps", "2", "--seed", "9", "--out", &path(&out)]).exits(0);
    let text = png::read_text(&out.join("00002.png")).unwrap();
    let (keyword, parameters) = &text[0];
    assert_eq!(keyword, "parameters");
    for part in ["Steps: 2", "Sampler: DDIM", "Eta: 0", "Spacing: leading", "Seed: 9", "First picture: 2"] {
        assert!(parameters.contains(part), "{parameters}");
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
}

#[test]
fn refusals_name_the_thing_and_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = path(&tiny(&dir.path().join("model"), 1));
    let noise = dir.path().join("noise.safetensors");
    writer::write(&noise, &[("noise", &[1, 3, 8, 9], &vec![0.0; 216])], &BTreeMap::new()).unwrap();
    let out = path(&dir.path().join("x.png"));
    let before = snapshot(dir.path());
    let common = ["sample", "--model", &model, "--out", &out];
    let noise = path(&noise);
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--noise", &noise], 3, "tensor noise: has the extents [1, 3, 8, 9], expected [N, 3, 8, 8]"),
        (&["--eta", "1.5"], 2, "eta is 1.5"),
        (&["--save-tensor", "y.png"], 2, "is named as a picture"),
        (&["--steps", "2000"], 2, "2000 sampling steps, but the model has 1000 timesteps"),
        (&["--ensemble"], 2, "--experts"),
        (&["--adapter", "no such GPU"], 2, "no adapter matches no such GPU"),
    ];
    for (more, code, message) in cases {
        let ran = deme([&common[..], more].concat()).exits(code);
        assert!(ran.err.contains(message), "{}", ran.err);
    }
    assert_eq!(snapshot(dir.path()), before);
}
