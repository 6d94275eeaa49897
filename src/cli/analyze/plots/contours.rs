//! Filled contours of a loss on a plane, low blue and high red as the paper draws them. Called by `figures`.

use contour::ContourBuilder;
use plotters::prelude::*;

use super::{AXIS, Area, LABEL, TITLE, diverging, short};
use crate::cli::demo::plots::failed;
use crate::error::Result;

/// Bands of equal height between the lowest and the highest value.
const BANDS: usize = 16;
/// Points between two measured ones, for smooth lines.
const FINER: usize = 8;

/// Values on a grid, row by row from the lowest y, and named places on it.
pub struct Contours<'a> {
    pub title: String,
    pub axes: [&'a str; 2],
    pub x: &'a [f64],
    pub y: &'a [f64],
    pub values: Vec<f64>,
    pub marks: Vec<(String, [f64; 2])>,
}

/// The values between four measured ones in a row, at `f` from the second to the third (Catmull and Rom's cubic).
fn cubic([a, b, c, d]: [f64; 4], f: f64) -> f64 {
    b + 0.5 * f * (c - a + f * (2.0 * a - 5.0 * b + 4.0 * c - d + f * (3.0 * (b - c) + d - a)))
}

/// `values` with FINER points an interval.
fn refine(values: &[f64]) -> Vec<f64> {
    let n = values.len();
    // Beyond the ends the row goes on straight.
    let at = |i: usize| match i {
        0 => 2.0 * values[0] - values[1],
        i if i > n => 2.0 * values[n - 1] - values[n - 2],
        i => values[i - 1],
    };
    let point = |k: usize| {
        let (i, f) = ((k / FINER).min(n - 2), k as f64 / FINER as f64);
        cubic([at(i), at(i + 1), at(i + 2), at(i + 3)], f - i as f64)
    };
    (0..=(n - 1) * FINER).map(point).collect()
}

/// A finer grid of the same plane, and its columns.
fn refined(values: &[f64], columns: usize) -> (Vec<f64>, usize) {
    let rows: Vec<Vec<f64>> = values.chunks(columns).map(refine).collect();
    let wide = rows.first().map_or(0, Vec::len);
    let columns: Vec<Vec<f64>> = (0..wide).map(|c| refine(&rows.iter().map(|r| r[c]).collect::<Vec<_>>())).collect();
    let tall = columns.first().map_or(0, Vec::len);
    ((0..tall).flat_map(|r| columns.iter().map(move |c| c[r])).collect(), wide)
}

pub fn contours(area: &Area, what: &Contours) -> Result<()> {
    let ends = |axis: &[f64]| axis[0]..axis[axis.len() - 1];
    let (x, y) = (ends(what.x), ends(what.y));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(&what.title, TITLE)
        .x_label_area_size(38)
        .y_label_area_size(58)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.disable_mesh().x_labels(5).y_labels(5).x_label_formatter(&|v| short(*v)).y_label_formatter(&|v| short(*v));
    mesh.x_desc(what.axes[0]).y_desc(what.axes[1]).draw().map_err(failed)?;
    let (fine, columns) = refined(&what.values, what.x.len());
    let rows = fine.len() / columns;
    let low = fine.iter().copied().fold(f64::INFINITY, f64::min);
    let high = fine.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = (high - low).max(f64::MIN_POSITIVE);
    // A little beyond both ends, so that every point is in a band.
    let level = |i: usize| low + span * (1.0002 * i as f64 / BANDS as f64 - 0.0001);
    let step = |axis: &std::ops::Range<f64>, n: usize| (axis.end - axis.start) / (n - 1) as f64;
    let (dx, dy) = (step(&x, columns), step(&y, rows));
    // The library's grid has its values in the middles of cells.
    let builder = ContourBuilder::new(columns, rows, true)
        .x_origin(x.start - 0.5 * dx)
        .y_origin(y.start - 0.5 * dy)
        .x_step(dx)
        .y_step(dy);
    let bands = builder.isobands(&fine, &(0..=BANDS).map(level).collect::<Vec<_>>()).map_err(failed)?;
    let inside = |p: (f64, f64)| (p.0.clamp(x.start, x.end), p.1.clamp(y.start, y.end));
    for (i, band) in bands.iter().enumerate() {
        let fill = diverging((i as f64 + 0.5) / BANDS as f64);
        for polygon in &band.geometry().0 {
            let ring = |line: &[contour::Pt]| line.iter().map(|c| inside((c.x, c.y))).collect::<Vec<_>>();
            let outer = ring(&polygon.exterior().0);
            // A hole hangs on the outer ring by a slit: there and back again.
            let mut path = outer.clone();
            for hole in polygon.interiors() {
                path.extend(ring(&hole.0));
                path.extend(outer.last());
            }
            chart.draw_series([Polygon::new(path, fill.filled())]).map_err(failed)?;
            let edge = fill.mix(1.0).stroke_width(1);
            chart.draw_series([PathElement::new(outer, edge)]).map_err(failed)?;
        }
    }
    for i in 1..BANDS {
        let lines = builder.lines(&fine, &[level(i)]).map_err(failed)?;
        for line in lines.iter().flat_map(|l| &l.geometry().0) {
            let path: Vec<(f64, f64)> = line.0.iter().map(|c| inside((c.x, c.y))).collect();
            chart.draw_series([PathElement::new(path, RGBColor(60, 60, 60).mix(0.35))]).map_err(failed)?;
        }
    }
    for (name, [px, py]) in &what.marks {
        let ink = RGBColor(20, 20, 20);
        chart.draw_series([Circle::new((*px, *py), 4, ink.filled())]).map_err(failed)?;
        let style = ("sans-serif", 13).into_font().color(&ink);
        let text = EmptyElement::at((*px, *py)) + Text::new(name.clone(), (7, -14), style);
        chart.draw_series([text]).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finer_grids_keep_measured_points_and_straight_lines() {
        let line: Vec<f64> = (0..5).map(|i| 3.0 - 2.0 * f64::from(i)).collect();
        let fine = refine(&line);
        assert_eq!(fine.len(), 4 * FINER + 1);
        assert!((0..fine.len()).all(|k| (fine[k] - (3.0 - 2.0 * k as f64 / FINER as f64)).abs() < 1e-12));
        let values: Vec<f64> = (0..12).map(|i| f64::from(i * i % 7)).collect();
        let (fine, columns) = refined(&values, 4);
        assert_eq!((columns, fine.len()), (3 * FINER + 1, (3 * FINER + 1) * (2 * FINER + 1)));
        for (i, v) in values.iter().enumerate() {
            assert!((fine[i / 4 * FINER * columns + i % 4 * FINER] - v).abs() < 1e-12);
        }
    }
}
