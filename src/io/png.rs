//! Writes sampled tensors as PNG files, single or in a grid, with the generation parameters as text; reads that text back.
//! Called by `cli` (sample, demo) and `train` (preview grids).

use std::io::Cursor;
use std::path::Path;

use crate::error::{Error, Result};

/// The layout of a grid: images row by row, `columns` wide, `padding` white pixels between and around them.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    pub columns: u32,
    pub padding: u32,
}

/// A batch of images in [-1, 1]: `[N, H, W, 4]` f32, of which the first `channels` (1 or 3) count.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub data: &'a [f32],
    pub height: u32,
    pub width: u32,
    pub channels: u32,
}

/// x in [-1, 1] to a byte as diffusers does it: (x / 2 + 0.5) clamped to [0, 1], times 255, rounded half to even.
/// NaN becomes 0.
pub fn to_byte(x: f32) -> u8 {
    ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

impl Batch<'_> {
    fn image_len(&self) -> usize {
        self.height as usize * self.width as usize * 4
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.data.len().checked_div(self.image_len()).unwrap_or(0)
    }

    fn check(&self) -> Result<()> {
        let whole = self.count() > 0 && self.data.len().is_multiple_of(self.image_len());
        if whole && matches!(self.channels, 1 | 3) {
            return Ok(());
        }
        let Self { data, height, width, channels } = self;
        Err(Error::shape(
            "png",
            format!("{} values are not [N, {height}, {width}, 4], {channels} channels", data.len()),
        ))
    }
}

/// Writes image `index` of the batch alone.
pub fn write_one(path: &Path, batch: &Batch, index: usize, text: &[(String, String)]) -> Result<()> {
    batch.check()?;
    let len = batch.image_len();
    let Some(data) = batch.data.get(index * len..(index + 1) * len) else {
        return Err(Error::shape("png", format!("image {index} of {}", batch.count())));
    };
    write_grid(path, &Batch { data, ..*batch }, Grid { columns: 1, padding: 0 }, text)
}

/// Writes the whole batch as one grid; a last row that is not full ends in white.
pub fn write_grid(path: &Path, batch: &Batch, grid: Grid, text: &[(String, String)]) -> Result<()> {
    batch.check()?;
    let columns = grid.columns.clamp(1, batch.count() as u32);
    let rows = (batch.count() as u32).div_ceil(columns);
    let side = |cells: u32, cell: u32| {
        let total = u64::from(cells) * u64::from(cell) + (u64::from(cells) + 1) * u64::from(grid.padding);
        u32::try_from(total)
            .map_err(|_| Error::shape("png", format!("{cells} images of {cell} are too many in a line")))
    };
    let (width, height) = (side(columns, batch.width)?, side(rows, batch.height)?);
    let channels = batch.channels as usize;
    let mut pixels = vec![255u8; width as usize * height as usize * channels];
    for (i, image) in batch.data.chunks_exact(batch.image_len()).enumerate() {
        let (row, column) = (i as u32 / columns, i as u32 % columns);
        let left = grid.padding + column * (batch.width + grid.padding);
        let top = grid.padding + row * (batch.height + grid.padding);
        for (y, line) in image.chunks_exact(batch.width as usize * 4).enumerate() {
            let start = ((top as usize + y) * width as usize + left as usize) * channels;
            let target = pixels[start..start + batch.width as usize * channels].chunks_exact_mut(channels);
            for (to, from) in target.zip(line.chunks_exact(4)) {
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = to_byte(x));
            }
        }
    }
    write_bytes(path, &pixels, width, height, batch.channels, text)
}

/// Writes `[height, width, channels]` bytes (channels 1 or 3) with text chunks; the file appears whole or not at all.
pub fn write_bytes(
    path: &Path,
    pixels: &[u8],
    width: u32,
    height: u32,
    channels: u32,
    text: &[(String, String)],
) -> Result<()> {
    let encoded = encode(pixels, width, height, channels, text).map_err(|e| {
        Error::format(path, "PNG", e.to_string(), "keywords of PNG text hold 1 to 79 Latin-1 characters")
    })?;
    super::atomic::write(path, &encoded)
}

fn encode(
    pixels: &[u8],
    width: u32,
    height: u32,
    channels: u32,
    text: &[(String, String)],
) -> std::result::Result<Vec<u8>, ::png::EncodingError> {
    let mut out = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut out, width, height);
    encoder.set_color(if channels == 1 { ::png::ColorType::Grayscale } else { ::png::ColorType::Rgb });
    encoder.set_depth(::png::BitDepth::Eight);
    for (keyword, value) in text {
        // tEXt is what every viewer shows, but it holds Latin-1 only.
        match value.is_ascii() {
            true => encoder.add_text_chunk(keyword.clone(), value.clone())?,
            false => encoder.add_itxt_chunk(keyword.clone(), value.clone())?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(out)
}

/// The (keyword, text) pairs of a PNG: plain (tEXt) ones first, then international (iTXt) ones.
pub fn read_text(path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let broken =
        |e: ::png::DecodingError| Error::format(path, "PNG", e.to_string(), "is this a PNG that `deme sample` wrote?");
    let mut reader = ::png::Decoder::new(Cursor::new(bytes)).read_info().map_err(broken)?;
    reader.finish().map_err(broken)?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let mut pairs: Vec<_> = plain.collect();
    for chunk in &info.utf8_text {
        pairs.push((chunk.keyword.clone(), chunk.get_text().map_err(broken)?));
    }
    Ok(pairs)
}
