//! Which variant and tiling each kernel takes at which parameters, as it was measured; read and written as JSON.
//! Called by `plan` and `autotune`; `train` and `cli` keep it beside what was computed with it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::device::Gpu;
use crate::error::{Error, Result};
use crate::io::{atomic, hash, json as json_file};
use crate::recording::Op;
use crate::shader::{Candidate, FieldKind, Tiling, Variant};

/// Choices by kernel and parameters, in text: `matmul_forward 64,128,...` -> `matmul_forward_tiled 64x64r4`. What is not in
/// it takes the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning(BTreeMap<String, String>);

/// How a choice is written: the variant's stem, and the tiling where it has several.
pub(super) fn choice(variant: &Variant, tiling: &Tiling) -> String {
    format!("{} {}", variant.stem, tiling.name).trim_end().to_owned()
}

/// The kernel's word, its parameters, and the bindings in f16, bit by bit, where there are any.
pub(super) fn key(op: &Op) -> String {
    let mut text = op.card.word.to_owned();
    for (i, (field, &word)) in op.card.params.iter().zip(&op.params).enumerate() {
        let separator = if i == 0 { ' ' } else { ',' };
        // Writing to a String does not fail.
        let _ = match field.kind {
            FieldKind::U32 => write!(text, "{separator}{word}"),
            FieldKind::F32 => write!(text, "{separator}{}", f32::from_bits(word)),
        };
    }
    if op.half != 0 {
        let _ = write!(text, " f16:{:b}", op.half);
    }
    text
}

impl Tuning {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(super) fn set(&mut self, key: String, choice: String) {
        self.0.insert(key, choice);
    }

    /// Whether the other's choices are all among these.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(key, choice)| self.get(key) == Some(choice))
    }

    /// Takes over the choices of another, which win.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(key, choice)| (key.clone(), choice.clone())));
    }

    /// The choice for this op, where there is one that this adapter can run.
    pub(super) fn find(&self, gpu: &Gpu, op: &Op) -> Option<Candidate> {
        self.among(op, || gpu.candidates(op))
    }

    fn among(&self, op: &Op, candidates: impl FnOnce() -> Vec<Candidate>) -> Option<Candidate> {
        if self.0.is_empty() {
            return None;
        }
        let wanted = self.get(&key(op))?;
        candidates().into_iter().find(|(v, tiling)| choice(v, tiling) == wanted)
    }

    /// An object of texts.
    pub fn to_json(&self) -> Map<String, Value> {
        self.0.iter().map(|(key, choice)| (key.clone(), json!(choice))).collect()
    }

    /// None where a value is no text.
    fn from_json(map: &Map<String, Value>) -> Option<Self> {
        let pair = |(key, choice): (&String, &Value)| Some((key.clone(), choice.as_str()?.to_owned()));
        map.iter().map(pair).collect::<Option<_>>().map(Self)
    }

    /// Identifies it in a few characters.
    pub fn sha256(&self) -> String {
        hash::of_bytes(Value::Object(self.to_json()).to_string().as_bytes())
    }
}

/// A file of tunings by device: `{"version": 1, "devices": {"<adapter, driver, shaders>": {...}}}`.
#[derive(Debug, Clone)]
pub struct TuningFile {
    pub path: PathBuf,
    /// Adapter, driver and shaders: what was measured on others says nothing here.
    pub device: String,
}

const VERSION: u64 = 1;

fn render(devices: Map<String, Value>) -> String {
    let file = [("version".to_owned(), json!(VERSION)), ("devices".to_owned(), Value::Object(devices))];
    json_file::render(&Map::from_iter(file))
}

impl TuningFile {
    /// The devices in the file; none where there is no file.
    fn devices(&self) -> Result<Map<String, Value>> {
        if !self.path.exists() {
            return Ok(Map::new());
        }
        let map = json_file::read_object(&self.path)?;
        let wrong = |what: &str, problem: &str| {
            Error::format(&self.path, what, problem, "remove the file; what was tuned is measured again")
        };
        if map.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(wrong("version", "is not 1"));
        }
        match map.get("devices") {
            Some(Value::Object(devices)) => Ok(devices.clone()),
            _ => Err(wrong("devices", "is no object")),
        }
    }

    /// What the file says of this device; None where it says nothing of it.
    ///
    /// # Errors
    /// `Format` where the file is no such object.
    pub fn read(&self) -> Result<Option<Tuning>> {
        let devices = self.devices()?;
        let Some(own) = devices.get(&self.device) else { return Ok(None) };
        let tuning = own.as_object().and_then(Tuning::from_json);
        let hint = "remove the file; what was tuned is measured again";
        tuning.map(Some).ok_or_else(|| Error::format(&self.path, "devices", "holds no choices", hint))
    }

    /// A file's text that says this of this device alone.
    pub fn text(&self, tuning: &Tuning) -> String {
        render(Map::from_iter([(self.device.clone(), Value::Object(tuning.to_json()))]))
    }

    /// Says of this device what a run began with, unless the file does already.
    ///
    /// # Errors
    /// `Usage` where the file says something else of this device by now; else as `merge`.
    pub fn begin(&self, tuning: &Tuning) -> Result<()> {
        match self.read()? {
            None => self.merge(tuning),
            Some(known) if known.covers(tuning) => Ok(()),
            Some(_) => {
                let message = format!("{} was written while this began", self.path.display());
                Err(Error::usage(message, "begin again; it goes on from there"))
            }
        }
    }

    /// Adds choices to what the file says of this device; they win. Written whole or not at all.
    ///
    /// # Errors
    /// As `read`, and `Io`.
    pub fn merge(&self, tuning: &Tuning) -> Result<()> {
        let mut devices = self.devices()?;
        let mut all = self.read()?.unwrap_or_default();
        all.extend(tuning);
        devices.insert(self.device.clone(), Value::Object(all.to_json()));
        atomic::write(&self.path, render(devices).as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::shader::card::{Class, DEFAULT_LIMITS, Params};
    use crate::shader::cards::gemm::{MATMUL_FORWARD, MatmulParams};

    fn op(m: u32) -> Op {
        let params = MatmulParams { alpha: 0.125, ..MatmulParams::plain(m, 256, 256) }.words();
        let (reads, writes, updates) = (Vec::new(), Vec::new(), Vec::new());
        Op { card: &MATMUL_FORWARD, params, reads, writes, updates, half: 0 }
    }

    fn one(m: u32, choice: &str) -> Tuning {
        Tuning(BTreeMap::from([(key(&op(m)), choice.to_owned())]))
    }

    #[test]
    fn a_choice_is_found_by_kernel_and_parameters_and_only_where_it_can_run() {
        assert_eq!(key(&op(512)), "matmul_forward 512,256,256,1,1,256,256,256,0,0,0,0,0,0,0.125,0,0");
        let candidates = |m| MATMUL_FORWARD.candidates(&op(m).params, Class::Gpu, &DEFAULT_LIMITS, 0);
        let find = |tuning: &Tuning, m| tuning.among(&op(m), || candidates(m));
        let known = one(512, "matmul_forward_tiled 64x64r8");
        let (variant, tiling) = find(&known, 512).unwrap();
        assert_eq!((variant.stem, tiling.name.as_str()), ("matmul_forward_tiled", "64x64r8"));
        assert_eq!(tiling.constants, vec![("RM", 8), ("TY", 8), ("TX", 16)]);
        assert!(find(&known, 513).is_none());
        // Of a later version, of another kind of adapter, and the naive one beside others.
        for choice in ["matmul_forward_tiled 7x7", "matmul_forward_subgroup r8v4", "matmul_forward_v1", ""] {
            assert!(find(&one(512, choice), 512).is_none(), "{choice}");
        }
    }

    #[test]
    fn a_file_keeps_what_each_device_said() {
        let dir = tempfile::tempdir().unwrap();
        let of = |device: &str| TuningFile { path: dir.path().join("t.json"), device: device.to_owned() };
        assert_eq!(of("a").read().unwrap(), None);
        of("a").merge(&one(1, "x")).unwrap();
        of("b").merge(&one(1, "y")).unwrap();
        of("a").merge(&one(2, "z")).unwrap();
        let mut both = one(1, "x");
        both.extend(&one(2, "z"));
        assert_eq!(of("a").read().unwrap(), Some(both.clone()));
        assert_eq!(of("b").read().unwrap(), Some(one(1, "y")));
        assert_eq!(of("another driver").read().unwrap(), None);
        of("a").begin(&one(1, "x")).unwrap();
        assert_eq!(of("a").read().unwrap(), Some(both), "a record that is there stays");
        assert!(of("a").begin(&one(1, "w")).is_err());
        of("c").begin(&Tuning::default()).unwrap();
        assert_eq!(of("c").read().unwrap(), Some(Tuning::default()), "none is a record too");
        std::fs::write(&of("a").path, of("a").text(&one(3, "v"))).unwrap();
        assert_eq!(of("a").read().unwrap(), Some(one(3, "v")));
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = TuningFile { path: dir.path().join("t.json"), device: "a".into() };
        let whole = file.text(&one(1, "x"));
        for text in
            ["", "{", "[]", "{}", r#"{"version": 2, "devices": {}}"#, r#"{"version": 1}"#, &whole[..whole.len() / 2]]
        {
            std::fs::write(&file.path, text).unwrap();
            assert!(file.read().is_err_and(|e| e.to_string().contains("t.json")), "{text:?}");
        }
        std::fs::write(&file.path, r#"{"version": 1, "devices": {"a": {"matmul_forward 1": 2}}}"#).unwrap();
        assert!(file.read().is_err());
    }
}
