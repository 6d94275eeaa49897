//! Generated weights of the feature networks. Used by the tests that judge pictures.

use std::path::Path;

use deme::eval::backbone::Backbone;
use safetensors::tensor::{Dtype, TensorView};

use super::fixtures::fixture_tensor;

/// The state dict that scripts/fixtures/features.py makes: variances positive, convolutions with the gain.
pub fn state_dict(path: &Path, backbone: Backbone, seed: u64, gain: f64) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: &[u64], values: Vec<f32>| {
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        tensors.push((name, shape.iter().map(|&d| d as usize).collect(), bytes));
    };
    for shape in backbone.convolutions().unwrap() {
        let (conv, norm, extents) = (&shape.conv.conv, &shape.conv.norm, shape.extents());
        let name = format!("{conv}.weight");
        let weight = fixture_tensor(seed, &name, &extents).into_iter().map(|v| (f64::from(v) * gain) as f32).collect();
        add(name, &extents, weight);
        for (what, key) in [("weight", ""), ("bias", ""), ("running_mean", ""), ("running_var", ".weight")] {
            let name = format!("{norm}.{what}");
            let values = fixture_tensor(seed, &format!("{name}{key}"), &extents[..1]);
            add(name, &extents[..1], values);
        }
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}
