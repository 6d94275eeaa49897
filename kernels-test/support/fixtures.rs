//! Golden files: recorded outputs, and the generator that makes their weights and inputs from a name.
//! Used by the tests that hold models, samplers and the optimizer to diffusers; see golden/README.md.

use std::collections::BTreeMap;
use std::path::PathBuf;

use deme::rng::{Purpose, stream, uniform};
use safetensors::SafeTensors;
use serde_json::Value;

/// Values of tensor `name`, row-major in the files' layout (convolutions OIHW, linear [out, in], images NCHW).
/// The same numbers as `tensor` in scripts/fixtures/fixtures.py.
pub fn fixture_tensor(seed: u64, name: &str, shape: &[u64]) -> Vec<f32> {
    let stream = stream(Purpose::Weights, crc32fast::hash(name.as_bytes()));
    let fan_in: u64 = shape.iter().skip(1).product();
    let value = |u: f64| match () {
        () if name.starts_with("input.") => (u - 0.5) * (2.0 * 3f64.sqrt()),
        () if shape.len() >= 2 => (u - 0.5) * (1.6 * (3.0 / fan_in as f64).sqrt()),
        () if name.ends_with("weight") => 1.0 + 0.4 * (u - 0.5),
        () => 0.2 * (u - 0.5),
    };
    (0..shape.iter().product()).map(|i| value(uniform(seed, stream, i)) as f32).collect()
}

/// One pair of files of kernels-test/golden: NAME.json (facts) and NAME.safetensors (recorded f32 outputs).
pub struct Golden {
    pub facts: Value,
    tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(&format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (name, (view.shape().iter().map(|&d| d as u64).collect(), values))
        });
        Self { facts: json(name), tensors: tensors.collect() }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> &[u64] {
        &self.get(name).0
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.get(name).1
    }

    fn get(&self, name: &str) -> &(Vec<u64>, Vec<f32>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}; there are {:?}", self.tensors.keys()))
    }
}

/// The facts of NAME.json alone.
pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(&format!("{name}.json"))).unwrap()).unwrap()
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels-test/golden").join(file)
}
