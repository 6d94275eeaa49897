//! CIFAR-10's binary files: records of one label byte and 3072 pixel bytes, the red plane first, then green, then blue.
//! Called by `data::source`.

use image::RgbImage;

pub const SIDE: u32 = 32;
pub const RECORD: usize = 1 + PLANES;
const PLANES: usize = 3 * PLANE;
const PLANE: usize = (SIDE * SIDE) as usize;
const CLASSES: u8 = 10;

/// `data_batch_1.bin` and its kin: the training part.
pub fn is_training_file(name: &str) -> bool {
    name.starts_with("data_batch_") && name.ends_with(".bin")
}

/// The records of a file, or why it is not one.
pub fn records(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, String> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        return Err(format!("{} bytes are not a whole number of CIFAR-10 records of {RECORD}", bytes.len()));
    }
    Ok(bytes.chunks_exact(RECORD))
}

/// One record to RGB `[32, 32, 3]`.
pub fn decode(record: &[u8]) -> Result<RgbImage, String> {
    let Some((&label, planes)) = record.split_first().filter(|(_, planes)| planes.len() == PLANES) else {
        return Err(format!("{} bytes are not a CIFAR-10 record of {RECORD}", record.len()));
    };
    if label >= CLASSES {
        return Err(format!("label {label} is not one of CIFAR-10's 0 to {}", CLASSES - 1));
    }
    Ok(RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let at = (y * SIDE + x) as usize;
        image::Rgb([planes[at], planes[PLANE + at], planes[2 * PLANE + at]])
    }))
}
