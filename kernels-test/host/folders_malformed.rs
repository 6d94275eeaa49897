//! Configurations, indices and model folders that are not what they should be: each must be refused with exactly this
//! error, and no other.

use std::path::Path;

use deme::error::Result;
use deme::io::folder::ModelFolder;
use deme::io::json;
use deme::model::config::UNetConfig;

use super::folders::{TINY, folder_of};
use super::weights::fixture;
use super::weights_malformed::compare;

pub fn read_config(bytes: &[u8]) -> Result<()> {
    let path = Path::new("config.json");
    UNetConfig::from_json(path, &json::parse_object(path, bytes)?).map(drop)
}

#[test]
fn malformed_configurations() {
    let cases: Vec<(&str, &str)> = vec![
        ("", "line 1 column 0: EOF while parsing a value"),
        ("[]", "top level: is [], expected an object"),
        ("{", "line 1 column 1: EOF while parsing an object"),
        (r#"{"norm_eps": NaN}"#, "line 1 column 14: expected value"),
        (r#"{"norm_eps": 1e999}"#, "line 1 column 18: number out of range"),
        (r#"{"norm_eps": -1}"#, "norm_eps: is -1, expected a number above 0"),
        (r#"{"norm_eps": "small"}"#, r#"norm_eps: is "small", expected a finite number"#),
        (r#"{"layers_per_block": 2.5}"#, "layers_per_block: is 2.5, expected a whole number from 1 to 64"),
        (r#"{"layers_per_block": null}"#, "layers_per_block: is null, expected a whole number from 1 to 64"),
        (r#"{"layers_per_block": 0}"#, "layers_per_block: is 0, expected a whole number from 1 to 64"),
        (
            r#"{"layers_per_block": 18446744073709551616}"#,
            "layers_per_block: is 1.8446744073709552e+19, expected a whole number from 1 to 64",
        ),
        (r#"{"in_channels": -3}"#, "in_channels: is -3, expected a whole number from 1 to 65536"),
        (r#"{"flip_sin_to_cos": 1}"#, "flip_sin_to_cos: is 1, expected true or false"),
        (r#"{"freq_shift": 112}"#, "freq_shift: must be below 112, half the first width"),
        (r#"{"mid_block_scale_factor": 0}"#, "mid_block_scale_factor: is 0, and the mid block divides by it"),
        (r#"{"dropout": 1.5}"#, "dropout: is 1.5, expected 0 to 1"),
        (r#"{"sample_size": [32]}"#, "sample_size: has 1 entries, expected height and width"),
        (r#"{"sample_size": "32"}"#, r#"sample_size: is "32", expected a whole number from 1 to 65536"#),
        (r#"{"block_out_channels": 32}"#, "block_out_channels: is 32, expected a list of whole numbers"),
        (r#"{"block_out_channels": []}"#, "block_out_channels: has 0 entries, expected 1 to 16"),
        (
            r#"{"block_out_channels": [64, 4000000000, 64, 64]}"#,
            "block_out_channels: is 4000000000, expected a whole number from 4 to 65536",
        ),
        (r#"{"block_out_channels": [64, 128]}"#, "down_block_types: has 4 entries and block_out_channels has 2"),
        (r#"{"up_block_types": ["UpBlock2D"]}"#, "up_block_types: has 1 entries and block_out_channels has 4"),
        (r#"{"down_block_types": [1]}"#, "down_block_types: is 1, expected a list of texts"),
        (r#"{"norm_num_groups": 33}"#, "norm_num_groups: is 33, which does not divide 224 channels"),
        (r#"{"norm_num_groups": null}"#, "norm_num_groups: is null, expected a whole number from 1 to 65536"),
        (r#"{"attention_head_dim": 9}"#, "attention_head_dim: is 9, which does not divide 448 channels"),
        (r#"{"attn_norm_num_groups": 33}"#, "attn_norm_num_groups: is 33, which does not divide 896 channels"),
        // Understood, and not built.
        (r#"{"_class_name": "UNet2DConditionModel"}"#, r#"_class_name = "UNet2DConditionModel" is not supported"#),
        (
            r#"{"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D", "DownBlock2D"]}"#,
            r#"down_block_types = "SkipDownBlock2D" is not supported"#,
        ),
        (
            r#"{"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"]}"#,
            r#"up_block_types = "CrossAttnUpBlock2D" is not supported"#,
        ),
        (
            r#"{"mid_block_type": "UNetMidBlock2DCrossAttn"}"#,
            r#"mid_block_type = "UNetMidBlock2DCrossAttn" is not supported"#,
        ),
        (r#"{"time_embedding_type": "fourier"}"#, r#"time_embedding_type = "fourier" is not supported"#),
        (r#"{"resnet_time_scale_shift": "spatial"}"#, r#"resnet_time_scale_shift = "spatial" is not supported"#),
        (r#"{"class_embed_type": "timestep"}"#, r#"class_embed_type = "timestep" is not supported"#),
        (r#"{"num_class_embeds": 10}"#, "num_class_embeds = 10 is not supported"),
        (r#"{"downsample_type": "resnet"}"#, r#"downsample_type = "resnet" is not supported"#),
        (r#"{"upsample_type": "resnet"}"#, r#"upsample_type = "resnet" is not supported"#),
        (r#"{"downsample_padding": 2}"#, "downsample_padding = 2 is not supported"),
        (r#"{"act_fn": "gelu"}"#, r#"act_fn = "gelu" is not supported"#),
        (r#"{"act_fn": null}"#, "act_fn: is null, expected a text"),
        (r#"{"block_out_channels": [65, 65, 65, 65]}"#, "block_out_channels = 65, ... is not supported"),
        (r#"{"cross_attention_dim": 768}"#, "cross_attention_dim = 768 is not supported"),
        (r#"{"quantization_config": {"bits": 4}}"#, "quantization_config = an object is not supported"),
    ];
    let with_file = |(text, expected): (&'static str, &str)| {
        (text, read_config(text.as_bytes()), &*format!("config.json: {expected}").leak())
    };
    compare(cases.into_iter().map(with_file).collect());
}

#[test]
fn malformed_folders() {
    const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
    const WEIGHTS: (&str, &str) = ("diffusion_pytorch_model.safetensors", "WEIGHTS");
    let map = |text: &'static str| vec![("config.json", TINY), (INDEX, text), ("a.safetensors", "WEIGHTS")];
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);
    let cases: Vec<Case> = vec![
        ("nothing", vec![], ": config.json: is neither here nor in unet/"),
        (
            "no weights",
            vec![("config.json", TINY)],
            ": diffusion_pytorch_model.safetensors: is not there; found no weights at all",
        ),
        (
            "other weights",
            vec![("config.json", TINY), ("model.ckpt", ""), ("a.safetensors", "WEIGHTS")],
            ": diffusion_pytorch_model.safetensors: is not there; found a.safetensors, model.ckpt",
        ),
        ("no config", vec![("unet/x", "")], "/unet/config.json: cannot read: No such file or directory (os error 2)"),
        (
            "flat without a config",
            vec![("model_index.json", "{}"), WEIGHTS],
            "/config.json: cannot read: No such file or directory (os error 2)",
        ),
        (
            "config that is no JSON",
            vec![("config.json", "weights"), WEIGHTS],
            "/config.json: line 1 column 1: expected value",
        ),
        (
            "scheduler that is no JSON",
            vec![("config.json", TINY), WEIGHTS, ("scheduler_config.json", "{]")],
            "/scheduler_config.json: line 1 column 2: key must be a string",
        ),
        (
            "another UNet",
            vec![("model_index.json", r#"{"unet": ["diffusers", "UNet2DConditionModel"]}"#)],
            r#"/model_index.json: unet = "UNet2DConditionModel" is not supported"#,
        ),
        (
            "a VAE beside",
            vec![("model_index.json", r#"{"vqvae": ["diffusers", "VQModel"]}"#)],
            r#"/model_index.json: vqvae = "VQModel" is not supported"#,
        ),
        (
            "index without a map",
            map("{}"),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map: is missing or not an object",
        ),
        (
            "index with a list",
            map(r#"{"weight_map": []}"#),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map: is missing or not an object",
        ),
        (
            "index that leaves the folder",
            map(r#"{"weight_map": {"w": "../a.safetensors"}}"#),
            r#"/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names "../a.safetensors", expected a file beside the index"#,
        ),
        (
            "index with an absolute path",
            map(r#"{"weight_map": {"w": "/a.safetensors"}}"#),
            r#"/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names "/a.safetensors", expected a file beside the index"#,
        ),
        (
            "index of an index",
            map(r#"{"weight_map": {"w": "diffusion_pytorch_model.safetensors.index.json"}}"#),
            r#"/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names "diffusion_pytorch_model.safetensors.index.json", expected a file beside the index"#,
        ),
        (
            "index with a number",
            map(r#"{"weight_map": {"w": 1}}"#),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names 1, expected a file beside the index",
        ),
        (
            "index with a stranger",
            map(r#"{"weight_map": {"w": "a.safetensors"}}"#),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: is not in a.safetensors",
        ),
        (
            "index with too little",
            map(r#"{"weight_map": {"conv_in.bias": "a.safetensors"}}"#),
            "/diffusion_pytorch_model.safetensors.index.json: tensor conv_in.weight: is in a.safetensors but not in the index",
        ),
        (
            "index with a file that is not there",
            map(r#"{"weight_map": {"w": "b.safetensors"}}"#),
            "/b.safetensors: cannot read: No such file or directory (os error 2)",
        ),
    ];
    let results = cases.into_iter().map(|(name, files, expected)| {
        let (_dir, root) = folder_of(&files);
        let result = ModelFolder::open(&root).map(drop);
        (name, result, &*format!("{}{expected}", root.display()).leak())
    });
    compare(results.collect());
}

#[test]
fn a_folder_that_is_not_there_or_not_a_folder() {
    let open = |path: &Path| ModelFolder::open(path).map(drop);
    let file = fixture("f32.safetensors");
    let on_file = format!("{}: model: is a file, expected a folder", file.display());
    let absent = "/no/such/model: cannot open the model folder: No such file or directory (os error 2)";
    compare(vec![("file", open(&file), &on_file), ("absent", open(Path::new("/no/such/model")), absent)]);
}
