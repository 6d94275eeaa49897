//! Which weights of a merge share one weight per expert: all of the model, or those of a block or a layer of the network.
//! Called by `judge` and `merge`.

use crate::nn::ParamLayout;
use std::ops::Range;

/// How finely merge weights are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    Model,
    Block,
    Layer,
}

/// A run of elements of a slab that belong to one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub slab: usize,
    pub elements: Range<u64>,
    pub block: usize,
}

/// The block that a tensor belongs to, by its canonical name: `down_blocks.0`, ..., `mid_block`, `up_blocks.0`, ...,
/// `adapter_list`, or what stands before (`in`, with the time embedding) or behind them (`out`).
pub fn block_of(tensor: &str) -> String {
    let mut parts = tensor.split('.');
    match (parts.next(), parts.next()) {
        (Some(side @ ("down_blocks" | "up_blocks")), Some(i)) => format!("{side}.{i}"),
        (Some(name @ ("mid_block" | "adapter_list")), _) => name.to_string(),
        (Some("conv_norm_out" | "conv_out"), _) => "out".into(),
        _ => "in".into(),
    }
}

/// The layer: a residual layer, an attention, a convolution between blocks, a projection; elsewhere what its name begins with.
pub fn layer_of(tensor: &str) -> String {
    let parts: Vec<&str> = tensor.split('.').collect();
    let depth = match parts[0] {
        "down_blocks" | "up_blocks" => 4,
        "mid_block" => 3,
        "adapter_list" => 2,
        _ => 1,
    };
    parts[..depth.min(parts.len())].join(".")
}

impl Per {
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Block => "block",
            Self::Layer => "layer",
        }
    }

    fn block(self, tensor: &str) -> String {
        match self {
            Self::Model => "model".into(),
            Self::Block => block_of(tensor),
            Self::Layer => layer_of(tensor),
        }
    }

    /// The blocks' names, in the order of their first tensors.
    pub fn blocks<'a>(self, tensors: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut names = Vec::new();
        for tensor in tensors {
            let block = self.block(tensor);
            if !names.contains(&block) {
                names.push(block);
            }
        }
        names
    }

    /// The place of a tensor's block among `blocks`.
    pub fn index(self, blocks: &[String], tensor: &str) -> Option<usize> {
        let block = self.block(tensor);
        blocks.iter().position(|b| *b == block)
    }

    /// The slabs cut where the block changes; gaps go with the tensor before them.
    pub fn segments(self, layout: &ParamLayout) -> Vec<Segment> {
        let blocks = self.blocks(layout.params.iter().map(|p| p.name.as_str()));
        let mut segments: Vec<Segment> = Vec::new();
        for p in &layout.params {
            let block = self.index(&blocks, &p.name).unwrap_or_default();
            match segments.last_mut() {
                Some(last) if (last.slab, last.block) == (p.slab, block) => {}
                last => {
                    if let Some(last) = last.filter(|last| last.slab == p.slab) {
                        last.elements.end = p.offset;
                    }
                    segments.push(Segment { slab: p.slab, elements: p.offset..layout.slabs[p.slab], block });
                }
            }
        }
        segments
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_names_and_segments_cover_every_slab_once() {
        let big: &[u64] = &[4096, 4096];
        let tensors = [
            ("conv_in.weight", &[5u64][..]),
            ("time_embedding.linear_1.bias", &[200]),
            ("down_blocks.0.resnets.0.conv1.bias", big),
            ("down_blocks.1.resnets.0.conv1.bias", &[300]),
            ("up_blocks.0.resnets.0.conv1.bias", big),
            ("mid_block.attentions.0.group_norm.weight", &[4]),
            ("conv_norm_out.bias", &[3]),
            ("conv_out.bias", &[3]),
        ];
        let layout = ParamLayout::new(tensors).unwrap();
        let names = Per::Block.blocks(tensors.map(|(name, _)| name));
        assert_eq!(names, ["in", "down_blocks.0", "down_blocks.1", "up_blocks.0", "mid_block", "out"]);
        let names = Per::Layer.blocks(tensors.map(|(name, _)| name));
        assert_eq!(names[..4], ["conv_in", "time_embedding", "down_blocks.0.resnets.0", "down_blocks.1.resnets.0"]);
        assert_eq!(names[4..], ["up_blocks.0.resnets.0", "mid_block.attentions.0", "conv_norm_out", "conv_out"]);
        for per in [Per::Model, Per::Block, Per::Layer] {
            let segments = per.segments(&layout);
            for (slab, &elements) in layout.slabs.iter().enumerate() {
                let ends = segments.iter().filter(|s| s.slab == slab).fold(0, |at, s| {
                    assert_eq!(s.elements.start, at);
                    s.elements.end
                });
                assert_eq!(ends, elements);
            }
            let most = if per == Per::Model { layout.slabs.len() } else { 10 };
            assert!(segments.len() <= most, "{segments:?}");
            for p in &layout.params {
                let holds = |s: &&Segment| s.slab == p.slab && s.elements.contains(&p.offset);
                let block = segments.iter().find(holds).unwrap().block;
                assert_eq!(Some(block), per.index(&per.blocks(tensors.map(|(name, _)| name)), &p.name));
            }
        }
    }
}
