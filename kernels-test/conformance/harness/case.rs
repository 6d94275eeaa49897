//! One case: a recording under construction together with the seeded contents of its tensors.
//! Called by family files, in the closures they give to `Family`.

use deme::error::Result;
use deme::recording::{BufferId, Recording, Role, Tensor, ZERO_KEY};
use deme::rng::{Purpose, normal4, stream, uniform};
use deme::shape::{DType, Shape};
use deme::tape::{Gradients, Tape};
use std::collections::HashMap;

/// What a tensor holds before the first op.
#[derive(Debug, Clone)]
pub enum Fill {
    /// Standard normals.
    Normal,
    /// Uniform in [low, high).
    Uniform(f64, f64),
    Values(Vec<f32>),
}

/// The recording, and the contents of externals and inputs as 32-bit words.
pub struct Bench {
    pub tape: Tape,
    pub contents: HashMap<BufferId, Vec<u32>>,
    seed: u64,
    /// Gradients of watched activations, after `backward`.
    pub gradients: Option<Gradients>,
    /// Parameters with their gradients' place, and watched activations: what `gradient` differentiates by.
    pub parameters: Vec<(Tensor, Tensor)>,
    pub watched: Vec<Tensor>,
}

impl Bench {
    pub fn new(seed: u64) -> Self {
        Self {
            tape: Tape::new(Recording::new("case")),
            contents: HashMap::new(),
            seed,
            gradients: None,
            parameters: Vec::new(),
            watched: Vec::new(),
        }
    }

    /// An external tensor of standard normals.
    pub fn tensor(&mut self, label: &str, extents: &[u32]) -> Tensor {
        self.filled(label, extents, Fill::Normal)
    }

    /// An external tensor.
    pub fn filled(&mut self, label: &str, extents: &[u32], fill: Fill) -> Tensor {
        let shape = Shape::from_slice("case", extents).unwrap();
        let buffer = self.tape.rec.external(label, shape.elements());
        let stream = stream(Purpose::Weights, self.contents.len() as u32);
        let n = shape.elements();
        let values: Vec<f32> = match fill {
            Fill::Normal => (0..n.div_ceil(4))
                .flat_map(|block| normal4(self.seed, stream, block))
                .take(n as usize)
                .map(|v| v as f32)
                .collect(),
            Fill::Uniform(low, high) => {
                (0..n).map(|i| (low + (high - low) * uniform(self.seed, stream, i)) as f32).collect()
            }
            Fill::Values(values) => values,
        };
        assert_eq!(values.len() as u64, n, "contents of {label}");
        let words = values.iter().map(|v| v.to_bits()).collect();
        assert!(self.contents.insert(buffer, words).is_none(), "two tensors are called {label}");
        Tensor { buffer, offset: 0, shape }
    }

    /// A host input of u32.
    pub fn words(&mut self, label: &str, extents: &[u32], words: Vec<u32>) -> Tensor {
        let shape = Shape::from_slice("case", extents).unwrap();
        let tensor = self.tape.rec.input(label, shape, DType::U32);
        assert_eq!(words.len() as u64, shape.elements(), "contents of {label}");
        self.contents.insert(tensor.buffer, words);
        tensor
    }

    /// A host input of f32.
    pub fn input(&mut self, label: &str, extents: &[u32], values: &[f32]) -> Tensor {
        let shape = Shape::from_slice("case", extents).unwrap();
        let tensor = self.tape.rec.input(label, shape, DType::F32);
        assert_eq!(values.len() as u64, shape.elements(), "contents of {label}");
        self.contents.insert(tensor.buffer, values.iter().map(|v| v.to_bits()).collect());
        tensor
    }

    /// A tensor of normals whose gradient is wanted.
    pub fn watched(&mut self, label: &str, extents: &[u32]) -> Tensor {
        let x = self.tensor(label, extents);
        self.tape.watch(&x);
        self.watched.push(x);
        x
    }

    /// A parameter of normals; its gradient starts from other normals, so a lost accumulation shows.
    pub fn parameter(&mut self, label: &str, extents: &[u32]) -> Tensor {
        let theta = self.tensor(label, extents);
        let gradient = self.tensor(&format!("d {label}"), extents);
        self.tape.parameter(theta, gradient);
        self.parameters.push((theta, gradient));
        theta
    }

    /// Appends the gradient ops for random dL/dy.
    pub fn backward(&mut self, y: &Tensor) -> Result<()> {
        self.backward_all(&[*y])
    }

    /// The same for several outputs at once.
    pub fn backward_all(&mut self, ys: &[Tensor]) -> Result<()> {
        let seeds: Vec<_> =
            ys.iter().enumerate().map(|(j, y)| (*y, self.tensor(&format!("seed {j}"), y.shape.dims()))).collect();
        let (rec, gradients) = std::mem::take(&mut self.tape).backward(&seeds)?;
        self.tape = Tape::new(rec);
        self.gradients = Some(gradients);
        Ok(())
    }

    /// The words of every buffer before the first op; what nothing has filled holds `POISON`.
    pub fn snapshot(&self) -> Vec<Vec<u32>> {
        let buffers = self.tape.rec.buffers.iter().enumerate();
        buffers
            .map(|(i, b)| match (&b.role, self.contents.get(&BufferId(i as u32))) {
                (_, Some(words)) => words.clone(),
                (Role::External(key), None) if key == ZERO_KEY => vec![0; b.elements as usize],
                (Role::Transient, None) => vec![POISON; b.elements as usize],
                (_, None) => panic!("{} has no contents", b.label),
            })
            .collect()
    }
}

/// A NaN that no kernel computes: outputs hold it before they are written.
pub const POISON: u32 = 0x7fc0_dead;
