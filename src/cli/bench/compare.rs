//! `deme bench compare`: one table of the results of several engines, and their ratios to deme's.
//! Called by `cli::bench`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use super::table::seconds;
use crate::bench::results::{DEFAULT, Results, Row};
use crate::cli::terminal::say;
use crate::error::Result;

/// Print results of several engines side by side, with their times as multiples of deme's
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// Results of `deme bench --out`, benches/pytorch and benches/peers
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A row and who measured it.
struct Entry<'a> {
    results: &'a Results,
    file: String,
    row: &'a Row,
}

pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let read: Vec<Results> = args.files.iter().map(|path| Results::read(path)).collect::<Result<_>>()?;
    let stems = args.files.iter().map(|p| p.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned()));
    let stems: Vec<String> = stems.collect();
    for (results, stem) in read.iter().zip(&stems) {
        let Results { engine, version, device, driver, date, command, .. } = results;
        say!("{stem}: {engine} {version} on {device} ({driver}), {date}\n    {command}")?;
    }
    let entries: Vec<Entry> = read
        .iter()
        .zip(&stems)
        .flat_map(|(results, stem)| results.rows.iter().map(|row| Entry { results, file: stem.clone(), row }))
        .collect();
    say!("\n{:40} {:18} {:44} {:>12} {:>9}", "case", "pass", "engine and variant", "median", "x deme")?;
    let mut printed = BTreeSet::new();
    for entry in &entries {
        let key = (entry.row.case.as_str(), entry.row.pass.as_str());
        if printed.insert(key) {
            group(
                &entries.iter().filter(|e| (e.row.case.as_str(), e.row.pass.as_str()) == key).collect::<Vec<_>>(),
                read.len(),
            )?;
        }
    }
    Ok(())
}

/// The lines of one case and pass: of several files, only what more than one of them has.
fn group(entries: &[&Entry], files: usize) -> Result<()> {
    let of: BTreeSet<&str> = entries.iter().map(|e| e.file.as_str()).collect();
    if files > 1 && of.len() < 2 {
        return Ok(());
    }
    let ours = |e: &&&Entry| e.results.engine == "deme" && (e.row.variant == DEFAULT || e.row.chosen);
    let deme = entries.iter().find(ours).map(|e| e.row.median_s);
    for e in entries {
        let who = format!("{} {} ({})", e.results.engine, e.row.variant, e.file);
        let ratio = deme.filter(|d| *d > 0.0).map_or(String::new(), |d| format!("{:.2}", e.row.median_s / d));
        say!("{:40} {:18} {who:44} {:>12} {ratio:>9}", e.row.case, e.row.pass, seconds(e.row.median_s))?;
    }
    Ok(())
}
