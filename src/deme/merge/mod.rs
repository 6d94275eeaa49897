//! The merged model theta + sum_i w_i (theta_i - theta) (paper eq. 8), and other ways to merge, one tensor at a time on the host.
//! Called by `deme merge`, and by the search for its result.
//!
//! Every element is summed in f64 and rounded once. Laws of eq. 8 that hold bit for bit, signs of zero among them: w = 0 gives
//! theta; experts that equal theta give theta; a unit vector gives its expert; the experts' order does not matter.

mod methods;
mod weights;

use crate::error::{Error, Result};
use crate::io::source::{Dtype, TensorInfo, TensorSource};
use crate::model::projections::PREFIX;
pub use methods::Method;
pub use weights::Weights;

/// A merge whose inputs have been checked against each other; nothing but headers has been read.
pub struct Merge<'a> {
    base: &'a dyn TensorSource,
    experts: Vec<&'a dyn TensorSource>,
    method: Method,
    weights: Weights,
    /// (canonical name, extents): the base's tensors, then projections that only experts have.
    tensors: Vec<(String, Vec<u64>)>,
    /// <tau_i, tau_j> over the tensors merged so far, row-major.
    products: Vec<f64>,
}

/// How far the experts went, and in which directions: over all elements that were merged.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskVectors {
    /// |tau_i| = |theta_i - theta|
    pub norms: Vec<f64>,
    /// <tau_i, tau_j> / (|tau_i| |tau_j|), row-major N x N; 0 where one of them is zero.
    pub cosines: Vec<f64>,
}

impl<'a> Merge<'a> {
    /// Task arithmetic with one weight an expert; see `with`.
    pub fn new(base: &'a dyn TensorSource, experts: Vec<&'a dyn TensorSource>, weights: &[f64]) -> Result<Self> {
        Self::with(base, experts, Method::Task, Weights::per_model(weights))
    }

    /// Sources speak canonical names. Refuses weights of another number than the method takes or not finite, and, by name,
    /// tensors that are missing, unexpected, of another shape or not floating-point.
    pub fn with(
        base: &'a dyn TensorSource,
        experts: Vec<&'a dyn TensorSource>,
        method: Method,
        weights: Weights,
    ) -> Result<Self> {
        method.check(experts.len(), &weights)?;
        let mut tensors = Vec::new();
        for name in base.names() {
            tensors.push((name.clone(), base.info(name)?.shape.clone()));
        }
        for expert in &experts {
            for name in expert.names().iter().filter(|n| n.starts_with(PREFIX)) {
                if !tensors.iter().any(|(known, _)| known == name) {
                    tensors.push((name.clone(), expert.info(name)?.shape.clone()));
                }
            }
        }
        for source in std::iter::once(&base).chain(&experts) {
            check(*source, &tensors)?;
        }
        if method != Method::Soup {
            weights.check(&tensors)?;
        }
        let n = experts.len();
        Ok(Self { base, experts, method, weights, tensors, products: vec![0.0; n * n] })
    }

    /// The merged model's tensors: canonical names and extents.
    pub fn tensors(&self) -> &[(String, Vec<u64>)] {
        &self.tensors
    }

    /// One tensor of the merged model, row-major. Refuses values that are not finite, by file, tensor and element.
    pub fn tensor(&mut self, name: &str) -> Result<Vec<f32>> {
        let known = self.tensors.iter().find(|(n, _)| n == name);
        let (_, shape) = known.ok_or_else(|| Error::shape("merge", format!("{name} is not a tensor of the merge")))?;
        let theta = read(self.base, name, shape)?;
        let experts = self.experts.iter().map(|e| read(*e, name, shape)).collect::<Result<Vec<_>>>()?;
        self.measure(&theta, &experts);
        let merged = self.method.combine(name, theta, &experts, self.weights.of(name).unwrap_or_default());
        match merged.iter().position(|x| !x.is_finite()) {
            None => Ok(merged),
            Some(element) => {
                let message = format!("element {element} of the merged tensor {name} exceeds f32");
                Err(Error::usage(message, "use smaller weights"))
            }
        }
    }

    /// Adds this tensor's part to <tau_i, tau_j>.
    fn measure(&mut self, theta: &[f32], experts: &[Vec<f32>]) {
        let n = experts.len();
        let mut tau = vec![0.0; n];
        for (e, &base) in theta.iter().enumerate() {
            for (t, expert) in tau.iter_mut().zip(experts) {
                *t = f64::from(expert[e]) - f64::from(base);
            }
            for i in 0..n {
                for j in i..n {
                    self.products[i * n + j] += tau[i] * tau[j];
                }
            }
        }
    }

    /// Norms and angles of the task vectors, over the tensors that `tensor` has been called for.
    pub fn task_vectors(&self) -> TaskVectors {
        let n = self.experts.len();
        let product = |i: usize, j: usize| self.products[i.min(j) * n + i.max(j)];
        let norms: Vec<f64> = (0..n).map(|i| product(i, i).sqrt()).collect();
        let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
        let cosine = |(i, j): (usize, usize)| {
            let lengths = norms[i] * norms[j];
            if lengths > 0.0 { product(i, j) / lengths } else { 0.0 }
        };
        TaskVectors { cosines: pairs.map(cosine).collect(), norms }
    }
}

/// Whether `source` has exactly `tensors`, floating-point, in these extents; projections may be absent.
fn check(source: &dyn TensorSource, tensors: &[(String, Vec<u64>)]) -> Result<()> {
    let hint = "base and experts must be one architecture: finetuned from the same model";
    let fail = |name: &str, problem: String| Err(Error::format(source.path(), format!("tensor {name}"), problem, hint));
    for (name, shape) in tensors {
        if !source.contains(name) {
            if name.starts_with(PREFIX) {
                continue;
            }
            return fail(name, "is missing, the base has it".into());
        }
        let TensorInfo { dtype, shape: found } = source.info(name)?;
        if found != shape {
            return fail(name, format!("is {found:?}, expected {shape:?}"));
        }
        if !matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            return fail(name, format!("has the type {dtype}, expected a floating-point type"));
        }
        if name.starts_with(PREFIX) && !matches!(shape[..], [c, k, 1, 1] if c == k) {
            return fail(name, format!("is {shape:?}, expected the [C, C, 1, 1] of a projection"));
        }
    }
    let unexpected = source.names().iter().find(|n| !tensors.iter().any(|(known, _)| known == *n));
    unexpected.map_or(Ok(()), |name| fail(name, "is not in the base".into()))
}

/// A tensor's elements, all finite; the identity for a projection that is not there.
fn read(source: &dyn TensorSource, name: &str, shape: &[u64]) -> Result<Vec<f32>> {
    if !source.contains(name) {
        let (channels, elements) = (shape[0] as usize, shape.iter().product::<u64>() as usize);
        return Ok((0..elements).map(|e| if e % (channels + 1) == 0 { 1.0 } else { 0.0 }).collect());
    }
    let values = source.read_f32(name)?;
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(values),
        Some(element) => {
            let problem = format!("element {element} is {}", values[element]);
            let hint = "the model has diverged or the file is damaged; merge another checkpoint";
            Err(Error::format(source.path(), format!("tensor {name}"), problem, hint))
        }
    }
}
