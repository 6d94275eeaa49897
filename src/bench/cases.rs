//! The shapes that are measured: `benches/cases.json`, which the scripts of other engines read too.
//! Called by `kernels` and `unet`.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// One layer of a model in use.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    pub id: String,
    #[serde(flatten)]
    pub kind: Kind,
    /// Whose shapes these are.
    pub models: Vec<String>,
    /// Needs more than about a second a run on a CPU.
    #[serde(default)]
    pub heavy: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// x [m, k] w [k, n]
    Matmul {
        m: u32,
        k: u32,
        n: u32,
    },
    /// x [batch, size, size, cin], w [kernel, kernel, cin, cout]
    Conv2d {
        batch: u32,
        size: u32,
        cin: u32,
        cout: u32,
        kernel: u32,
        stride: u32,
    },
    /// q, k, v [batch, tokens, heads * size]
    Attention {
        batch: u32,
        tokens: u32,
        heads: u32,
        size: u32,
    },
    /// x [batch, size, size, channels], with SiLU
    GroupNorm {
        batch: u32,
        size: u32,
        channels: u32,
        groups: u32,
    },
    /// So many weights
    Adamw {
        count: u32,
    },
    Merge {
        count: u32,
        experts: u32,
    },
    /// A whole network, by the name of its configuration: `unet` measures it.
    Unet {
        config: String,
        batch: u32,
    },
}

const FILE: &str = "benches/cases.json";

/// All cases, in the file's order.
pub fn all() -> Result<Vec<Case>> {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cases.json"));
    let file: File = serde_json::from_str(text)
        .map_err(|e| Error::format(Path::new(FILE), "cases", e.to_string(), "please report this"))?;
    Ok(file.cases)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_say_the_shape() {
        let cases = all().unwrap();
        let ids: std::collections::BTreeSet<_> = cases.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids.len(), cases.len());
        for case in &cases {
            let expected = match &case.kind {
                Kind::Matmul { m, k, n } => format!("matmul/{m}x{k}x{n}"),
                Kind::Conv2d { batch, size, cin, cout, kernel, stride } => {
                    format!("conv2d/{batch}x{size}x{size}x{cin}-{cout}-{kernel}x{kernel}s{stride}")
                }
                Kind::Attention { batch, tokens, heads, size } => format!("attention/{batch}x{tokens}-h{heads}x{size}"),
                Kind::GroupNorm { batch, size, channels, groups } => {
                    format!("group_norm/{batch}x{size}x{size}x{channels}-g{groups}")
                }
                Kind::Adamw { count } => format!("adamw/{count}"),
                Kind::Merge { count, experts } => format!("merge/{count}x{experts}"),
                Kind::Unet { config, batch } => format!("unet/{config}/b{batch}"),
            };
            assert_eq!(case.id, expected);
        }
        for model in ["ddpm-cifar10", "lsun-256", "sd-v1.4-64", "emoji32"] {
            assert!(cases.iter().filter(|c| c.models.iter().any(|m| m == model)).count() > 8, "{model}");
        }
    }
}
