//! Images as training data: every kind of source read back exactly, hold-out, PNG grids and their text.
//! The makers of small files are shared with `data_malformed` and `data_fuzz`.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use deme::data::dataset::{Dataset, DatasetOptions, OnBad};
use deme::error::Error;
use deme::io::png::{self, Batch, Grid};
use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};

// === Makers ===

/// A picture whose every pixel differs from its neighbours, told apart by `seed`.
pub fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([x * 7 + seed, y * 11 + 2 * seed, x * y + 3 * seed].map(|v| v as u8))
    })
}

pub fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub fn png_of(seed: u32) -> Vec<u8> {
    encoded(picture(8, 8, seed), ImageFormat::Png)
}

pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A CIFAR-10 record of an image of 32x32.
pub fn cifar_record(label: u8, image: &RgbImage) -> Vec<u8> {
    let plane = |c: usize| image.pixels().map(move |pixel| pixel.0[c]);
    std::iter::once(label).chain((0..3).flat_map(plane)).collect()
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn open(path: &Path, size: u32) -> Dataset {
    Dataset::open(path, &DatasetOptions { on_bad: OnBad::Fatal, ..DatasetOptions::new(size, 3) }).unwrap()
}

// === Sources ===

#[test]
fn a_folder_tree_is_read_in_the_order_of_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, name) in
        [(4, "b/2.PNG"), (2, "a/z.png"), (1, "a/b/1.png"), (3, "b.png"), (9, ".hidden.png"), (9, ".git/x.png")]
    {
        put(dir.path(), name, &png_of(seed));
    }
    put(dir.path(), "b/3.webp", &encoded(picture(8, 8, 5), ImageFormat::WebP));
    put(dir.path(), "b/notes.txt", b"no image");
    let data = open(dir.path(), 8);
    let names: Vec<_> = (0..data.len()).map(|i| data.name(i)).collect();
    assert_eq!(names, ["a/b/1.png", "a/z.png", "b/2.PNG", "b/3.webp", "b.png"]);
    for (i, seed) in [1, 2, 4, 5, 3].into_iter().enumerate() {
        assert_eq!(
            data.pixels_u8(i),
            picture(8, 8, seed).as_raw(),
            "{}: exact, as it has the model's size",
            data.name(i)
        );
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_a_loop_is_not() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a/1.png", &png_of(1));
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a/1.png"), dir.path().join("z.png")).unwrap();
    assert_eq!(open(dir.path(), 8).len(), 2);
}

#[test]
fn archives_of_each_kind_hold_what_the_folder_holds() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/7.png", "long".repeat(60));
    let files = [("c/3.png", png_of(3)), ("a.png", png_of(1)), ("b/2.png", png_of(2)), (long.as_str(), png_of(7))];
    for (name, bytes) in &files {
        put(&dir.path().join("tree"), name, bytes);
    }
    let listed: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let extra: [(&str, &[u8]); 3] = [("README", b"text"), ("__MACOSX/x.png", b"resource"), ("._a.png", b"resource")];
    let tar = tar_of(&[&listed[..], &extra].concat());
    let folder = open(&dir.path().join("tree"), 8);
    assert_eq!(folder.len(), 4);
    for (name, bytes) in
        [("x.tar", tar.clone()), ("x.tar.xz", xz(&tar)), ("x.tar.gz", gz(&tar)), ("named-anyhow", xz(&tar))]
    {
        let packed = open(&put(dir.path(), name, &bytes), 8);
        assert_eq!(packed.len(), folder.len(), "{name}");
        for i in 0..folder.len() {
            assert_eq!(packed.name(i), folder.name(i), "{name}");
            assert_eq!(packed.pixels_u8(i), folder.pixels_u8(i), "{name}");
        }
    }
}

#[test]
fn cifar_is_read_from_a_file_a_folder_and_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let pictures: Vec<_> = (0..6).map(|seed| picture(32, 32, seed)).collect();
    let batch = |from: usize| [cifar_record(9, &pictures[from]), cifar_record(0, &pictures[from + 1])].concat();
    let root = "cifar-10-batches-bin";
    let one = put(dir.path(), &format!("{root}/data_batch_1.bin"), &batch(0));
    put(dir.path(), &format!("{root}/data_batch_2.bin"), &batch(2));
    put(dir.path(), &format!("{root}/test_batch.bin"), &batch(4));
    let names = [format!("{root}/data_batch_2.bin"), format!("{root}/data_batch_1.bin")];
    let tar = put(dir.path(), "c.tar.gz", &gz(&tar_of(&[(&names[0], &batch(2)), (&names[1], &batch(0))])));
    for (path, count) in [(one, 2), (dir.path().join(root), 4), (dir.path().to_path_buf(), 4), (tar, 4)] {
        let data = open(&path, 32);
        assert_eq!(data.len(), count, "{}: the test batch is not for training", path.display());
        for (i, picture) in pictures[..count].iter().enumerate() {
            assert_eq!(data.pixels_u8(i), picture.as_raw());
        }
    }
    assert_eq!(open(&dir.path().join(root), 32).name(3), "data_batch_2.bin, image 1");
}

#[test]
fn an_atlas_is_cut_and_blank_tiles_are_no_images() {
    let dir = tempfile::tempdir().unwrap();
    let mut atlas = RgbImage::from_pixel(24, 16, image::Rgb([255; 3]));
    for (tile, seed) in [(0, 1), (1, 2), (3, 3)] {
        image::imageops::replace(&mut atlas, &picture(8, 8, seed), tile % 3 * 8, tile / 3 * 8);
    }
    let path = put(dir.path(), "atlas.png", &encoded(atlas, ImageFormat::Png));
    let data = Dataset::open(&path, &DatasetOptions { tile: Some(8), ..DatasetOptions::new(8, 3) }).unwrap();
    assert_eq!((data.len(), data.warnings.len()), (3, 0));
    for (i, seed) in [1, 2, 3].into_iter().enumerate() {
        assert_eq!(data.pixels_u8(i), picture(8, 8, seed).as_raw());
    }
    assert_eq!(data.name(2), "atlas.png, image 2");
}

#[test]
fn the_bundled_atlas_has_one_image_for_each_line_of_its_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let options =
        DatasetOptions { tile: Some(32), holdout: Some(10), on_bad: OnBad::Fatal, ..DatasetOptions::new(32, 3) };
    let data = Dataset::open(&root.join("noto-emoji-32.png"), &options).unwrap();
    let table = std::fs::read_to_string(root.join("noto-emoji-32.tsv")).unwrap();
    assert_eq!(data.len(), table.lines().count() - 1);
    assert_eq!((data.len(), data.train_indices().len(), data.holdout_indices().len()), (1911, 1720, 191));
}

// === Pixels ===

#[test]
fn transparency_is_white_grey_is_replicated_and_grey_models_are_fed() {
    let dir = tempfile::tempdir().unwrap();
    let rgba = RgbaImage::from_vec(2, 1, vec![10, 20, 30, 0, 0, 100, 200, 128]).unwrap();
    let clear = put(dir.path(), "a/1.png", &encoded(rgba, ImageFormat::Png));
    let data = open(clear.parent().unwrap(), 1);
    // Two pixels to one by the centre crop: (2 - 1) / 2 = 0, the left one.
    assert_eq!(data.pixels_u8(0), [255, 255, 255]);
    let grey = image::GrayImage::from_vec(2, 2, vec![0, 60, 120, 255]).unwrap();
    let grey = put(dir.path(), "b/1.png", &encoded(grey, ImageFormat::Png));
    let dir = grey.parent().unwrap();
    assert_eq!(open(dir, 2).pixels_u8(0), [0, 0, 0, 60, 60, 60, 120, 120, 120, 255, 255, 255]);
    let one = Dataset::open(dir, &DatasetOptions::new(2, 1)).unwrap();
    assert_eq!(one.pixels_u8(0), [0, 60, 120, 255]);
    assert_eq!(one.pixels_f32(0, false)[12..], [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn pixels_are_those_of_torchvision_and_mirror() {
    let bytes: Vec<u8> = (0..=255).chain(0..=255).chain(0..=255).collect();
    let data = Dataset::from_pixels(16, 3, bytes.clone(), None).unwrap();
    let plain = data.pixels_f32(0, false);
    for (pixel, from) in plain.chunks(4).zip(bytes.chunks(3)) {
        // ToTensor: u / 255 in f32; Normalize: (x - 0.5) / 0.5 in f32.
        let expected = [from[0], from[1], from[2]].map(|u| (f32::from(u) / 255.0 - 0.5) / 0.5);
        assert_eq!([pixel[0], pixel[1], pixel[2]].map(f32::to_bits), expected.map(f32::to_bits));
        assert_eq!(pixel[3], 0.0);
    }
    let mut mirrored = vec![f32::NAN; plain.len()];
    data.write_pixels(0, true, &mut mirrored);
    for (row, back) in plain.chunks(64).zip(mirrored.chunks(64)) {
        assert!(row.chunks(4).eq(back.rchunks(4)));
    }
}

#[test]
fn the_short_side_is_fitted_and_the_centre_kept() {
    let dir = tempfile::tempdir().unwrap();
    // Left third black, middle third grey, right third white; 48x16 to 16x16 is exactly the middle.
    let thirds = RgbImage::from_fn(48, 16, |x, _| image::Rgb([[0, 100, 255][x as usize / 16]; 3]));
    put(dir.path(), "wide.png", &encoded(thirds, ImageFormat::Png));
    assert!(open(dir.path(), 16).pixels_u8(0).iter().all(|&v| v == 100));
    // A one-pixel checkerboard, halved and more: an antialiased filter gives its mean, a point filter would not.
    let dir = tempfile::tempdir().unwrap();
    let board = RgbImage::from_fn(64, 64, |x, y| image::Rgb([if (x + y) % 2 == 0 { 0 } else { 255 }; 3]));
    put(dir.path(), "board.png", &encoded(board, ImageFormat::Png));
    let data = open(dir.path(), 8);
    assert!(data.pixels_u8(0).iter().all(|&v| (120..=135).contains(&v)), "{:?}", data.pixels_u8(0));
}

#[test]
fn a_whole_image_has_its_centre_and_every_other_square() {
    let dir = tempfile::tempdir().unwrap();
    let thirds = RgbImage::from_fn(48, 16, |x, _| image::Rgb([[0, 100, 255][x as usize / 16]; 3]));
    put(dir.path(), "b.png", &encoded(thirds, ImageFormat::Png));
    // Resized to 16x32: rows brighter downwards.
    let tall = RgbImage::from_fn(32, 64, |_, y| image::Rgb([y as u8 * 4; 3]));
    put(dir.path(), "a.png", &encoded(tall, ImageFormat::Png));
    let options = DatasetOptions { whole: true, on_bad: OnBad::Fatal, ..DatasetOptions::new(16, 3) };
    let (whole, centres) = (Dataset::open(dir.path(), &options).unwrap(), open(dir.path(), 16));
    assert_eq!([whole.room(0), whole.room(1)], [[0, 16], [32, 0]]);
    assert_eq!([centres.room(0), centres.room(1)], [[0; 2]; 2]);
    for i in 0..2 {
        assert_eq!(whole.pixels_f32(i, true), centres.pixels_f32(i, true));
    }
    let crop = |i: usize, corner: [u32; 2], flip: bool| {
        let mut out = vec![f32::NAN; 16 * 16 * 4];
        whole.write_crop(i, corner, flip, &mut out);
        out
    };
    assert!(crop(1, [0, 0], false).chunks(4).all(|p| p[..3] == [-1.0; 3]));
    assert!(crop(1, [32, 0], false).chunks(4).all(|p| p[..3] == [1.0; 3]));
    // One column of the middle third is left; mirrored it is the first one.
    let edge = crop(1, [31, 0], true);
    assert!(edge.chunks(64).all(|row| row[60] < 0.0 && row[..60].chunks(4).all(|p| p[0] == 1.0)));
    let rows = |top: u32| crop(0, [0, top], false)[0];
    assert!(rows(0) < rows(8) && rows(8) < rows(16));
}

#[test]
fn jpeg_is_decoded_closely_and_turned_upright() {
    let smooth = RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * 15, y as u8 * 15, 128]));
    let jpeg = encoded(smooth.clone(), ImageFormat::Jpeg);
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.jpg", &jpeg);
    // Exif orientation 3: turned by 180 degrees.
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0";
    put(dir.path(), "b.jpg", &[&jpeg[..2], exif, &jpeg[2..]].concat());
    let data = open(dir.path(), 16);
    let far = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(far(data.pixels_u8(0), smooth.as_raw()) < 40);
    let turned = image::RgbImage::from_vec(16, 16, data.pixels_u8(1).to_vec()).unwrap();
    assert_eq!(image::imageops::rotate180(&turned).as_raw(), data.pixels_u8(0));
}

// === Choice ===

#[test]
fn every_kth_image_is_held_out() {
    let split = |count: usize, k| {
        let data = Dataset::from_pixels(1, 1, vec![0; count], k).unwrap();
        (data.train_indices(), data.holdout_indices())
    };
    assert_eq!(split(5, None), ((0..5).collect(), vec![]));
    assert_eq!(split(5, Some(2)), (vec![0, 2, 4], vec![1, 3]));
    let (train, held) = split(25, Some(10));
    assert_eq!(held, [9, 19]);
    assert_eq!(train.len(), 23);
    assert!(train.iter().all(|i| i % 10 != 9));
}

#[test]
fn a_bad_image_is_named_and_skipped_or_fatal() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.png", &png_of(1));
    put(dir.path(), "b/bad.png", b"<html>404</html>");
    put(dir.path(), "c.png", &png_of(3));
    let data = Dataset::open(dir.path(), &DatasetOptions::new(8, 3)).unwrap();
    assert_eq!((data.len(), data.name(1)), (2, "c.png".to_string()));
    let shown = format!("{}: b/bad.png: not a PNG, JPEG or WebP image", dir.path().display());
    assert_eq!(data.warnings, std::slice::from_ref(&shown));
    let fatal = DatasetOptions { on_bad: OnBad::Fatal, ..DatasetOptions::new(8, 3) };
    let error = Dataset::open(dir.path(), &fatal).unwrap_err();
    assert_eq!((error.to_string(), error.exit_code()), (shown, 3));
}

// === PNG out ===

#[test]
fn bytes_are_rounded_as_diffusers_does() {
    // numpy: (x / 2 + 0.5).clip(0, 1) * 255, round() half to even.
    let cases = [
        (-1.0, 0),
        (1.0, 255),
        (0.0, 128),
        (-7.0, 0),
        (7.0, 255),
        (f32::NAN, 0),
        (0.5, 191),
        (-0.5, 64),
        (1.0 / 255.0, 128),
    ];
    for (x, byte) in cases {
        assert_eq!(png::to_byte(x), byte, "{x}");
    }
    for u in 0..=255u8 {
        assert_eq!(png::to_byte(2.0 * (f32::from(u) / 255.0) - 1.0), u);
    }
}

#[test]
fn a_grid_places_images_and_keeps_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let pictures: Vec<_> = (0..3).map(|seed| picture(4, 4, seed * 40)).collect();
    let bytes: Vec<u8> = pictures.iter().flat_map(|p| p.as_raw().clone()).collect();
    let data = Dataset::from_pixels(4, 3, bytes, None).unwrap();
    let values: Vec<f32> = (0..3).flat_map(|i| data.pixels_f32(i, false)).collect();
    let batch = Batch { data: &values, height: 4, width: 4, channels: 3 };
    let text = [("deme", "--seed 7 --steps 50"), ("model", "modèle-ß-模型"), ("empty", "")]
        .map(|(k, v)| (k.to_string(), v.to_string()));
    let path = dir.path().join("grid.png");
    png::write_grid(&path, &batch, Grid { columns: 2, padding: 1 }, &text).unwrap();
    let grid = image::open(&path).unwrap().into_rgb8();
    assert_eq!(grid.dimensions(), (11, 11));
    let mut expected = RgbImage::from_pixel(11, 11, image::Rgb([255; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        image::imageops::replace(&mut expected, picture, 1 + i as i64 % 2 * 5, 1 + i as i64 / 2 * 5);
    }
    assert_eq!(grid, expected);
    let mut read = png::read_text(&path).unwrap();
    read.sort();
    let mut sorted = text.to_vec();
    sorted.sort();
    assert_eq!(read, sorted);
    let one = dir.path().join("one.png");
    png::write_one(&one, &batch, 2, &[]).unwrap();
    assert_eq!(image::open(&one).unwrap().into_rgb8(), pictures[2]);
    assert!(png::read_text(&one).unwrap().is_empty());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");
}

#[test]
fn grey_batches_make_grey_files() {
    let dir = tempfile::tempdir().unwrap();
    let values = [-1.0, 9.0, 9.0, 9.0, 1.0, -9.0, -9.0, -9.0];
    let path = dir.path().join("grey.png");
    png::write_grid(
        &path,
        &Batch { data: &values, height: 1, width: 2, channels: 1 },
        Grid { columns: 8, padding: 0 },
        &[],
    )
    .unwrap();
    let read = image::open(&path).unwrap();
    assert_eq!((read.color(), read.into_bytes()), (image::ColorType::L8, vec![0, 255]));
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "kept.png", b"old");
    let batch = Batch { data: &[0.0; 6], height: 1, width: 1, channels: 3 };
    let error = png::write_grid(&path, &batch, Grid { columns: 1, padding: 0 }, &[]).unwrap_err();
    assert_eq!(error.to_string(), "png: 6 values are not [N, 1, 1, 4], 3 channels");
    let batch = Batch { data: &[0.0; 4], ..batch };
    let text = [("k".repeat(80), "v".to_string())];
    assert!(matches!(png::write_one(&path, &batch, 0, &text), Err(Error::Format { .. })));
    assert_eq!(png::write_one(&path, &batch, 1, &[]).unwrap_err().to_string(), "png: image 1 of 1");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    let error = png::write_one(&dir.path().join("no/such.png"), &batch, 0, &[]).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
