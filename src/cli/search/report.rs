//! What a search found: printed, and written as weights.json. Called by `cli::search`.

use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::SearchArgs;
use crate::cli::terminal::say;
use crate::cli::weights_file::MergeWeights;
use crate::deme::blocks::Per;
use crate::deme::merge::Weights;
use crate::deme::search::{Candidate, Table};
use crate::error::Result;
use crate::gpu::Tuning;
use crate::io::atomic;

/// What a search took.
pub struct Cost {
    pub candidates: usize,
    /// Of a pair: of the search, and of the elite with fresh noise.
    pub passes: [u64; 2],
    pub pairs: u64,
}

/// What a search found.
pub struct Found {
    /// The timesteps that judged; all where there is none.
    pub own: Option<Range<u32>>,
    pub best: Candidate,
    pub weights: Weights,
    pub cost: Cost,
}

/// What was tried, what it cost, and who won.
pub fn print(args: &SearchArgs, table: &Table, found: &Found) -> Result<()> {
    let Found { own, best, weights, cost } = found;
    if let Some(own) = own {
        say!("timesteps {} to {}:", own.start, own.end - 1)?;
    }
    let [searched, again] = cost.passes.map(|passes| passes * cost.pairs);
    say!(
        "{} candidates by {}: {searched} forward passes of an image, a backward pass counted as two",
        cost.candidates,
        args.method.word()
    )?;
    let short = |w: &[f64]| if args.per() == Per::Model { format!(", at w = {w:?}") } else { String::new() };
    if best.fresh {
        say!("the best of them and the base again, on fresh timesteps and noise, {again} forward passes:")?;
        for row in table.ranked(true) {
            let (loss, change) = (row.loss, row.difference);
            say!("  {loss:.6}, against the base {change:+.6} ± {:.6}{}", row.difference_error, short(&row.w))?;
        }
    }
    match args.per() {
        Per::Model => say!("the best at w = {:?}", best.w)?,
        Per::Block | Per::Layer => {
            let per = args.per().name();
            say!("the best weights, {per} by {per}:")?;
            for (block, w) in weights.rows() {
                say!("  {block}: {w:?}")?;
            }
        }
    }
    let noise = if best.fresh { "loss on fresh noise" } else { "search loss" };
    let pairs = cost.pairs;
    let (loss, change) = (best.loss, best.difference);
    say!("{noise} {loss:.6}, against the base {change:+.6} ± {:.6} ({pairs} pairs)", best.difference_error)
}

/// weights.json: the result in a form that scripts and `deme merge --weights-file` read.
pub fn write(args: &SearchArgs, found: &[Found], tuning: &Tuning) -> Result<PathBuf> {
    let facts = |Found { best, cost, .. }: &Found| {
        json!({
            "loss": best.loss, "difference": best.difference, "difference_error": best.difference_error,
            "fresh_noise": best.fresh, "candidates": cost.candidates, "forward_passes": cost.passes[0] * cost.pairs,
            "elite_forward_passes": cost.passes[1] * cost.pairs,
        })
    };
    let rows: Vec<_> = found.iter().filter_map(|one| Some((one.own.clone()?, one.weights.clone()))).collect();
    let (weights, more) = match found {
        [one] if rows.is_empty() => (MergeWeights::One(one.weights.clone()), facts(one)),
        _ => (MergeWeights::PerRange(rows), json!({ "searches": found.iter().map(facts).collect::<Vec<_>>() })),
    };
    let mut text = weights.to_json();
    text.extend(more.as_object().cloned().unwrap_or_default());
    let run = json!({
        "method": args.method.word(), "experts": args.experts, "model": args.model, "tuning_sha256": tuning.sha256(),
    });
    text.extend(run.as_object().cloned().unwrap_or_default());
    let path = args.out.join("weights.json");
    atomic::write(&path, format!("{:#}\n", Value::Object(text)).as_bytes())?;
    Ok(path)
}
