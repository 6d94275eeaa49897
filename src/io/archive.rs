//! Walks the files of a `.tar`, `.tar.xz` or `.tar.gz`, one in memory at a time; the kind is read from the bytes.
//! Called by `data::source`.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::rc::Rc;

use crate::error::{Error, Result};

/// A wanted file may not be larger; headers between two files neither, or a long name could fill the memory.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// What the xz decoder may allocate: its largest preset needs 65 MiB.
const MAX_XZ_BYTES: u64 = 128 << 20;

/// Calls `each(name, contents)` for every regular file whose name is `wanted`, in the archive's order. Contents are
/// a problem in words where the file is too large. A broken archive is an error naming it.
pub fn for_each_file(
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
    each: &mut dyn FnMut(String, std::result::Result<Vec<u8>, String>) -> Result<()>,
) -> Result<()> {
    let allowance = Rc::new(Cell::new(0));
    let mut archive = tar::Archive::new(Metered { inner: open(path)?, allowance: allowance.clone() });
    let broken = |problem: std::io::Error| {
        Error::format(path, "archive", format!("cannot be read: {problem}"), "pack or download it again")
    };
    // Skipped files are read through, too: what is left of the last one is added to the next header's allowance.
    let mut unread = 0;
    let mut entries = archive.entries().map_err(broken)?;
    loop {
        allowance.set(MAX_HEADER_BYTES.saturating_add(unread));
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(broken)?;
        unread = entry.size();
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !entry.header().entry_type().is_file() || !wanted(&name) {
            continue;
        }
        if unread > MAX_FILE_BYTES {
            each(name, Err(format!("{unread} bytes are more than {MAX_FILE_BYTES}")))?;
            continue;
        }
        allowance.set(unread.saturating_add(MAX_HEADER_BYTES));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        if (bytes.len() as u64) < unread {
            return Err(broken(std::io::Error::other(format!("it ends inside {name}"))));
        }
        unread = 0;
        each(name, Ok(bytes))?;
    }
    // What follows the end mark is padding; reading it lets the decompressor compare its checksum.
    allowance.set(MAX_HEADER_BYTES);
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(broken)?;
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn Read>> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
    file.rewind().map_err(Error::io(path, "read"))?;
    let file = BufReader::new(file);
    if head.starts_with(b"\xfd7zXZ\0") {
        let stream = liblzma::stream::Stream::new_stream_decoder(MAX_XZ_BYTES, liblzma::stream::CONCATENATED)
            .map_err(|e| Error::io(path, "set up xz for")(e.into()))?;
        return Ok(Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream)));
    }
    if head.starts_with(b"\x1f\x8b") {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file)));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Ok(Box::new(file));
    }
    Err(Error::format(
        path,
        "archive",
        "neither tar nor tar.xz nor tar.gz",
        "give a folder, an archive or an atlas PNG",
    ))
}

/// Ends with an error where more is read than was allowed: an archive cannot make us hold a huge name.
struct Metered<R> {
    inner: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.allowance.get().checked_sub(n as u64) {
            Some(left) => self.allowance.set(left),
            None => return Err(std::io::Error::other(format!("more than {MAX_HEADER_BYTES} bytes between two files"))),
        }
        Ok(n)
    }
}
