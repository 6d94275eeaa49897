//! `deme cuts`: how alike the gradients at different timesteps are, and the ranges for `deme finetune --cuts` that follow.
//! Called by `cli::run`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::data::DataArgs;
use super::sample::check_new_file;
use super::terminal::say;
use super::tune::TuneArgs;
use super::{Global, interrupt};
use crate::deme::channel_projection::StartModel;
use crate::deme::cuts;
use crate::deme::expert::Expert;
use crate::deme::ranges::Ranges;
use crate::deme::timesteps::{Coin, TimestepDraw};
use crate::diffusion::pretrained::Pretrained;
use crate::error::{Error, Result};
use crate::io::{atomic, json as json_file};
use crate::model::projections::Placement;
use crate::train::feed::{Augment, Feeder};
use crate::train::rate::RateSchedule;
use crate::train::settings::{AdamW, EmaSchedule, LossScaling, Settings};
use crate::train::state::TrainingState;
use crate::train::step::{Network, Trainer};

/// Find timestep ranges whose gradients are alike
#[derive(Args, Debug)]
pub struct CutsArgs {
    /// Model folder as diffusers saves it
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Number of ranges to cut
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    ranges: u32,
    /// Buckets of equal width that are measured; ranges are made of whole ones
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    buckets: u32,
    /// Micro-batches in each bucket
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    accumulate: u32,
    /// Images of a micro-batch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Decides images, noise and timesteps
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also write bounds, norms and the matrix of cosines as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    tune: TuneArgs,
}

pub fn run(args: &CutsArgs, global: &Global) -> Result<()> {
    args.out.as_deref().map(|path| check_new_file(path, "--out")).transpose()?;
    let model = Pretrained::open(&args.model)?;
    let total = model.schedule.timesteps() as u32;
    let buckets = Ranges::even(total, args.buckets)?;
    if args.ranges > args.buckets {
        let message = format!("{} ranges cannot be made of {} buckets", args.ranges, args.buckets);
        return Err(Error::usage(message, "measure more buckets with --buckets"));
    }
    let similarity = args.measure(&model, &buckets, global)?;
    let cuts = similarity.cuts(args.ranges as usize)?;
    if let Some(path) = &args.out {
        let all = json!({
            "seed": args.seed,
            "images_per_bucket": args.batch * args.accumulate,
            "bounds": similarity.bounds,
            "norms": similarity.norms,
            "cosines": similarity.cosines,
            "cuts": cuts,
        });
        atomic::write(path, json_file::render(&all.as_object().cloned().unwrap_or_default()).as_bytes())?;
    }
    say!("{:>12}  {:>13}  {:>16}", "timesteps", "gradient norm", "cosine with next")?;
    for (k, range) in buckets.iter().enumerate() {
        let next = similarity.cosines[k].get(k + 1).map(|c| format!("{c:.4}")).unwrap_or_default();
        say!("{:>12}  {:>13.6}  {next:>16}", format!("{}..{}", range.start, range.end), similarity.norms[k])?;
    }
    say!(
        "mean cosine within a range: {:.4}, of all timesteps {:.4}",
        similarity.within(&cuts),
        similarity.within(&[0, total])
    )?;
    let words: Vec<String> = cuts.iter().map(u32::to_string).collect();
    say!("deme finetune --cuts {}", words.join(","))
}

impl CutsArgs {
    fn measure(&self, model: &Pretrained, buckets: &Ranges, global: &Global) -> Result<cuts::Similarity> {
        let dataset = self.data.open(model, global)?;
        let start = StartModel::new(model, Placement::None)?;
        let settings = self.settings();
        let count = u64::from(self.buckets) * u64::from(self.accumulate);
        let gpu = self.tune.open(global, count)?;
        let network = Network {
            config: &model.config,
            layout: &start.layout,
            size: [dataset.size(); 2],
            student_projections: start.student,
            teacher_projections: start.teacher,
            precision: gpu.precision(),
            recompute: false,
        };
        let state = TrainingState::start(&gpu, &start.layout, false, gpu.precision(), |name| start.read(name))?;
        let mut trainer = Trainer::new(&gpu, network, &settings, &self.objective(buckets), state)?;
        let numbers = [self.seed, 0];
        let feeder = Feeder::new(&model.config, &model.schedule, &dataset, numbers, Augment::default())?;
        let bar = global.progress(count, "gradients", "micro-batches");
        let mut done = || {
            bar.inc(1);
            match interrupt::requested() {
                true => Err(Error::Interrupted { saved: "nothing is saved".into() }),
                false => Ok(()),
            }
        };
        let amounts = [self.seed, u64::from(self.accumulate)];
        let measured = cuts::similarity(&mut trainer, &feeder, amounts, buckets.bounds(), &mut done);
        bar.finish_and_clear();
        measured
    }

    /// The plain denoising loss; timesteps come from the buckets.
    fn objective(&self, buckets: &Ranges) -> Expert {
        let total = buckets.whole().len();
        let timesteps = TimestepDraw {
            seed: self.seed,
            expert: 0,
            own: 0..total,
            total,
            p: 0.0,
            coin: Coin::Sample,
            antithetic: true,
        };
        Expert { timesteps, consistency: 0.0, weights: None }
    }

    /// No update is made, so of these only batches count.
    fn settings(&self) -> Settings {
        Settings {
            seed: self.seed,
            steps: 0,
            batch: self.batch,
            at_once: self.batch,
            accumulate: self.accumulate,
            adamw: AdamW { lr: 0.0, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 },
            rate: RateSchedule::CONSTANT,
            clip: f64::INFINITY,
            // Without updates the scale stays where it is: one that leaves room above and below in f16.
            scaling: LossScaling { start: 1024.0, interval: 0 },
            ema: EmaSchedule { max_decay: 0.0, inv_gamma: 1.0, power: 0.75 },
            augment: Augment::default(),
            log_every: 0,
            eval_every: 0,
            sample_every: 0,
            export_every: 0,
            save_every: 0,
            keep: 0,
        }
    }
}
