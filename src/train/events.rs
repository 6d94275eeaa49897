//! The numbers of metrics.jsonl as TensorBoard's event files: records of TensorFlow's TFRecord format, each an `Event` of its
//! event.proto, written field by field. Called by `train::run`. The clock is in them, so they are no part of what a resumed run
//! repeats.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A file of events that grows at its end.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A file of its own for this process, which has done `step` updates of the run already: TensorBoard drops what an
    /// interrupted process wrote of later ones.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(format!("events.out.tfevents.{:010.0}.{}", now().floor(), std::process::id()));
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        let mut events = Self { path, file };
        events.write(&event(now(), 0, &bytes(FILE_VERSION, b"brain.Event:2")))?;
        if step > 0 {
            events.write(&event(now(), step + 1, &bytes(SESSION_LOG, &number(STATUS, START))))?;
        }
        Ok(events)
    }

    /// The numbers of a line of metrics.jsonl.
    pub fn line(&mut self, line: &Map<String, Value>) -> Result<()> {
        let step = line.get("step").and_then(Value::as_u64).unwrap_or(0);
        let values: Vec<u8> = scalars(line).iter().flat_map(|(tag, value)| scalar(tag, *value)).collect();
        self.write(&event(now(), step, &bytes(SUMMARY, &values)))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&record(event)).map_err(Error::io(&self.path, "write"))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// (tag, value) of each number; of held-out losses the means, by their timesteps.
fn scalars(line: &Map<String, Value>) -> Vec<(String, f64)> {
    let plain = line.iter().filter(|(key, _)| *key != "step");
    let mut found: Vec<_> = plain.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))).collect();
    let held_out = line.get("held_out").unwrap_or(&Value::Null);
    found.extend(held_out["total"]["loss"].as_f64().map(|loss| ("held_out/all".to_owned(), loss)));
    for bucket in held_out["buckets"].as_array().into_iter().flatten() {
        let tag = format!("held_out/{}..{}", bucket["from"], bucket["to"]);
        found.extend(bucket["loss"].as_f64().map(|loss| (tag, loss)));
    }
    found
}

/// Field numbers of Event, SessionLog, Summary and Summary.Value.
const WALL_TIME: u8 = 1;
const STEP: u8 = 2;
const FILE_VERSION: u8 = 3;
const SUMMARY: u8 = 5;
const SESSION_LOG: u8 = 7;
const STATUS: u8 = 1;
const START: u64 = 1;
const VALUE: u8 = 1;
const TAG: u8 = 1;
const SIMPLE_VALUE: u8 = 2;

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;
const FOUR_BYTES: u8 = 5;

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3 | VARINT], varint(value)].concat()
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    [vec![field << 3 | LENGTH], varint(content.len() as u64), content.to_vec()].concat()
}

fn scalar(tag: &str, value: f64) -> Vec<u8> {
    let value = [vec![SIMPLE_VALUE << 3 | FOUR_BYTES], (value as f32).to_le_bytes().to_vec()].concat();
    bytes(VALUE, &[bytes(TAG, tag.as_bytes()), value].concat())
}

fn event(wall_time: f64, step: u64, content: &[u8]) -> Vec<u8> {
    let wall_time = [vec![WALL_TIME << 3 | EIGHT_BYTES], wall_time.to_le_bytes().to_vec()].concat();
    let step = if step == 0 { Vec::new() } else { number(STEP, step) };
    [wall_time, step, content.to_vec()].concat()
}

/// Length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// CRC-32C, rotated and moved as TFRecord has it.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Bytes that tensorboard 2.21.0 writes (RecordWriter of the serialised Event), wall_time 1.5.
    #[test]
    fn records_are_tensorboards() {
        let version = event(1.5, 0, &bytes(FILE_VERSION, b"brain.Event:2"));
        let values = [scalar("noise_loss", 0.25), scalar("held_out/all", 1e-3)].concat();
        let summary = event(1.5, 300, &bytes(SUMMARY, &values));
        let start = event(1.5, 301, &bytes(SESSION_LOG, &number(STATUS, START)));
        assert_eq!(
            hex(&record(&version)),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        );
        assert_eq!(
            hex(&record(&summary)),
            "36000000000000004f578cef09000000000000f83f10ac022a280a110a0a6e6f6973655f6c6f7373150000803e0a130a0c68656c645f6f75742f616c6c156f12833afd0b523f"
        );
        assert_eq!(hex(&record(&start)), "100000000000000095fbfe1809000000000000f83f10ad023a020801d17949d4");
    }

    #[test]
    fn the_numbers_of_a_line_have_tags() {
        let line = serde_json::json!({"step": 7, "noise_loss": 0.5, "held_out": {
            "buckets": [{"from": 0, "to": 250, "n": 3, "loss": 0.125, "standard_error": 1.0}],
            "total": {"from": 0, "to": 250, "n": 3, "loss": 0.25, "standard_error": 1.0}}});
        let got = scalars(line.as_object().unwrap());
        let expected = [("noise_loss", 0.5), ("held_out/all", 0.25), ("held_out/0..250", 0.125)];
        assert_eq!(got, expected.map(|(tag, value)| (tag.to_owned(), value)));
    }

    #[test]
    fn a_continued_run_begins_a_file_that_says_so() {
        let length = |step| {
            let dir = tempfile::tempdir().unwrap();
            drop(Events::create(dir.path(), step).unwrap());
            let entry = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
            assert!(entry.file_name().to_str().unwrap().starts_with("events.out.tfevents."));
            entry.metadata().unwrap().len()
        };
        assert!(length(5) > length(0));
    }
}
