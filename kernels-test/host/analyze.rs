//! Task vectors' magnitudes and angles against numbers worked out by hand, from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deme::deme::analyze::vectors;
use deme::io::safetensors::SafetensorsFile;
use deme::io::source::TensorSource;
use deme::io::writer;

fn file(dir: &Path, name: &str, conv: [f32; 4], bias: [f32; 2], out: [f32; 1]) -> PathBuf {
    let path = dir.join(name);
    let tensors: [(&str, &[u64], &[f32]); 3] =
        [("conv_in.weight", &[2, 2, 1, 1], &conv), ("conv_in.bias", &[2], &bias), ("conv_out.bias", &[1], &out)];
    writer::write(&path, &tensors, &BTreeMap::new()).unwrap();
    path
}

#[test]
fn task_vectors_are_measured_tensor_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    // tau_0 = (3 0 0 4 | 0 0 | 1), tau_1 = (0 0 0 2 | 1 -2 | -1), tau_2 = 0
    let files = [
        file(dir.path(), "base", [1.0, 0.0, 0.0, 0.0], [0.0, 0.0], [2.0]),
        file(dir.path(), "first", [4.0, 0.0, 0.0, 4.0], [0.0, 0.0], [3.0]),
        file(dir.path(), "second", [1.0, 0.0, 0.0, 2.0], [1.0, -2.0], [1.0]),
        file(dir.path(), "third", [1.0, 0.0, 0.0, 0.0], [0.0, 0.0], [2.0]),
    ]
    .map(|path| SafetensorsFile::open(&path).unwrap());
    let names: Vec<&str> = files[0].names().iter().map(String::as_str).collect();
    let mut seen = 0;
    let mut done = || {
        seen += 1;
        Ok(())
    };
    let found = vectors::measure(names, 3, &|i, name| files[i].read_f32(name), &mut done).unwrap();
    assert_eq!(seen, 3);
    let tensor = |name: &str| found.tensors.iter().find(|t| t.tensor == name).unwrap();
    assert_eq!(tensor("conv_in.weight").norms, [5.0, 2.0, 0.0]);
    assert_eq!(tensor("conv_in.bias").norms, [0.0, 5f64.sqrt(), 0.0]);
    assert_eq!((tensor("conv_in.weight").base_norm, tensor("conv_in.weight").elements), (1.0, 4));
    assert_eq!((tensor("conv_out.bias").relative(0), tensor("conv_in.bias").relative(1)), (Some(0.5), None));
    let blocks: Vec<(&str, u64)> = found.blocks.iter().map(|b| (b.name.as_str(), b.elements)).collect();
    let mut sorted = blocks.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [("in", 6), ("out", 1)]);
    let block = |name: &str| found.blocks.iter().find(|b| b.name == name).unwrap();
    // In the first block (3 0 0 4 0 0) and (0 0 0 2 1 -2): 8 / (5 * 3).
    assert!((block("in").cosine(0, 1).unwrap() - 8.0 / 15.0).abs() < 1e-15);
    assert_eq!((block("out").cosine(0, 1), block("out").cosine(0, 2)), (Some(-1.0), None));
    assert_eq!(block("in").relative(0), Some(5.0));
    // Over all: 8 - 1 = 7, |tau_0|^2 = 26, |tau_1|^2 = 10, |theta|^2 = 5.
    let whole = &found.whole;
    assert!((whole.cosine(1, 0).unwrap() - 7.0 / 260f64.sqrt()).abs() < 1e-15);
    assert!((whole.relative(0).unwrap() - (26.0f64 / 5.0).sqrt()).abs() < 1e-12);
    assert_eq!((whole.elements, whole.norm(2), whole.cosines()[2][2]), (7, 0.0, None));
    assert!((whole.cosines()[0][0].unwrap() - 1.0).abs() < 1e-12);
}
