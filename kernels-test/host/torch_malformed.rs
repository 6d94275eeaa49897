//! Files of torch.save that are not what they should be, hostile pickles among them: each must be refused with exactly
//! this error, and no other.

use std::io::{Cursor, Write};
use std::path::Path;

use deme::error::Result;
use deme::io::shards;
use deme::io::torch::TorchFile;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::weights::fixture;
use super::weights_malformed::{compare, read_all};

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
