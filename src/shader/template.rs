//! WGSL templates: `${NAME}` is a text constant, lines that begin with `//%` are Jinja statements (for, if, include, set,
//! macro), `<# #>` a comment that does not reach the driver. An unknown name, file or filter is an error.
//! Called by `gpu::pipeline`, `doctor` and the tests.

use crate::error::{Error, Result};
use crate::shader::card::{Constants, Variant};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};

/// The text of `shaders/shared/<name>`, for `//% include "<name>"`.
const SHARED: &[(&str, &str)] = &[
    ("addend.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/addend.wgsl"))),
    ("index.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/index.wgsl"))),
    ("pool_window.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/pool_window.wgsl"))),
    ("lanes.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/lanes.wgsl"))),
    ("group_lookup.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/group_lookup.wgsl"))),
    ("philox.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/philox.wgsl"))),
    ("normal.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/normal.wgsl"))),
    ("attention_tile.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/attention_tile.wgsl"))),
    ("sum64.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/sum64.wgsl"))),
    ("finite.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/finite.wgsl"))),
    ("coop_memory.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/coop_memory.wgsl"))),
    ("coop_multiply.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/coop_multiply.wgsl"))),
    ("tile_multiply.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/tile_multiply.wgsl"))),
    ("subgroup_rows.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/subgroup_rows.wgsl"))),
    ("conv2d_rows.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/conv2d_rows.wgsl"))),
    ("matmul_lanes.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/matmul_lanes.wgsl"))),
    ("matmul_rows.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/matmul_rows.wgsl"))),
    (
        "conv2d_input_rows.wgsl",
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/conv2d_input_rows.wgsl")),
    ),
    (
        "conv2d_weight_rows.wgsl",
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/conv2d_weight_rows.wgsl")),
    ),
    (
        "matmul_weight_rows.wgsl",
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/matmul_weight_rows.wgsl")),
    ),
    ("conv2d_params.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/conv2d_params.wgsl"))),
    ("matmul_params.wgsl", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/shared/matmul_params.wgsl"))),
];

fn fail(stem: &str, error: &minijinja::Error) -> Error {
    Error::Shader { file: format!("{stem}.wgsl"), message: format!("{error:#}") }
}

/// The WGSL text of a variant with these constants.
pub fn render(variant: &Variant, constants: &Constants) -> Result<String> {
    let stem = variant.stem;
    let syntax = SyntaxConfig::builder()
        .variable_delimiters("${", "}")
        .block_delimiters("<%", "%>")
        .comment_delimiters("<#", "#>")
        .line_statement_prefix("//%")
        .build()
        .map_err(|e| fail(stem, &e))?;
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    for (name, text) in SHARED {
        env.add_template(name, text).map_err(|e| fail(stem, &e))?;
    }
    env.add_template(stem, variant.source).map_err(|e| fail(stem, &e))?;
    let values: std::collections::BTreeMap<&str, u32> = constants.iter().copied().collect();
    env.get_template(stem).and_then(|t| t.render(values)).map_err(|e| fail(stem, &e))
}

/// SHA-256 of all shader text in the binary: part of what identifies a run.
pub fn shader_hash() -> String {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for (name, text) in SHARED {
        hash.update(name.as_bytes());
        hash.update(text.as_bytes());
    }
    for card in crate::shader::cards::all() {
        for variant in card.variants {
            hash.update(variant.stem.as_bytes());
            hash.update(variant.source.as_bytes());
        }
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
