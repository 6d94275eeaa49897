//! `deme merge --export plain`: a merged model without channel projections, and what that changes: by the weights, and with
//! images at hand by the denoising loss. Called by `cli::merge`.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::data::{DataArgs, Split, spread};
use super::merge::Inputs;
use super::models::timestep_ranges;
use super::opened::Opened;
use super::weights_file::MergeWeights;
use super::{Global, terminal::say};
use crate::data::dataset::Dataset;
use crate::deme::fold::{Folded, Plain};
use crate::deme::merge::{Merge, Weights};
use crate::diffusion::denoising::{DenoisingLoss, LossSpec, Trial, stratified_pairs};
use crate::diffusion::pretrained::Pretrained;
use crate::diffusion::summary::Summary;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::source::TensorSource;
use crate::model::projections::Placement;
use crate::model::tensors;
use crate::model::unet::Projections;
use crate::nn::{ParamLayout, Role, Slabs};
use crate::rng::{Purpose, stream};

const JUDGING: &str = "Judging --export plain";

#[derive(Args, Debug, Clone, Default)]
pub struct ExportArgs {
    /// What becomes of channel projections
    #[arg(long, value_enum, default_value = "full")]
    export: Export,
    /// Images that judge, by the denoising loss, what --export plain changes (see `deme eval loss`)
    #[arg(long, value_name = "PATH", help_heading = JUDGING)]
    data: Option<PathBuf>,
    /// The images are the square tiles, with this side, of one picture; blank tiles are not images
    #[arg(long, value_name = "SIDE", value_parser = clap::value_parser!(u32).range(1..=4096), requires = "data", help_heading = JUDGING)]
    tile: Option<u32>,
    /// As in training: every N-th image was kept out of it, and these judge; without it all images do
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), requires = "data", help_heading = JUDGING)]
    holdout: Option<u32>,
    /// At most so many images, each for every expert's timestep range
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..), help_heading = JUDGING)]
    images: u32,
    /// Images at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = JUDGING)]
    batch: u32,
}

/// What becomes of channel projections.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Export {
    /// They stay, as adapter_list.*
    #[default]
    Full,
    /// Folded into the convolutions before them where that is exact, dropped elsewhere: a diffusers UNet2DModel
    Plain,
}

impl ExportArgs {
    pub fn plain(&self) -> bool {
        self.export == Export::Plain
    }

    pub fn check(&self, weights: &MergeWeights) -> Result<()> {
        match (&self.data, weights) {
            (Some(_), _) if !self.plain() => {
                Err(Error::usage("--data judges --export plain", "add that, or take deme eval loss"))
            }
            (Some(_), MergeWeights::PerRange(_)) => {
                let hint = "leave --data out, and judge the models with deme eval loss --ensemble";
                Err(Error::usage("--data judges a single model, not one for each range", hint))
            }
            _ => Ok(()),
        }
    }
}

/// What writing a plain model changes.
pub struct Change {
    folded: Vec<String>,
    /// The blocks behind which a projection is dropped that is not the identity, with |P - I| / |I|.
    lost: Vec<(String, f64)>,
    /// Of what projections fold into, merged first against folded first; and against the base, folded.
    away: f64,
    moved: f64,
    losses: Option<Losses>,
}

/// Mean denoising losses over the same pairs, and the differences to `full`.
struct Losses {
    full: Summary,
    plain: (f64, Summary),
    folded_first: (f64, Summary),
}

impl Change {
    /// `plain` is of the merge of `inputs` with `weights`. Nothing is written.
    pub fn measure<'a>(
        args: &ExportArgs,
        inputs: &'a Inputs,
        weights: &Weights,
        plain: &Plain,
        global: &Global,
    ) -> Result<Self> {
        let config = &inputs.base.config;
        let base = Folded::new(config, &inputs.base.folder.weights)?;
        let folded = |e: &'a Opened| Folded::new(config, &e.folder.weights);
        let experts = inputs.experts.iter().map(folded).collect::<Result<Vec<_>>>()?;
        let folded_first = || {
            let experts = experts.iter().map(|e| e as &dyn TensorSource).collect();
            inputs.merge_of(&base, experts, weights)
        };
        let (mut merged, mut first) = (inputs.merge(weights)?, folded_first()?);
        let (mut away, mut moved) = (0.0, 0.0);
        for (name, _) in first.tensors().to_vec().iter().filter(|(name, _)| plain.changes(name)) {
            let written = plain.tensor(name, merged.tensor(name)?)?;
            away += square(&written, &first.tensor(name)?);
            moved += square(&written, &base.read_f32(name)?);
        }
        let losses = match &args.data {
            Some(data) => {
                let judge = Judge::open(args, data, inputs, global)?;
                Some(judge.losses(plain, inputs.merge(weights)?, inputs.merge(weights)?, folded_first()?)?)
            }
            None => None,
        };
        Ok(Self {
            folded: plain.folded().map(|place| place.weight()).collect(),
            lost: plain.lost().map(|(place, moved)| (place.after.clone(), moved)).collect(),
            away: f64::sqrt(away),
            moved: f64::sqrt(moved),
            losses,
        })
    }

    /// For deme.json.
    pub fn to_json(&self) -> Map<String, Value> {
        let lost: Map<String, Value> = self.lost.iter().map(|(after, moved)| (after.clone(), json!(moved))).collect();
        let mut about = json!({ "export": "plain", "folded": self.folded, "dropped": lost });
        if let Some(losses) = &self.losses {
            about["loss"] = json!({
                "with_projections": losses.full.mean, "written": losses.plain.0,
                "folded_before_merging": losses.folded_first.0, "pairs": losses.full.n,
            });
        }
        about.as_object().cloned().unwrap_or_default()
    }

    pub fn print(&self) -> Result<()> {
        if self.folded.is_empty() && self.lost.is_empty() {
            return say!("no channel projections to fold");
        }
        say!("folded into the convolutions before them: {} channel projections", self.folded.len())?;
        if !self.lost.is_empty() {
            let lost: Vec<String> = self.lost.iter().map(|(after, moved)| format!("{after} {moved:.4}")).collect();
            say!("dropped, since they fold nowhere, with |P - I| / |I|: after {}", lost.join(", "))?;
        }
        let Self { away, moved, .. } = self;
        say!("folding before merging gives other weights: {away:.3e} away, the base being {moved:.3e} away")?;
        let Some(Losses { full, plain, folded_first }) = &self.losses else { return Ok(()) };
        say!("denoising loss of {} pairs, and against the first:", full.n)?;
        say!("  merged, with its projections  {:.6}", full.mean)?;
        for (what, (loss, change)) in
            [("merged, then plain: written ", plain), ("plain, then merged          ", folded_first)]
        {
            say!("  {what}  {loss:.6}  {:+.8} ± {:.8}", change.mean, change.standard_error)?;
        }
        Ok(())
    }
}

/// |a - b|^2
fn square(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// What judges weights by the denoising loss.
struct Judge {
    model: Pretrained,
    /// Where the merged model has projections.
    placement: Placement,
    gpu: Gpu,
    dataset: Dataset,
    images: Vec<usize>,
    batch: u32,
    ranges: Vec<Range<usize>>,
}

impl Judge {
    fn open(args: &ExportArgs, data: &Path, inputs: &Inputs, global: &Global) -> Result<Self> {
        let model = Pretrained::open(&inputs.base.folder.dir)?;
        let data = DataArgs { data: data.into(), tile: args.tile, holdout: args.holdout, on_bad: "fatal".into() };
        let dataset = data.open(&model, global)?;
        let split = if args.holdout.is_some() { Split::Holdout } else { Split::All };
        let images = spread(&split.images(&dataset)?, args.images as usize);
        let ranges = timestep_ranges(&model, inputs.experts.len() as u32)?;
        let gpu = Gpu::open(&global.choice())?;
        Ok(Self { model, placement: inputs.placement(), gpu, dataset, images, batch: args.batch, ranges })
    }

    /// Of the merged model, of the same made plain, and of the merge of plain models.
    fn losses(&self, plain: &Plain, full: Merge, merged: Merge, folded_first: Merge) -> Result<Losses> {
        let [full, merged, folded_first] = [full, merged, folded_first].map(RefCell::new);
        let (full, images) = self.judge(self.placement, &|name| full.borrow_mut().tensor(name))?;
        let written = |name: &str| plain.tensor(name, merged.borrow_mut().tensor(name)?);
        let (plain, _) = self.judge(Placement::None, &written)?;
        let (first, _) = self.judge(Placement::None, &|name| folded_first.borrow_mut().tensor(name))?;
        let against =
            |losses: &[f64]| (Summary::of(losses, &images).mean, Summary::of_difference(losses, &full, &images));
        Ok(Losses { full: Summary::of(&full, &images), plain: against(&plain), folded_first: against(&first) })
    }

    /// The loss of each pair, and the pairs' images.
    fn judge(&self, placement: Placement, read: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<(Vec<f64>, Vec<usize>)> {
        let Self { model, gpu, dataset, .. } = self;
        let specs = tensors::expected(&model.config, placement);
        let layout = ParamLayout::new(specs.iter().map(|t| (t.name.as_str(), t.shape.as_slice())))?;
        let theta = Slabs::new(gpu, &layout, Role::Theta)?;
        theta.fill(gpu, &layout, read)?;
        let pairs = stratified_pairs(&self.images, &self.ranges, 1, 0);
        let projections = if placement == Placement::None { Projections::Skip } else { Projections::Run };
        let spec = LossSpec { batch: self.batch.min(pairs.len() as u32), sides: [dataset.size(); 2], projections };
        let mut loss = DenoisingLoss::new(gpu, &model.config, &model.schedule, &layout, &theta, spec)?;
        let image = |i: usize, out: &mut [f32]| dataset.write_pixels(i, false, out);
        let trial = Trial { pairs: &pairs, image: &image, seed: 0, stream: stream(Purpose::EvalNoise, 0) };
        let losses = loss.losses(&trial, 0..pairs.len(), &mut |_| Ok(()))?;
        Ok((losses, pairs.iter().map(|pair| pair.image).collect()))
    }
}
