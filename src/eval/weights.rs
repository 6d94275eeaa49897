//! The weights of the feature networks from users' files, batch norm folded into the convolutions.
//! Called by `features`. Folded: w' = w gamma / sqrt(var + eps), b' = beta - mean gamma / sqrt(var + eps), in f64.

use std::path::Path;

use super::backbone::{Backbone, ConvShape};
use super::score::Head;
use crate::error::{Error, Result};
use crate::io::source::InMemory;
use crate::io::{hash, shards, torchscript};

/// All convolutions of a network without their batch norms, and what identifies the file that they are from.
pub struct Weights {
    /// `NAME.weight` [cout, cin, kh, kw], of a depthwise convolution [C, kh kw], and `NAME.bias` [cout].
    pub tensors: InMemory,
    /// The last layer, where the file has it: for the Inception score.
    pub head: Option<Head>,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// A tensor's name, extents and elements.
type Named = (String, Vec<u64>, Vec<f32>);

/// The last layer's weight [classes, 2048] in a state dict.
const HEAD: &str = "fc.weight";

/// Files whose figures can be compared with others'.
const KNOWN: [(Backbone, &str); 2] = [
    (Backbone::Inception, "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"),
    (Backbone::MobileNet, "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"),
];

impl Weights {
    /// Whether these are the weights that scripts/eval-weights.sh fetches.
    pub fn known(&self) -> bool {
        KNOWN.iter().any(|(_, sha256)| *sha256 == self.sha256)
    }

    /// From a TorchScript archive of the FID network (its storages in the order of the graph: weight, beta, mean and
    /// variance of each convolution), or a state dict with torchvision's names as .pth or safetensors.
    pub fn open(path: &Path, backbone: Backbone) -> Result<Self> {
        let sha256 = hash::of_file(path)?;
        let shapes = backbone.convolutions()?;
        let (mut tensors, mut head) = (Vec::new(), None);
        match torchscript::Storages::open(path)? {
            Some(mut storages) if backbone == Backbone::Inception => {
                storages.count(4 * shapes.len())?;
                for (i, shape) in shapes.iter().enumerate() {
                    let mut next = |k: usize| storages.read(4 * i + k);
                    let [weight, beta, mean, var] = [next(0)?, next(1)?, next(2)?, next(3)?];
                    tensors.extend(fold(path, backbone, shape, [&weight, &[], &beta, &mean, &var])?);
                }
            }
            _ => {
                let source = shards::open(path)?;
                if backbone == Backbone::Inception && source.names().contains(&HEAD.to_owned()) {
                    head = Head::new(source.read_f32(HEAD)?, backbone.features() as usize);
                }
                for shape in &shapes {
                    let read = |layer: &str, what: &str| source.read_f32(&format!("{layer}.{what}"));
                    let norm = |what| read(&shape.conv.norm, what);
                    let (weight, gamma) = (read(&shape.conv.conv, "weight")?, norm("weight")?);
                    let (beta, mean, var) = (norm("bias")?, norm("running_mean")?, norm("running_var")?);
                    tensors.extend(fold(path, backbone, shape, [&weight, &gamma, &beta, &mean, &var])?);
                }
            }
        }
        Ok(Self { tensors: InMemory::new(path, tensors)?, head, sha256 })
    }
}

/// Weight and bias of one convolution; an empty `gamma` is all ones. Refuses other sizes than the network's and values that are not finite.
fn fold(path: &Path, backbone: Backbone, shape: &ConvShape, parts: [&[f32]; 5]) -> Result<[Named; 2]> {
    let [weight, gamma, beta, mean, var] = parts;
    let name = &shape.conv.conv;
    let channels = shape.conv.cout as usize;
    let extents = shape.extents();
    let per_channel = extents[1..].iter().product::<u64>() as usize;
    let hint = "give the weights of the FID InceptionV3 or of torchvision's mobilenet_v2 (scripts/eval-weights.sh)";
    let fits = weight.len() == channels * per_channel
        && [beta, mean, var].iter().all(|part| part.len() == channels)
        && (gamma.is_empty() || gamma.len() == channels);
    if !fits {
        let problem = format!("has {} weights and {} means, expected {extents:?}", weight.len(), mean.len());
        return Err(Error::format(path, format!("convolution {name}"), problem, hint));
    }
    let (mut folded, mut bias) = (Vec::with_capacity(weight.len()), Vec::with_capacity(channels));
    for (c, weight) in weight.chunks_exact(per_channel).enumerate() {
        let gamma = gamma.get(c).map_or(1.0, |&g| f64::from(g));
        let scale = gamma / (f64::from(var[c]) + backbone.norm_eps()).sqrt();
        folded.extend(weight.iter().map(|&w| (f64::from(w) * scale) as f32));
        bias.push((f64::from(beta[c]) - f64::from(mean[c]) * scale) as f32);
    }
    if folded.iter().chain(&bias).any(|v| !v.is_finite()) {
        return Err(Error::format(path, format!("convolution {name}"), "has values that are not finite", hint));
    }
    let extents = if shape.conv.depthwise { vec![extents[0], extents[2] * extents[3]] } else { extents.to_vec() };
    Ok([(format!("{name}.weight"), extents, folded), (format!("{name}.bias"), vec![channels as u64], bias)])
}
