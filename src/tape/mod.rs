//! The autograd tape: an op pushes a rule; `backward` walks the rules in reverse and appends the gradient ops to the same
//! recording. A rule returns contributions; only the tape accumulates.
//! Called by `kernels` (which push rules) and `train` (which calls `backward`).

use crate::error::Result;
use crate::recording::{Recording, Tensor};
use crate::shader::cards::pointwise::{ACCUMULATE, ADD, CountParams, FILL_ZERO};
use std::collections::HashMap;

/// An op that adds a gradient into a destination that the tape chooses.
pub type AddInto = Box<dyn FnOnce(&mut Recording, Tensor) -> Result<()>>;

/// What a rule gives back for one input.
pub enum Contribution {
    /// The input has no gradient, or none was needed.
    None,
    /// The whole contribution, already computed; never written to again.
    Whole(Tensor),
    /// A kernel that accumulates in place: for parameters, whose gradients live in a slab.
    Into(AddInto),
}

/// The gradient of one op: given dL/d(outputs), appends ops and returns one contribution per input.
pub trait Rule {
    /// `dy[j]` is None where nothing depends on output j. `needs[i]` says whether input i wants a gradient.
    fn backward(&self, rec: &mut Recording, dy: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Contribution>>;
}

/// Names the storage of a tensor, whatever shape it is seen under.
type Key = (crate::recording::BufferId, u64);

fn key(t: &Tensor) -> Key {
    (t.buffer, t.offset)
}

struct Entry {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    rule: Box<dyn Rule>,
}

/// A recording under construction together with the rules of its ops.
#[derive(Default)]
pub struct Tape {
    pub rec: Recording,
    entries: Vec<Entry>,
    /// Tensors that a gradient flows to: parameters with their gradient's place, and whatever depends on them.
    needed: HashMap<Key, ()>,
    parameters: HashMap<Key, Tensor>,
}

impl Tape {
    pub fn new(rec: Recording) -> Self {
        Self { rec, ..Self::default() }
    }

    /// Asks for dL/d(theta), to be added into `gradient`.
    pub fn parameter(&mut self, theta: Tensor, gradient: Tensor) {
        self.needed.insert(key(&theta), ());
        self.parameters.insert(key(&theta), gradient);
    }

    /// Asks for dL/dx of an activation or input; found in `backward`'s result.
    pub fn watch(&mut self, x: &Tensor) {
        self.needed.insert(key(x), ());
    }

    pub fn needs(&self, x: &Tensor) -> bool {
        self.needed.contains_key(&key(x))
    }

    /// Records the rule of an op, unless no input wants a gradient (a frozen teacher leaves no trace).
    pub fn push(&mut self, inputs: &[Tensor], outputs: &[Tensor], rule: impl Rule + 'static) {
        if inputs.iter().any(|x| self.needs(x)) {
            for y in outputs {
                self.needed.insert(key(y), ());
            }
            self.entries.push(Entry { inputs: inputs.to_vec(), outputs: outputs.to_vec(), rule: Box::new(rule) });
        }
    }

    /// Appends the gradient ops for the given (output, dL/d(output)) pairs.
    pub fn backward(mut self, seeds: &[(Tensor, Tensor)]) -> Result<(Recording, Gradients)> {
        let mut gradients = Gradients { of: HashMap::new() };
        self.rec.cut();
        self.rec.backward = true;
        for (y, dy) in seeds {
            self.add(&mut gradients, y, Contribution::Whole(*dy))?;
        }
        while let Some(entry) = self.entries.pop() {
            let dy: Vec<_> = entry.outputs.iter().map(|y| gradients.get(y)).collect();
            if dy.iter().all(Option::is_none) {
                continue;
            }
            let needs: Vec<_> = entry.inputs.iter().map(|x| self.needs(x)).collect();
            let contributions = entry.rule.backward(&mut self.rec, &dy, &needs)?;
            for ((x, contribution), needed) in entry.inputs.iter().zip(contributions).zip(needs) {
                if needed {
                    self.add(&mut gradients, x, contribution)?;
                }
            }
        }
        self.rec.backward = false;
        Ok((self.rec, gradients))
    }

    /// The one place where gradients are added up.
    fn add(&mut self, gradients: &mut Gradients, x: &Tensor, contribution: Contribution) -> Result<()> {
        let count = CountParams { count: x.elements() as u32 };
        if let Some(&place) = self.parameters.get(&key(x)) {
            return match contribution {
                Contribution::None => Ok(()),
                Contribution::Whole(dx) => self.rec.push(&ACCUMULATE, &count, &[dx], &[], &[place]),
                Contribution::Into(add_into) => add_into(&mut self.rec, place),
            };
        }
        let dx = match contribution {
            Contribution::None => return Ok(()),
            Contribution::Whole(dx) => dx.reshape("tape", x.shape)?,
            Contribution::Into(add_into) => {
                let dx = self.rec.transient("gradient", x.shape);
                self.rec.push(&FILL_ZERO, &count, &[], &[dx], &[])?;
                add_into(&mut self.rec, dx)?;
                dx
            }
        };
        let total = match gradients.of.get(&key(x)).copied() {
            None => dx,
            Some(earlier) => {
                // Out of place: `earlier` may be shared by several tensors (both inputs of an addition).
                let total = self.rec.transient("gradient", x.shape);
                self.rec.push(&ADD, &count, &[earlier.reshape("tape", x.shape)?, dx], &[total], &[])?;
                total
            }
        };
        gradients.of.insert(key(x), total);
        Ok(())
    }
}

/// dL/dx of the tensors that were reached, parameters excepted (theirs are in their slab).
pub struct Gradients {
    of: HashMap<Key, Tensor>,
}

impl Gradients {
    pub fn get(&self, x: &Tensor) -> Option<Tensor> {
        self.of.get(&key(x)).map(|dx| Tensor { shape: x.shape, ..*dx })
    }
}
