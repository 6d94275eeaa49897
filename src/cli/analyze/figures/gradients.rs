//! Figures of the gradients: fig. 1a and proposition 1. Called by `figures`.

use super::{Figure, Table, mean};
use crate::cli::analyze::plots::heat::{Colours, Heat, heat};
use crate::cli::analyze::plots::lines::{Series, histogram, logarithmic};
use crate::cli::analyze::plots::panels;
use crate::cli::analyze::range_name;
use crate::deme::analyze::gradients::{Gradients, Norm};
use crate::error::Result;

pub fn similarity(g: &Gradients) -> Result<Figure> {
    let names: Vec<String> = g.buckets.iter().map(|b| b.timesteps.start.to_string()).collect();
    let axis = "first timestep of the bucket";
    let what = Heat {
        size: (620, 520),
        rows: &names,
        columns: &names,
        x: axis,
        y: axis,
        unit: "cosine",
        colours: Colours::Around(1.0),
        digits: None,
    };
    let cells: Vec<Vec<Option<f64>>> = g.raw_cosines.iter().map(|row| row.iter().map(|&c| Some(c)).collect()).collect();
    let all = std::iter::once(&g.whole).chain(&g.ranges).map(|n| &n.timesteps);
    let shown: Vec<_> = all.map(|t| (range_name(t), g.pairs(t))).filter(|(_, pairs)| !pairs.is_empty()).collect();
    let columns = 3;
    let distributions =
        panels(shown.len(), columns, (330, 220), &[], |i, area| histogram(area, &shown[i].0, &shown[i].1))?;
    let within: Vec<f64> = g.ranges.iter().flat_map(|r| g.pairs(&r.timesteps)).collect();
    let known: Vec<f64> =
        (0..g.buckets.len()).flat_map(|i| (0..i).map(move |j| (i, j))).filter_map(|(i, j)| g.cosines[i][j]).collect();
    let corrected = if known.is_empty() {
        "No two buckets' gradients rise above the noise of so few samples; give more --groups or --group-images.".into()
    } else {
        let negative = known.iter().filter(|c| **c < 0.0).count();
        format!(
            "Without the bias of noise the mean over the {} pairs whose gradients are beyond two standard errors is {:.3}, and {negative} of them are negative.",
            known.len(),
            mean(&known)
        )
    };
    Ok(Figure {
        title: "Gradients at different timesteps (fig. 1a)".into(),
        seen: format!(
            "The mean cosine between two buckets is {:.3} over all timesteps and {:.3} inside a range. {corrected}",
            mean(&g.pairs(&g.whole.timesteps)),
            mean(&within)
        ),
        how: format!(
            "Gradient of the denoising loss at the base, averaged over {} groups of {} images in each bucket; within a group all buckets \
             see the same images and noise, which makes the cosines larger than those of the true gradients. Below: how the cosines of different buckets are distributed.",
            g.amounts.groups, g.amounts.images
        ),
        svgs: vec![heat(&what, &cells)?, distributions],
        table: None,
    })
}

pub fn critical_point(g: &Gradients) -> Result<Figure> {
    let middle = |n: &Norm| f64::from(n.timesteps.start + n.timesteps.end) / 2.0;
    let series = |of: &dyn Fn(&Norm) -> f64| -> Series { g.buckets.iter().map(|n| (middle(n), of(n), 0.0)).collect() };
    let all = [series(&|n| n.raw), series(&|n| n.noise), series(&Norm::length)];
    let names = ["as averaged", "its noise", "without noise"].map(str::to_owned);
    let plot =
        panels(1, 1, (960, 340), &names, |_, area| logarithmic(area, ["timestep", "gradient norm of a bucket"], &all))?;
    let row = |n: &Norm| {
        vec![
            range_name(&n.timesteps),
            format!("{:.3e}", n.raw),
            format!("{:.3e}", n.noise),
            format!("{:.3e} ± {:.1e}", n.squared, n.squared_error),
            format!("{:.3e}", n.length()),
            format!("{:.1}", n.significance()),
        ]
    };
    let beyond = g.ranges.iter().filter(|n| n.significance() > 2.0).count();
    let whole = if g.whole.significance() > 2.0 {
        format!("the whole objective still has a gradient of {:.2e}", g.whole.length())
    } else {
        "the gradient of the whole objective cannot be told from 0".into()
    };
    let largest = g.ranges.iter().map(Norm::length).fold(0.0, f64::max);
    let ranges = match beyond {
        0 => "No range has a gradient that can be told from 0 with so few samples".into(),
        _ => format!(
            "{beyond} of {} ranges have a gradient beyond two standard errors, the longest {largest:.2e}",
            g.ranges.len()
        ),
    };
    Ok(Figure {
        title: "Is the base a critical point? (proposition 1)".into(),
        seen: format!("{ranges}; {whole}. More --groups or --group-images lower the noise."),
        how: format!(
            "A gradient averaged over few samples is too long: |mean g|² = |E g|² + noise. The square without noise is the mean of the \
             products between {} independent groups of images and noise, which has no such bias and may come out below 0; ± is one standard \
             error by leaving out one group after the other.",
            g.amounts.groups
        ),
        svgs: vec![plot],
        table: Some(Table {
            head: [
                "timesteps",
                "norm as averaged",
                "its noise",
                "square without noise",
                "norm without noise",
                "standard errors",
            ]
            .map(str::to_owned)
            .into(),
            rows: g.ranges.iter().chain([&g.whole]).map(row).collect(),
        }),
    })
}
