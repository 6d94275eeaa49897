//! Seeded mutations of safetensors headers, pickles, torch files, configurations and indices: whatever comes, an answer,
//! no panic, and no allocation that a small file could not need.

use std::path::Path;

use deme::error::Result;
use deme::io::{json, pickle, safetensors};
use deme::model::config::UNetConfig;
use deme::model::projections::Placement;
use deme::rng::{self, Purpose};

use super::folders::TINY;
use super::folders_malformed::read_config;
use super::torch_malformed::read_torch;
use super::weights::fixture;
use super::weights_malformed::read_safetensors;

/// Bytes and words that parsers treat as special.
const TELLING: [&[u8]; 14] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"{",
    b"}",
    b"[",
    b"\"",
    b"-",
    b"9",
    b"e",
    b"null",
    b"[]",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"18446744073709551615",
];

/// One to four edits: a byte changed, something telling put in, a run cut out or doubled, the end cut off.
fn mutated(original: &[u8], seed: u64, index: u64) -> Vec<u8> {
    let stream = rng::stream(Purpose::Weights, 0xf11e);
    let mut bytes = original.to_vec();
    let edits = 1 + rng::philox(seed, stream, index << 3)[0] % 4;
    for edit in 1..=u64::from(edits) {
        let [kind, place, value, length] = rng::philox(seed, stream, index << 3 | edit);
        if bytes.is_empty() {
            break;
        }
        let at = place as usize % bytes.len();
        let end = (at + 1 + length as usize % 24).min(bytes.len());
        let telling = TELLING[value as usize % TELLING.len()];
        match kind % 16 {
            0..=4 => bytes[at] = value as u8,
            5 => bytes[at] ^= 1 << (value % 8),
            6..=8 => drop(bytes.splice(at..at, telling.iter().copied())),
            9..=11 => drop(bytes.splice(at..end, telling.iter().copied())),
            12 => drop(bytes.drain(at..end)),
            13 | 14 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// The most address space this process has had, in bytes; 0 where the system does not tell. Memory that was asked for
/// and never touched counts.
fn peak_address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// Other tests run beside this one; an absurd claim of a header is far beyond it.
const BOUND: u64 = 4 << 30;

/// Runs `parse` on `count` mutations of the seeds in turn. Some must be refused, and some accepted, or the mutations
/// would test nothing but the first check.
fn fuzz(seeds: &[Vec<u8>], count: u64, parse: impl Fn(Vec<u8>) -> Result<()>) {
    let before = peak_address_space();
    let (mut accepted, mut refused) = (0u64, 0u64);
    for index in 0..count {
        let seed = &seeds[index as usize % seeds.len()];
        match parse(mutated(seed, 2, index)) {
            Ok(()) => accepted += 1,
            Err(e) => {
                assert!(!e.to_string().is_empty() && e.to_string().len() < 4096, "{e}");
                refused += 1;
            }
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > count / 1000 && refused > count / 10, "{accepted} accepted, {refused} refused");
    assert!(peak_address_space() < before + BOUND);
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// A header of two tensors, its metadata and 16 bytes of data.
const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[8,16]}}"#;

#[test]
fn mutated_safetensors_headers() {
    let path = Path::new("x.safetensors");
    fuzz(&[HEADER.into()], 100_000, |bytes| safetensors::parse_header(path, &bytes, 16).map(drop));
}

#[test]
fn mutated_safetensors_files() {
    fuzz(&[file("f32.safetensors"), file("bf16.safetensors")], 100_000, read_safetensors);
}

#[test]
fn mutated_pickles() {
    let zip = file("zip_awkward.bin");
    // Entries are stored, so the pickle lies in the file as it is; trailing bytes do not matter to a pickle.
    let at = zip.windows(4).position(|w| w == b"\x80\x02cc").unwrap();
    let path = Path::new("data.pkl");
    fuzz(&[zip[at..at + 900].to_vec()], 100_000, |bytes| pickle::unpickle(path, &bytes, 0).map(drop));
}

#[test]
fn mutated_torch_files() {
    let files = ["zip_f16.bin", "zip_awkward.bin", "legacy_bf16.bin", "legacy_awkward.bin"].map(file);
    fuzz(&files, 100_000, read_torch);
}

#[test]
fn mutated_configurations() {
    fuzz(&[TINY.into()], 100_000, |bytes| read_config(&bytes));
}

/// Values of the right shape of JSON, one key replaced: reaches the checks behind the JSON parser.
#[test]
fn configurations_with_one_key_replaced() {
    let path = Path::new("config.json");
    let map = json::parse_object(path, TINY.as_bytes()).unwrap();
    let keys = ["sample_size", "in_channels", "freq_shift", "attention_head_dim", "attn_norm_num_groups", "dropout"];
    let keys: Vec<&str> = keys.into_iter().chain(map.keys().map(String::as_str)).collect();
    let values =
        ["null", "0", "1", "4", "-1", "65536", "4294967296", "1e308", "true", "\"x\"", "[]", "[4]", "[4,4]", "{}"];
    let (mut accepted, mut refused) = (0, 0);
    for key in &keys {
        for value in values {
            let mut map = map.clone();
            map.insert((*key).to_owned(), serde_json::from_str(value).unwrap());
            match UNetConfig::from_json(path, &map) {
                Ok(config) => {
                    // Whatever is accepted can be listed.
                    assert!(deme::model::tensors::expected(&config, Placement::All).len() < 100_000);
                    accepted += 1;
                }
                Err(e) => {
                    assert_eq!(e.exit_code(), 3, "{key} = {value}: {e}");
                    refused += 1;
                }
            }
        }
    }
    assert!(accepted > 20 && refused > 100, "{accepted} accepted, {refused} refused");
}
