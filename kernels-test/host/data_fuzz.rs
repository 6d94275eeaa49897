//! Seeded mutations of image files, archives and CIFAR-10 files: whatever comes, an answer, no panic, bounded memory.

use std::path::Path;

use deme::data::cifar;
use deme::io::{archive, image as decode};
use deme::rng::{self, Purpose};
use image::{GrayImage, ImageFormat, RgbaImage};

use super::data::{cifar_record, encoded, gz, picture, png_of, tar_of, xz};
use super::data_malformed::mend_png;

/// One to four edits: a byte changed, a run of bytes overwritten, cut out, doubled, or the end cut off.
fn mutated(original: &[u8], seed: u64, index: u64) -> Vec<u8> {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, b'0', b'7'];
    let stream = rng::stream(Purpose::Weights, 0xda7a);
    let mut bytes = original.to_vec();
    let edits = 1 + rng::philox(seed, stream, index << 3)[0] % 4;
    for edit in 1..=u64::from(edits) {
        let [kind, place, value, length] = rng::philox(seed, stream, index << 3 | edit);
        if bytes.is_empty() {
            break;
        }
        let at = place as usize % bytes.len();
        let end = (at + 1 + length as usize % 16).min(bytes.len());
        match kind % 8 {
            0..=2 => bytes[at] = value as u8,
            3 => bytes[at] = TELLING[value as usize % TELLING.len()],
            4 => bytes[at..end].fill(TELLING[value as usize % TELLING.len()]),
            5 => drop(bytes.drain(at..end)),
            6 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// The most memory this process has held, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// What the fuzzed parsers may add to it: one image at its limits, and a decoder at its own.
const BOUND: u64 = 1536 << 20;

#[test]
fn mutated_images_are_decoded_or_refused() {
    let rgba = RgbaImage::from_fn(6, 5, |x, y| image::Rgba([x * 40, y * 50, 128, x * y * 12].map(|v| v as u8)));
    let lossy = include_bytes!("lossy.webp");
    let seeds = [
        ("rgba.png", encoded(rgba.clone(), ImageFormat::Png)),
        ("grey.png", encoded(GrayImage::from_fn(9, 4, |x, y| image::Luma([(x * y * 7) as u8])), ImageFormat::Png)),
        ("rgb.jpg", encoded(picture(10, 9, 3), ImageFormat::Jpeg)),
        ("lossless.webp", encoded(rgba, ImageFormat::WebP)),
        ("lossy.webp", lossy.to_vec()),
    ];
    let before = peak_memory();
    let (mut decoded, mut refused) = (0, 0);
    for (name, original) in &seeds {
        assert!(decode::decode(original).is_ok(), "{name} itself is good");
        for index in 0..1500 {
            let mut bytes = mutated(original, 1, index);
            // Behind a wrong checksum nothing would be tested.
            if name.ends_with(".png") && index % 8 != 0 {
                mend_png(&mut bytes);
            }
            match decode::decode(&bytes).and_then(|image| decode::fit(image, 8)) {
                Ok(image) => {
                    assert_eq!(image.dimensions(), (8, 8), "{name}, mutation {index}");
                    decoded += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("image mutations: {decoded} decoded, {refused} refused");
    assert!(decoded > 500 && refused > 500, "{decoded} decoded, {refused} refused: the mutations are one-sided");
    assert!(peak_memory() - before < BOUND);
}

/// How an archive was taken: files seen, or an error.
fn list(path: &Path) -> Result<usize, String> {
    let mut files = 0;
    archive::for_each_file(path, &|name| name.ends_with(".png"), &mut |_, content| {
        content.iter().for_each(|bytes| assert!(bytes.len() < 1 << 20, "no file is larger than its archive"));
        files += 1;
        Ok(())
    })
    .map(|()| files)
    .map_err(|error| error.to_string())
}

#[test]
fn mutated_archives_are_read_or_refused() {
    let long = format!("{}.png", "n".repeat(150));
    let tar = tar_of(&[("a.png", &png_of(1)), (&long, &png_of(2)), ("c.txt", b"text")]);
    let dir = tempfile::tempdir().unwrap();
    let before = peak_memory();
    for (name, original, count) in
        [("x.tar", tar.clone(), 20_000), ("x.tar.gz", gz(&tar), 5_000), ("x.tar.xz", xz(&tar), 5_000)]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, &original).unwrap();
        assert_eq!(list(&path), Ok(2), "{name} itself is good");
        let (mut read, mut refused) = (0, 0);
        for index in 0..count {
            let mut bytes = mutated(&original, 2, index);
            if name == "x.tar" && index % 8 != 0 {
                mend_tar(&mut bytes);
            }
            std::fs::write(&path, bytes).unwrap();
            match list(&path) {
                Ok(_) => read += 1,
                Err(error) => {
                    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
                    refused += 1;
                }
            }
        }
        println!("{name} mutations: {read} read, {refused} refused");
        assert!(refused > 500 && (read > 500 || name != "x.tar"), "{name}: {read} read, {refused} refused");
    }
    assert!(peak_memory() - before < BOUND);
}

/// Recomputes the checksum of every block that looks like a header.
fn mend_tar(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn mutated_cifar_files_are_read_or_refused() {
    let original: Vec<u8> = (0..2).flat_map(|i| cifar_record(i, &picture(32, 32, u32::from(i)))).collect();
    let (mut read, mut refused) = (0, 0);
    for index in 0..100_000 {
        let bytes = mutated(&original, 3, index);
        match cifar::records(&bytes) {
            Ok(records) => {
                for record in records {
                    let expected = record[0] < 10;
                    assert_eq!(cifar::decode(record).is_ok(), expected, "mutation {index}");
                }
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("CIFAR-10 mutations: {read} read, {refused} refused");
    assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
}
