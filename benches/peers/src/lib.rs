//! What a peer's program needs: options, the cases, timing, and the results file (benches/peers/README.md says its form).
//! Called by burn.rs.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Instant, SystemTime};

pub const CASES: &str = include_str!("../../cases.json");

const USAGE: &str = "options: --out FILE.json [--cases FILTER] [--heavy] [--time SECONDS] [--adapter cpu|default]
  --cases    only cases whose id contains this
  --heavy    on a software adapter, the heavy cases too
  --adapter  cpu: a software adapter; by default the one that the library takes";

/// What a parent adds to its children's command line.
const ONLY: &str = "--only";

pub struct Options {
    pub out: PathBuf,
    pub cases: String,
    pub heavy: bool,
    pub seconds: f64,
    pub cpu: bool,
    /// The one case of a child process.
    only: Option<String>,
}

impl Options {
    /// From the command line.
    pub fn parse() -> Result<Options, Box<dyn Error>> {
        let (mut out, mut cases, mut heavy, mut seconds, mut cpu, mut only) =
            (None, String::new(), false, 1.0, false, None);
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{name} needs a value\n{USAGE}"));
            match name.as_str() {
                "--out" => out = Some(PathBuf::from(value()?)),
                "--cases" => cases = value()?,
                "--heavy" => heavy = true,
                ONLY => only = Some(value()?),
                "--time" => seconds = value()?.parse()?,
                "--adapter" => {
                    cpu = match value()?.as_str() {
                        "cpu" => true,
                        "default" => false,
                        other => return Err(format!("--adapter {other}: not cpu or default").into()),
                    }
                }
                _ => return Err(format!("{name} is no option\n{USAGE}").into()),
            }
        }
        Ok(Options { out: out.ok_or(format!("--out is missing\n{USAGE}"))?, cases, heavy, seconds, cpu, only })
    }
}

#[derive(Deserialize)]
pub struct Case {
    pub id: String,
    #[serde(default)]
    pub heavy: bool,
    #[serde(flatten)]
    pub kind: Kind,
}

/// Shapes as benches/cases.json names them: x [m, k] @ w [k, n]; images are batch x size x size, padding is kernel / 2.
#[derive(Deserialize, Clone, Copy)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    Matmul {
        m: usize,
        k: usize,
        n: usize,
    },
    Conv2d {
        batch: usize,
        size: usize,
        cin: usize,
        cout: usize,
        kernel: usize,
        stride: usize,
    },
    Attention {
        batch: usize,
        tokens: usize,
        heads: usize,
        size: usize,
    },
    GroupNorm {
        batch: usize,
        size: usize,
        channels: usize,
        groups: usize,
    },
    #[serde(other)]
    Other,
}

impl Kind {
    /// FLOPs of (forward, backward), as benches/pytorch counts them: what the operation needs, whatever the library does.
    pub fn flop(self) -> (f64, f64) {
        let (forward, factor) = match self {
            Kind::Matmul { m, k, n } => (2 * m * k * n, 2.0),
            Kind::Conv2d { batch, size, cin, cout, kernel, stride } => {
                (2 * batch * size.div_ceil(stride).pow(2) * cout * cin * kernel * kernel, 2.0)
            }
            Kind::Attention { batch, tokens, heads, size } => (4 * batch * heads * tokens * tokens * size, 2.5),
            Kind::GroupNorm { .. } | Kind::Other => (0, 0.0),
        };
        (forward as f64, factor * forward as f64)
    }

    /// Bytes that forward must move in f32: every input once and the output once.
    pub fn bytes(self) -> f64 {
        4.0 * match self {
            Kind::Matmul { m, k, n } => m * k + k * n + m * n,
            Kind::Conv2d { batch, size, cin, cout, kernel, stride } => {
                batch * (size * size * cin + size.div_ceil(stride).pow(2) * cout) + kernel * kernel * cin * cout
            }
            Kind::Attention { batch, tokens, heads, size } => 4 * batch * tokens * heads * size,
            Kind::GroupNorm { batch, size, channels, .. } => 2 * batch * size * size * channels,
            Kind::Other => 0,
        } as f64
    }
}

/// The case to time now: each case has a process of its own, because a driver that crashes on one must not cost the others.
/// None in the parent, when its children have ended; the process ends with status 3 where no case was measured.
pub fn case(options: &Options) -> Result<Option<Case>, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    let mut cases = serde_json::from_str::<File>(CASES)?.cases;
    cases.retain(|case| !matches!(case.kind, Kind::Other));
    if let Some(id) = &options.only {
        return Ok(cases.into_iter().find(|case| case.id == *id));
    }
    if options.out.exists() {
        std::fs::remove_file(&options.out)?;
    }
    for case in cases.iter().filter(|case| case.id.contains(&options.cases)) {
        let mut child = Command::new(std::env::current_exe()?);
        let status = child.args(std::env::args_os().skip(1)).args([ONLY, &case.id]).status()?;
        if !status.success() {
            eprintln!("{}: {status}; what is missing of it is left out", case.id);
        }
    }
    if !options.out.exists() {
        eprintln!(
            "error: no row was measured: does --cases fit an id of benches/cases.json, and is it heavy (--heavy)?"
        );
        std::process::exit(3);
    }
    Ok(None)
}

#[derive(Serialize, Deserialize)]
struct Row {
    case: String,
    pass: String,
    variant: String,
    median_s: f64,
    best_s: f64,
    spread: f64,
    runs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    gflop_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_s: Option<f64>,
    note: String,
}

/// The results file, written anew after every row, with the rows of the cases before.
#[derive(Serialize)]
pub struct Report {
    pub engine: &'static str,
    pub version: &'static str,
    pub device: String,
    pub driver: String,
    date: String,
    command: String,
    pub settings: serde_json::Value,
    rows: Vec<Row>,
    #[serde(skip)]
    out: PathBuf,
    #[serde(skip)]
    seconds: f64,
}

impl Report {
    pub fn new(
        engine: &'static str,
        version: &'static str,
        device: String,
        driver: String,
        settings: serde_json::Value,
        options: &Options,
    ) -> Result<Report, Box<dyn Error>> {
        #[derive(Deserialize)]
        struct Earlier {
            rows: Vec<Row>,
        }
        let rows = match std::fs::read(&options.out) {
            Ok(text) => serde_json::from_slice::<Earlier>(&text)?.rows,
            Err(_) => Vec::new(),
        };
        if rows.is_empty() {
            println!("{engine} {version}: {device}, {driver}");
        }
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let command = std::env::args().take_while(|argument| argument != ONLY).collect::<Vec<_>>().join(" ");
        let (out, seconds) = (options.out.clone(), options.seconds);
        Ok(Report { engine, version, device, driver, date, command, settings, rows, out, seconds })
    }

    /// One row. `run(n)` does the operation n times and returns when the device is done. A library that panics loses the row only.
    pub fn time(
        &mut self,
        case: &Case,
        pass: &str,
        variant: &str,
        note: &str,
        run: impl FnMut(usize),
    ) -> Result<(), Box<dyn Error>> {
        let seconds = self.seconds;
        let Ok((samples, runs)) = catch_unwind(AssertUnwindSafe(|| measure(seconds, run))) else {
            eprintln!("{} {pass} {variant}: left out: it panicked", case.id);
            return Ok(());
        };
        let at = |p: f64| samples[(p * (samples.len() - 1) as f64).round() as usize];
        let (forward, backward) = case.kind.flop();
        let flop = if pass == "forward" { forward } else { forward + backward };
        let median_s = at(0.5);
        let rate = |amount: f64| (amount > 0.0).then(|| amount / median_s / 1e9);
        let row = Row {
            case: case.id.clone(),
            pass: pass.into(),
            variant: variant.into(),
            median_s,
            best_s: at(0.0),
            spread: (at(0.75) - at(0.25)) / median_s,
            runs,
            gflop_s: rate(flop),
            gb_s: rate(if pass == "forward" { case.kind.bytes() } else { 0.0 }),
            note: note.into(),
        };
        println!(
            "{:<36} {pass:<17} {variant:<16} {:>10.3} ms  ±{:>3.0} %  {:>9.1} GFLOP/s",
            row.case,
            median_s * 1e3,
            row.spread * 100.0,
            row.gflop_s.unwrap_or(0.0)
        );
        self.rows.push(row);
        if let Some(folder) = self.out.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(&self.out, serde_json::to_string_pretty(&self)? + "\n")?)
    }
}

/// Sorted seconds a run, and the number of runs: warm-up (compiling and tuning happen there), then samples of enough runs that
/// neither the clock's grain nor the wait for the device counts: for at least `seconds`, and five of them, or three where a run is slow.
fn measure(seconds: f64, mut run: impl FnMut(usize)) -> (Vec<f64>, usize) {
    let mut sample = |runs: usize| {
        let start = Instant::now();
        run(runs);
        start.elapsed().as_secs_f64() / runs as f64
    };
    for _ in 0..3 {
        sample(1);
    }
    let runs = (20e-3 / sample(1)).ceil().clamp(1.0, 200.0) as usize;
    sample(runs);
    let (start, mut samples) = (Instant::now(), Vec::new());
    loop {
        samples.push(sample(runs));
        let least = if start.elapsed().as_secs_f64() < 10.0 * seconds { 5 } else { 3 };
        if samples.len() >= 200 || (samples.len() >= least && start.elapsed().as_secs_f64() >= seconds) {
            break;
        }
    }
    samples.sort_by(f64::total_cmp);
    let total = samples.len() * runs;
    (samples, total)
}
