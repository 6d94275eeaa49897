//! JSON files: objects read with their order kept, typed keys whose errors name file and key, and the rendering that
//! diffusers uses. Called by the folder reader, the configurations of models and schedules, and run files.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A configuration is a few kilobytes and a shard index a few hundred; this much is something else.
pub const MAX_JSON_BYTES: u64 = 16 << 20;

/// The object in a JSON file, keys in the file's order.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let length = std::fs::metadata(path).map_err(Error::io(path, "read"))?.len();
    if length > MAX_JSON_BYTES {
        let problem = format!("{length} bytes, at most {MAX_JSON_BYTES} are read");
        return Err(Error::format(path, "size", problem, "this is not a configuration file"));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    parse_object(path, &bytes)
}

/// The object in `bytes`, which came from `path`.
pub fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    let hint = "the file may be cut short or not be JSON; download it again";
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            Err(Error::format(path, "top level", format!("is {}, expected an object", describe(&other)), hint))
        }
        Err(e) => Err(Error::format(path, format!("line {} column {}", e.line(), e.column()), short(&e), hint)),
    }
}

/// The text of an object as diffusers writes it: two spaces of indent, a line feed at the end.
pub fn render(map: &Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(map.clone()))
}

/// serde_json's message without the place, which the error names already.
fn short(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// A value as an error message shows it, cut where it is long.
pub fn describe(value: &Value) -> String {
    let text = match value {
        Value::Array(items) if items.len() > 16 => return format!("a list of {} items", items.len()),
        Value::Object(_) => return "an object".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() > 80 { text.chars().take(80).chain("...".chars()).collect() } else { text }
}

/// The keys of one object of one file. A key that is absent gives the default; a key of a wrong type or out of range is
/// an error that names it.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, map }
    }

    /// The value of a key; `None` where it is absent or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// "key: is X, expected Y".
    pub fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.refuse(key, format!("is {}, expected {expected}", describe(value)))
    }

    /// A defect of a value, in words.
    pub fn refuse(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::format(self.path, key, problem, "correct the file, or use the one that came with the model")
    }

    /// A value that is understood, changes the result, and is not built.
    pub fn unsupported(&self, key: &str, value: &Value, hint: &str) -> Error {
        Error::unsupported(self.path, key, describe(value), hint)
    }

    pub fn bool(&self, key: &str, default: bool) -> Result<bool> {
        match self.map.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub fn u32(&self, key: &str, default: u32, range: RangeInclusive<u32>) -> Result<u32> {
        self.map.get(key).map_or(Ok(default), |v| self.as_u32(key, v, range))
    }

    /// A whole number, or null; `default` where the key is absent.
    pub fn u32_or_null(&self, key: &str, default: Option<u32>, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        match self.map.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(v) => self.as_u32(key, v, range).map(Some),
        }
    }

    /// A finite number.
    pub fn f64(&self, key: &str, default: f64) -> Result<f64> {
        self.map.get(key).map_or(Ok(default), |v| self.as_f64(key, v))
    }

    pub fn str(&self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.map.get(key) {
            None => Ok(default),
            Some(Value::String(s)) => Ok(s),
            Some(other) => Err(self.wrong(key, other, "a text")),
        }
    }

    pub fn u32_list(&self, key: &str, default: &[u32], range: RangeInclusive<u32>) -> Result<Vec<u32>> {
        match self.map.get(key) {
            None => Ok(default.to_vec()),
            Some(Value::Array(items)) => items.iter().map(|v| self.as_u32(key, v, range.clone())).collect(),
            Some(other) => Err(self.wrong(key, other, "a list of whole numbers")),
        }
    }

    /// A list of finite numbers, or `None` where the key is absent or null.
    pub fn f64_list(&self, key: &str) -> Result<Option<Vec<f64>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items.iter().map(|v| self.as_f64(key, v)).collect::<Result<_>>().map(Some),
            Some(other) => Err(self.wrong(key, other, "a list of numbers")),
        }
    }

    pub fn str_list(&self, key: &str, default: &[&'a str]) -> Result<Vec<&'a str>> {
        match self.map.get(key) {
            None => Ok(default.to_vec()),
            Some(Value::Array(items)) => {
                items.iter().map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a list of texts"))).collect()
            }
            Some(other) => Err(self.wrong(key, other, "a list of texts")),
        }
    }

    fn as_u32(&self, key: &str, value: &Value, range: RangeInclusive<u32>) -> Result<u32> {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.filter(|n| range.contains(n)).ok_or_else(|| self.wrong(key, value, &expected()))
    }

    fn as_f64(&self, key: &str, value: &Value) -> Result<f64> {
        value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, value, "a finite number"))
    }
}
