//! All images of a source, fitted to the model and kept as bytes in memory, split into training and held-out ones. Squares of the
//! model's size, or as wide or high as the source has them, for crops that training draws.
//! Called by `train`, `deme::search`, `eval` and `cli`.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::source::{self, Content, Found};
use crate::error::{Error, Result};
use crate::io::image as decode;

/// Encoded files that wait for the decoding threads, and how many of those there are at most.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: usize = 64 << 20;
const MAX_THREADS: usize = 8;

/// What to do with an image that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    /// Leave it out and name it in `Dataset::warnings`.
    Skip,
    /// Stop with an error that names it.
    Fatal,
}

#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// The model's `sample_size`: images become `size` x `size`.
    pub size: u32,
    /// The model's `in_channels`: 1 or 3.
    pub channels: u32,
    /// The source is one atlas of tiles of this side.
    pub tile: Option<u32>,
    pub on_bad: OnBad,
    /// Some(k) keeps every k-th image (index % k == k - 1) out of training.
    pub holdout: Option<u32>,
    /// Keep what lies beside the centre: the short side is `size`, the long one as long as it is.
    pub whole: bool,
    /// Host memory for pixels.
    pub max_bytes: u64,
}

impl DatasetOptions {
    /// No atlas, bad images skipped, nothing held out, centres alone, 8 GiB.
    pub fn new(size: u32, channels: u32) -> Self {
        Self { size, channels, tile: None, on_bad: OnBad::Skip, holdout: None, whole: false, max_bytes: 8 << 30 }
    }

    fn check(&self) -> Result<()> {
        let fault = match self {
            Self { channels, .. } if !matches!(channels, 1 | 3) => {
                format!("a model of {channels} channels cannot be trained on images")
            }
            Self { size, .. } if !(1..=4096).contains(size) => format!("images of {size}x{size} cannot be made"),
            Self { holdout: Some(k), .. } if *k < 2 => format!("--holdout {k} leaves nothing to train on"),
            _ => return Ok(()),
        };
        Err(Error::usage(
            fault,
            "sample_size 1 to 4096, in_channels 1 or 3, --holdout 2 or more (10: every tenth image)",
        ))
    }

    fn image_len(&self) -> usize {
        (self.size * self.size * self.channels) as usize
    }
}

/// Image i of 0..len() has the same index whatever order the file system or a packer had: files are sorted by path.
#[derive(Debug)]
pub struct Dataset {
    size: u32,
    channels: u32,
    holdout: Option<u32>,
    images: Vec<Stored>,
    /// `[H, W, C]` of all images.
    pixels: Vec<u8>,
    /// One sentence for each image that was left out.
    pub warnings: Vec<String>,
}

/// An image's name, and where its pixels begin.
#[derive(Debug)]
struct Stored {
    name: Name,
    at: usize,
    width: u32,
    height: u32,
}

#[derive(Debug, Clone)]
struct Name {
    file: String,
    part: Option<u32>,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.part {
            Some(part) => write!(f, "{}, image {part}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

impl Dataset {
    /// Reads all of `path`: a folder tree of PNG, JPEG and WebP files, an atlas (`tile`), CIFAR-10's binary files (one,
    /// or the folder), or a .tar, .tar.xz or .tar.gz of any of these but atlases. Errors name the file and the image.
    pub fn open(path: &Path, options: &DatasetOptions) -> Result<Self> {
        options.check()?;
        let mut loader = Loader {
            path: path.to_path_buf(),
            options,
            images: Vec::new(),
            pixels: Vec::new(),
            warnings: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
        };
        source::walk(path, options.tile, &mut |found| loader.push(found))?;
        loader.flush()?;
        loader.finish()
    }

    /// From pixels in memory, `[len, H, W, C]`: for synthetic sets. Errors where they are not whole images.
    pub fn from_pixels(size: u32, channels: u32, pixels: Vec<u8>, holdout: Option<u32>) -> Result<Self> {
        let options = DatasetOptions { holdout, ..DatasetOptions::new(size, channels) };
        options.check()?;
        if pixels.is_empty() || !pixels.len().is_multiple_of(options.image_len()) {
            let message = format!("{} bytes are not images of {size}x{size}x{channels}", pixels.len());
            return Err(Error::shape("dataset", message));
        }
        let count = pixels.len() / options.image_len();
        let stored = |i: usize| Stored {
            name: Name { file: "memory".into(), part: Some(i as u32) },
            at: i * options.image_len(),
            width: size,
            height: size,
        };
        let images = (0..count).map(stored).collect();
        Ok(Self { size, channels, holdout, images, pixels, warnings: Vec::new() })
    }

    /// Number of images, held-out ones included; at least 1.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Never: a source without images is an error.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// The image's path below the source, and its number within a file that holds many.
    pub fn name(&self, i: usize) -> String {
        self.images[i].name.to_string()
    }

    /// Indices of the images to train on, ascending.
    pub fn train_indices(&self) -> Vec<usize> {
        (0..self.len()).filter(|&i| !self.is_held_out(i)).collect()
    }

    /// Indices of the images that training never sees, ascending; empty without `holdout`.
    pub fn holdout_indices(&self) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.is_held_out(i)).collect()
    }

    fn is_held_out(&self, i: usize) -> bool {
        self.holdout.is_some_and(|k| i % k as usize == k as usize - 1)
    }

    /// Image `i` as bytes `[H, W, C]`, as it is kept.
    pub fn pixels_u8(&self, i: usize) -> &[u8] {
        let Stored { at, width, height, .. } = self.images[i];
        &self.pixels[at..at + (width * height * self.channels) as usize]
    }

    /// Columns and rows of image `i` beyond the square.
    pub fn room(&self, i: usize) -> [u32; 2] {
        [self.images[i].width - self.size, self.images[i].height - self.size]
    }

    /// Image `i` as `[H, W, 4]` f32 in [-1, 1], mirrored if `flip`; see `write_pixels`.
    pub fn pixels_f32(&self, i: usize, flip: bool) -> Vec<f32> {
        let mut out = vec![0.0; (self.size * self.size * 4) as usize];
        self.write_pixels(i, flip, &mut out);
        out
    }

    /// Fills `out` `[H, W, 4]` with the centre: 2 (u / 255) - 1 in f32, bit for bit torchvision's ToTensor,
    /// Normalize(0.5, 0.5); channels beyond the image's are 0.
    pub fn write_pixels(&self, i: usize, flip: bool, out: &mut [f32]) {
        self.write_crop(i, self.room(i).map(|room| room / 2), flip, out);
    }

    /// The same with the square whose left column and top row are `corner`, within the image's room.
    pub fn write_crop(&self, i: usize, [left, top]: [u32; 2], flip: bool, out: &mut [f32]) {
        let (size, channels) = (self.size as usize, self.channels as usize);
        let (image, width) = (self.pixels_u8(i), self.images[i].width as usize);
        for (at, pixel) in out.chunks_exact_mut(4).enumerate().take(size * size) {
            let (y, x) = (at / size + top as usize, at % size);
            let from = (y * width + left as usize + if flip { size - 1 - x } else { x }) * channels;
            pixel.fill(0.0);
            for (value, &byte) in pixel.iter_mut().zip(&image[from..from + channels]) {
                *value = 2.0 * (f32::from(byte) / 255.0) - 1.0;
            }
        }
    }
}

/// Gathers images; encoded ones are decoded on a few threads, a batch at a time, and appended in the order found.
struct Loader<'a> {
    path: PathBuf,
    options: &'a DatasetOptions,
    images: Vec<Stored>,
    pixels: Vec<u8>,
    warnings: Vec<String>,
    pending: Vec<(Name, Vec<u8>)>,
    pending_bytes: usize,
}

impl Loader<'_> {
    fn push(&mut self, found: Found) -> Result<()> {
        let name = Name { file: found.file, part: found.part };
        match found.content {
            Ok(Content::Encoded(bytes)) => {
                self.pending_bytes += bytes.len();
                self.pending.push((name, bytes));
                if self.pending.len() < BATCH_FILES && self.pending_bytes < BATCH_BYTES {
                    return Ok(());
                }
                self.flush()
            }
            Ok(Content::Decoded(image)) => {
                let pixels = fitted(image, self.options);
                self.append(name, pixels)
            }
            Err(problem) => {
                self.flush()?;
                self.append(name, Err(problem))
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let share = pending.len().div_ceil(threads).max(1);
        let options = self.options;
        let decoded: Vec<Vec<_>> = std::thread::scope(|scope| {
            let work = |files: &[(Name, Vec<u8>)]| -> Vec<std::result::Result<Fitted, String>> {
                files.iter().map(|(_, bytes)| decode::decode(bytes).and_then(|image| fitted(image, options))).collect()
            };
            let running: Vec<_> =
                pending.chunks(share).map(|files| (files.len(), scope.spawn(move || work(files)))).collect();
            let failed = |count| vec![Err("the decoder failed".to_string()); count];
            running.into_iter().map(|(count, thread)| thread.join().unwrap_or_else(|_| failed(count))).collect()
        });
        pending
            .into_iter()
            .zip(decoded.into_iter().flatten())
            .try_for_each(|((name, _), pixels)| self.append(name, pixels))
    }

    fn append(&mut self, name: Name, fitted: std::result::Result<Fitted, String>) -> Result<()> {
        match fitted {
            Ok(Fitted { pixels, width, height }) => {
                if (self.pixels.len() + pixels.len()) as u64 > self.options.max_bytes {
                    let problem = format!("the images take more than {} bytes of memory", self.options.max_bytes);
                    return Err(Error::format(&self.path, name.to_string(), problem, "train on a part of them"));
                }
                self.images.push(Stored { name, at: self.pixels.len(), width, height });
                self.pixels.extend_from_slice(&pixels);
                Ok(())
            }
            Err(problem) => {
                let error =
                    Error::format(&self.path, name.to_string(), problem, "mend or remove it, or let it be skipped");
                match self.options.on_bad {
                    OnBad::Fatal => Err(error),
                    OnBad::Skip => {
                        self.warnings.push(error.to_string());
                        Ok(())
                    }
                }
            }
        }
    }

    /// Sorts by path (records and tiles of one file stay in order) and checks that something is left.
    fn finish(mut self) -> Result<Dataset> {
        let DatasetOptions { size, channels, holdout, .. } = *self.options;
        if self.images.is_empty() {
            let problem = match self.warnings.first() {
                Some(first) => format!("none can be used ({} bad; the first: {first})", self.warnings.len()),
                None => "there are none".into(),
            };
            let hint = "give a folder of PNG, JPEG or WebP files, a tar archive of them, CIFAR-10's .bin files, or an atlas with --tile";
            return Err(Error::format(&self.path, "images", problem, hint));
        }
        self.images.sort_by(|a, b| source::by_path(&a.name.file, &b.name.file));
        Ok(Dataset { size, channels, holdout, images: self.images, pixels: self.pixels, warnings: self.warnings })
    }
}

/// An image as it is kept.
#[derive(Clone)]
struct Fitted {
    pixels: Vec<u8>,
    width: u32,
    height: u32,
}

fn fitted(image: RgbImage, options: &DatasetOptions) -> std::result::Result<Fitted, String> {
    let fit = if options.whole { decode::shorten } else { decode::fit };
    let image = fit(image, options.size)?;
    let (width, height) = image.dimensions();
    Ok(Fitted { pixels: decode::to_channels(&image, options.channels), width, height })
}
