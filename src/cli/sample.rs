//! `deme sample`: DDIM pictures from a model, or from experts as an ensemble.
//! Called by `cli::run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::models::{Judged, ModelArgs};
use super::tune::TuneArgs;
use super::{Global, terminal::say};
use crate::diffusion::pretrained::Pretrained;
use crate::diffusion::sampler::{SampleSpec, Sampler, StepNoise, Trajectory};
use crate::diffusion::spacing::{Spacing, Step};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::layout::{nchw_to_nhwc, nhwc_to_nchw};
use crate::io::png::{self, Batch, Grid};
use crate::io::safetensors::SafetensorsFile;
use crate::io::source::TensorSource;
use crate::io::writer;
use crate::shader::Precision;

/// Draw pictures with DDIM
#[derive(Args, Debug)]
pub struct SampleArgs {
    #[command(flatten)]
    models: ModelArgs,
    /// Number of pictures [default: 16, or as many as --noise holds]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    num: Option<u32>,
    /// Sampling steps
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Noise added at each step: 0 is deterministic, 1 is as much as DDPM
    #[arg(long, default_value_t = 0.0)]
    eta: f64,
    /// Timesteps: leading, trailing and linspace as in diffusers, quad as in the DDIM paper [default: the model's]
    #[arg(long, value_name = "NAME", value_parser = ["leading", "trailing", "linspace", "quad"])]
    spacing: Option<String>,
    /// Picture k of a seed is the same whatever --num and --batch are, but for rounding
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// A .png file (a grid, where there is more than one picture) or a folder for single files
    #[arg(long, value_name = "F.png|DIR")]
    out: PathBuf,
    /// Starting noise: tensor `noise`, [N, C, H, W] f32, of a safetensors file
    #[arg(long, value_name = "F.safetensors")]
    noise: Option<PathBuf>,
    /// Also write the final x before rounding, as tensor `sample`, [N, C, H, W] f32
    #[arg(long, value_name = "F.safetensors")]
    save_tensor: Option<PathBuf>,
    #[command(flatten)]
    tune: TuneArgs,
}

/// Starting noise from a file: number of pictures and [N, H, W, padded C].
fn read_noise(path: &Path, [channels, h, w]: [u32; 3]) -> Result<(u32, Vec<f32>)> {
    let file = SafetensorsFile::open(path)?;
    let unnamed =
        |_| Error::format(path, "tensor noise", "is not in the file", "name the tensor of starting noise `noise`");
    let shape = file.info("noise").map_err(unnamed)?.shape.clone();
    let expected = [channels, h, w].map(u64::from);
    let fits = shape.len() == 4 && shape[1..] == expected && (1..=1_000_000).contains(&shape[0]);
    if !fits {
        let problem = format!("has the extents {shape:?}, expected [N, {channels}, {h}, {w}]");
        return Err(Error::format(path, "tensor noise", problem, "give noise of the model's own picture size"));
    }
    let values = file.read_f32("noise")?;
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        let problem = format!("element {i} is {}", values[i]);
        return Err(Error::format(path, "tensor noise", problem, "noise must be finite"));
    }
    Ok((shape[0] as u32, nchw_to_nhwc(&values, channels, h * w)))
}

pub fn run(args: &SampleArgs, global: &Global) -> Result<()> {
    let judged = Judged::open(&args.models)?;
    let model = &judged.model;
    let [h, w] = model.sides()?;
    let channels = model.config.in_channels;
    if ![1, 3].contains(&channels) {
        let config = &model.folder.unet_config.path;
        let hint = "pictures have 1 or 3 channels; latents need a decoder, which deme does not have";
        let (path, key) = (config.clone(), "in_channels".to_owned());
        return Err(Error::Unsupported { path, key, value: channels.to_string(), hint: hint.to_owned() });
    }
    let noise = args.noise.as_deref().map(|path| read_noise(path, [channels, h, w])).transpose()?;
    let num = match (&noise, args.num) {
        (None, num) => num.unwrap_or(16),
        (Some((held, _)), num) if num.is_none_or(|n| n == *held) => *held,
        (Some((held, _)), _) => {
            let message = format!("--noise holds {held} pictures");
            return Err(Error::usage(message, "leave --num out, or give it the same number"));
        }
    };
    let (spacing, steps) = visited(model, args.spacing.as_deref(), args.steps, args.eta)?;
    let destination = Destination::new(&args.out, num)?;
    args.save_tensor.as_deref().map(|path| check_new_file(path, "--save-tensor")).transpose()?;
    if let Some(path) = args.save_tensor.as_ref().filter(|path| path.extension().is_some_and(|e| e == "png")) {
        let message = format!("--save-tensor {} is named as a picture", path.display());
        return Err(Error::usage(message, "name it .safetensors"));
    }
    if args.save_tensor.as_ref() == Some(&args.out) {
        let message = format!("--out and --save-tensor are both {}", args.out.display());
        return Err(Error::usage(message, "the picture and the tensor are two files"));
    }

    let gpu = args.tune.open(global, u64::from(num.div_ceil(args.batch)) * steps.len() as u64)?;
    global.detail(format_args!("{}", gpu.summary()));
    let request = Request {
        num,
        batch: args.batch,
        steps: &steps,
        eta: args.eta,
        seed: args.seed,
        noise: noise.as_ref().map(|(_, values)| values.as_slice()),
    };
    let pictures = draw(&gpu, &judged, &request, global)?;

    let pictures = Batch { data: &pictures, height: h, width: w, channels };
    let tuning = gpu.tuning();
    let tuned = (!tuning.is_empty()).then(|| gpu.tuning_file(&args.out).text(&tuning));
    let precision = gpu.precision();
    destination.write(&pictures, &|first| generation_parameters(args, spacing, precision, first, tuned.as_deref()))?;
    if let Some(path) = &args.save_tensor {
        let shape = [num, channels, h, w].map(u64::from);
        let values = nhwc_to_nchw(pictures.data, channels, h * w);
        writer::write(path, &[("sample", &shape, &values)], &BTreeMap::new())?;
    }
    say!("{num} picture{} of {w}x{h} in {}", if num == 1 { "" } else { "s" }, args.out.display())
}

/// The spacing, the model's own where none is named, and its steps. Refuses an eta outside 0..=1, and steps without a signal,
/// before anything is opened.
pub(super) fn visited(model: &Pretrained, spacing: Option<&str>, steps: u32, eta: f64) -> Result<(Spacing, Vec<Step>)> {
    let spacing = spacing.map_or(Ok(model.schedule.spacing), str::parse)?;
    let steps = model.schedule.steps(spacing, steps as usize)?;
    steps.iter().try_for_each(|&step| model.schedule.ddim_step(step, eta).map(drop))?;
    Ok((spacing, steps))
}

/// Refuses a file that exists (it may be a model) or whose folder does not, before the work.
pub(super) fn check_new_file(path: &Path, option: &str) -> Result<()> {
    if path.exists() {
        return Err(Error::usage(format!("{} exists", path.display()), format!("give another {option}")));
    }
    match path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
        Some(parent) => Err(Error::usage(format!("{} is not a folder", parent.display()), "make the folder first")),
        None => Ok(()),
    }
}

/// What to draw.
pub(super) struct Request<'a> {
    pub num: u32,
    pub batch: u32,
    pub steps: &'a [Step],
    pub eta: f64,
    pub seed: u64,
    /// [num, H, W, 4], instead of noise from the seed.
    pub noise: Option<&'a [f32]>,
}

/// Draws pictures batch by batch, with a progress bar: [num, H, W, 4] before rounding.
pub(super) fn draw(gpu: &Gpu, judged: &Judged, request: &Request, global: &Global) -> Result<Vec<f32>> {
    let mut pictures = Vec::new();
    draw_each(gpu, judged, request, global, &mut |batch| {
        pictures.extend_from_slice(batch);
        Ok(())
    })?;
    Ok(pictures)
}

/// The same, each batch [n, H, W, 4] handed on as soon as it is there.
pub(super) fn draw_each(
    gpu: &Gpu,
    judged: &Judged,
    request: &Request,
    global: &Global,
    each: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let model = &judged.model;
    let [h, w] = model.sides()?;
    let (num, batch) = (request.num, request.batch.min(request.num));
    let sets = judged.load(gpu)?;
    let step_noise = if request.eta > 0.0 { StepNoise::Generated } else { StepNoise::None };
    let spec = SampleSpec { batch, height: h, width: w, step_noise, projections: judged.projections()? };
    let mut sampler = Sampler::new(gpu, &model.config, &model.schedule, &model.layout, &sets, spec)?;
    let bar = global.progress(u64::from(num.div_ceil(batch)) * request.steps.len() as u64, "sampling", "steps");
    let per_image = (h * w * 4) as usize;
    for first in (0..num).step_by(batch as usize) {
        let here = batch.min(num - first) as usize;
        // A last batch that is not full draws pictures that are thrown away.
        let x_t = request.noise.map(|values| {
            let start = first as usize * per_image;
            let mut x_t = values[start..start + here * per_image].to_vec();
            x_t.resize(batch as usize * per_image, 0.0);
            x_t
        });
        let trajectory = Trajectory {
            steps: request.steps,
            eta: request.eta,
            seed: request.seed,
            first_image: u64::from(first),
            noise: x_t.as_deref(),
            given: None,
        };
        let x_0 = sampler.sample(&trajectory, &|t| judged.set_at(t), &mut |_| {
            bar.inc(1);
            Ok(())
        })?;
        each(&x_0[..here * per_image])?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Where the pictures go; made before the work, so that a bad path costs nothing.
enum Destination {
    File(PathBuf),
    Folder(PathBuf),
}

impl Destination {
    fn new(out: &Path, num: u32) -> Result<Self> {
        let hint = "name a .png file or a folder";
        if out.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
            check_new_file(out, "--out")?;
            return Ok(Self::File(out.to_path_buf()));
        }
        if out.extension().is_some() && !out.is_dir() {
            return Err(Error::usage(format!("{}: pictures are written as PNG", out.display()), hint));
        }
        let clash = (0..num).map(|i| out.join(Self::name(i))).find(|path| path.exists());
        match clash {
            Some(path) => Err(Error::usage(format!("{} exists", path.display()), "give another --out")),
            None => Ok(Self::Folder(out.to_path_buf())),
        }
    }

    fn name(i: u32) -> String {
        format!("{i:05}.png")
    }

    /// `text` is what the PNG of the first of so many pictures says.
    fn write(&self, pictures: &Batch, text: &dyn Fn(u32) -> Vec<(String, String)>) -> Result<()> {
        let count = pictures.count() as u32;
        match self {
            Self::File(path) => {
                let columns = f64::from(count).sqrt().ceil() as u32;
                let padding = if count == 1 { 0 } else { 2 };
                png::write_grid(path, pictures, Grid { columns, padding }, &text(0))
            }
            Self::Folder(dir) => {
                std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
                (0..count).try_for_each(|i| png::write_one(&dir.join(Self::name(i)), pictures, i as usize, &text(i)))
            }
        }
    }
}

/// What a picture's PNG says of its making, in the form that other tools write; beside it, in the form that --autotune
/// reads, the choices of kernels where they are not the built-in table's.
fn generation_parameters(
    args: &SampleArgs,
    spacing: Spacing,
    precision: Precision,
    first: u32,
    tuning: Option<&str>,
) -> Vec<(String, String)> {
    let experts: Vec<_> = args.models.experts.iter().map(|e| e.display().to_string()).collect();
    let ensemble = if experts.is_empty() { String::new() } else { format!(", Ensemble: {}", experts.join(" ")) };
    let noise = args.noise.as_ref().map_or(String::new(), |f| format!(", Noise: {}", f.display()));
    let text = format!(
        "Steps: {}, Sampler: DDIM, Eta: {}, Spacing: {spacing}, Seed: {}, First picture: {first}{noise}, \
         Precision: {precision}, Model: {}{ensemble}, \
         Version: deme {}",
        args.steps,
        args.eta,
        args.seed,
        args.models.model.display(),
        env!("CARGO_PKG_VERSION"),
    );
    let tuning = tuning.map(|text| ("tuning".to_owned(), text.to_owned()));
    std::iter::once(("parameters".to_owned(), text)).chain(tuning).collect()
}
