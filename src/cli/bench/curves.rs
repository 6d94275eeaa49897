//! `deme bench curves`: the loss curves of finetuning runs in one plot, and how far they lie apart.
//! Called by `cli::bench`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::cli::demo::plots;
use crate::cli::demo::report::Curve;
use crate::cli::terminal::say;
use crate::error::{Error, Result};
use crate::io::atomic;

/// Draw the loss curves of finetuning runs, and print how far each lies from the first
#[derive(Args, Debug)]
pub(super) struct CurvesArgs {
    /// Folders of runs (`deme finetune --out`)
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// Write the plot
    #[arg(long, value_name = "FILE.svg")]
    out: Option<PathBuf>,
}

/// The curve of each expert that has a log, called after the run's folder and the expert.
fn curves(run: &Path) -> Result<Vec<Curve>> {
    let folder = run.join("training");
    let entries = std::fs::read_dir(&folder).map_err(Error::io(&folder, "list"))?;
    let mut logs: Vec<_> = entries.flatten().map(|e| e.path().join("metrics.jsonl")).filter(|p| p.is_file()).collect();
    logs.sort();
    let name = run.file_name().map_or_else(|| run.display().to_string(), |n| n.to_string_lossy().into_owned());
    logs.iter().map(|log| Ok(Curve { name: name.clone(), points: points(log)? })).collect()
}

/// (update, loss) of each line that has both.
fn points(log: &Path) -> Result<Vec<(f64, f64)>> {
    let text = std::fs::read_to_string(log).map_err(Error::io(log, "read"))?;
    let mut points = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let hint = "name the folder of a run of `deme finetune`";
        let value: Value = serde_json::from_str(line)
            .map_err(|e| Error::format(log, format!("line {}", n + 1), e.to_string(), hint))?;
        if let (Some(step), Some(loss)) = (value["step"].as_f64(), value["noise_loss"].as_f64()) {
            points.push((step, loss));
        }
    }
    Ok(points)
}

/// Over the updates that both have: how many, the largest and the mean of |a - b| / a, and where the largest is.
fn apart(a: &Curve, b: &Curve) -> (usize, f64, f64, f64) {
    let of: BTreeMap<u64, f64> = a.points.iter().map(|&(step, loss)| (step as u64, loss)).collect();
    let shared = b.points.iter().filter_map(|&(step, loss)| Some((step, of.get(&(step as u64))?, loss)));
    let apart: Vec<_> = shared.map(|(step, a, b)| (step, (a - b).abs() / a)).collect();
    let (at, largest) = apart.iter().fold((0.0, 0.0), |worst, &next| if next.1 > worst.1 { next } else { worst });
    (apart.len(), largest, at, apart.iter().map(|p| p.1).sum::<f64>() / apart.len().max(1) as f64)
}

pub(super) fn run(args: &CurvesArgs) -> Result<()> {
    let mut all = Vec::new();
    for run in &args.runs {
        all.extend(curves(run)?);
    }
    let Some(first) = all.first().filter(|c| !c.points.is_empty()) else {
        return Err(Error::usage("no run has logged a loss".to_owned(), "name folders of runs of `deme finetune`"));
    };
    say!(
        "{:24} {:>8} {:>12} {:>12} {:>20} {:>12}",
        "run",
        "lines",
        "first loss",
        "last loss",
        "largest apart",
        "mean apart"
    )?;
    for curve in &all {
        let (lines, largest, at, mean) = apart(first, curve);
        let [begin, end] = [curve.points.first(), curve.points.last()].map(|p| p.map_or(f64::NAN, |p| p.1));
        let worst = format!("{:.4} % at {at}", 100.0 * largest);
        say!("{:24} {lines:>8} {begin:>12.6} {end:>12.6} {worst:>20} {:>10.4} %", curve.name, 100.0 * mean)?;
    }
    match &args.out {
        Some(path) => atomic::write(path, plots::training(&all)?.as_bytes()),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn curves_are_compared_at_the_updates_that_both_have() {
        let curve = |points: &[(f64, f64)]| Curve { name: String::new(), points: points.to_vec() };
        let a = curve(&[(1.0, 2.0), (2.0, 1.0), (3.0, 0.5)]);
        let b = curve(&[(2.0, 1.1), (3.0, 0.5), (4.0, 9.0)]);
        let (lines, largest, at, mean) = apart(&a, &b);
        assert_eq!((lines, at), (2, 2.0));
        assert!((largest - 0.1).abs() < 1e-12 && (mean - 0.05).abs() < 1e-12);
        assert_eq!(apart(&a, &curve(&[])).0, 0);
    }

    #[test]
    fn a_runs_log_is_a_curve_and_a_torn_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("training/expert_0");
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join("metrics.jsonl");
        std::fs::write(&log, "{\"step\":1,\"noise_loss\":0.5}\n{\"step\":2,\"held_out\":1}\n").unwrap();
        let found = curves(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].points, [(1.0, 0.5)]);
        std::fs::write(&log, "{\"step\":").unwrap();
        assert!(curves(dir.path()).err().unwrap().to_string().contains("line 1"));
    }
}
