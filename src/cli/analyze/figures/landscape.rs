//! Figures of the loss: around the base (fig. 4), along the task vectors, and on the plane of two (fig. 7a). Called by `figures`.

use super::{Figure, percent};
use crate::cli::analyze::plots::contours::{Contours, contours};
use crate::cli::analyze::plots::lines::{Series, lines};
use crate::cli::analyze::plots::panels;
use crate::cli::analyze::{expert_name, range_name};
use crate::deme::analyze::landscape::{Around, Line, Plane, Point, TaskPlane};
use crate::deme::ranges::Ranges;
use crate::error::Result;

/// The loss's change in percent of the base's, overall or in a range.
fn change(point: &Point, range: Option<usize>) -> (f64, f64) {
    let of = point.of(range);
    let base = of.loss - of.difference;
    (100.0 * of.difference / base, 100.0 * of.difference_error.0.unwrap_or(0.0) / base)
}

fn titles(ranges: &Ranges) -> Vec<(Option<usize>, String)> {
    let whole = (None, format!("all, {}", range_name(&ranges.whole())));
    std::iter::once(whole).chain(ranges.iter().enumerate().map(|(i, r)| (Some(i), range_name(&r)))).collect()
}

/// A panel overall and one a range.
fn planes(plane: &Plane, ranges: &Ranges, axes: [&str; 2], marks: &[(String, [f64; 2])]) -> Result<String> {
    let titles = titles(ranges);
    panels(titles.len(), 3, (340, 320), &[], |i, area| {
        let (range, name) = &titles[i];
        let values: Vec<f64> = plane.points.iter().map(|p| change(p, *range).0).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let title = format!("{name}: {} to {}", percent(low), percent(high));
        contours(area, &Contours { title, axes, x: &plane.x, y: &plane.y, values, marks: marks.to_vec() })
    })
}

/// "lowest overall at ...: ..."
fn lowest(plane: &Plane, place: impl Fn(&Point) -> String) -> String {
    let Some(point) = plane.lowest(None) else { return String::new() };
    let (value, error) = change(point, None);
    let points = plane.points.len();
    match value < 0.0 {
        true => format!(
            "Overall the lowest of {points} points is {} ± {error:.3} % against the base, at {}.",
            percent(value),
            place(point)
        ),
        false => format!("Overall none of {points} points is lower than the base."),
    }
}

pub fn random_plane(plane: &Plane, ranges: &Ranges) -> Result<Figure> {
    let marks = [("base".to_owned(), [0.0, 0.0])];
    let axes = ["a, along d₁", "b, along d₂"];
    let away =
        ranges.iter().enumerate().filter(|(r, _)| plane.lowest(Some(*r)).is_some_and(|p| change(p, Some(*r)).0 < 0.0));
    let away: Vec<String> = away.map(|(_, r)| range_name(&r)).collect();
    let better = if away.is_empty() { "in no range".into() } else { format!("in {}", away.join(", ")) };
    Ok(Figure {
        title: "The loss around the base (fig. 4)".into(),
        seen: format!(
            "{} A lower loss than the base's is on this plane {better}.",
            lowest(plane, |p| format!("a = {:.3}, b = {:.3}", p.at[0], p.at[1]))
        ),
        how: "Change of the denoising loss, in percent of the base's, at θ + a d₁ + b d₂ with two random directions that have the norm of \
              θ in every filter (Li et al. 2018): at 1 a filter would have moved by its own norm. All points are judged on the same images, \
              timesteps and noise. 16 bands from the lowest (blue) to the highest (red) value of each panel, which its title gives; between \
              the measured points they are interpolated."
            .into(),
        svgs: vec![planes(plane, ranges, axes, &marks)?],
        table: None,
    })
}

pub fn along(around: &Around, ranges: &Ranges) -> Result<Figure> {
    let titles = titles(ranges);
    let names: Vec<String> = around.lines.iter().map(|line| expert_name(line.expert, ranges)).collect();
    let plot = panels(titles.len(), 3, (340, 280), &names, |i, area| {
        let (range, name) = &titles[i];
        let series: Vec<Series> = around
            .lines
            .iter()
            .map(|line| {
                let point = |p: &Point| {
                    let (value, error) = change(p, *range);
                    (p.at[0], value, error)
                };
                line.points.iter().map(point).collect()
            })
            .collect();
        lines(area, name, ["a, base at 0, expert at 1", "change of the loss, %"], &series)
    })?;
    let own = |line: &Line| {
        let best =
            line.points.iter().min_by(|a, b| change(a, Some(line.expert)).0.total_cmp(&change(b, Some(line.expert)).0));
        best.map(|p| {
            let (value, error) = change(p, Some(line.expert));
            format!(
                "expert {} {} ± {error:.3} % at a = {}",
                line.expert,
                percent(value).trim_end_matches(" %"),
                p.at[0]
            )
        })
    };
    let best: Vec<String> = around.lines.iter().filter_map(own).collect();
    Ok(Figure {
        title: "The loss along each task vector (fig. 4)".into(),
        seen: format!("Lowest on each expert's own timesteps, against the base: {}.", best.join(", ")),
        how: "Change of the denoising loss at θ + a (θᵢ − θ), in percent of the base's, on the same images, timesteps and noise; bars are \
              one standard error of the paired difference."
            .into(),
        svgs: vec![plot],
        table: None,
    })
}

pub fn task_plane(t: &TaskPlane, ranges: &Ranges) -> Result<Figure> {
    let [i, j] = t.experts;
    let mut marks = vec![("base".to_owned(), [0.0, 0.0])];
    marks.extend(t.experts.iter().zip(t.places).map(|(e, place)| (format!("expert {e}"), place)));
    let along = format!("along τ{i}, |Δθ|");
    let beside = format!("across, towards τ{j}, |Δθ|");
    Ok(Figure {
        title: "The loss on the plane of two task vectors (fig. 7a)".into(),
        seen: lowest(&t.plane, |p| format!("w{i} = {:.2}, w{j} = {:.2}", p.weights[0], p.weights[1])),
        how: format!(
            "Change of the denoising loss at θ + w{i} τ{i} + w{j} τ{j}, in percent of the base's, on the same images, timesteps and noise. The \
             axes are an orthonormal basis of the plane, in lengths of the space of weights. Bands as above."
        ),
        svgs: vec![planes(&t.plane, ranges, [&along, &beside], &marks)?],
        table: None,
    })
}
