//! Weight files, configurations and model folders that are not what they should be: each must be refused with exactly
//! this error, and no other.

use std::collections::HashSet;
use std::io::{Cursor, Write};
use std::path::Path;

use deme::error::{Error, Result};
use deme::io::folder::ModelFolder;
use deme::io::json;
use deme::io::safetensors::SafetensorsFile;
use deme::io::shards;
use deme::io::source::{Canonical, TensorSource};
use deme::io::torch::TorchFile;
use deme::model::config::UNetConfig;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::folders::{TINY, folder_of};
use super::weights::fixture;

/// Fails with all differences at once. Errors are compared whole, hint apart, and must be of a file (exit code 3).
fn compare(cases: Vec<(&str, Result<()>, &str)>) {
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

// === safetensors ===

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

fn read_all(source: &dyn TensorSource) -> Result<()> {
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

// === torch ===

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn number(n: i32) -> Vec<u8> {
    [b"J".as_slice(), &n.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".as_slice(), &items.concat(), b"t"].concat()
}

fn numbers(items: &[i32]) -> Vec<u8> {
    tuple(&items.iter().map(|&n| number(n)).collect::<Vec<_>>())
}

/// One tensor's pickle: a view of a float storage with key "0".
struct View {
    elements: i32,
    offset: i32,
    shape: Vec<i32>,
    strides: Vec<i32>,
}

/// Four floats as a 2x2 matrix.
const VIEW: fn() -> View = || View { elements: 4, offset: 0, shape: vec![2, 2], strides: vec![2, 1] };

fn tensor(v: &View) -> Vec<u8> {
    let storage = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), number(v.elements)];
    let storage = [tuple(&storage), b"Q".to_vec()].concat();
    let arguments =
        [storage, number(v.offset), numbers(&v.shape), numbers(&v.strides), b"\x89".to_vec(), b"}".to_vec()];
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), tuple(&arguments), b"R".to_vec()].concat()
}

/// {"w": VALUE}
fn dict(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}".as_slice(), &text("w"), value, b"s."].concat()
}

const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
const PROTOCOL: &[u8] = b"\x80\x02M\xe9\x03.";
const SYSTEM: &[u8] = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";
const KEYS: &[u8] = b"\x80\x02]X\x01\0\0\x000a.";

/// A file of the older format: pickles, then (elements, zeros) of one storage.
fn legacy(state: &[u8], elements: u64, data: usize) -> Vec<u8> {
    let mut bytes = [MAGIC, PROTOCOL, SYSTEM, state, KEYS, &elements.to_le_bytes()].concat();
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn zip_of(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub fn read_torch(bytes: Vec<u8>) -> Result<()> {
    let length = bytes.len() as u64;
    read_all(&TorchFile::from_reader(Path::new("x.bin"), Box::new(Cursor::new(bytes)), length)?)
}

#[test]
fn malformed_torch_files() {
    let good = dict(&tensor(&VIEW()));
    let stored = |entries: &[(&str, &[u8])]| zip_of(entries, CompressionMethod::Stored);
    let pickle = |ops: &[u8]| stored(&[("a/data.pkl", ops), ("a/data/0", &[0; 16])]);
    let view = |change: fn(&mut View)| {
        let mut v = VIEW();
        change(&mut v);
        legacy(&dict(&tensor(&v)), v.elements as u64, 4 * v.elements.max(0) as usize)
    };
    let valid = legacy(&good, 4, 16);
    assert_eq!(read_torch(valid.clone()).map_err(|e| e.to_string()), Ok(()), "the cases below differ from a good file");
    assert_eq!(read_torch(pickle(&good)).map_err(|e| e.to_string()), Ok(()));
    let mut damaged = pickle(&good);
    let at = damaged.windows(16).position(|w| w == [0; 16]).unwrap();
    damaged[at] = 1;

    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "start: is neither a zip archive nor a pickle"),
        ("text", b"<!DOCTYPE html>".to_vec(), "start: is neither a zip archive nor a pickle"),
        ("a Git LFS pointer", b"version https://git-lfs".to_vec(), "start: is a Git LFS pointer, not the weights"),
        // Pickles.
        (
            "a system call",
            pickle(b"\x80\x02cposix\nsystem\n(X\x04\0\0\0trueR."),
            "pickle byte 2: the pickle asks for posix.system, which is not on the list of allowed names",
        ),
        (
            "a system call by STACK_GLOBAL",
            pickle(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."),
            "pickle byte 18: the pickle asks for builtins.eval, which is not on the list of allowed names",
        ),
        (
            "a function of an allowed module",
            pickle(b"\x80\x02ctorch\nload\n."),
            "pickle byte 2: the pickle asks for torch.load, which is not on the list of allowed names",
        ),
        (
            "old global opcode",
            pickle(b"\x80\x02i__main__\nX\n."),
            "pickle byte 2: pickle opcode 0x69 is not on the list of allowed ones",
        ),
        (
            "extension registry",
            pickle(b"\x80\x02\x82\x01."),
            "pickle byte 2: pickle opcode 0x82 is not on the list of allowed ones",
        ),
        (
            "a new object",
            pickle(b"\x80\x02ccollections\nOrderedDict\n)\x81."),
            "pickle byte 28: pickle opcode 0x81 is not on the list of allowed ones",
        ),
        (
            "calls a storage type",
            pickle(b"\x80\x02ctorch\nFloatStorage\n)R."),
            "pickle byte 23: calls Storage(F32) with arguments that torch.save does not write",
        ),
        ("calls a text", pickle(b"\x80\x02X\x01\0\0\0a)R."), "pickle byte 9: calls something that is not a function"),
        (
            "OrderedDict with a list",
            pickle(b"\x80\x02ccollections\nOrderedDict\n]\x85R."),
            "pickle byte 29: calls OrderedDict with arguments that torch.save does not write",
        ),
        (
            "sets the state of a list",
            pickle(b"\x80\x02]}b."),
            "pickle byte 4: sets the state of something that is not a dictionary",
        ),
        ("protocol 9", pickle(b"\x80\x09N."), "pickle byte 0: pickle protocol 9 is not known"),
        ("ends early", pickle(b"\x80\x02}X\xff\xff\xff\xff"), "pickle byte 3: the pickle ends early"),
        ("name without an end", pickle(b"\x80\x02ctorch"), "pickle byte 2: a name has no end"),
        ("name that is not UTF-8", pickle(b"\x80\x02c\xff\nx\n."), "pickle byte 2: a name is not UTF-8"),
        ("text that is not UTF-8", pickle(b"\x80\x02X\x01\0\0\0\xff."), "pickle byte 2: a text is not UTF-8"),
        ("empty stack", pickle(b"\x80\x02."), "pickle byte 2: takes a value from an empty stack"),
        ("no mark", pickle(b"\x80\x02t."), "pickle byte 2: has no mark to go back to"),
        ("pops through a mark", pickle(b"\x80\x02N(."), "pickle byte 4: takes a value from an empty stack"),
        ("memo never stored", pickle(b"\x80\x02h\x05."), "pickle byte 2: recalls value 5, which was never stored"),
        ("odd items", pickle(b"\x80\x02}(Nu."), "pickle byte 5: has a key without a value"),
        ("items of None", pickle(b"\x80\x02NNNs."), "pickle byte 5: sets items of something that is not a dictionary"),
        ("appends to None", pickle(b"\x80\x02NNa."), "pickle byte 4: appends to something that is not a list"),
        (
            "a whole number of 17 bytes",
            pickle(&[b"\x80\x02\x8a\x11".as_slice(), &[1; 17], b"."].concat()),
            "pickle byte 2: a whole number of 17 bytes is too large",
        ),
        (
            "persistent id of a text",
            pickle(b"\x80\x02X\x01\0\0\0aQ."),
            "pickle byte 8: refers to something that is not a tensor's storage",
        ),
        // What the pickle says.
        ("not a dictionary", pickle(b"\x80\x02]."), "state dict: is not a dictionary"),
        ("a key that is a number", pickle(b"\x80\x02}K\x01Ns."), "state dict: has a key that is not a text"),
        ("a value that is a number", pickle(&dict(b"K\x01")), "entry w: is not a tensor"),
        (
            "a name twice",
            pickle(
                &[b"\x80\x02}", &text("w")[..], &tensor(&VIEW()), b"s", &text("w"), &tensor(&VIEW()), b"s."].concat(),
            ),
            "tensor w: is there twice",
        ),
        ("too many elements", view(|v| v.shape = vec![2, 3]), "tensor w: is [2, 3], its storage has 4 elements"),
        (
            "elements overflow",
            view(|v| (v.shape, v.strides) = (vec![i32::MAX; 3], vec![0; 3])),
            "tensor w: is [2147483647, 2147483647, 2147483647], its storage has 4 elements",
        ),
        (
            "expanded",
            view(|v| (v.shape, v.strides) = (vec![1000, 1000], vec![0, 0])),
            "tensor w: is [1000, 1000], its storage has 4 elements",
        ),
        (
            "offset beyond",
            view(|v| v.offset = 1),
            "tensor w: offset 1 and strides [2, 1] lead outside its storage of 4 elements",
        ),
        (
            "stride beyond",
            view(|v| v.strides = vec![3, 1]),
            "tensor w: offset 0 and strides [3, 1] lead outside its storage of 4 elements",
        ),
        (
            "negative stride",
            view(|v| v.strides = vec![-2, 1]),
            "pickle byte 174: calls RebuildTensor with arguments that torch.save does not write",
        ),
        (
            "strides missing",
            view(|v| v.strides = vec![1]),
            "pickle byte 169: calls RebuildTensor with arguments that torch.save does not write",
        ),
        (
            "negative storage",
            view(|v| v.elements = -4),
            "pickle byte 141: refers to something that is not a tensor's storage",
        ),
        // Zip containers.
        ("zip cut short", pickle(&good)[..100].to_vec(), "zip archive: invalid Zip archive: Could not find EOCD"),
        ("no data.pkl", stored(&[("a/x", b"")]), "data.pkl: is not in the archive exactly once"),
        (
            "two of data.pkl",
            stored(&[("a/data.pkl", &good), ("b/data.pkl", &good)]),
            "data.pkl: is not in the archive exactly once",
        ),
        (
            "compressed",
            zip_of(&[("a/data.pkl", &[0; 99])], CompressionMethod::Deflated),
            "data.pkl: is compressed or encrypted, which torch.save never does",
        ),
        (
            "big endian",
            stored(&[("a/data.pkl", &good), ("a/byteorder", b"big")]),
            "byteorder: is not little; re-save the model on an ordinary machine",
        ),
        ("storage missing", stored(&[("a/data.pkl", &good)]), "storage 0: is not in the archive"),
        (
            "storage too short",
            stored(&[("a/data.pkl", &good), ("a/data/0", &[0; 12])]),
            "storage 0: has 12 bytes, expected 4 F32",
        ),
        ("a storage with a flipped bit", damaged, "tensor w: Invalid checksum"),
        // The older format.
        ("another pickle", b"\x80\x02N.".to_vec(), "start: is a pickle, but not one of torch.save"),
        (
            "another protocol",
            [MAGIC, b"\x80\x02M\xea\x03."].concat(),
            "protocol: is not 1001, the only one of torch.save",
        ),
        (
            "another machine",
            [MAGIC, PROTOCOL, b"\x80\x02}X\x0d\0\0\0little_endian\x89s."].concat(),
            "system: is not little endian; re-save the model on an ordinary machine",
        ),
        (
            "keys that are no list",
            [MAGIC, PROTOCOL, SYSTEM, &good, b"\x80\x02N."].concat(),
            "storage keys: are not a list",
        ),
        (
            "a key that is no text",
            [MAGIC, PROTOCOL, SYSTEM, &good, b"\x80\x02]Na."].concat(),
            "storage keys: hold something that is not a text",
        ),
        ("an unknown key", [MAGIC, PROTOCOL, SYSTEM, b"\x80\x02}.", KEYS].concat(), "storage 0: belongs to no tensor"),
        ("no keys", [MAGIC, PROTOCOL, SYSTEM, &good, b"\x80\x02]."].concat(), "storage 0: is not in the file"),
        ("storage cut short", valid[..valid.len() - 1].to_vec(), "storage 0: goes beyond the file's end at byte 211"),
        ("another count", legacy(&good, 5, 16), "storage 0: has 5 elements, its tensors say 4"),
        ("trailing bytes", legacy(&good, 4, 17), "end: 1 bytes follow the last storage"),
    ];
    let with_file = |(name, bytes, expected): (&'static str, Vec<u8>, &'static str)| {
        (name, read_torch(bytes), &*format!("x.bin: {expected}").leak())
    };
    compare(cases.into_iter().map(with_file).collect());
}

#[test]
fn whole_modules_and_nested_dictionaries_are_refused_by_name() {
    let open = |file: &str| {
        let error = shards::open(&fixture(file)).map(drop).unwrap_err().to_string();
        error.strip_prefix(&format!("{}: ", fixture(file).display())).unwrap().to_owned()
    };
    let expected =
        "pickle byte 2: the pickle asks for torch.nn.modules.conv.Conv2d, which is not on the list of allowed names";
    assert_eq!(open("zip_module.bin"), expected);
    assert_eq!(open("zip_nested.bin"), "entry state_dict: is not a tensor");
}

// === Configurations ===

pub fn read_config(bytes: &[u8]) -> Result<()> {
    let path = Path::new("config.json");
    UNetConfig::from_json(path, &json::parse_object(path, bytes)?).map(drop)
}

#[test]
fn malformed_configurations() {
    let cases: Vec<(&str, &str)> = vec![
        ("", "line 1 column 0: EOF while parsing a value"),
        ("[]", "top level: is [], expected an object"),
        ("{", "line 1 column 1: EOF while parsing an object"),
        (r#"{"norm_eps": NaN}"#, "line 1 column 14: expected value"),
        (r#"{"norm_eps": 1e999}"#, "line 1 column 18: number out of range"),
        (r#"{"norm_eps": -1}"#, "norm_eps: is -1, expected 0 or more"),
        (r#"{"norm_eps": "small"}"#, r#"norm_eps: is "small", expected a finite number"#),
        (r#"{"layers_per_block": 2.5}"#, "layers_per_block: is 2.5, expected a whole number from 1 to 64"),
        (r#"{"layers_per_block": null}"#, "layers_per_block: is null, expected a whole number from 1 to 64"),
        (r#"{"layers_per_block": 0}"#, "layers_per_block: is 0, expected a whole number from 1 to 64"),
        (
            r#"{"layers_per_block": 18446744073709551616}"#,
            "layers_per_block: is 1.8446744073709552e+19, expected a whole number from 1 to 64",
        ),
        (r#"{"in_channels": -3}"#, "in_channels: is -3, expected a whole number from 1 to 65536"),
        (r#"{"flip_sin_to_cos": 1}"#, "flip_sin_to_cos: is 1, expected true or false"),
        (r#"{"freq_shift": 112}"#, "freq_shift: must be below 112, half the first width"),
        (r#"{"mid_block_scale_factor": 0}"#, "mid_block_scale_factor: is 0, and the mid block divides by it"),
        (r#"{"dropout": 1.5}"#, "dropout: is 1.5, expected 0 to 1"),
        (r#"{"sample_size": [32]}"#, "sample_size: has 1 entries, expected height and width"),
        (r#"{"sample_size": "32"}"#, r#"sample_size: is "32", expected a whole number from 1 to 65536"#),
        (r#"{"block_out_channels": 32}"#, "block_out_channels: is 32, expected a list of whole numbers"),
        (r#"{"block_out_channels": []}"#, "block_out_channels: has 0 entries, expected 1 to 16"),
        (
            r#"{"block_out_channels": [64, 4000000000, 64, 64]}"#,
            "block_out_channels: is 4000000000, expected a whole number from 4 to 65536",
        ),
        (r#"{"block_out_channels": [64, 128]}"#, "down_block_types: has 4 entries and block_out_channels has 2"),
        (r#"{"up_block_types": ["UpBlock2D"]}"#, "up_block_types: has 1 entries and block_out_channels has 4"),
        (r#"{"down_block_types": [1]}"#, "down_block_types: is 1, expected a list of texts"),
        (r#"{"norm_num_groups": 33}"#, "norm_num_groups: is 33, which does not divide 224 channels"),
        (r#"{"norm_num_groups": null}"#, "norm_num_groups: is null, expected a whole number from 1 to 65536"),
        (r#"{"attention_head_dim": 9}"#, "attention_head_dim: is 9, which does not divide 448 channels"),
        (r#"{"attn_norm_num_groups": 33}"#, "attn_norm_num_groups: is 33, which does not divide 896 channels"),
        // Understood, and not built.
        (r#"{"_class_name": "UNet2DConditionModel"}"#, r#"_class_name = "UNet2DConditionModel" is not supported"#),
        (
            r#"{"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D", "DownBlock2D"]}"#,
            r#"down_block_types = "SkipDownBlock2D" is not supported"#,
        ),
        (
            r#"{"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"]}"#,
            r#"up_block_types = "CrossAttnUpBlock2D" is not supported"#,
        ),
        (
            r#"{"mid_block_type": "UNetMidBlock2DCrossAttn"}"#,
            r#"mid_block_type = "UNetMidBlock2DCrossAttn" is not supported"#,
        ),
        (r#"{"time_embedding_type": "fourier"}"#, r#"time_embedding_type = "fourier" is not supported"#),
        (r#"{"resnet_time_scale_shift": "spatial"}"#, r#"resnet_time_scale_shift = "spatial" is not supported"#),
        (r#"{"class_embed_type": "timestep"}"#, r#"class_embed_type = "timestep" is not supported"#),
        (r#"{"num_class_embeds": 10}"#, "num_class_embeds = 10 is not supported"),
        (r#"{"downsample_type": "resnet"}"#, r#"downsample_type = "resnet" is not supported"#),
        (r#"{"upsample_type": "resnet"}"#, r#"upsample_type = "resnet" is not supported"#),
        (r#"{"downsample_padding": 2}"#, "downsample_padding = 2 is not supported"),
        (r#"{"act_fn": "gelu"}"#, r#"act_fn = "gelu" is not supported"#),
        (r#"{"act_fn": null}"#, "act_fn: is null, expected a text"),
        (r#"{"block_out_channels": [65, 65, 65, 65]}"#, "block_out_channels = 65, ... is not supported"),
        (r#"{"cross_attention_dim": 768}"#, "cross_attention_dim = 768 is not supported"),
        (r#"{"quantization_config": {"bits": 4}}"#, "quantization_config = an object is not supported"),
    ];
    let with_file = |(text, expected): (&'static str, &str)| {
        (text, read_config(text.as_bytes()), &*format!("config.json: {expected}").leak())
    };
    compare(cases.into_iter().map(with_file).collect());
}

// === Indices and folders ===

#[test]
fn malformed_folders() {
    const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
    const WEIGHTS: (&str, &str) = ("diffusion_pytorch_model.safetensors", "WEIGHTS");
    let map = |text: &'static str| vec![("config.json", TINY), (INDEX, text), ("a.safetensors", "WEIGHTS")];
    let cases: Vec<(&str, Vec<(&str, &str)>, &str)> = vec![
        ("nothing", vec![], ": config.json: is neither here nor in unet/"),
        (
            "no weights",
            vec![("config.json", TINY)],
            ": diffusion_pytorch_model.safetensors: is not there; found no weights at all",
        ),
        (
            "other weights",
            vec![("config.json", TINY), ("model.ckpt", ""), ("a.safetensors", "WEIGHTS")],
            ": diffusion_pytorch_model.safetensors: is not there; found a.safetensors, model.ckpt",
        ),
        ("no config", vec![("unet/x", "")], "/unet/config.json: cannot read: No such file or directory (os error 2)"),
        (
            "flat without a config",
            vec![("model_index.json", "{}"), WEIGHTS],
            "/config.json: cannot read: No such file or directory (os error 2)",
        ),
        (
            "config that is no JSON",
            vec![("config.json", "weights"), WEIGHTS],
            "/config.json: line 1 column 1: expected value",
        ),
        (
            "scheduler that is no JSON",
            vec![("config.json", TINY), WEIGHTS, ("scheduler_config.json", "{]")],
            "/scheduler_config.json: line 1 column 2: key must be a string",
        ),
        (
            "another UNet",
            vec![("model_index.json", r#"{"unet": ["diffusers", "UNet2DConditionModel"]}"#)],
            r#"/model_index.json: unet = "UNet2DConditionModel" is not supported"#,
        ),
        (
            "a VAE beside",
            vec![("model_index.json", r#"{"vqvae": ["diffusers", "VQModel"]}"#)],
            r#"/model_index.json: vqvae = "VQModel" is not supported"#,
        ),
        (
            "index without a map",
            map("{}"),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map: is missing or not an object",
        ),
        (
            "index with a list",
            map(r#"{"weight_map": []}"#),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map: is missing or not an object",
        ),
        (
            "index that leaves the folder",
            map(r#"{"weight_map": {"w": "../a.safetensors"}}"#),
            r#"/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names "../a.safetensors", expected a file beside the index"#,
        ),
        (
            "index with an absolute path",
            map(r#"{"weight_map": {"w": "/a.safetensors"}}"#),
            r#"/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names "/a.safetensors", expected a file beside the index"#,
        ),
        (
            "index of an index",
            map(r#"{"weight_map": {"w": "diffusion_pytorch_model.safetensors.index.json"}}"#),
            r#"/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names "diffusion_pytorch_model.safetensors.index.json", expected a file beside the index"#,
        ),
        (
            "index with a number",
            map(r#"{"weight_map": {"w": 1}}"#),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: names 1, expected a file beside the index",
        ),
        (
            "index with a stranger",
            map(r#"{"weight_map": {"w": "a.safetensors"}}"#),
            "/diffusion_pytorch_model.safetensors.index.json: weight_map, tensor w: is not in a.safetensors",
        ),
        (
            "index with too little",
            map(r#"{"weight_map": {"conv_in.bias": "a.safetensors"}}"#),
            "/diffusion_pytorch_model.safetensors.index.json: tensor conv_in.weight: is in a.safetensors but not in the index",
        ),
        (
            "index with a file that is not there",
            map(r#"{"weight_map": {"w": "b.safetensors"}}"#),
            "/b.safetensors: cannot read: No such file or directory (os error 2)",
        ),
    ];
    let results = cases.into_iter().map(|(name, files, expected)| {
        let (_dir, root) = folder_of(&files);
        let result = ModelFolder::open(&root).map(drop);
        (name, result, &*format!("{}{expected}", root.display()).leak())
    });
    compare(results.collect());
}

#[test]
fn a_folder_that_is_not_there_or_not_a_folder() {
    let open = |path: &Path| ModelFolder::open(path).map(drop);
    let file = fixture("f32.safetensors");
    let on_file = format!("{}: model: is a file, expected a folder", file.display());
    let absent = "/no/such/model: cannot open the model folder: No such file or directory (os error 2)";
    compare(vec![("file", open(&file), &on_file), ("absent", open(Path::new("/no/such/model")), absent)]);
}

#[test]
fn both_spellings_of_one_tensor() {
    let header = r#"{"mid_block.attentions.0.query.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "mid_block.attentions.0.to_q.bias":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let bytes = safetensors(header, 8);
    let length = bytes.len() as u64;
    let file = SafetensorsFile::from_reader(Path::new("x.safetensors"), Box::new(Cursor::new(bytes)), length).unwrap();
    let error: Error = Canonical::new(Box::new(file)).map(drop).unwrap_err();
    let expected = "tensor mid_block.attentions.0.to_q.bias: is there twice, also as mid_block.attentions.0.query.bias";
    assert_eq!(error.to_string(), format!("x.safetensors: {expected}"));
}
