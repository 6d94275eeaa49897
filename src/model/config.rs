//! `UNetConfig`: what a UNet2DModel's config.json says, with the defaults of diffusers 0.42.1 where a key is absent.
//! Every key that changes the result is here or refused by name. Called by the model and by all commands that open one.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::io::json::Keys;

/// A down or up block: residual layers, each followed by self-attention or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    Plain,
    Attention,
}

/// How the stride-2 convolution of a down block is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownsamplePadding {
    /// `downsample_padding` 0: one row and column of zeros after the last (Ho et al.).
    RightBottom,
    /// `downsample_padding` 1: one on each side.
    Symmetric,
}

/// `resnet_time_scale_shift`: how the time embedding enters a residual layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeScaleShift {
    /// Added before the second norm.
    Default,
    /// norm2(h) * (1 + scale) + shift; the projection is twice as wide, scale first.
    ScaleShift,
}

/// A UNet2DModel. Channels are those of the files; image channels are padded only in buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    /// [height, width]; `None` where the file leaves it open.
    pub sample_size: Option<[u32; 2]>,
    pub in_channels: u32,
    pub out_channels: u32,
    /// The network sees 2x - 1.
    pub center_input_sample: bool,
    /// Width of the time embedding after its first matrix; 4 * block_out_channels[0] unless the file says otherwise.
    pub time_embedding_dim: u32,
    /// freq_i = exp(-ln(10000) i / (half - freq_shift)), half = block_out_channels[0] / 2.
    pub freq_shift: f64,
    /// [cos, sin] instead of [sin, cos].
    pub flip_sin_to_cos: bool,
    pub block_out_channels: Vec<u32>,
    pub down_blocks: Vec<Block>,
    pub up_blocks: Vec<Block>,
    /// False where `mid_block_type` is null.
    pub mid_block: bool,
    /// Residual layers of a down block; an up block has one more.
    pub layers_per_block: u32,
    /// Every residual layer and attention of the mid block ends with a division by it.
    pub mid_block_scale_factor: f64,
    pub downsample_padding: DownsamplePadding,
    /// Not applied when sampling; training refuses it (`check_trainable`).
    pub dropout: f64,
    /// Channels of a head; `None` is one head over all channels.
    pub attention_head_dim: Option<u32>,
    pub norm_num_groups: u32,
    /// Groups of the norm in the mid block's attention; `None` is no norm there.
    pub mid_attention_groups: Option<u32>,
    pub norm_eps: f64,
    pub time_scale_shift: TimeScaleShift,
    /// Whether the mid block has attention.
    pub mid_attention: bool,
}

const MAX_CHANNELS: u32 = 65_536;
const MAX_LAYERS: u32 = 64;
const MAX_BLOCKS: usize = 16;

impl UNetConfig {
    /// From the object of a config.json; `path` is named in errors. Sizes are checked against each other.
    pub fn from_json(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let keys = Keys::new(path, map);
        refuse_other_architectures(&keys)?;
        let channels = keys.u32_list("block_out_channels", &[224, 448, 672, 896], 4..=MAX_CHANNELS)?;
        if channels.is_empty() || channels.len() > MAX_BLOCKS {
            let problem = format!("has {} entries, expected 1 to {MAX_BLOCKS}", channels.len());
            return Err(keys.refuse("block_out_channels", problem));
        }
        let down_default = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"];
        let up_default = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"];
        let down_blocks =
            blocks(&keys, "down_block_types", &down_default, ["DownBlock2D", "AttnDownBlock2D"], channels.len())?;
        let up_blocks = blocks(&keys, "up_block_types", &up_default, ["UpBlock2D", "AttnUpBlock2D"], channels.len())?;
        let norm_num_groups = keys.u32("norm_num_groups", 32, 1..=MAX_CHANNELS)?;
        let time_scale_shift = match keys.str("resnet_time_scale_shift", "default")? {
            "default" => TimeScaleShift::Default,
            "scale_shift" => TimeScaleShift::ScaleShift,
            _ => return Err(unsupported(&keys, "resnet_time_scale_shift", "\"default\" and \"scale_shift\" are")),
        };
        let mid_groups = keys.u32_or_null("attn_norm_num_groups", None, 1..=MAX_CHANNELS)?;
        // Without its own number, the mid attention takes the residual layers' groups, or no norm with scale_shift.
        let inherited = (time_scale_shift == TimeScaleShift::Default).then_some(norm_num_groups);
        let time_embedding_dim = keys.u32_or_null("time_embedding_dim", None, 0..=4 * MAX_CHANNELS)?;
        let config = Self {
            sample_size: sample_size(&keys)?,
            in_channels: keys.u32("in_channels", 3, 1..=MAX_CHANNELS)?,
            out_channels: keys.u32("out_channels", 3, 1..=MAX_CHANNELS)?,
            center_input_sample: keys.bool("center_input_sample", false)?,
            // Zero stands for "the default", as in diffusers.
            time_embedding_dim: time_embedding_dim.filter(|&d| d > 0).unwrap_or(4 * channels[0]),
            freq_shift: keys.f64("freq_shift", 0.0)?,
            flip_sin_to_cos: keys.bool("flip_sin_to_cos", true)?,
            down_blocks,
            up_blocks,
            mid_block: mid_block(&keys)?,
            layers_per_block: keys.u32("layers_per_block", 2, 1..=MAX_LAYERS)?,
            mid_block_scale_factor: keys.f64("mid_block_scale_factor", 1.0)?,
            downsample_padding: match keys.u32("downsample_padding", 1, 0..=MAX_CHANNELS)? {
                0 => DownsamplePadding::RightBottom,
                1 => DownsamplePadding::Symmetric,
                _ => return Err(unsupported(&keys, "downsample_padding", "0 and 1 are")),
            },
            dropout: keys.f64("dropout", 0.0)?,
            attention_head_dim: keys.u32_or_null("attention_head_dim", Some(8), 1..=MAX_CHANNELS)?,
            norm_num_groups,
            mid_attention_groups: mid_groups.or(inherited),
            norm_eps: keys.f64("norm_eps", 1e-5)?,
            time_scale_shift,
            mid_attention: keys.bool("add_attention", true)?,
            block_out_channels: channels,
        };
        config.check(&keys)?;
        Ok(config)
    }

    /// Heads of an attention over `channels`.
    pub fn heads(&self, channels: u32) -> u32 {
        channels / self.attention_head_dim.unwrap_or(channels)
    }

    /// Channels that down block `i` takes.
    pub fn down_in(&self, i: usize) -> u32 {
        self.block_out_channels[i.saturating_sub(1)]
    }

    /// Channels that up block `i` gives.
    pub fn up_out(&self, i: usize) -> u32 {
        self.block_out_channels[self.block_out_channels.len() - 1 - i]
    }

    /// For each residual layer of up block `i`: (channels that come from below, channels of the skip tensor).
    pub fn up_layers(&self, i: usize) -> Vec<(u32, u32)> {
        let last = self.block_out_channels.len() - 1;
        let out = self.up_out(i);
        let before = self.up_out(i.saturating_sub(1));
        let next = self.up_out((i + 1).min(last));
        let layers = self.layers_per_block as usize + 1;
        (0..layers).map(|j| (if j == 0 { before } else { out }, if j == layers - 1 { next } else { out })).collect()
    }

    /// Training with dropout is not built; sampling and evaluation do not use it.
    pub fn check_trainable(&self, path: &Path) -> Result<()> {
        if self.dropout == 0.0 {
            return Ok(());
        }
        let hint = "set it to 0.0 in a copy of the model to train without dropout; sampling is not affected by it";
        Err(Error::unsupported(path, "dropout", format!("{} in training", self.dropout), hint))
    }

    fn check(&self, keys: &Keys) -> Result<()> {
        let first = self.block_out_channels[0];
        if !first.is_multiple_of(2) {
            let hint = "the sinusoidal embedding has two halves; the first width must be even";
            return Err(Error::unsupported(keys.path, "block_out_channels", format!("{first}, ..."), hint));
        }
        if f64::from(first / 2) <= self.freq_shift {
            return Err(keys.refuse("freq_shift", format!("must be below {}, half the first width", first / 2)));
        }
        if self.mid_block_scale_factor == 0.0 {
            return Err(keys.refuse("mid_block_scale_factor", "is 0, and the mid block divides by it"));
        }
        if self.norm_eps as f32 <= 0.0 {
            return Err(keys.refuse("norm_eps", format!("is {}, expected a number above 0", self.norm_eps)));
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return Err(keys.refuse("dropout", format!("is {}, expected 0 to 1", self.dropout)));
        }
        let concatenated = (0..self.up_blocks.len()).flat_map(|i| self.up_layers(i)).map(|(below, skip)| below + skip);
        for c in self.block_out_channels.iter().copied().chain(concatenated) {
            divides(keys, "norm_num_groups", self.norm_num_groups, c)?;
        }
        let with_attention = |blocks: &[Block], width: &dyn Fn(usize) -> u32| -> Vec<u32> {
            let of = |(i, b): (usize, &Block)| (*b == Block::Attention).then(|| width(i));
            blocks.iter().enumerate().filter_map(of).collect()
        };
        let mut widths = with_attention(&self.down_blocks, &|i| self.block_out_channels[i]);
        widths.extend(with_attention(&self.up_blocks, &|i| self.up_out(i)));
        if self.mid_block && self.mid_attention {
            widths.push(self.up_out(0));
            if let Some(groups) = self.mid_attention_groups {
                divides(keys, "attn_norm_num_groups", groups, self.up_out(0))?;
            }
        }
        for c in widths {
            divides(keys, "attention_head_dim", self.attention_head_dim.unwrap_or(c), c)?;
        }
        Ok(())
    }
}

fn divides(keys: &Keys, key: &str, divisor: u32, channels: u32) -> Result<()> {
    if channels.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(keys.refuse(key, format!("is {divisor}, which does not divide {channels} channels")))
}

fn unsupported(keys: &Keys, key: &str, built: &str) -> Error {
    keys.unsupported(key, keys.map.get(key).unwrap_or(&Value::Null), &format!("of {key}, {built} built"))
}

fn blocks(keys: &Keys, key: &str, default: &[&str], names: [&str; 2], count: usize) -> Result<Vec<Block>> {
    let listed = keys.str_list(key, default)?;
    let kinds: Vec<Block> = listed
        .iter()
        // The oldest files say UNetResDownBlock2D; diffusers drops the prefix.
        .map(|name| match name.strip_prefix("UNetRes").unwrap_or(name) {
            n if n == names[0] => Ok(Block::Plain),
            n if n == names[1] => Ok(Block::Attention),
            _ => {
                let hint = format!("of {key}, {} and {} are built", names[0], names[1]);
                Err(Error::unsupported(keys.path, key, format!("{name:?}"), hint))
            }
        })
        .collect::<Result<_>>()?;
    if kinds.len() != count {
        let problem = format!("has {} entries and block_out_channels has {count}", kinds.len());
        return Err(keys.refuse(key, problem));
    }
    Ok(kinds)
}

fn mid_block(keys: &Keys) -> Result<bool> {
    match keys.map.get("mid_block_type") {
        None => Ok(true),
        Some(Value::Null) => Ok(false),
        Some(Value::String(s)) if s == "UNetMidBlock2D" => Ok(true),
        Some(_) => Err(unsupported(keys, "mid_block_type", "\"UNetMidBlock2D\" and null are")),
    }
}

fn sample_size(keys: &Keys) -> Result<Option<[u32; 2]>> {
    if keys.get("sample_size").is_some_and(Value::is_array) {
        let sides = keys.u32_list("sample_size", &[], 1..=MAX_CHANNELS)?;
        let problem = || keys.refuse("sample_size", format!("has {} entries, expected height and width", sides.len()));
        return <[u32; 2]>::try_from(sides.as_slice()).map(Some).map_err(|_| problem());
    }
    Ok(keys.u32_or_null("sample_size", None, 1..=MAX_CHANNELS)?.map(|side| [side, side]))
}

/// Keys with one value that is built; anything else is refused. (key, accepted texts)
const ONE_VALUE: [(&str, &[&str]); 5] = [
    ("_class_name", &["UNet2DModel"]),
    ("time_embedding_type", &["positional"]),
    ("downsample_type", &["conv"]),
    ("upsample_type", &["conv"]),
    ("act_fn", &["silu", "swish"]),
];

/// Keys that ask for parts that are not built; null is fine. The first two are UNet2DModel's own, quantization_config is
/// any model's, the rest belong to diffusers' other UNets and show that the file is one of those.
const MUST_BE_NULL: [&str; 22] = [
    "class_embed_type",
    "num_class_embeds",
    "quantization_config",
    "cross_attention_dim",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "addition_embed_type",
    "num_attention_heads",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "timestep_post_act",
    "projection_class_embeddings_input_dim",
    "cross_attention_norm",
    "use_linear_projection",
    "dual_cross_attention",
    "only_cross_attention",
    "mid_block_only_cross_attention",
    "upcast_attention",
    "resnet_skip_time_act",
    "class_embeddings_concat",
    "reverse_transformer_layers_per_block",
    "use_timestep_embedding",
];

fn refuse_other_architectures(keys: &Keys) -> Result<()> {
    for (key, accepted) in ONE_VALUE {
        let given = keys.str(key, accepted[0])?;
        if !accepted.contains(&given.to_lowercase().as_str()) && !accepted.contains(&given) {
            return Err(unsupported(keys, key, &format!("only {} is", accepted.join(" or "))));
        }
    }
    for key in MUST_BE_NULL {
        // False switches the part off, as null does.
        if let Some(value) = keys.get(key).filter(|v| **v != Value::Bool(false)) {
            return Err(keys.unsupported(key, value, "only unconditional UNet2DModel checkpoints are supported"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UNetConfig> {
        let path = Path::new("config.json");
        UNetConfig::from_json(path, &crate::io::json::parse_object(path, text.as_bytes()).unwrap())
    }

    #[test]
    fn an_empty_file_gives_the_defaults_of_diffusers() {
        let c = parse("{}").unwrap();
        assert_eq!(c.block_out_channels, [224, 448, 672, 896]);
        assert_eq!((c.in_channels, c.out_channels, c.layers_per_block), (3, 3, 2));
        assert_eq!((c.attention_head_dim, c.norm_num_groups, c.norm_eps), (Some(8), 32, 1e-5));
        assert_eq!((c.flip_sin_to_cos, c.freq_shift, c.time_embedding_dim), (true, 0.0, 896));
        assert_eq!(c.downsample_padding, DownsamplePadding::Symmetric);
        assert_eq!(c.down_blocks, [Block::Plain, Block::Attention, Block::Attention, Block::Attention]);
        assert_eq!((c.mid_block, c.mid_attention, c.mid_attention_groups), (true, true, Some(32)));
    }

    #[test]
    fn null_is_not_absent() {
        assert_eq!(parse(r#"{"attention_head_dim": null}"#).unwrap().attention_head_dim, None);
        assert!(!parse(r#"{"mid_block_type": null}"#).unwrap().mid_block);
        let scale_shift = parse(r#"{"resnet_time_scale_shift": "scale_shift"}"#).unwrap();
        assert_eq!(scale_shift.mid_attention_groups, None);
    }

    #[test]
    fn dropout_is_refused_in_training_only() {
        let c = parse(r#"{"dropout": 0.1}"#).unwrap();
        assert_eq!(
            c.check_trainable(Path::new("config.json")).unwrap_err().to_string(),
            "config.json: dropout = 0.1 in training is not supported"
        );
    }
}
