//! The weight tensors that a configuration asks for, by canonical name and with their extents in the file, and the check
//! of a weight file against them. Called by the model, by merging, and by every command that opens weights.

use std::collections::HashSet;

use super::config::{Block, TimeScaleShift, UNetConfig};
use super::projections::Placement;
use crate::error::{Error, Result};
use crate::io::source::TensorSource;

/// A tensor of the model: canonical name, extents as in the file (OIHW, [out, in] or [C]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<u64>,
}

impl TensorSpec {
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Every tensor of the UNet, in the order of the state dict that diffusers makes (the mid block comes after the up
/// blocks), then the channel projections of a placement.
pub fn expected(config: &UNetConfig, placement: Placement) -> Vec<TensorSpec> {
    let mut list = List { tensors: Vec::new(), config };
    let widths = &config.block_out_channels;
    let first = widths[0];
    list.conv("conv_in", config.in_channels, first, 3);
    list.linear("time_embedding.linear_1", first, config.time_embedding_dim);
    list.linear("time_embedding.linear_2", config.time_embedding_dim, config.time_embedding_dim);
    let last = widths.len() - 1;
    for (i, &width) in widths.iter().enumerate() {
        let block = format!("down_blocks.{i}");
        let layers = config.layers_per_block;
        if config.down_blocks[i] == Block::Attention {
            (0..layers).for_each(|j| list.attention(&format!("{block}.attentions.{j}"), width, true));
        }
        for j in 0..layers {
            list.resnet(&format!("{block}.resnets.{j}"), if j == 0 { config.down_in(i) } else { width }, width);
        }
        if i != last {
            list.conv(&format!("{block}.downsamplers.0.conv"), width, width, 3);
        }
    }
    for i in 0..widths.len() {
        let (block, width, layers) = (format!("up_blocks.{i}"), config.up_out(i), config.up_layers(i));
        if config.up_blocks[i] == Block::Attention {
            (0..layers.len()).for_each(|j| list.attention(&format!("{block}.attentions.{j}"), width, true));
        }
        for (j, (below, skip)) in layers.into_iter().enumerate() {
            list.resnet(&format!("{block}.resnets.{j}"), below + skip, width);
        }
        if i != last {
            list.conv(&format!("{block}.upsamplers.0.conv"), width, width, 3);
        }
    }
    if config.mid_block {
        let width = widths[last];
        if config.mid_attention {
            list.attention("mid_block.attentions.0", width, config.mid_attention_groups.is_some());
        }
        (0..2).for_each(|j| list.resnet(&format!("mid_block.resnets.{j}"), width, width));
    }
    list.norm("conv_norm_out", first);
    list.conv("conv_out", first, config.out_channels, 3);
    for place in placement.places(config) {
        list.push(place.weight(), &[place.channels, place.channels, 1, 1]);
    }
    list.tensors
}

/// Compares a weight file with what the configuration asks for; the error names up to four tensors that are missing,
/// unexpected or of another shape.
pub fn check(source: &dyn TensorSource, expected: &[TensorSpec]) -> Result<()> {
    let hint = "the weights and config.json do not belong together";
    let fail = |thing: &str, names: Vec<String>| {
        let more = names.len().saturating_sub(4);
        let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::format(source.path(), thing, format!("{shown}{tail}"), hint))
    };
    let missing: Vec<_> = expected.iter().filter(|t| !source.contains(&t.name)).map(|t| t.name.clone()).collect();
    if !missing.is_empty() {
        return fail("missing tensors", missing);
    }
    let known: HashSet<&str> = expected.iter().map(|t| t.name.as_str()).collect();
    let unexpected: Vec<_> = source.names().iter().filter(|n| !known.contains(n.as_str())).cloned().collect();
    if !unexpected.is_empty() {
        return fail("unexpected tensors", unexpected);
    }
    let mut misshaped = Vec::new();
    for tensor in expected {
        let shape = &source.info(&tensor.name)?.shape;
        if *shape != tensor.shape {
            misshaped.push(format!("{} is {shape:?}, expected {:?}", tensor.name, tensor.shape));
        }
    }
    if misshaped.is_empty() { Ok(()) } else { fail("tensors of another shape", misshaped) }
}

struct List<'a> {
    tensors: Vec<TensorSpec>,
    config: &'a UNetConfig,
}

impl List<'_> {
    fn push(&mut self, name: String, shape: &[u32]) {
        self.tensors.push(TensorSpec { name, shape: shape.iter().map(|&d| u64::from(d)).collect() });
    }

    fn weight_and_bias(&mut self, name: &str, weight: &[u32]) {
        self.push(format!("{name}.weight"), weight);
        self.push(format!("{name}.bias"), &weight[..1]);
    }

    fn conv(&mut self, name: &str, cin: u32, cout: u32, side: u32) {
        self.weight_and_bias(name, &[cout, cin, side, side]);
    }

    fn linear(&mut self, name: &str, inputs: u32, outputs: u32) {
        self.weight_and_bias(name, &[outputs, inputs]);
    }

    fn norm(&mut self, name: &str, channels: u32) {
        self.weight_and_bias(name, &[channels]);
    }

    fn attention(&mut self, name: &str, channels: u32, norm: bool) {
        if norm {
            self.norm(&format!("{name}.group_norm"), channels);
        }
        for matrix in ["to_q", "to_k", "to_v", "to_out.0"] {
            self.linear(&format!("{name}.{matrix}"), channels, channels);
        }
    }

    fn resnet(&mut self, name: &str, cin: u32, cout: u32) {
        let time = match self.config.time_scale_shift {
            TimeScaleShift::Default => cout,
            TimeScaleShift::ScaleShift => 2 * cout,
        };
        self.norm(&format!("{name}.norm1"), cin);
        self.conv(&format!("{name}.conv1"), cin, cout, 3);
        self.linear(&format!("{name}.time_emb_proj"), self.config.time_embedding_dim, time);
        self.norm(&format!("{name}.norm2"), cout);
        self.conv(&format!("{name}.conv2"), cout, cout, 3);
        if cin != cout {
            self.conv(&format!("{name}.conv_shortcut"), cin, cout, 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::io::json::parse_object;
    use crate::io::source::InMemory;
    use std::path::Path;

    fn config(text: &str) -> UNetConfig {
        let path = Path::new("config.json");
        UNetConfig::from_json(path, &parse_object(path, text.as_bytes()).unwrap()).unwrap()
    }

    fn counts(text: &str, placement: Placement) -> (usize, u64) {
        let list = expected(&config(text), placement);
        (list.len(), list.iter().map(TensorSpec::elements).sum())
    }

    const CIFAR10: &str = r#"{"block_out_channels": [128, 256, 256, 256], "attention_head_dim": null, "norm_eps": 1e-6,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "freq_shift": 1,
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "downsample_padding": 0}"#;
    const LSUN: &str = r#"{"block_out_channels": [128, 128, 256, 256, 512, 512], "attention_head_dim": null,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"]}"#;
    const EMOJI: &str = r#"{"block_out_channels": [32, 64, 128], "attention_head_dim": null, "norm_num_groups": 16,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1,
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}"#;

    #[test]
    fn counts_agree_with_the_published_files() {
        assert_eq!(counts(CIFAR10, Placement::None), (328, 35_746_307));
        assert_eq!(counts(CIFAR10, Placement::All), (328 + 9, 35_746_307 + 491_520));
        assert_eq!(counts(LSUN, Placement::None), (450, 113_673_219));
        assert_eq!(counts(LSUN, Placement::All), (450 + 13, 113_673_219 + 1_638_400));
        assert_eq!(counts(EMOJI, Placement::None).1, 2_587_491);
    }

    #[test]
    fn missing_unexpected_and_misshaped_tensors_are_named() {
        let wanted = |n: &str, s: &[u64]| TensorSpec { name: n.into(), shape: s.to_vec() };
        let source = InMemory::new("w", vec![("a".into(), vec![2], vec![0.0; 2]), ("b".into(), vec![1], vec![0.0])]);
        let source = source.unwrap();
        let message = |expected: &[TensorSpec]| check(&source, expected).map_err(|e| e.to_string());
        assert_eq!(message(&[wanted("a", &[2]), wanted("b", &[1])]), Ok(()));
        let many: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"].map(|n| wanted(n, &[1])).to_vec();
        assert_eq!(message(&many), Err("w: missing tensors: c, d, e, f and 1 more".into()));
        assert_eq!(message(&[wanted("a", &[2])]), Err("w: unexpected tensors: b".into()));
        let error = message(&[wanted("a", &[1, 2]), wanted("b", &[1])]);
        assert_eq!(error, Err("w: tensors of another shape: a is [2], expected [1, 2]".into()));
    }
}
