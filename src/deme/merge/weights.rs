//! The weights of a merge: one an expert, or one an expert and block or layer. Called by `deme::merge`, `cli::merge` and `cli::search`.

use crate::deme::blocks::Per;
use crate::error::{Error, Result};

/// Weights of N experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    per: Per,
    blocks: Vec<String>,
    /// Block by block, in each the experts'.
    w: Vec<f64>,
}

impl Weights {
    pub fn per_model(w: &[f64]) -> Self {
        Self { per: Per::Model, blocks: Per::Model.blocks(["model"]), w: w.to_vec() }
    }

    /// One row a block, or a layer.
    pub fn by_block(per: Per, rows: Vec<(String, Vec<f64>)>) -> Result<Self> {
        let (blocks, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        if rows.iter().any(|row| row.len() != rows[0].len()) {
            let lengths: Vec<_> = rows.iter().map(Vec::len).collect();
            let message = format!("blocks have {lengths:?} weights");
            return Err(Error::usage(message, "give one weight for each expert in every block"));
        }
        Ok(Self { per, blocks, w: rows.concat() })
    }

    /// Those of a search, whose weights are `w`.
    pub fn of_search(per: Per, blocks: &[String], w: &[f64]) -> Result<Self> {
        if per == Per::Model {
            return Ok(Self::per_model(w));
        }
        let rows = blocks.iter().cloned().zip(w.chunks(w.len() / blocks.len().max(1)).map(<[f64]>::to_vec));
        Self::by_block(per, rows.collect())
    }

    /// How many a block has.
    pub fn len(&self) -> usize {
        self.w.len() / self.blocks.len().max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.w.is_empty()
    }

    /// Every block's name and weights.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &[f64])> {
        self.blocks.iter().map(String::as_str).zip(self.w.chunks(self.len().max(1)))
    }

    pub fn per(&self) -> Per {
        self.per
    }

    /// Of the block that holds a tensor.
    pub fn of(&self, tensor: &str) -> Option<&[f64]> {
        let n = self.len();
        self.per.index(&self.blocks, tensor).map(|i| &self.w[i * n..(i + 1) * n])
    }

    /// Refuses weights that are not finite, and tensors whose block has none.
    pub(super) fn check(&self, tensors: &[(String, Vec<u64>)]) -> Result<()> {
        if let Some((i, w)) = self.w.iter().enumerate().find(|(_, w)| !w.is_finite()) {
            return Err(Error::usage(format!("weight {i} is {w}"), "weights are finite numbers, such as 0.25"));
        }
        match tensors.iter().find(|(name, _)| self.of(name).is_none()) {
            None => Ok(()),
            Some((name, _)) => {
                let known = self.blocks.join(", ");
                Err(Error::usage(format!("{name} is in none of the blocks {known}"), "give weights for every block"))
            }
        }
    }
}
