//! Rows as lines of text.
//! Called by the commands of `bench`.

use crate::bench::results::{Moved, Row};
use crate::cli::terminal::say;
use crate::error::Result;

/// 0.00123 -> "1.230 ms".
pub fn seconds(s: f64) -> String {
    match s {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.3} ms", 1e3 * s),
        s => format!("{:.2} us", 1e6 * s),
    }
}

fn rate(value: Option<f64>, percent: Option<f64>) -> String {
    let percent = percent.map_or(String::new(), |p| format!("{p:4.0} %"));
    value.map_or(String::new(), |v| format!("{v:.1}")) + &format!("{percent:>7}")
}

/// What the columns of `row` are.
pub fn head() -> Result<()> {
    say!(
        "{:38} {:32} {:36} {:>10} {:>10} {:>7} {:>16} {:>16}",
        "case",
        "pass or kernel",
        "variant (*: chosen)",
        "median",
        "best",
        "spread",
        "GFLOP/s, of FMA",
        "GB/s, of copy"
    )
}

pub fn row(row: &Row) -> Result<()> {
    let variant = format!("{}{}", row.variant, if row.chosen { " *" } else { "" });
    say!(
        "{:38} {:32} {variant:36} {:>10} {:>10} {:>5.1} % {:>16} {:>16}",
        row.case,
        row.pass,
        seconds(row.median_s),
        seconds(row.best_s),
        100.0 * row.spread,
        rate(row.gflop_s, row.fma_percent),
        rate(row.gb_s, row.copy_percent)
    )
}

/// What moved beyond the noise, slower first.
pub fn moved(rows: &[Row], moved: &[Moved]) -> Result<()> {
    say!("\nagainst the baseline: {} of {} rows moved beyond the noise", moved.len(), rows.len())?;
    let mut sorted = moved.to_vec();
    sorted.sort_by(|a, b| (b.now / b.before).total_cmp(&(a.now / a.before)));
    for m in sorted {
        let change = 100.0 * (m.now / m.before - 1.0);
        let verdict = if change > 0.0 { "SLOWER" } else { "faster" };
        let name = super::name(&rows[m.row]);
        say!("{verdict} {change:+7.1} %  {name}: {} -> {}", seconds(m.before), seconds(m.now))?;
    }
    Ok(())
}
