//! Figures of the task vectors: magnitudes (fig. 7b) and angles (fig. 8). Called by `figures`.

use super::{Figure, mean, short_name};
use crate::cli::analyze::expert_name;
use crate::cli::analyze::plots::boxes::{boxes, percentiles};
use crate::cli::analyze::plots::heat::{Colours, Heat, heat};
use crate::cli::analyze::plots::panels;
use crate::deme::analyze::vectors::Vectors;
use crate::deme::blocks::block_of;
use crate::deme::ranges::Ranges;
use crate::error::Result;

pub fn magnitudes(v: &Vectors, ranges: &Ranges) -> Result<Figure> {
    let n = v.whole.products.len();
    let experts: Vec<String> = (0..n).map(|i| expert_name(i, ranges)).collect();
    let blocks: Vec<String> = v.blocks.iter().map(|b| short_name(&b.name)).collect();
    let rms = |i: usize, block: usize| {
        let own = v.tensors.iter().filter(|t| block_of(&t.tensor) == v.blocks[block].name);
        percentiles(own.map(|t| t.norms[i] / (t.elements as f64).sqrt()).collect())
    };
    let values: Vec<Vec<_>> = (0..n).map(|i| (0..blocks.len()).map(|b| rms(i, b)).collect()).collect();
    let plot =
        panels(1, 1, (1000, 360), &experts, |_, area| boxes(area, "", "RMS change of a weight", &blocks, &values))?;
    let cells: Vec<Vec<Option<f64>>> =
        v.blocks.iter().map(|b| (0..n).map(|i| b.relative(i).map(|r| 100.0 * r)).collect()).collect();
    let highest = cells.iter().flatten().flatten().copied().fold(1e-12, f64::max);
    let digits = Some((2 - highest.log10().floor() as i32).clamp(0, 4) as usize);
    let what = Heat {
        size: (180 + 130 * n as u32, 130 + 34 * blocks.len() as u32),
        rows: &blocks,
        columns: &experts,
        x: "",
        y: "",
        unit: "|τ| / |θ|, %",
        colours: Colours::UpTo(highest),
        digits,
    };
    let row = |i: usize| {
        format!("{} {:.4} ({:.3} % of |θ|)", experts[i], v.whole.norm(i), 100.0 * v.whole.relative(i).unwrap_or(0.0))
    };
    Ok(Figure {
        title: "Magnitude of the task vectors (fig. 7b)".into(),
        seen: format!("|τ| over all weights: {}.", (0..n).map(row).collect::<Vec<_>>().join(", ")),
        how: "τᵢ = θᵢ − θ, tensor by tensor. Boxes: the root mean square of a tensor's change, over the tensors of a block, from the 25th to \
              the 75th percentile, whiskers from the 5th to the 95th. Map: the length of a block's change against the base's."
            .into(),
        svgs: vec![plot, heat(&what, &cells)?],
        table: None,
    })
}

pub fn cosines(v: &Vectors, ranges: &Ranges) -> Result<Figure> {
    let n = v.whole.products.len();
    let experts: Vec<String> = (0..n).map(|i| expert_name(i, ranges)).collect();
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect();
    let side = 110 * n as u32;
    let whole = Heat {
        size: (side + 200, side / 2 + 150),
        rows: &experts,
        columns: &experts,
        x: "",
        y: "",
        unit: "cosine",
        colours: Colours::Around(1.0),
        digits: Some(3),
    };
    let mut svgs = vec![heat(&whole, &v.whole.cosines())?];
    if !pairs.is_empty() {
        let rows: Vec<String> = v.blocks.iter().map(|b| short_name(&b.name)).collect();
        let columns: Vec<String> = pairs.iter().map(|(i, j)| format!("{i}, {j}")).collect();
        let cells: Vec<Vec<_>> =
            v.blocks.iter().map(|b| pairs.iter().map(|&(i, j)| b.cosine(i, j)).collect()).collect();
        let by_block = Heat {
            size: (200 + 80 * pairs.len() as u32, 130 + 34 * rows.len() as u32),
            rows: &rows,
            columns: &columns,
            x: "experts",
            digits: Some(3).filter(|_| pairs.len() <= 15),
            ..whole
        };
        svgs.push(heat(&by_block, &cells)?);
    }
    let all: Vec<f64> = pairs.iter().filter_map(|&(i, j)| v.whole.cosine(i, j)).collect();
    let seen = if all.is_empty() {
        "There is one task vector only.".into()
    } else {
        let most = all.iter().copied().fold(0.0, |m: f64, c| if c.abs() > m.abs() { c } else { m });
        let angle = most.clamp(-1.0, 1.0).acos().to_degrees();
        format!(
            "Mean cosine between different task vectors: {:.3}; farthest from a right angle {most:.3}, {angle:.0} degrees.",
            mean(&all)
        )
    };
    Ok(Figure {
        title: "Angles between the task vectors (fig. 8)".into(),
        seen,
        how: "Cosine of the angle between τᵢ and τⱼ over all weights, and block by block; 0 is a right angle: merging them, one does not undo \
              the other."
            .into(),
        svgs,
        table: None,
    })
}
