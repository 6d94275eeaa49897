//! Task vectors tau_i = theta_i - theta, tensor by tensor: how far each expert went in each layer (paper fig. 7b), and the angles
//! between their directions (fig. 8). One tensor of each model is in memory at a time. Called by `cli::analyze`.

use serde::{Deserialize, Serialize};

use crate::deme::blocks::block_of;
use crate::deme::judge::ReadTensor;
use crate::error::Result;

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorChange {
    pub tensor: String,
    pub elements: u64,
    /// |theta| of this tensor.
    pub base_norm: f64,
    /// |tau_i| of this tensor, one an expert.
    pub norms: Vec<f64>,
}

/// All tensors of a part of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub elements: u64,
    /// |theta|
    pub base_norm: f64,
    /// <tau_i, tau_j>, [N][N]
    pub products: Vec<Vec<f64>>,
}

/// The task vectors of N experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vectors {
    /// In the order of the files.
    pub tensors: Vec<TensorChange>,
    /// The network's blocks, in the order of their first tensors.
    pub blocks: Vec<Part>,
    pub whole: Part,
}

impl TensorChange {
    /// |tau_i| / |theta|; none where the base is zero.
    pub fn relative(&self, expert: usize) -> Option<f64> {
        (self.base_norm > 0.0).then(|| self.norms[expert] / self.base_norm)
    }
}

impl Part {
    fn new(name: &str, experts: usize) -> Self {
        Self { name: name.to_owned(), elements: 0, base_norm: 0.0, products: vec![vec![0.0; experts]; experts] }
    }

    /// |tau_i|
    pub fn norm(&self, i: usize) -> f64 {
        self.products[i][i].sqrt()
    }

    /// |tau_i| / |theta|; none where the base is zero.
    pub fn relative(&self, i: usize) -> Option<f64> {
        (self.base_norm > 0.0).then(|| self.norm(i) / self.base_norm)
    }

    /// <tau_i, tau_j> / (|tau_i| |tau_j|); none where one of them is zero.
    pub fn cosine(&self, i: usize, j: usize) -> Option<f64> {
        let lengths = self.norm(i) * self.norm(j);
        (lengths > 0.0).then(|| self.products[i][j] / lengths)
    }

    /// [N][N]
    pub fn cosines(&self) -> Vec<Vec<Option<f64>>> {
        let n = self.products.len();
        (0..n).map(|i| (0..n).map(|j| self.cosine(i, j)).collect()).collect()
    }
}

/// Reads all `tensors` of the base (model 0) and of `experts` models once; `done` hears of each.
pub fn measure<'a>(
    tensors: impl IntoIterator<Item = &'a str>,
    experts: usize,
    read: ReadTensor,
    done: &mut dyn FnMut() -> Result<()>,
) -> Result<Vectors> {
    let mut all = Vectors { tensors: Vec::new(), blocks: Vec::new(), whole: Part::new("model", experts) };
    for name in tensors {
        let theta = read(0, name)?;
        let models = (1..=experts).map(|i| read(i, name)).collect::<Result<Vec<_>>>()?;
        let products = products(&theta, &models);
        let squared: f64 = theta.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let block = block_of(name);
        let at = all.blocks.iter().position(|b| b.name == block).unwrap_or_else(|| {
            all.blocks.push(Part::new(&block, experts));
            all.blocks.len() - 1
        });
        for part in [&mut all.blocks[at], &mut all.whole] {
            part.elements += theta.len() as u64;
            part.base_norm = part.base_norm.hypot(squared.sqrt());
            for (sums, row) in part.products.iter_mut().zip(&products) {
                sums.iter_mut().zip(row).for_each(|(sum, product)| *sum += product);
            }
        }
        let norms = (0..experts).map(|i| products[i][i].sqrt()).collect();
        let elements = theta.len() as u64;
        all.tensors.push(TensorChange { tensor: name.to_owned(), elements, base_norm: squared.sqrt(), norms });
        done()?;
    }
    Ok(all)
}

/// <tau_i, tau_j> of one tensor, in f64.
fn products(theta: &[f32], experts: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let tau = |i: usize, e: usize| f64::from(experts[i][e]) - f64::from(theta[e]);
    let product = |i: usize, j: usize| (0..theta.len()).map(|e| tau(i, e) * tau(j, e)).sum::<f64>();
    let n = experts.len();
    (0..n).map(|i| (0..n).map(|j| product(i.min(j), i.max(j))).collect()).collect()
}
