//! Where images come from: a folder tree, a tile atlas, CIFAR-10's binary files, an archive. Each is walked in one way:
//! `Found` after `Found`, so that no more than a batch is undecoded in memory. Called by `data::dataset`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{RgbImage, imageops};

use super::cifar;
use crate::error::{Error, Result};
use crate::io::{archive, image as decode};

/// One image of a source: `file` is its path below the source (with `/`), `part` counts within a file that holds many.
pub struct Found {
    pub file: String,
    pub part: Option<u32>,
    pub content: std::result::Result<Content, String>,
}

pub enum Content {
    /// A PNG, JPEG or WebP file's bytes.
    Encoded(Vec<u8>),
    Decoded(RgbImage),
}

/// Hands every image of `path` to `each`. What is an error of the source as a whole, not of one image, ends the walk.
pub fn walk(path: &Path, tile: Option<u32>, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let metadata = fs::metadata(path).map_err(Error::io(path, "open"))?;
    if let Some(tile) = tile {
        return if metadata.is_file() && is_image(&file_name(path)) {
            atlas(path, tile, each)
        } else {
            let message = format!("--tile {tile}: {} is not one PNG, JPEG or WebP file", path.display());
            Err(Error::usage(message, "--tile cuts a single atlas image; leave it out for folders and archives"))
        };
    }
    if metadata.is_dir() {
        return match cifar_files(path)? {
            files if files.is_empty() => folder(path, each),
            files => files.iter().try_for_each(|file| cifar_file(file, each)),
        };
    }
    match file_name(path) {
        name if name.ends_with(".bin") => cifar_file(path, each),
        name if is_image(&name) => {
            let hint = "if it is an atlas, say how large its tiles are (--tile 32); otherwise give the folder";
            Err(Error::usage(format!("{} is a single image", path.display()), hint))
        }
        _ => packed(path, each),
    }
}

/// The last component of a path, as text.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// By its name; hidden files and what macOS packs beside the real ones are none.
fn is_image(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    let extension = base.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let known = matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg" | "webp"));
    known && !base.starts_with('.') && !name.split('/').any(|part| part == "__MACOSX")
}

// === Folders ===

fn folder(root: &Path, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let mut files = Vec::new();
    list(root, "", &mut HashSet::new(), &mut files)?;
    files.sort_by(|a, b| by_path(&a.0, &b.0));
    for (file, path) in files {
        let content = read(&path).map(Content::Encoded);
        each(Found { file, part: None, content })?;
    }
    Ok(())
}

/// The order of all sources, whatever the file system or the packer did: component by component.
pub fn by_path(a: &str, b: &str) -> std::cmp::Ordering {
    a.split('/').cmp(b.split('/'))
}

/// Collects (name below the root, path) of all images. Links are followed, but no folder is entered twice.
fn list(dir: &Path, name: &str, seen: &mut HashSet<PathBuf>, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if !seen.insert(fs::canonicalize(dir).map_err(Error::io(dir, "open"))?) {
        return Ok(());
    }
    let mut entries = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>())
        .map_err(Error::io(dir, "list"))?;
    entries.sort();
    for path in entries {
        let base = file_name(&path);
        let below = if name.is_empty() { base.clone() } else { format!("{name}/{base}") };
        if path.is_dir() {
            if !base.starts_with('.') && base != "__MACOSX" {
                list(&path, &below, seen, files)?;
            }
        } else if is_image(&below) {
            files.push((below, path));
        }
    }
    Ok(())
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let words = |e: std::io::Error| format!("cannot be read: {e}");
    let size = fs::metadata(path).map_err(words)?.len();
    if size > archive::MAX_FILE_BYTES {
        return Err(format!("{size} bytes are more than {}", archive::MAX_FILE_BYTES));
    }
    fs::read(path).map_err(words)
}

// === Archives ===

fn packed(path: &Path, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let is_cifar = |name: &str| cifar::is_training_file(name.rsplit('/').next().unwrap_or(name));
    archive::for_each_file(path, &|name| is_image(name) || is_cifar(name), &mut |file, content| {
        // `tar -C dir .` writes `./a.png`: the same image as `a.png`.
        let file = file.trim_start_matches("./").to_string();
        match content {
            Ok(bytes) if is_cifar(&file) => cifar_bytes(path, &file, &bytes, each),
            content => each(Found { file, part: None, content: content.map(Content::Encoded) }),
        }
    })
}

// === CIFAR-10 ===

/// `data_batch_*.bin` of a folder or of the `cifar-10-batches-bin` in it, in order; empty where it is another kind.
fn cifar_files(path: &Path) -> Result<Vec<PathBuf>> {
    for dir in [path.to_path_buf(), path.join("cifar-10-batches-bin")] {
        if !dir.is_dir() {
            continue;
        }
        let entries = fs::read_dir(&dir).map_err(Error::io(&dir, "list"))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| cifar::is_training_file(&file_name(file)));
        files.sort();
        if !files.is_empty() {
            return Ok(files);
        }
    }
    Ok(Vec::new())
}

fn cifar_file(path: &Path, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let bytes = read(path).map_err(|problem| Error::format(path, "CIFAR-10 file", problem, "check the file"))?;
    cifar_bytes(path, &file_name(path), &bytes, each)
}

fn cifar_bytes(path: &Path, file: &str, bytes: &[u8], each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let records = cifar::records(bytes)
        .map_err(|problem| Error::format(path, file, problem, "download CIFAR-10's binary version again"))?;
    for (part, record) in records.enumerate() {
        let content = cifar::decode(record).map(Content::Decoded);
        each(Found { file: file.to_string(), part: Some(part as u32), content })?;
    }
    Ok(())
}

// === Atlas ===

/// Tiles row by row; `part` counts the tiles that are images (not all one colour), so it is the number a table would give.
fn atlas(path: &Path, tile: u32, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let broken = |problem| Error::format(path, "atlas", problem, "give a PNG whose sides are multiples of --tile");
    let image = read(path).and_then(|bytes| decode::decode(&bytes)).map_err(broken)?;
    let (width, height) = image.dimensions();
    if tile == 0 || !width.is_multiple_of(tile) || !height.is_multiple_of(tile) {
        return Err(broken(format!("{width}x{height} cannot be cut into tiles of {tile}x{tile}")));
    }
    let mut part = 0;
    for (row, column) in (0..height / tile).flat_map(|row| (0..width / tile).map(move |column| (row, column))) {
        let piece = imageops::crop_imm(&image, column * tile, row * tile, tile, tile).to_image();
        if piece.pixels().any(|pixel| pixel != piece.get_pixel(0, 0)) {
            each(Found { file: file_name(path), part: Some(part), content: Ok(Content::Decoded(piece)) })?;
            part += 1;
        }
    }
    Ok(())
}
