//! The options that name a model or an ensemble, and opening what they name.
//! Called by `sample`, `eval`, `search` and `analyze`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Map;

use crate::deme::ranges::Ranges;
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::io::folder::ABOUT;
use crate::io::json;
use crate::model::unet::Projections;
use crate::nn::{Role, Slabs};

#[derive(Args, Debug, Clone)]
pub struct ModelArgs {
    /// Model folder as diffusers saves it
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Experts of --ensemble, in the order of their timestep ranges
    #[arg(long, value_name = "DIR", num_args = 1.., requires = "ensemble")]
    pub experts: Vec<PathBuf>,
    /// Let the expert of the range that holds t predict at t (eq. 7 of the paper)
    #[arg(long, requires = "experts")]
    pub ensemble: bool,
}

/// A model, or experts that stand in for it range by range.
pub struct Judged {
    pub model: Pretrained,
    pub experts: Vec<Pretrained>,
    /// One range for a model, N for an ensemble.
    ranges: Ranges,
}

/// N even timestep ranges of a model.
pub fn timestep_ranges(model: &Pretrained, n: u32) -> Result<Vec<Range<usize>>> {
    let ranges = Ranges::even(model.schedule.timesteps() as u32, n)?;
    Ok(ranges.iter().map(|r| r.start as usize..r.end as usize).collect())
}

/// Opens a model and its experts, and refuses experts that were not finetuned from it. Where some have channel
/// projections, all get them, the identity where a file has none.
pub fn open_with_experts(dir: &Path, expert_dirs: &[PathBuf]) -> Result<(Pretrained, Vec<Pretrained>)> {
    let model = Pretrained::open(dir)?;
    let experts = expert_dirs.iter().map(|dir| Pretrained::open(dir)).collect::<Result<Vec<_>>>()?;
    for expert in &experts {
        if expert.config != model.config || expert.schedule != model.schedule {
            let problem = "differs from the model's architecture or schedule";
            let hint = "experts must be finetuned from --model";
            return Err(Error::format(&expert.folder.dir, "configuration", problem, hint));
        }
    }
    let placement = experts.iter().fold(model.placement, |p, e| p.max(e.placement));
    let experts = experts.into_iter().map(|e| e.with_projections(placement)).collect::<Result<_>>()?;
    Ok((model.with_projections(placement)?, experts))
}

/// Whose of `total` timesteps are whose: as the experts' deme.json say, or even ranges where one has none.
pub fn ranges_of(total: u32, experts: &[&Path]) -> Result<Ranges> {
    let mut own = Vec::new();
    for expert in experts {
        let about = expert.join(ABOUT);
        let map = if about.is_file() { json::read_object(&about)? } else { Map::new() };
        let number =
            |i: usize| map.get("timesteps").and_then(|t| t.get(i)?.as_u64()).and_then(|t| u32::try_from(t).ok());
        own.extend(number(0).zip(number(1)));
    }
    if own.is_empty() || own.len() < experts.len() {
        return Ranges::even(total, experts.len().max(1) as u32);
    }
    // Several checkpoints of an expert have one range.
    own.dedup();
    let cuts: Vec<u32> = std::iter::once(own[0].0).chain(own.iter().map(|range| range.1)).collect();
    if own.windows(2).all(|pair| pair[0].1 == pair[1].0)
        && let Ok(ranges) = Ranges::cut(total, &cuts)
    {
        return Ok(ranges);
    }
    let said: Vec<String> = own.iter().map(|(from, to)| format!("{from}..{to}")).collect();
    let message = format!("the experts' timesteps are {}, which is not 0..{total} in order", said.join(", "));
    Err(Error::usage(message, "give all experts of one run, in the order of their ranges"))
}

impl Judged {
    pub fn open(args: &ModelArgs) -> Result<Self> {
        let (model, experts) = open_with_experts(&args.model, &args.experts)?;
        let dirs: Vec<&Path> = experts.iter().map(|e| e.folder.dir.as_path()).collect();
        let ranges = ranges_of(model.schedule.timesteps() as u32, &dirs)?;
        if ranges.len() as usize != experts.len().max(1) {
            let message = format!("{} experts for {} timestep ranges", experts.len(), ranges.len());
            return Err(Error::usage(message, "an ensemble has one expert for each range"));
        }
        Ok(Self { model, experts, ranges })
    }

    fn sources(&self) -> &[Pretrained] {
        if self.experts.is_empty() { std::slice::from_ref(&self.model) } else { &self.experts }
    }

    /// The set that runs at timestep t (eq. 7).
    pub fn set_at(&self, t: usize) -> usize {
        self.ranges.index(t as u32) as usize
    }

    /// One set of weights a range.
    pub fn load(&self, gpu: &Gpu) -> Result<Vec<Slabs>> {
        self.sources().iter().map(|m| m.load(gpu, Role::Theta)).collect()
    }

    /// Skipped only where every set has identities.
    pub fn projections(&self) -> Result<Projections> {
        let each = self.sources().iter().map(Pretrained::projections).collect::<Result<Vec<_>>>()?;
        Ok(if each.contains(&Projections::Run) { Projections::Run } else { Projections::Skip })
    }
}
