//! The parts of an analysis, and their files: `PART.json` holds the settings that decide its numbers, and the numbers. A part whose
//! file has the same settings is not measured again. Called by `analyze` and `measure`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::deme::analyze::activations::Activations;
use crate::deme::analyze::gradients::Gradients;
use crate::deme::analyze::landscape::{Around, TaskPlane};
use crate::deme::analyze::vectors::Vectors;
use crate::error::{Error, Result};
use crate::io::{atomic, json as json_file};

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Gradients by timestep: fig. 1a and proposition 1
    Gradients,
    /// Channels against positions: fig. 3
    Activations,
    /// The loss around the base: fig. 4
    Landscape,
    /// Task vectors' magnitudes and cosines: fig. 7b and 8
    Vectors,
    /// The loss on the plane of two task vectors: fig. 7a
    Plane,
}

impl Part {
    pub const ALL: [Self; 5] = [Self::Gradients, Self::Activations, Self::Landscape, Self::Vectors, Self::Plane];

    pub fn word(self) -> String {
        self.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned())
    }

    /// How many experts it needs.
    pub fn experts(self) -> usize {
        match self {
            Self::Gradients | Self::Landscape => 0,
            Self::Activations | Self::Vectors => 1,
            Self::Plane => 2,
        }
    }

    fn file(self, out: &Path) -> PathBuf {
        out.join(format!("{}.json", self.word()))
    }
}

/// The settings of each part, in the order of `Part::ALL`.
pub type Settings = [Map<String, Value>; 5];

/// What has been measured.
#[derive(Default)]
pub struct Found {
    pub gradients: Option<Gradients>,
    pub activations: Option<Activations>,
    pub landscape: Option<Around>,
    pub plane: Option<TaskPlane>,
    pub vectors: Option<Vectors>,
}

impl Found {
    /// Reads what is in `out` already. A part that is `wanted` and was measured with other settings is refused; one that is not
    /// wanted is left out.
    pub fn read(out: &Path, settings: &Settings, wanted: &[Part], global: &Global) -> Result<Self> {
        let mut reader = Reader { out, settings, wanted, global };
        Ok(Self {
            gradients: reader.read(Part::Gradients)?,
            activations: reader.read(Part::Activations)?,
            landscape: reader.read(Part::Landscape)?,
            plane: reader.read(Part::Plane)?,
            vectors: reader.read(Part::Vectors)?,
        })
    }

    pub fn has(&self, part: Part) -> bool {
        match part {
            Part::Gradients => self.gradients.is_some(),
            Part::Activations => self.activations.is_some(),
            Part::Landscape => self.landscape.is_some(),
            Part::Plane => self.plane.is_some(),
            Part::Vectors => self.vectors.is_some(),
        }
    }

    /// The words of the parts that are there.
    pub fn names(&self) -> Vec<String> {
        Part::ALL.into_iter().filter(|&part| self.has(part)).map(Part::word).collect()
    }
}

struct Reader<'a> {
    out: &'a Path,
    settings: &'a Settings,
    wanted: &'a [Part],
    global: &'a Global,
}

impl Reader<'_> {
    fn read<T: DeserializeOwned>(&mut self, part: Part) -> Result<Option<T>> {
        let path = part.file(self.out);
        if !path.is_file() {
            return Ok(None);
        }
        let map = json_file::read_object(&path)?;
        let hint = "remove the file to measure this part again, or name another --out";
        let broken = |thing: &str, problem: String| Error::format(&path, thing, problem, hint);
        let Some(Value::Object(saved)) = map.get("settings") else {
            return Err(broken("settings", "is missing".into()));
        };
        let expected = &self.settings[part as usize];
        if let Some(key) = expected.keys().chain(saved.keys()).find(|key| saved.get(*key) != expected.get(*key)) {
            if !self.wanted.contains(&part) {
                self.global.note(format_args!("{} was measured with another {key}: not in the report", path.display()));
                return Ok(None);
            }
            let of = |map: &Map<String, Value>| map.get(key).map_or("absent".to_owned(), json_file::describe);
            let message = format!(
                "{}: {key} was {} when this was measured and is {} now",
                path.display(),
                of(saved),
                of(expected)
            );
            return Err(Error::usage(message, hint));
        }
        let result = map.get("result").cloned().unwrap_or_default();
        let result = serde_json::from_value(result).map_err(|e| broken("result", e.to_string()))?;
        self.global.note(format_args!("{} is measured already", part.word()));
        Ok(Some(result))
    }
}

/// Writes a part's file, whole or not at all.
pub fn save<T: Serialize>(out: &Path, part: Part, settings: &Settings, result: &T) -> Result<()> {
    let all = json!({ "settings": settings[part as usize], "result": result });
    atomic::write(&part.file(out), format!("{all}\n").as_bytes())
}
