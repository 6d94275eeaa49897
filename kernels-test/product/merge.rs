//! `deme merge`: its laws through files, what it writes beside the weights, what it refuses, and its memory.

use std::fs;
use std::path::{Path, PathBuf};

use deme::io::folder::ModelFolder;
use deme::io::source::TensorSource;
use deme::model::projections::Placement;
use serde_json::{Value, json};

use super::run::{Ran, SCHEDULER, TINY, deme, emoji, model, snapshot, tiny};

fn merge(model: &Path, experts: &[&Path], weights: &str, out: &Path) -> Ran {
    merge_with(model, experts, weights, out, &[])
}

fn merge_with(model: &Path, experts: &[&Path], weights: &str, out: &Path, more: &[&str]) -> Ran {
    let mut arguments: Vec<String> = vec!["merge".into(), "--model".into(), model.to_str().unwrap().into()];
    arguments.push("--experts".into());
    arguments.extend(experts.iter().map(|e| e.to_str().unwrap().to_string()));
    arguments.extend([format!("--weights={weights}"), "--out".into(), out.to_str().unwrap().into()]);
    arguments.extend(more.iter().map(|m| m.to_string()));
    deme(arguments)
}

/// Bits of all weights, by canonical name.
fn weights(dir: &Path) -> Vec<(String, Vec<u32>)> {
    let folder = ModelFolder::open(dir).unwrap();
    let bits = |name: &String| {
        let values = folder.weights.read_f32(name).unwrap();
        (name.clone(), values.into_iter().map(f32::to_bits).collect())
    };
    folder.weights.names().iter().map(bits).collect()
}

struct Place {
    root: tempfile::TempDir,
    base: PathBuf,
    experts: [PathBuf; 2],
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let base = tiny(&root.path().join("base"), 1);
    let experts = [tiny(&root.path().join("e0"), 2), tiny(&root.path().join("e1"), 3)];
    Place { root, base, experts }
}

impl Place {
    fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    fn merge(&self, weights: &str) -> Ran {
        merge(&self.base, &[&self.experts[0], &self.experts[1]], weights, &self.out())
    }
}

#[test]
fn the_laws_hold_on_the_bundled_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let base = emoji();
    let old_base = weights(&base);
    // An expert that is the base with every weight moved by a bit of its own.
    let config = fs::read_to_string(base.join("unet/config.json")).unwrap();
    let moved = model(&root.path().join("moved"), &config, Placement::None, |t, e| (t as f32 - e as f32) / 4096.0);
    let merged = |name: &str, weights: &str| {
        let out = root.path().join(name);
        merge(&base, &[&moved, &base], weights, &out).exits(0);
        out
    };
    let sorted = |dir: &Path| {
        let mut all = weights(dir);
        all.sort();
        all
    };
    assert_eq!(weights(&merged("zero", "0,0")), old_base);
    assert_eq!(weights(&merged("stayed", "0,0.7")), old_base);
    assert_eq!(sorted(&merged("unit", "1,0")), sorted(&moved));
    assert_eq!(weights(&merged("other", "0,1")), old_base);
    let folder = ModelFolder::open(&root.path().join("zero")).unwrap();
    assert_eq!(folder.unet_config.map, ModelFolder::open(&base).unwrap().unet_config.map);
}

#[test]
fn weights_of_either_sign_come_out_as_the_formula_says() {
    let p = place();
    let ran = p.merge("0.3,-0.2").exits(0);
    assert!(ran.out.contains("merged 2 experts into"), "{}", ran.out);
    assert!(ran.out.contains("expert 1: weight -0.2, |tau| "), "{}", ran.out);
    let [theta, a, b, merged] = [&p.base, &p.experts[0], &p.experts[1], &p.out()].map(|dir| weights(dir));
    for (i, (name, values)) in merged.iter().enumerate() {
        for (e, bits) in values.iter().enumerate() {
            let [t, a, b] = [&theta, &a, &b].map(|m| f64::from(f32::from_bits(m[i].1[e])));
            let expected = (t + (0.3 * (a - t) - 0.2 * (b - t))) as f32;
            let ulps = i64::from(*bits) - i64::from(expected.to_bits());
            assert!(ulps.abs() <= 1, "{name}[{e}]: {} is not {expected}", f32::from_bits(*bits));
        }
    }
}

#[test]
fn the_folder_says_what_was_merged_and_keeps_the_configurations() {
    let p = place();
    p.merge("0.25,0.5").exits(0);
    let read =
        |name: &str| -> Value { serde_json::from_str(&fs::read_to_string(p.out().join(name)).unwrap()).unwrap() };
    let about = read("deme.json");
    assert_eq!(about["command"], json!("merge"));
    assert_eq!(about["experts"][1]["weight"], json!(0.5));
    assert_eq!(about["experts"][1]["path"], json!(p.experts[1]));
    assert_eq!(about["base"]["sha256"][0].as_str().unwrap().len(), 64);
    assert_eq!(read("unet/config.json"), serde_json::from_str::<Value>(TINY).unwrap());
    assert_eq!(read("scheduler/scheduler_config.json"), serde_json::from_str::<Value>(SCHEDULER).unwrap());
    assert_eq!(read("model_index.json")["unet"], json!(["diffusers", "UNet2DModel"]));
}

#[test]
fn names_are_kept_or_chosen() {
    let p = place();
    for (style, name) in
        [("old", "up_blocks.0.attentions.0.query.weight"), ("new", "up_blocks.0.attentions.0.to_q.weight")]
    {
        let out = p.root.path().join(style);
        merge_with(&p.base, &[&p.experts[0]], "0.5", &out, &["--names", style]).exits(0);
        let listed = deme(["inspect", "--tensors", out.to_str().unwrap()]).exits(0).out;
        assert!(listed.contains(&format!("{name}: F32 [4, 4]")), "{listed}");
    }
}

#[test]
fn a_half_precision_base_is_read_exactly_and_the_result_is_f32() {
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    let p = place();
    let file = p.base.join("unet/diffusion_pytorch_model.safetensors");
    let full = ModelFolder::open(&p.base).unwrap();
    let halved: Vec<_> = full
        .weights
        .names()
        .iter()
        .map(|name| {
            let values = full.weights.read_f32(name).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
            let shape: Vec<usize> = full.weights.info(name).unwrap().shape.iter().map(|&d| d as usize).collect();
            (name.clone(), shape, bytes)
        })
        .collect();
    drop(full);
    let views = halved.iter().map(|(n, s, b)| (n.clone(), TensorView::new(Dtype::F16, s.clone(), b).unwrap()));
    serialize_to_file(views, None, &file).unwrap();
    p.merge("0,0").exits(0);
    let sorted = |dir: &Path| {
        let mut all = weights(dir);
        all.sort();
        all
    };
    assert_eq!(sorted(&p.out()), sorted(&p.base));
    let about = deme(["inspect", "--json", p.out().to_str().unwrap()]).exits(0).out;
    let about: Value = serde_json::from_str(&about).unwrap();
    assert_eq!(about["types"], json!({"F32": about["tensors"]}));
    // A unit vector gives the f32 expert, not its rounding to the base's type.
    let unit = p.root.path().join("unit");
    merge(&p.base, &[&p.experts[0]], "1", &unit).exits(0);
    assert_eq!(sorted(&unit), sorted(&p.experts[0]));
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let p = place();
    let before = snapshot(p.root.path());
    let experts: [&Path; 2] = [&p.experts[0], &p.experts[1]];
    let ran = merge_with(&p.base, &experts, "0.5,0.5", &p.out(), &["--dry-run"]).exits(0);
    assert!(ran.out.starts_with("would merge 2 experts into"), "{}", ran.out);
    merge_with(&p.base, &experts, "0.5", &p.out(), &["--dry-run"]).exits(2);
    assert_eq!(snapshot(p.root.path()), before);
}

#[test]
fn bad_weights_and_places_are_refused_and_nothing_is_written() {
    let p = place();
    let before = snapshot(p.root.path());
    let one_each = "give one weight for each expert, in the experts' order";
    p.merge("0.5").complains(2, "1 weights for 2 experts", one_each);
    p.merge("0.5,0.5,0.5").complains(2, "3 weights for 2 experts", one_each);
    let finite = "weights are finite numbers, such as 0.25";
    p.merge("0.5,nan").complains(2, "weight 1 is NaN", finite);
    p.merge("inf,0.5").complains(2, "weight 0 is inf", finite);
    for out in [&p.base, &p.experts[1]] {
        let ran = merge(&p.base, &[&p.experts[0]], "0.5", out).exits(2);
        assert!(ran.err.contains("exists already"), "{}", ran.err);
    }
    assert_eq!(snapshot(p.root.path()), before);
}

#[test]
fn models_that_do_not_match_are_refused_by_file_and_key() {
    let p = place();
    let expert = |name: &str, config: &str| model(&p.root.path().join(name), config, Placement::None, |_, _| 0.0);
    let wide = expert("wide", &TINY.replace("[4]", "[8]"));
    let groups = expert("groups", &TINY.replace("\"norm_num_groups\": 2", "\"norm_num_groups\": 4"));
    let schedule = expert("schedule", TINY);
    fs::write(schedule.join("scheduler/scheduler_config.json"), SCHEDULER.replace("0.02", "0.03")).unwrap();
    let before = snapshot(p.root.path());
    let hint = "merge only experts that were finetuned from this model";
    let config = p.base.join("unet/config.json");
    for (dir, key) in [(&wide, "block_out_channels"), (&groups, "norm_num_groups")] {
        let message = format!("{}: {key}: differs from {}", dir.join("unet/config.json").display(), config.display());
        merge(&p.base, &[dir], "0.5", &p.out()).complains(3, &message, hint);
    }
    let [theirs, ours] = [&schedule, &p.base].map(|d| d.join("scheduler/scheduler_config.json"));
    let message = format!("{}: betas: differ from those of {}", theirs.display(), ours.display());
    merge(&p.base, &[&schedule], "0.5", &p.out()).complains(3, &message, hint);
    let missing = p.root.path().join("none");
    let message =
        format!("{}: cannot open the model folder: No such file or directory (os error 2)", missing.display());
    merge(&p.base, &[&missing], "0.5", &p.out()).complains(3, &message, "check the path");
    assert_eq!(snapshot(p.root.path()), before);
}

#[test]
fn a_value_that_is_not_finite_stops_the_merge_and_leaves_nothing() {
    let p = place();
    let bad =
        model(&p.root.path().join("bad"), TINY, Placement::None, |t, e| if (t, e) == (3, 2) { f32::NAN } else { 0.0 });
    let before = snapshot(p.root.path());
    let ran = merge(&p.base, &[&bad], "0.5", &p.out()).exits(3);
    let file = bad.join("unet/diffusion_pytorch_model.safetensors");
    let message = format!("error: {}: tensor time_embedding.linear_1.bias: element 2 is NaN", file.display());
    assert!(ran.err.starts_with(&message), "{}", ran.err);
    assert_eq!(snapshot(p.root.path()), before);
}

#[test]
fn experts_with_projections_merge_onto_identities_and_it_is_said() {
    let p = place();
    let projected = model(&p.root.path().join("projected"), TINY, Placement::All, |_, _| 0.5);
    let ran = merge(&p.base, &[&projected, &p.experts[0]], "0.5,0", &p.out()).exits(0);
    assert!(ran.err.contains("plain diffusers ignores them"), "{}", ran.err);
    let merged = weights(&p.out());
    let (_, first) = merged.iter().find(|(name, _)| name == "adapter_list.0.weight").unwrap();
    let expected = |e: usize| if e.is_multiple_of(5) { 0.75f32 } else { 0.25 };
    assert_eq!(*first, (0..16).map(|e| expected(e).to_bits()).collect::<Vec<_>>());
}

/// Three models of 97 MB under an address space of 200 MB, which holds the program, a few tensors and two of the models at
/// the most.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_below_the_sum_of_the_models() {
    let root = tempfile::tempdir().unwrap();
    let config = TINY
        .replace("[4]", "[192, 192, 192]")
        .replace("[\"DownBlock2D\"]", "[\"DownBlock2D\", \"DownBlock2D\", \"DownBlock2D\"]")
        .replace("[\"AttnUpBlock2D\"]", "[\"UpBlock2D\", \"UpBlock2D\", \"UpBlock2D\"]")
        .replace("\"layers_per_block\": 1", "\"layers_per_block\": 4");
    let models: Vec<PathBuf> =
        (0..3).map(|i| model(&root.path().join(format!("m{i}")), &config, Placement::None, |_, _| i as f32)).collect();
    let bytes: u64 =
        models.iter().map(|m| fs::metadata(m.join("unet/diffusion_pytorch_model.safetensors")).unwrap().len()).sum();
    assert!(bytes > 250_000_000, "{bytes} bytes");
    let command = r#"ulimit -v 200000; exec "$0" merge --model "$1" --experts "$2" "$3" --weights=0.5,0.5 --out "$4""#;
    let out = root.path().join("out");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command, env!("CARGO_BIN_EXE_deme")]).args(&models).arg(&out);
    let ran = shell.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(weights(&out).iter().all(|(_, v)| v.iter().all(|b| *b == 1.5f32.to_bits())));
}

#[test]
fn other_methods_write_what_they_did_and_refuse_what_they_do_not_take() {
    let place = place();
    let [base, one, other] = [&place.base, &place.experts[0], &place.experts[1]].map(|p| p.to_str().unwrap());
    let run = |name: &str, more: &[&str]| {
        let out = place.root.path().join(name);
        let words = ["merge", "--model", base, "--experts", one, other, "--out", out.to_str().unwrap()];
        (deme(words.iter().chain(more)), out)
    };
    for (method, more, kept) in [
        ("soup", &[][..], json!({})),
        ("slerp", &["--weights", "0.25"], json!({"weight": 0.25})),
        ("ties", &["--weights", "0.5,0.5", "--density", "0.3"], json!({"density": 0.3, "lambda": 1.0})),
        ("dare", &["--weights", "0.5,0.5", "--seed", "7"], json!({"density": 0.5, "seed": 7})),
    ] {
        let (ran, out) = run(method, &[&["--method", method], more].concat());
        let ran = ran.exits(0);
        assert!(ran.out.contains("expert 1: ") && ran.out.contains("merged 2 experts"), "{}", ran.out);
        let about: Value = serde_json::from_slice(&fs::read(out.join("deme.json")).unwrap()).unwrap();
        assert!(about["formula"].is_string() && about["experts"][1]["sha256"].is_array(), "{about}");
        for (key, value) in kept.as_object().unwrap() {
            assert_eq!(&about[key], value, "{method}");
        }
        assert_ne!(weights(&out), weights(&place.base));
    }
    // The ends of the arc are the experts.
    let (ran, out) = run("end", &["--method", "slerp", "--weights", "1"]);
    ran.exits(0);
    assert_eq!(weights(&out), weights(&place.experts[1]));
    let before = snapshot(place.root.path());
    for (more, message) in [
        (&["--method", "soup", "--weights", "0.5,0.5"][..], "a soup has no weights"),
        (&["--method", "slerp", "--weights", "0.5,0.5"], "2 weights for an arc"),
        (&["--weights", "0.5,0.5", "--density", "0.5"], "--density is for ties and dare"),
        (&["--method", "ties", "--weights", "0.5,0.5", "--density", "0"], "a density of 0"),
        (&[], "there are no weights"),
    ] {
        let ran = run("refused", more).0.exits(2);
        assert!(ran.err.contains(message), "{}", ran.err);
    }
    let file = base.to_string() + "/unet/config.json";
    let ran = run("refused", &["--weights-file", &file]).0.exits(3);
    assert!(ran.err.contains("weights"), "{}", ran.err);
    assert_eq!(snapshot(place.root.path()), before);
}
