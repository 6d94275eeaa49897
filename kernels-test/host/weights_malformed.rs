//! Safetensors files that are not what they should be: each must be refused with exactly this error, and no other.
//! The comparison and its siblings' helpers are here too: see torch_malformed and folders_malformed.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::Path;

use deme::error::Result;
use deme::io::safetensors::SafetensorsFile;
use deme::io::source::{Canonical, TensorSource};

/// Fails with all differences at once. Errors are compared whole, hint apart, and must be of a file (exit code 3).
pub fn compare(cases: Vec<(&str, Result<()>, &str)>) {
    let mut wrong = Vec::new();
    let mut names = HashSet::new();
    for (name, result, expected) in cases {
        assert!(names.insert(name), "{name} is there twice");
        let got = match &result {
            Ok(()) => "it was accepted".to_owned(),
            Err(e) => e.to_string(),
        };
        if got != expected || result.is_err_and(|e| e.exit_code() != 3 || e.hint().is_empty()) {
            wrong.push(format!("{name}\n  got      {got}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), names.len(), wrong.join("\n"));
}

/// The file with this header, padded with `data` zeros.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

pub fn read_safetensors(bytes: Vec<u8>) -> Result<()> {
    let length = bytes.len() as u64;
    let file = SafetensorsFile::from_reader(Path::new("x.safetensors"), Box::new(Cursor::new(bytes)), length)?;
    read_all(&file)
}

pub fn read_all(source: &dyn TensorSource) -> Result<()> {
    source.names().iter().try_for_each(|n| source.read_f32(n).map(drop))
}

#[test]
fn malformed_safetensors() {
    let one = |text: &str| safetensors(text, 8);
    let huge = |n: u64| [n.to_le_bytes().as_slice(), b"{}"].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "header: the file has 0 bytes, at least 8 are needed"),
        ("seven bytes", vec![0; 7], "header: the file has 7 bytes, at least 8 are needed"),
        ("no header", vec![0; 8], "header: does not begin with {"),
        ("header beyond the end", huge(3), "header: claims 3 bytes, the file has 2 after its length"),
        ("header too long", huge(100_000_001), "header: claims 100000001 bytes, at most 100000000 are allowed"),
        ("length of ones", huge(u64::MAX), "header: claims 18446744073709551615 bytes, at most 100000000 are allowed"),
        ("a Git LFS pointer", b"version https://git-lfs".to_vec(), "header: is a Git LFS pointer, not the weights"),
        ("not JSON", one("{\"a\":}"), "header: expected value at line 1 column 6"),
        ("a list", one("[]"), "header: does not begin with {"),
        ("a blank first", one(" {}"), "header: does not begin with {"),
        (
            "not UTF-8",
            [&6u64.to_le_bytes()[..], b"{\"\xff\":1}"].concat()[..14].to_vec(),
            "header: invalid unicode code point at line 1 column 3",
        ),
        ("text after the object", one("{} x"), "header: trailing characters at line 1 column 4"),
        (
            "unknown type",
            one(r#"{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}"#),
            "header: unknown variant `F31`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, `U16`, `F16`, `BF16`, `I32`, `U32`, `F32`, `C64`, `F64`, `I64`, `U64` at line 1 column 19",
        ),
        (
            "no offsets",
            one(r#"{"a":{"dtype":"F32","shape":[2]}}"#),
            "header: missing field `data_offsets` at line 1 column 32",
        ),
        (
            "negative extent",
            one(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#),
            "header: invalid value: integer `-2`, expected usize at line 1 column 31",
        ),
        (
            "metadata that is not text",
            one(r#"{"__metadata__":{"format":1}}"#),
            "header: invalid type: integer `1`, expected a string at line 1 column 27",
        ),
        (
            "backwards",
            one(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#),
            "tensor a: ends at 0, before it begins",
        ),
        (
            "beyond the data",
            one(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#),
            "tensor a: ends at byte 12 of the data, the file has 8",
        ),
        (
            "size and shape differ",
            one(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#),
            "tensor a: is F32 [3] and has 8 bytes",
        ),
        (
            "elements overflow",
            one(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#),
            "tensor a: is F32 [4294967296, 4294967296] and has 8 bytes",
        ),
        (
            "half bytes",
            one(r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#),
            "tensor a: is F4 [3] and has 1 bytes",
        ),
        (
            "a name twice",
            one(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            ),
            "tensor a: is there twice",
        ),
        (
            "overlap",
            one(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            ),
            "header: invalid offset for tensor `b`",
        ),
        (
            "a gap",
            one(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#),
            "header: invalid offset for tensor `a`",
        ),
        (
            "trailing bytes",
            one(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#),
            "data: 4 bytes follow the last tensor",
        ),
        (
            "integers",
            one(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#),
            "tensor a: has the type I64, expected a floating-point type",
        ),
    ];
    let with_file = |(name, bytes, expected): (&'static str, Vec<u8>, &'static str)| {
        (name, read_safetensors(bytes), &*format!("x.safetensors: {expected}").leak())
    };
    compare(cases.into_iter().map(with_file).collect());
}

#[test]
fn both_spellings_of_one_tensor() {
    let header = r#"{"mid_block.attentions.0.query.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "mid_block.attentions.0.to_q.bias":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let bytes = safetensors(header, 8);
    let length = bytes.len() as u64;
    let file = SafetensorsFile::from_reader(Path::new("x.safetensors"), Box::new(Cursor::new(bytes)), length).unwrap();
    let error = Canonical::new(Box::new(file)).map(drop).unwrap_err();
    let expected = "tensor mid_block.attentions.0.to_q.bias: is there twice, also as mid_block.attentions.0.query.bias";
    assert_eq!(error.to_string(), format!("x.safetensors: {expected}"));
}
