//! A table as a picture: each row's change of the loss against the base with its error, and its distance where there is one.
//! SVG text. Called by `cli::reproduce`.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::rows::Role;
use super::table::Results;
use crate::cli::demo::plots::{colour, failed, room};
use crate::error::Result;

const WIDTH: u32 = 900;
const ROW: u32 = 30;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A point of a row: value, error, colour.
type Point = (f64, f64, RGBColor);

fn role_colour(role: Role) -> RGBColor {
    colour(match role {
        Role::Base => 5,
        Role::Baseline => 1,
        Role::Ensemble => 3,
        Role::Merged => 2,
    })
}

/// One panel for the loss, a second one for distances where some were measured.
pub fn svg(results: &Results) -> Result<String> {
    let rows = &results.rows;
    let base = rows.first().map_or(1.0, |r| r.losses[0].iter().sum::<f64>() / r.losses[0].len() as f64);
    let change = |i: usize| -> Point {
        let difference = results.against(i, 0, 0..results.images.len());
        let percent = |v: f64| 100.0 * v / base;
        let (mean, error) =
            difference.map_or((0.0, 0.0), |d| (d.summary.mean, d.summary.standard_error.0.unwrap_or(0.0)));
        (percent(mean), percent(error), role_colour(rows[i].row.role))
    };
    let measured = |i: usize| -> Option<Point> {
        let values: Vec<f64> = rows[i].distances.iter().map(|d| d.distance).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (low, high) = values.iter().fold((mean, mean), |(l, h), &v| (l.min(v), h.max(v)));
        (!values.is_empty()).then_some((mean, (high - low) / 2.0, role_colour(rows[i].row.role)))
    };
    let names: Vec<String> = rows.iter().map(|r| r.row.name.clone()).collect();
    let metric = rows.iter().find_map(|r| r.distances.first()).map(|d| d.metric.clone());
    let panel = ROW * rows.len() as u32 + 60;
    let height = panel * (1 + u32::from(metric.is_some()));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (above, below) = root.split_vertically(panel);
        let changes: Vec<Option<Point>> = (0..rows.len()).map(|i| Some(change(i))).collect();
        dots(
            &above,
            &names,
            &changes,
            "change of the held-out loss against the base, % (bars: one standard error)",
            true,
        )?;
        if let Some(metric) = metric {
            let points: Vec<Option<Point>> = (0..rows.len()).map(measured).collect();
            dots(&below, &names, &points, &format!("{metric} (bars: from the lowest to the highest seed)"), false)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// A line of names, each with its point and a bar.
fn dots(area: &Area, names: &[String], points: &[Option<Point>], title: &str, zero: bool) -> Result<()> {
    let ends = points.iter().flatten().flat_map(|(v, e, _)| [v - e, v + e]);
    let (low, high) = room(ends.chain(zero.then_some(0.0)));
    let rows = names.len();
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(250)
        .build_cartesian_2d(low..high, -0.5..rows as f64 - 0.5)
        .map_err(failed)?;
    // The first row on top.
    let at = |i: usize| (rows - 1 - i) as f64;
    let label = |y: &f64| {
        let i = (rows as f64 - 1.0 - y).round();
        let near = (rows as f64 - 1.0 - y - i).abs() < 1e-6 && i >= 0.0;
        near.then(|| names.get(i as usize)).flatten().cloned().unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * rows + 1)
        .y_label_formatter(&label)
        .x_desc(title)
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    if zero {
        let line = [(0.0, -0.5), (0.0, rows as f64 - 0.5)];
        chart.draw_series(LineSeries::new(line, BLACK.mix(0.5))).map_err(failed)?;
    }
    for (i, &(value, error, colour)) in points.iter().enumerate().filter_map(|(i, p)| p.as_ref().map(|p| (i, p))) {
        let bar =
            ErrorBar::new_horizontal(at(i), value - error, value, value + error, colour.stroke_width(2).filled(), 9);
        chart.draw_series([bar]).map_err(failed)?;
    }
    Ok(())
}
