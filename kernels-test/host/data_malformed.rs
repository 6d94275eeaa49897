//! Files that are not what they should be: each must be refused with exactly this error, and no other.

use std::io::Read;
use std::path::Path;

use deme::data::dataset::{Dataset, DatasetOptions, OnBad};
use image::{ImageFormat, RgbImage};

use super::data::{cifar_record, encoded, gz, picture, png_of, tar_of, xz};

/// A file (or, with a `/`, a folder of one file), the options that differ, and the error's text after the path.
struct Case {
    file: &'static str,
    bytes: Vec<u8>,
    tile: Option<u32>,
    error: &'static str,
}

fn case(file: &'static str, bytes: impl Into<Vec<u8>>, error: &'static str) -> Case {
    Case { file, bytes: bytes.into(), tile: None, error }
}

fn atlas(tile: u32, bytes: impl Into<Vec<u8>>, error: &'static str) -> Case {
    Case { tile: Some(tile), ..case("atlas.png", bytes, error) }
}

/// The PNG with another width and height in its header, checksum mended.
fn resized_header(png: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png.to_vec();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    mend_png(&mut bytes);
    bytes
}

/// Recomputes the checksum of every chunk that is whole.
pub fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 4) {
        let end = at.saturating_add(8).saturating_add(u32::from_be_bytes(head.try_into().unwrap()) as usize);
        if end.saturating_add(4) > bytes.len() {
            return;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
}

fn changed(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    assert_ne!(bytes[at], to, "the change must be one");
    bytes[at] = to;
    bytes
}

fn cut(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    assert!(len < bytes.len());
    bytes.truncate(len);
    bytes
}

/// A tar whose first header claims `size` bytes, checksum mended.
fn claimed(size: &[u8; 12]) -> Vec<u8> {
    let mut bytes = tar_of(&[("a.png", &png_of(1))]);
    bytes[124..136].copy_from_slice(size);
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|&b| u32::from(b)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn cases() -> Vec<Case> {
    let png = png_of(1);
    let jpeg = encoded(picture(16, 16, 1), ImageFormat::Jpeg);
    let webp = encoded(picture(16, 16, 1), ImageFormat::WebP);
    let tar = tar_of(&[("a.png", &png), ("b.png", &png)]);
    let record = cifar_record(3, &picture(32, 32, 1));
    vec![
        // Images, in a folder `d`.
        case("d/empty.png", "", "DIR/d: empty.png: the file is empty"),
        case("d/text.jpg", "<html>404 not found</html>", "DIR/d: text.jpg: not a PNG, JPEG or WebP image"),
        case("d/gif.png", "GIF89a\x01\0\x01\0\0\0\0;", "DIR/d: gif.png: not a PNG, JPEG or WebP image"),
        case(
            "d/cut.png",
            cut(png.clone(), png.len() - 20),
            "DIR/d: cut.png: cannot be decoded: unexpected end of file",
        ),
        case("d/signature.png", cut(png.clone(), 8), "DIR/d: signature.png: cannot be decoded: unexpected end of file"),
        case(
            "d/checksum.png",
            changed(png.clone(), png.len() - 13, 0x55),
            "DIR/d: checksum.png: cannot be decoded: Format error decoding Png: CRC error: expected 0xc4d49a55 have 0xc4d49a3f while decoding ChunkType { type: IDAT, critical: true, private: false, reserved: false, safecopy: false } chunk.",
        ),
        case(
            "d/none.png",
            resized_header(&png, 0, 8),
            "DIR/d: none.png: cannot be decoded: Format error decoding Png: Invalid image dimensions",
        ),
        case(
            "d/huge.png",
            resized_header(&png, 30_000, 30_000),
            "DIR/d: huge.png: 30000x30000 is larger than 67108864 pixels or 32768 a side",
        ),
        case(
            "d/wide.png",
            resized_header(&png, 40_000, 1),
            "DIR/d: wide.png: 40000x1 is larger than 67108864 pixels or 32768 a side",
        ),
        case(
            "d/thin.png",
            encoded(picture(64, 2, 1), ImageFormat::Png),
            "DIR/d: thin.png: 64x2 is too long and thin (more than 16 to 1)",
        ),
        case(
            "d/header.jpg",
            cut(jpeg.clone(), 30),
            "DIR/d: header.jpg: cannot be decoded: Format error decoding Jpeg: I/O errors Not enough bytes, expected 3 but found 0",
        ),
        case(
            "d/start.jpg",
            cut(jpeg.clone(), 3),
            "DIR/d: start.jpg: cannot be decoded: Format error decoding Jpeg: I/O errors Not enough bytes, expected 1 but found 0",
        ),
        case("d/body.jpg", cut(jpeg.clone(), jpeg.len() - 20), "DIR/d: body.jpg: the file ends before the image does"),
        case(
            "d/cut.webp",
            cut(webp.clone(), 60),
            "DIR/d: cut.webp: cannot be decoded: Format error decoding WebP: Corrupt bitstream",
        ),
        case("d/riff.webp", cut(webp, 13), "DIR/d: riff.webp: cannot be decoded: failed to fill whole buffer"),
        // Atlases.
        atlas(0, png.clone(), "DIR/atlas.png: atlas: 8x8 cannot be cut into tiles of 0x0"),
        atlas(3, png.clone(), "DIR/atlas.png: atlas: 8x8 cannot be cut into tiles of 3x3"),
        atlas(16, png.clone(), "DIR/atlas.png: atlas: 8x8 cannot be cut into tiles of 16x16"),
        atlas(8, "text", "DIR/atlas.png: atlas: not a PNG, JPEG or WebP image"),
        atlas(8, encoded(RgbImage::new(16, 16), ImageFormat::Png), "DIR/atlas.png: images: there are none"),
        Case { tile: Some(8), ..case("x.tar", tar.clone(), "--tile 8: DIR/x.tar is not one PNG, JPEG or WebP file") },
        case("single.png", png.clone(), "DIR/single.png is a single image"),
        // Archives.
        case("x.tar", "", "DIR/x.tar: archive: neither tar nor tar.xz nor tar.gz"),
        case("x.zip", "PK\x03\x04", "DIR/x.zip: archive: neither tar nor tar.xz nor tar.gz"),
        case(
            "x.tar",
            changed(tar.clone(), 0, b'c'),
            "DIR/x.tar: archive: cannot be read: archive header checksum mismatch",
        ),
        case("x.tar", cut(tar.clone(), 600), "DIR/x.tar: archive: cannot be read: it ends inside a.png"),
        case("x.tar", cut(tar.clone(), 300), "DIR/x.tar: archive: cannot be read: failed to read entire block"),
        case(
            "x.tar",
            claimed(b"zzzzzzzzzzz\0"),
            "DIR/x.tar: archive: cannot be read: numeric field was not a number: zzzzzzzzzzz when getting size for a.png",
        ),
        case("x.tar", claimed(b"77777777777\0"), "DIR/x.tar: a.png: 8589934591 bytes are more than 268435456"),
        case("x.tar", claimed(b"00000000020\0"), "DIR/x.tar: a.png: cannot be decoded: unexpected end of file"),
        case("x.tar", tar_of(&[("readme.txt", b"no image")]), "DIR/x.tar: images: there are none"),
        case("x.tar", tar_of(&[("in/bad.png", b"no image")]), "DIR/x.tar: in/bad.png: not a PNG, JPEG or WebP image"),
        case("x.tar.xz", cut(xz(&tar), 100), "DIR/x.tar.xz: archive: cannot be read: premature eof"),
        case("x.tar.xz", changed(xz(&tar), 40, 0), "DIR/x.tar.xz: archive: cannot be read: lzma data error"),
        case("x.tar.xz", xz(b"not a tar"), "DIR/x.tar.xz: archive: cannot be read: failed to read entire block"),
        case("x.tar.gz", cut(gz(&tar), 60), "DIR/x.tar.gz: archive: cannot be read: incomplete deflate stream"),
        case(
            "x.tar.gz",
            changed(gz(&tar), gz(&tar).len() - 8, 0xaa),
            "DIR/x.tar.gz: archive: cannot be read: corrupt gzip stream does not have a matching checksum",
        ),
        // CIFAR-10.
        case(
            "data_batch_1.bin",
            "",
            "DIR/data_batch_1.bin: data_batch_1.bin: 0 bytes are not a whole number of CIFAR-10 records of 3073",
        ),
        case(
            "data_batch_1.bin",
            &record[1..],
            "DIR/data_batch_1.bin: data_batch_1.bin: 3072 bytes are not a whole number of CIFAR-10 records of 3073",
        ),
        case(
            "any.bin",
            [record.clone(), vec![1]].concat(),
            "DIR/any.bin: any.bin: 3074 bytes are not a whole number of CIFAR-10 records of 3073",
        ),
        case(
            "any.bin",
            [record.clone(), changed(record.clone(), 0, 10)].concat(),
            "DIR/any.bin: any.bin, image 1: label 10 is not one of CIFAR-10's 0 to 9",
        ),
        case(
            "d/data_batch_1.bin",
            cut(record, 3000),
            "DIR/d/data_batch_1.bin: data_batch_1.bin: 3000 bytes are not a whole number of CIFAR-10 records of 3073",
        ),
    ]
}

fn shown(dir: &Path, error: impl std::fmt::Display) -> String {
    error.to_string().replace(dir.to_str().unwrap(), "DIR")
}

#[test]
fn malformed_files_are_refused_by_name() {
    let mut wrong = Vec::new();
    let cases = cases();
    for Case { file, bytes, tile, error } in &cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let source = if file.starts_with("d/") { dir.path().join("d") } else { path.clone() };
        let options = DatasetOptions { tile: *tile, on_bad: OnBad::Fatal, ..DatasetOptions::new(8, 3) };
        let got = match Dataset::open(&source, &options) {
            Ok(data) => format!("accepted, {} images", data.len()),
            Err(e) => shown(dir.path(), e),
        };
        if got != *error {
            wrong.push(format!("{file}: expected {error:?}\n  got {got:?}"));
        }
        assert_eq!(std::fs::read(&path).unwrap(), *bytes, "{file}: left as it was");
    }
    assert!(cases.len() >= 40, "{} cases", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), png_of(1)).unwrap();
    let good = DatasetOptions { on_bad: OnBad::Fatal, ..DatasetOptions::new(8, 3) };
    let cases = [
        (DatasetOptions { channels: 4, ..good.clone() }, "a model of 4 channels cannot be trained on images"),
        (DatasetOptions { size: 0, ..good.clone() }, "images of 0x0 cannot be made"),
        (DatasetOptions { holdout: Some(0), ..good.clone() }, "--holdout 0 leaves nothing to train on"),
        (DatasetOptions { holdout: Some(1), ..good.clone() }, "--holdout 1 leaves nothing to train on"),
        (DatasetOptions { tile: Some(8), ..good.clone() }, "--tile 8: DIR is not one PNG, JPEG or WebP file"),
        (
            DatasetOptions { max_bytes: 191, ..good.clone() },
            "DIR: a.png: the images take more than 191 bytes of memory",
        ),
    ];
    for (options, error) in cases {
        assert_eq!(shown(dir.path(), Dataset::open(dir.path(), &options).unwrap_err()), error);
    }
    Dataset::open(dir.path(), &DatasetOptions { max_bytes: 192, ..good.clone() }).unwrap();
    std::fs::remove_file(dir.path().join("a.png")).unwrap();
    assert_eq!(shown(dir.path(), Dataset::open(dir.path(), &good).unwrap_err()), "DIR: images: there are none");
    let gone = Dataset::open(&dir.path().join("gone"), &good).unwrap_err();
    assert!(shown(dir.path(), &gone).starts_with("DIR/gone: cannot open: "), "{gone}");
}

#[test]
fn a_source_of_bad_images_only_is_an_error_even_when_they_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), b"").unwrap();
    std::fs::write(dir.path().join("b.png"), b"").unwrap();
    let error = Dataset::open(dir.path(), &DatasetOptions::new(8, 3)).unwrap_err();
    assert_eq!(
        shown(dir.path(), error),
        "DIR: images: none can be used (2 bad; the first: DIR: a.png: the file is empty)"
    );
}

/// A long name of 8 MiB of zeroes packs into a few kilobytes; reading it must stop long before it is in memory.
#[test]
fn an_archive_cannot_fill_the_memory_with_a_name() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(8 << 20);
    header.set_cksum();
    builder.append(&header, std::io::repeat(b'a').take(8 << 20)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.tar.xz");
    std::fs::write(&path, xz(&builder.into_inner().unwrap())).unwrap();
    let error = Dataset::open(&path, &DatasetOptions::new(8, 3)).unwrap_err();
    assert_eq!(
        shown(dir.path(), error),
        "DIR/bomb.tar.xz: archive: cannot be read: more than 1048576 bytes between two files"
    );
}
