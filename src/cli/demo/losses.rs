//! The demo's losses: a row per timestep range and the total, as a table on the screen and as JSON.
//! Called by `cli::demo`.

use serde_json::{Value, json};

use super::Compared;
use super::report::LossRow;
use crate::cli::terminal::say;
use crate::diffusion::summary::Summary;
use crate::error::Result;
use crate::eval::loss::Buckets;

/// A row per range, then the total.
pub fn loss_rows(compared: &[Compared], ranges: &[std::ops::Range<usize>]) -> Vec<LossRow> {
    let pairs = compared[0].losses.len();
    let buckets = Buckets::even(ranges, pairs);
    let named = ranges.iter().zip(buckets.pairs).map(|(t, pairs)| (format!("{}..{}", t.start, t.end), pairs));
    let row = |(range, pairs): (String, std::ops::Range<usize>)| {
        let part = |c: &Compared| c.losses[pairs.clone()].to_vec();
        let base = part(&compared[0]);
        let images = &compared[0].images[pairs.clone()];
        LossRow {
            range,
            losses: compared.iter().map(|c| Summary::of(&part(c), images)).collect(),
            differences: compared[1..].iter().map(|c| Summary::of_difference(&part(c), &base, images)).collect(),
        }
    };
    named.chain([("all".to_string(), 0..pairs)]).map(row).collect()
}

pub fn print_table(compared: &[Compared], rows: &[LossRow]) -> Result<()> {
    let names: Vec<String> = compared.iter().map(|c| format!("{:>10}", c.name)).collect();
    let versus: Vec<String> = compared[1..].iter().map(|c| format!("{:>24}", format!("{} - base", c.name))).collect();
    say!("\nheld-out loss by timestep range (± one standard error)")?;
    say!("{:>10} {} {}", "timesteps", names.join(" "), versus.join(" "))?;
    for r in rows {
        let losses: Vec<String> = r.losses.iter().map(|s| format!("{:>10.6}", s.mean)).collect();
        let change = |s: &Summary| format!("{:>24}", format!("{:+.6} ± {:.6}", s.mean, s.standard_error));
        let changes: Vec<String> = r.differences.iter().map(change).collect();
        say!("{:>10} {} {}", r.range, losses.join(" "), changes.join(" "))?;
    }
    Ok(())
}

pub fn losses_json(compared: &[Compared], rows: &[LossRow]) -> Value {
    let summary = |s: &Summary| json!({ "mean": s.mean, "standard_error": s.standard_error, "pairs": s.n });
    let row = |r: &LossRow| {
        let losses: serde_json::Map<_, _> =
            compared.iter().zip(&r.losses).map(|(c, s)| (c.name.to_string(), summary(s))).collect();
        let differences: serde_json::Map<_, _> =
            compared[1..].iter().zip(&r.differences).map(|(c, s)| (c.name.to_string(), summary(s))).collect();
        json!({ "timesteps": r.range, "losses": losses, "against_base": differences })
    };
    json!({ "rows": rows.iter().map(row).collect::<Vec<_>>() })
}
