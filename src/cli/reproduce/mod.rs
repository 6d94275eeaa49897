//! `deme reproduce`: the paper's tables on a model and images of one's own: every row trained, merged, judged alike, over several
//! seeds. Every step is done once; a stopped experiment continues. Called by `cli::run`.

mod config;
mod lab;
mod plots;
mod rows;
mod table;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::models::{Judged as Opened, ModelArgs};
use super::terminal::say;
use super::tune::TuneArgs;
use super::{Global, interrupt};
use crate::error::{Error, Result};
use crate::eval::loss::Buckets;
use crate::gpu::Gpu;
use crate::io::{atomic, lock};
use config::{Config, DistanceOf};
use lab::{JudgePairs, Lab};
use rows::{Role, Row, Subject};
use table::{Judged, Results};

/// Reproduce a table of the paper: baselines, experts and merged models, trained and judged alike
#[derive(Args, Debug)]
pub struct ReproduceArgs {
    /// Which one
    #[arg(value_enum)]
    what: What,
    /// The experiment: model, images, updates, seeds (see configs/)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for models, losses and tables; a stopped experiment in it continues, and tables share what they have in common
    /// [default: out/ and the file's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the rows and what is left to do; write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tune: TuneArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Loss weightings and continued training against experts, as an ensemble and merged
    Table1,
    /// Without and with probabilistic sampling, consistency and projections, for N = 1 and more
    Table3,
    /// Merged models for several N and several p
    Fig9,
    /// Every combination of learning rate, p, updates and N, judged on images that a search may see
    Sweep,
}

impl What {
    fn rows(self, config: &Config) -> Vec<Row> {
        match self {
            Self::Table1 => rows::table1(config),
            Self::Table3 => rows::table3(config),
            Self::Fig9 => rows::fig9(config),
            Self::Sweep => rows::sweep(config),
        }
    }

    fn title(self, config: &Config) -> String {
        let what = match self {
            Self::Table1 => "Table 1: loss weightings, experts, and their merge",
            Self::Table3 => "Table 3: what each technique adds",
            Self::Fig9 => "Figure 9: number of ranges N, and probability p of the whole range",
            Self::Sweep => "Sweep over learning rate, p, updates and N, on search images",
        };
        format!("{what}, {}", config.model.display())
    }

    fn sweep(self) -> bool {
        self == Self::Sweep
    }
}

pub fn run(args: &ReproduceArgs, global: &Global) -> Result<()> {
    let config = Config::read(&args.config)?;
    let rows = args.what.rows(&config);
    if rows.is_empty() {
        let hint = "a sweep has lists of lr, p, steps and ranges";
        return Err(Error::format(&args.config, "sweep", "is not there", hint));
    }
    let base = Opened::open(&ModelArgs { model: config.model.clone(), experts: Vec::new(), ensemble: false })?;
    let dataset = lab::data(&config).open(&base.model, global)?;
    let trial = JudgePairs::new(&config, &base, &dataset, args.what.sweep())?;
    let out = args.out.clone().unwrap_or_else(|| {
        let name = args.config.file_stem().map_or("reproduce".into(), |stem| stem.to_string_lossy().into_owned());
        PathBuf::from("out").join(name)
    });
    if out.is_file() {
        return Err(Error::usage(format!("{} is a file", out.display()), "give a folder for --out"));
    }
    let gpu = Gpu::open(&global.choice())?;
    // Judging alone: what is trained and searched tunes for itself.
    let replays = (trial.pairs.len() as u64).div_ceil(u64::from(config.judge.batch)) * rows.len() as u64;
    if !args.dry_run {
        args.tune.apply(&gpu, global, replays)?;
    }
    let lab = Lab { config: &config, file: &args.config, out: &out, global, tune: &args.tune, gpu, dataset, trial };
    lab.check_options()?;
    say!("{}; {} models, seeds {:?}", args.what.title(&config), rows.len(), config.seeds)?;
    plan(&lab, &rows, args.what)?;
    if args.dry_run {
        return Ok(());
    }
    lab::bind(&config, global, &out)?;
    let _lock = lock::exclusive(&out)?;
    let _listening = interrupt::listen();
    let judged = judge(&lab, &rows, args.what)?;
    let mut results = Results {
        title: args.what.title(&config),
        seeds: config.seeds.clone(),
        images: lab.trial.pairs.iter().map(|pair| pair.image).collect(),
        buckets: Buckets::even(&lab.trial.buckets, lab.trial.pairs.len()),
        rows: judged,
    };
    if !args.what.sweep() {
        distances(&lab, &mut results)?;
    }
    finish(&lab, args, &results)
}

/// The seeds of a row: the base has none.
fn seeds<'a>(config: &'a Config, row: &Row) -> &'a [u64] {
    if row.subject == Subject::Base { &config.seeds[..1] } else { &config.seeds }
}

/// What there is to do, before it begins.
fn plan(lab: &Lab, rows: &[Row], what: What) -> Result<()> {
    let (mut updates, mut searches, mut judgements) = (0, 0, 0);
    let mut counted: Vec<String> = Vec::new();
    for row in rows {
        for &seed in seeds(lab.config, row) {
            let (train, search, judge) = lab.left(&row.subject, seed, what.sweep());
            searches += u32::from(search);
            judgements += u32::from(judge);
            // An ensemble and its merged model share their experts.
            let folder = row.subject.training().map_or(String::new(), |training| training.name(seed));
            if !counted.contains(&folder) {
                updates += train;
                counted.push(folder);
            }
        }
        let cost = row.subject.training().map_or(String::new(), |t| format!("{} x {} updates", t.ranges, t.steps));
        say!("  {:<40} {cost}", row.name)?;
    }
    let trial = &lab.trial;
    say!(
        "left: {updates} updates, {searches} searches, {judgements} models to judge on {} pairs ({} images, {} ranges)",
        trial.pairs.len(),
        trial.images,
        trial.buckets.len()
    )
}

/// Every row for the first seed, then for the next: a stopped experiment has whole columns.
fn judge(lab: &Lab, rows: &[Row], what: What) -> Result<Vec<Judged>> {
    let mut judged: Vec<Judged> =
        rows.iter().map(|row| Judged { row: row.clone(), losses: Vec::new(), distances: Vec::new() }).collect();
    for (s, &seed) in lab.config.seeds.iter().enumerate() {
        for (i, one) in judged.iter_mut().enumerate() {
            if s > 0 && one.row.subject == Subject::Base {
                continue;
            }
            say!("\n[{} of {}, seed {seed}] {}", i + 1, rows.len(), one.row.name)?;
            lab.make(&one.row.subject, seed)?;
            one.losses.push(lab.losses(&one.row.subject, seed, what.sweep())?);
            lab.stop_if_asked()?;
        }
    }
    Ok(judged)
}

/// Distances of all rows, or of those that decide.
fn distances(lab: &Lab, results: &mut Results) -> Result<()> {
    let Some(distance) = &lab.config.distance else { return Ok(()) };
    let best = results.best_baseline();
    for i in 0..results.rows.len() {
        let role = results.rows[i].row.role;
        if distance.of == DistanceOf::Main && !matches!(role, Role::Base | Role::Merged) && Some(i) != best {
            continue;
        }
        for &seed in &lab.config.seeds {
            say!("\ndrawing with: {}, seed {seed}", results.rows[i].row.name)?;
            let measured = lab.distance(&results.rows[i].row.subject, seed)?;
            results.rows[i].distances.extend(measured);
        }
    }
    Ok(())
}

/// The table on the screen, as Markdown, JSON and a plot.
fn finish(lab: &Lab, args: &ReproduceArgs, results: &Results) -> Result<()> {
    let name = args.what.to_possible_value().map_or(String::new(), |value| value.get_name().to_string());
    let ranges = args.what.sweep();
    let path = |extension: &str| lab.out.join(format!("{name}.{extension}"));
    say!("\n{}", results.text(ranges))?;
    let mut notes = vec![
        format!(
            "{} images, {} timestep ranges; seeds {:?}; judged with seed {}.",
            lab.trial.images,
            lab.trial.buckets.len(),
            results.seeds,
            lab.config.judge.seed
        ),
        format!("{}; precision {}; deme {}.", lab.gpu.summary(), lab.gpu.precision(), env!("CARGO_PKG_VERSION")),
        format!("`deme reproduce {name} --config {}`", args.config.display()),
    ];
    let measured = results.rows.iter().find_map(|r| r.distances.first());
    notes.extend(
        measured
            .map(|m| format!("{}: {} pictures, {}; weights sha256 {}.", m.metric, m.pictures, m.of, m.weights_sha256)),
    );
    atomic::write(&path("md"), results.markdown(ranges, &notes).as_bytes())?;
    atomic::write(&path("json"), format!("{:#}\n", results.json()).as_bytes())?;
    atomic::write(&path("svg"), plots::svg(results)?.as_bytes())?;
    say!("\n{name}.md, {name}.json and {name}.svg are in {}", lab.out.display())
}
