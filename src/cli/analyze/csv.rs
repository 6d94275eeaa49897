//! The measured numbers as CSV, one file a table. Called by `analyze`.

use std::fmt::Write;
use std::path::Path;

use super::parts::Found;
use super::range_name;
use crate::deme::analyze::gradients::Norm;
use crate::deme::analyze::landscape::{Loss, Point};
use crate::error::Result;
use crate::io::atomic;

/// An empty field where there is no number.
fn field(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}

/// Writes all tables of the parts that are there.
pub fn write(out: &Path, found: &Found) -> Result<()> {
    let file = |name: &str, header: String, rows: Vec<String>| {
        let text: String = std::iter::once(header).chain(rows).map(|line| line + "\n").collect();
        atomic::write(&out.join(name), text.as_bytes())
    };
    if let Some(g) = &found.gradients {
        let k = g.buckets.len();
        let row = |(i, j): (usize, usize)| {
            let [a, b] = [i, j].map(|i| range_name(&g.buckets[i].timesteps));
            format!("{a},{b},{},{}", g.raw_cosines[i][j], field(g.cosines[i][j]))
        };
        let pairs = (0..k).flat_map(|i| (0..k).map(move |j| (i, j)));
        let header = "timesteps_a,timesteps_b,cosine,cosine_without_noise".to_owned();
        file("gradient_cosines.csv", header, pairs.map(row).collect())?;
        let norm = |(kind, n): (&str, &Norm)| {
            let Norm { timesteps, raw, noise, squared, squared_error } = n;
            format!("{kind},{},{raw},{noise},{squared},{squared_error}", range_name(timesteps))
        };
        let kinds = [("bucket", &g.buckets[..]), ("range", &g.ranges), ("whole", std::slice::from_ref(&g.whole))];
        let rows = kinds.into_iter().flat_map(|(kind, norms)| norms.iter().map(move |n| (kind, n)));
        let header = "kind,timesteps,norm,noise,squared_without_noise,standard_error".to_owned();
        file("gradient_norms.csv", header, rows.map(norm).collect())?;
    }
    if let Some(a) = &found.activations {
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let row = |p: &crate::deme::analyze::activations::PartChange| {
            let (sizes, chance) = (format!("{},{},{}", p.channels, p.height, p.width), list(&p.chance()));
            let shares = list(&p.energy);
            format!(
                "{},{},{sizes},{},{},{},{shares},{chance}",
                p.expert,
                p.part,
                p.scale,
                list(&p.channel),
                list(&p.position)
            )
        };
        let five = |of: &str| ["p5", "p25", "p50", "p75", "p95"].map(|p| format!("{of}_{p}")).join(",");
        let shares = |of: &str| ["mean", "channels", "positions", "rest"].map(|p| format!("{of}_{p}")).join(",");
        let (percentiles, energies) =
            ([five("channel"), five("position")].join(","), [shares("share"), shares("chance")].join(","));
        let header = format!("expert,part,channels,height,width,scale,{percentiles},{energies}");
        file("activations.csv", header, a.parts.iter().map(row).collect())?;
    }
    if let Some(around) = &found.landscape {
        let rows = around.random.points.iter().map(|p| point("", p));
        file("random_plane.csv", points_header("", &["x", "y", "d1", "d2"], &around.random.points), rows.collect())?;
        if let Some(first) = around.lines.first() {
            let rows = around.lines.iter().flat_map(|l| l.points.iter().map(|p| point(&format!("{},", l.expert), p)));
            file("lines.csv", points_header("expert,", &["a", "weight"], &first.points), rows.collect())?;
        }
    }
    if let Some(p) = &found.plane {
        let [i, j] = p.experts;
        let weights = [format!("w{i}"), format!("w{j}")];
        let header = points_header("", &["x", "y", &weights[0], &weights[1]], &p.plane.points);
        file("task_plane.csv", header, p.plane.points.iter().map(|p| point("", p)).collect())?;
    }
    if let Some(v) = &found.vectors {
        let n = v.whole.products.len();
        let row = |t: &crate::deme::analyze::vectors::TensorChange| {
            let norms: Vec<String> = t.norms.iter().map(f64::to_string).collect();
            format!("{},{},{},{}", t.tensor, t.elements, t.base_norm, norms.join(","))
        };
        let names: Vec<String> = (0..n).map(|i| format!("expert_{i}")).collect();
        let header = format!("tensor,elements,base_norm,{}", names.join(","));
        file("task_vectors.csv", header, v.tensors.iter().map(row).collect())?;
        let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (i..n).map(move |j| (i, j))).collect();
        let parts = v.blocks.iter().chain([&v.whole]);
        let rows = parts.flat_map(|part| {
            let row = |(i, j): &(usize, usize)| {
                format!("{},{i},{j},{},{},{}", part.name, part.norm(*i), part.norm(*j), field(part.cosine(*i, *j)))
            };
            pairs.iter().map(row).collect::<Vec<_>>()
        });
        file("task_vector_cosines.csv", "part,i,j,norm_i,norm_j,cosine".to_owned(), rows.collect())?;
    }
    Ok(())
}

fn points_header(first: &str, columns: &[&str], points: &[Point]) -> String {
    let ranges = points.first().map_or(0, |p| p.ranges.len());
    let mut line = format!("{first}{},loss,difference,difference_error", columns.join(","));
    for r in 0..ranges {
        let _ = write!(line, ",loss_{r},difference_{r},difference_error_{r}");
    }
    line
}

fn point(first: &str, p: &Point) -> String {
    let numbers: Vec<String> = p.at.iter().chain(&p.weights).map(f64::to_string).collect();
    let mut line = format!("{first}{}", numbers.join(","));
    for Loss { loss, difference, difference_error } in std::iter::once(&p.overall).chain(&p.ranges) {
        let _ = write!(line, ",{loss},{difference},{}", field(difference_error.0));
    }
    line
}
