//! Decodes PNG, JPEG and WebP within limits and fits them to a model's square: white under transparency, upright, cropped.
//! Called by `data::source`; the way out (PNG grids) is `io::png`. Problems come back in words: the caller knows the path.

use std::io::Cursor;

use ::image::imageops::{self, FilterType};
use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

/// No side of an encoded image may be longer, and no image may hold more pixels.
pub const MAX_SIDE: u32 = 32_768;
pub const MAX_PIXELS: u64 = 64 << 20;
/// What a decoder may allocate beside the image itself.
const MAX_DECODER_BYTES: u64 = 512 << 20;
/// Beyond this a resized image would be mostly cut away, and its intermediate would not be small any more.
const MAX_ASPECT: u32 = 16;

/// Bytes of one file to RGB `[H, W, 3]`. The format is read from the bytes, not from a name.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let format = match ::image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
        _ if bytes.is_empty() => return Err("the file is empty".into()),
        _ => return Err("not a PNG, JPEG or WebP image".into()),
    };
    if format == ImageFormat::Jpeg && is_cut_jpeg(bytes) {
        return Err("the file ends before the image does".into());
    }
    let mut limits = ::image::Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(problem)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("{width}x{height} holds no pixel"));
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width}x{height} is larger than {MAX_PIXELS} pixels or {MAX_SIDE} a side"));
    }
    // A broken Exif block does not make the picture unreadable: it then counts as upright.
    let orientation = decoder.orientation().unwrap_or(::image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(problem)?;
    image.apply_orientation(orientation);
    Ok(on_white(image))
}

/// The decoder fills what is missing with grey; a picture half grey is no training image. Scan data holds no bare marker,
/// so after the last start of a scan the end of the image must come.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(0xda).is_some_and(|scan| last(0xd9) < Some(scan))
}

fn problem(error: ImageError) -> String {
    match error {
        ImageError::Limits(_) => "decoding it needs more memory than is allowed".into(),
        other => format!("cannot be decoded: {}", other.to_string().trim_end()),
    }
}

/// Composites on white, rounding to nearest: c' = (c a + 255 (255 - a)) / 255.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        ::image::Rgb([r, g, b].map(|c| ((c * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

/// Resizes the short side to `size`, then crops the centre.
pub fn fit(image: RgbImage, size: u32) -> Result<RgbImage, String> {
    let image = shorten(image, size)?;
    if image.dimensions() == (size, size) {
        return Ok(image);
    }
    let (left, top) = ((image.width() - size) / 2, (image.height() - size) / 2);
    Ok(imageops::crop_imm(&image, left, top, size, size).to_image())
}

/// Resizes the short side to `size` (antialiased triangle filter; untouched where it fits already).
pub fn shorten(image: RgbImage, size: u32) -> Result<RgbImage, String> {
    let (width, height) = image.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    if long > short.saturating_mul(MAX_ASPECT) {
        return Err(format!("{width}x{height} is too long and thin (more than {MAX_ASPECT} to 1)"));
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(size) / u64::from(short)) as u32;
    Ok(match short == size {
        true => image,
        false => imageops::resize(&image, scaled(width), scaled(height), FilterType::Triangle),
    })
}

/// RGB to `channels` bytes a pixel (3, or 1 by Rec. 601 luma, which leaves grey as it is).
pub fn to_channels(image: &RgbImage, channels: u32) -> Vec<u8> {
    if channels == 3 {
        return image.as_raw().clone();
    }
    let luma = |[r, g, b]: [u32; 3]| ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8;
    image.pixels().map(|pixel| luma(pixel.0.map(u32::from))).collect()
}
