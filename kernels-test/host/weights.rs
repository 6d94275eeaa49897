//! Weight files that torch and safetensors wrote (scripts/fixtures/files.py), read value by value, in every format.

use std::path::{Path, PathBuf};

use deme::io::names::Names;
use deme::io::shards;
use deme::io::source::{Canonical, Dtype, TensorSource};

/// A committed fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-test/golden/files").join(name)
}

/// The script's `values`: exact in bf16.
fn values(count: usize, salt: usize) -> Vec<f32> {
    (0..count).map(|i| (((i * 37 + salt) % 256) as f32 - 128.0) / 8.0).collect()
}

#[test]
fn every_format_and_type_gives_the_same_values() {
    let files = ["zip_f32.bin", "zip_f16.bin", "zip_bf16.bin", "legacy_f32.bin", "legacy_f16.bin", "legacy_bf16.bin"];
    let safetensors = ["f32.safetensors", "f16.safetensors", "bf16.safetensors"];
    for file in files.into_iter().chain(safetensors).chain(["zip_protocol4.bin"]) {
        let source = shards::open(&fixture(file)).unwrap();
        let dtype = match file {
            f if f.contains("bf16") => Dtype::BF16,
            f if f.contains("f16") => Dtype::F16,
            _ => Dtype::F32,
        };
        let mut names = source.names().to_vec();
        if file.ends_with(".bin") {
            assert_eq!(names, ["conv_in.weight", "mid_block.attentions.0.query.weight", "conv_out.bias"], "{file}");
        }
        names.sort();
        assert_eq!(names.len(), 3, "{file}");
        assert_eq!(source.info("conv_in.weight").unwrap().shape, [4, 3, 3, 3], "{file}");
        assert_eq!(source.info("conv_in.weight").unwrap().dtype, dtype, "{file}");
        assert_eq!(source.read_f32("conv_in.weight").unwrap(), values(108, 1), "{file}");
        assert_eq!(source.read_f32("mid_block.attentions.0.query.weight").unwrap(), values(24, 2), "{file}");
        assert_eq!(source.read_f32("conv_out.bias").unwrap(), values(3, 3), "{file}");
        let error = source.read_f32("absent").unwrap_err().to_string();
        assert_eq!(error, format!("{}: tensor absent: is not in the file", fixture(file).display()));

        let canonical = Canonical::new(source).unwrap();
        assert_eq!(canonical.style(), Names::Old);
        assert_eq!(canonical.read_f32("mid_block.attentions.0.to_q.weight").unwrap(), values(24, 2), "{file}");
        assert!(!canonical.contains("mid_block.attentions.0.query.weight"));
    }
}

#[test]
fn views_are_gathered_by_their_strides() {
    for file in ["zip_awkward.bin", "legacy_awkward.bin"] {
        let source = shards::open(&fixture(file)).unwrap();
        let base = values(24, 4);
        let read = |name: &str| (source.info(name).unwrap().shape.clone(), source.read_f32(name).unwrap());
        assert_eq!(read("base"), (vec![4, 6], base.clone()), "{file}");
        let transposed = (0..24).map(|i| base[i % 4 * 6 + i / 4]).collect();
        assert_eq!(read("transposed"), (vec![6, 4], transposed), "{file}");
        assert_eq!(read("sliced"), (vec![2, 3], [6, 8, 10, 12, 14, 16].map(|i| base[i]).to_vec()), "{file}");
        assert_eq!(read("tail"), (vec![4], base[20..].to_vec()), "{file}");
        assert_eq!(read("scalar"), (vec![], vec![2.5]), "{file}");
        assert_eq!(read("empty"), (vec![0, 3], vec![]), "{file}");
        assert_eq!(read("parameter"), (vec![5], values(5, 5)), "{file}");
        assert_eq!(read("double"), (vec![2], values(2, 6)), "{file}");
        let error = source.read_f32("steps").unwrap_err().to_string();
        let expected = "tensor steps: has the type I64, expected a floating-point type";
        assert_eq!(error, format!("{}: {expected}", fixture(file).display()));
    }
}

#[test]
fn a_state_dict_with_module_versions_is_read() {
    let source = shards::open(&fixture("zip_state_dict.bin")).unwrap();
    assert_eq!(source.names(), ["conv.weight", "conv.bias"]);
    assert_eq!(source.read_f32("conv.weight").unwrap().len(), 1);
}
