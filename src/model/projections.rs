//! Where the paper's channel projections stand in a UNet, which of them a model has, and which convolutions they fold into.
//! Called by `tensors` and `unet`, by folding and by every command that opens weights.

use super::config::{Block, UNetConfig};
use crate::io::source::TensorSource;

/// Names of projections begin so: the official code appends `adapter_list.N.weight` [C, C, 1, 1] to the state dict.
pub const PREFIX: &str = "adapter_list.";

/// Which places of a network have a projection; each contains those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    None,
    /// Behind up blocks that end in convolutions alone, into which a projection folds exactly.
    Foldable,
    /// After every down, mid and up block, as the official code has it.
    All,
}

/// A place for a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number in placement `all`, which names its weight in every placement.
    pub number: usize,
    /// The block whose output it takes, seen after its down- or upsampler.
    pub after: String,
    pub channels: u32,
    /// The convolutions whose sum it takes, with nothing between: P folds into the weight and bias of each. None where a
    /// residual without a convolution, or a skip connection, takes part.
    pub folds_into: Vec<String>,
}

impl Place {
    pub fn weight(&self) -> String {
        format!("{PREFIX}{}.weight", self.number)
    }
}

impl UNetConfig {
    /// The places of placement `all`, in the order of `adapter_list`.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        let mut place = |after: String, channels: u32, folds_into: Vec<String>| {
            places.push(Place { number: places.len(), after, channels, folds_into });
        };
        // A down block's output is a skip tensor too, which no projection changes.
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            place(format!("down_blocks.{i}"), channels, Vec::new());
        }
        // The last residual of the mid block adds its input as it is.
        if self.mid_block {
            place("mid_block".into(), self.up_out(0), Vec::new());
        }
        let last = self.up_blocks.len() - 1;
        for (i, block) in self.up_blocks.iter().enumerate() {
            let name = format!("up_blocks.{i}");
            let folds_into = if i < last {
                vec![format!("{name}.upsamplers.0.conv")]
            } else if *block == Block::Plain {
                // What the last residual layer takes is wider than what it gives: its shortcut is a convolution.
                let resnet = format!("{name}.resnets.{}", self.layers_per_block);
                vec![format!("{resnet}.conv2"), format!("{resnet}.conv_shortcut")]
            } else {
                Vec::new()
            };
            place(name, self.up_out(i), folds_into);
        }
        places
    }
}

impl Placement {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Foldable => "foldable",
            Self::All => "all",
        }
    }

    /// The places that have a projection, in the order of their numbers.
    pub fn places(self, config: &UNetConfig) -> Vec<Place> {
        let mut places = config.places();
        places.retain(|place| self == Self::All || self == Self::Foldable && !place.folds_into.is_empty());
        places
    }

    /// The placement of a weight file; `All` also for a file whose projections are those of no placement, so that the check
    /// of its tensors names what is missing.
    pub fn of(config: &UNetConfig, source: &dyn TensorSource) -> Self {
        let count = source.names().iter().filter(|name| name.starts_with(PREFIX)).count();
        let foldable = Self::Foldable.places(config);
        match count {
            0 => Self::None,
            _ if count == foldable.len() && foldable.iter().all(|p| source.contains(&p.weight())) => Self::Foldable,
            _ => Self::All,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::io::json::parse_object;
    use crate::io::source::InMemory;
    use crate::model::tensors::expected;
    use std::path::Path;

    fn config(down: &[&str], channels: &[u32]) -> UNetConfig {
        let up: Vec<String> = down.iter().rev().map(|k| format!("{k}UpBlock2D")).collect();
        let down: Vec<String> = down.iter().map(|k| format!("{k}DownBlock2D")).collect();
        let text = serde_json::json!({
            "block_out_channels": channels, "down_block_types": down, "up_block_types": up, "norm_num_groups": 4,
            "attention_head_dim": null, "layers_per_block": 2,
        });
        let path = Path::new("config.json");
        UNetConfig::from_json(path, &parse_object(path, text.to_string().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn lsun_has_13_places_of_which_6_fold_and_cifar10_9_and_4() {
        let lsun = config(&["", "", "", "", "Attn", ""], &[128, 128, 256, 256, 512, 512]);
        let all = Placement::All.places(&lsun);
        let channels: Vec<u32> = all.iter().map(|p| p.channels).collect();
        assert_eq!(channels, [128, 128, 256, 256, 512, 512, 512, 512, 512, 256, 256, 128, 128]);
        let numbers: Vec<usize> = Placement::Foldable.places(&lsun).iter().map(|p| p.number).collect();
        assert_eq!(numbers, [7, 8, 9, 10, 11, 12]);
        assert_eq!(all[11].folds_into, ["up_blocks.4.upsamplers.0.conv"]);
        assert_eq!(all[12].folds_into, ["up_blocks.5.resnets.2.conv2", "up_blocks.5.resnets.2.conv_shortcut"]);
        let cifar10 = config(&["", "Attn", "", ""], &[128, 256, 256, 256]);
        assert_eq!([Placement::All, Placement::Foldable].map(|p| p.places(&cifar10).len()), [9, 4]);
    }

    #[test]
    fn attention_in_the_last_up_block_folds_nothing() {
        let two = config(&["Attn", ""], &[8, 16]);
        let numbers: Vec<usize> = Placement::Foldable.places(&two).iter().map(|p| p.number).collect();
        assert_eq!(numbers, [3], "the last place is after an attention's residual");
        assert!(Placement::Foldable.places(&config(&["Attn"], &[8])).is_empty());
    }

    /// What the projections fold into is among the network's tensors, and as wide as they are.
    #[test]
    fn a_files_placement_is_known_by_its_names() {
        let config = config(&["", ""], &[8, 16]);
        for placement in [Placement::None, Placement::Foldable, Placement::All] {
            let tensors = expected(&config, placement);
            for place in placement.places(&config) {
                for conv in &place.folds_into {
                    let name = format!("{conv}.weight");
                    let found = tensors.iter().find(|t| t.name == name).unwrap();
                    assert_eq!(found.shape[0], u64::from(place.channels));
                }
            }
            let zeros = tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), vec![0.0; t.elements() as usize]));
            let source = InMemory::new("w", zeros.clone().collect()).unwrap();
            assert_eq!(Placement::of(&config, &source), placement);
            // One projection fewer is no placement: the check names what is missing.
            let fewer =
                InMemory::new("w", zeros.filter(|(name, ..)| name != "adapter_list.4.weight").collect()).unwrap();
            if placement != Placement::None {
                assert_eq!(Placement::of(&config, &fewer), Placement::All);
            }
        }
    }
}
