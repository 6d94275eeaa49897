//! A pickle machine that executes nothing: it knows the opcodes and the nine names that `torch.save` needs for a state
//! dict, and refuses everything else with its byte offset. Called by the reader of torch files only.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;

use crate::error::{Error, Result};

/// The place of a value in `Unpickled::values`.
pub type Id = usize;

/// A value of the pickle. Containers hold places, so that a value named twice is one value.
#[derive(Debug, Clone)]
pub enum Value {
    None,
    Bool(bool),
    /// Wide enough for torch's 80-bit magic number.
    Int(i128),
    Float(f64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<TensorView>),
}

/// The names a pickle may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// A block of elements that lies beside the pickle, found by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub dtype: Dtype,
    pub key: String,
    pub elements: u64,
}

/// Elements `offset + sum index_i * strides_i` of a storage.
#[derive(Debug, Clone)]
pub struct TensorView {
    /// The place of its `Storage`.
    pub storage: Id,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

/// What came out of one pickle.
pub struct Unpickled {
    pub values: Vec<Value>,
    pub root: Id,
    /// Bytes read, STOP included.
    pub length: usize,
}

const ALLOWED: [(&str, &str, Global); 9] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch", "FloatStorage", Global::Storage(Dtype::F32)),
    ("torch", "HalfStorage", Global::Storage(Dtype::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Dtype::BF16)),
    ("torch", "DoubleStorage", Global::Storage(Dtype::F64)),
    ("torch", "LongStorage", Global::Storage(Dtype::I64)),
    ("torch", "IntStorage", Global::Storage(Dtype::I32)),
];

/// More extents than any weight has, and longer than any key that torch gives. What is copied out of containers is
/// short, so that a small file cannot ask for much memory by naming one value many times.
const MAX_RANK: usize = 8;
const MAX_KEY: usize = 64;

/// Reads one pickle from the start of `bytes`. `base` is the place of `bytes` in the file, for messages.
pub fn unpickle(path: &Path, bytes: &[u8], base: usize) -> Result<Unpickled> {
    let memo = HashMap::new();
    let mut machine =
        Machine { path, bytes, at: 0, op: 0, base, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo };
    let root = machine.run()?;
    Ok(Unpickled { length: machine.at, values: machine.values, root })
}

struct Machine<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode under way began.
    op: usize,
    base: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id> {
        loop {
            self.op = self.at;
            let [opcode] = self.take()?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => {
                    let [protocol] = self.take()?;
                    if protocol > 5 {
                        return Err(self.refuse(format!("pickle protocol {protocol} is not known")));
                    }
                }
                0x95 => drop(self.take::<8>()?),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'K' => self.take().map(|[b]| self.push(Value::Int(b.into())))?,
                b'M' => self.take().map(|b| self.push(Value::Int(u16::from_le_bytes(b).into())))?,
                b'J' => self.take().map(|b| self.push(Value::Int(i32::from_le_bytes(b).into())))?,
                b'G' => self.take().map(|b| self.push(Value::Float(f64::from_be_bytes(b))))?,
                0x8A => self.long()?,
                b'X' => self.take().and_then(|b| self.text(u32::from_le_bytes(b) as usize))?,
                b'T' => self.take().and_then(|b| self.text(u32::from_le_bytes(b) as usize))?,
                0x8C | b'U' => self.take().and_then(|[n]| self.text(n.into()))?,
                b'}' => self.push(Value::Dict(Vec::new())),
                b']' => self.push(Value::List(Vec::new())),
                b')' => self.push(Value::Tuple(Vec::new())),
                b't' => self.since_mark().map(|items| self.push(Value::Tuple(items)))?,
                0x85..=0x87 => self.last(usize::from(opcode - 0x84)).map(|items| self.push(Value::Tuple(items)))?,
                b'q' => self.take().and_then(|[n]| self.remember(n.into()))?,
                b'r' => self.take().and_then(|b| self.remember(u32::from_le_bytes(b)))?,
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => self.take().and_then(|[n]| self.recall(n.into()))?,
                b'j' => self.take().and_then(|b| self.recall(u32::from_le_bytes(b)))?,
                b'c' => self.global()?,
                0x93 => self.stack_global()?,
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b's' => self.last(2).and_then(|pair| self.set_items(pair))?,
                b'u' => self.since_mark().and_then(|items| self.set_items(items))?,
                b'a' => self.last(1).and_then(|item| self.append(item))?,
                b'e' => self.since_mark().and_then(|items| self.append(items))?,
                other => {
                    return Err(self.refuse(format!("pickle opcode 0x{other:02x} is not on the list of allowed ones")));
                }
            }
        }
    }

    // === Stack ===

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// The top value; values below the latest MARK are out of reach.
    fn pop(&mut self) -> Result<Id> {
        Ok(self.last(1)?[0])
    }

    fn last(&mut self, count: usize) -> Result<Vec<Id>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(from) if from >= floor => Ok(self.stack.split_off(from)),
            _ => Err(self.refuse("takes a value from an empty stack".into())),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.refuse("has no mark to go back to".into()))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor).copied();
        top.ok_or_else(|| self.refuse("needs a value on the stack".into()))
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id =
            *self.memo.get(&key).ok_or_else(|| self.refuse(format!("recalls value {key}, which was never stored")))?;
        self.stack.push(id);
        Ok(())
    }

    // === Values ===

    fn long(&mut self) -> Result<()> {
        let [n] = self.take()?;
        let bytes = self.slice(n.into())?;
        if bytes.len() > 16 {
            return Err(self.refuse(format!("a whole number of {n} bytes is too large")));
        }
        // Two's complement, little endian: extend the sign.
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = if negative { [0xFF; 16] } else { [0; 16] };
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i128::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.refuse("a text is not UTF-8".into()))?.to_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<()> {
        if !items.len().is_multiple_of(2) {
            return Err(self.refuse("has a key without a value".into()));
        }
        let target = self.top()?;
        if let Value::Dict(pairs) = &mut self.values[target] {
            pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            return Ok(());
        }
        Err(self.refuse("sets items of something that is not a dictionary".into()))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let target = self.top()?;
        if let Value::List(list) = &mut self.values[target] {
            list.extend(items);
            return Ok(());
        }
        Err(self.refuse("appends to something that is not a list".into()))
    }

    // === Names and calls ===

    fn global(&mut self) -> Result<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.push_global(module, name)
    }

    fn stack_global(&mut self) -> Result<()> {
        let parts = self.last(2)?;
        match (&self.values[parts[0]], &self.values[parts[1]]) {
            (Value::Text(module), Value::Text(name)) => {
                let (module, name) = (module.clone(), name.clone());
                self.push_global(&module, &name)
            }
            _ => Err(self.refuse("asks for a name that is not a text".into())),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<()> {
        match ALLOWED.iter().find(|(m, n, _)| (*m, *n) == (module, name)) {
            Some((_, _, global)) => {
                self.push(Value::Global(*global));
                Ok(())
            }
            None => {
                let shown: String = format!("{module}.{name}").chars().take(120).collect();
                Err(Error::format(
                    self.path,
                    self.place(),
                    format!("the pickle asks for {shown}, which is not on the list of allowed names"),
                    "nothing was run; only plain state dicts are read: save the model as safetensors, or as \
                     torch.save(model.state_dict())",
                ))
            }
        }
    }

    /// ("storage", type, key, device, elements), with a sixth entry (None) in files of the old format.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = match &self.values[id] {
            Value::Tuple(parts) if (5..=6).contains(&parts.len()) => {
                let part = |i: usize| &self.values[parts[i]];
                let is_view = parts.len() == 6 && !matches!(part(5), Value::None);
                match (part(0), part(1), part(2), part(4)) {
                    (Value::Text(tag), Value::Global(Global::Storage(dtype)), Value::Text(key), Value::Int(n))
                        if tag == "storage" && !is_view && key.len() <= MAX_KEY =>
                    {
                        u64::try_from(*n).ok().map(|elements| Storage { dtype: *dtype, key: key.clone(), elements })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let storage =
            storage.ok_or_else(|| self.refuse("refers to something that is not a tensor's storage".into()))?;
        self.push(Value::Storage(Box::new(storage)));
        Ok(())
    }

    fn reduce(&mut self) -> Result<()> {
        let call = self.last(2)?;
        let (Value::Global(function), Value::Tuple(arguments)) = (&self.values[call[0]], &self.values[call[1]]) else {
            return Err(self.refuse("calls something that is not a function".into()));
        };
        let made = match function {
            Global::OrderedDict if arguments.is_empty() => Some(Value::Dict(Vec::new())),
            Global::RebuildTensor => self.tensor(arguments),
            Global::RebuildParameter => match arguments.first().map(|&a| &self.values[a]) {
                Some(Value::Tensor(view)) => Some(Value::Tensor(view.clone())),
                _ => None,
            },
            Global::OrderedDict | Global::Storage(_) => None,
        };
        let what = format!("calls {function:?} with arguments that torch.save does not write");
        let made = made.ok_or_else(|| self.refuse(what))?;
        self.push(made);
        Ok(())
    }

    /// (storage, offset, size, stride, requires_grad, hooks[, metadata])
    fn tensor(&self, arguments: &[Id]) -> Option<Value> {
        if !(6..=7).contains(&arguments.len()) {
            return None;
        }
        let number = |id: Id| match self.values[id] {
            Value::Int(n) => u64::try_from(n).ok(),
            _ => None,
        };
        let numbers = |id: Id| match &self.values[id] {
            Value::Tuple(items) if items.len() <= MAX_RANK => items.iter().map(|&i| number(i)).collect(),
            _ => None,
        };
        let storage = matches!(&self.values[arguments[0]], Value::Storage(_)).then_some(arguments[0])?;
        let offset = number(arguments[1])?;
        let (shape, strides): (Vec<u64>, Vec<u64>) = (numbers(arguments[2])?, numbers(arguments[3])?);
        let view = TensorView { storage, offset, shape, strides };
        (view.shape.len() == view.strides.len()).then_some(Value::Tensor(Box::new(view)))
    }

    /// A state dict carries `_metadata` (versions of modules) as its state: nothing that weights need.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match &self.values[self.top()?] {
            Value::Dict(_) => Ok(()),
            _ => Err(self.refuse("sets the state of something that is not a dictionary".into())),
        }
    }

    // === Bytes ===

    fn slice(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.refuse("the pickle ends early".into()))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or_else(|| self.refuse("a name has no end".into()))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.refuse("a name is not UTF-8".into()))
    }

    // === Errors ===

    fn place(&self) -> String {
        format!("pickle byte {}", self.base + self.op)
    }

    fn refuse(&self, problem: String) -> Error {
        let hint = "the file is damaged or was not written by torch.save; copy or download it again";
        Error::format(self.path, self.place(), problem, hint)
    }
}
