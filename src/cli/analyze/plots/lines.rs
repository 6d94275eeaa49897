//! Lines with error bars, bars and histograms. Called by `figures`.

use plotters::prelude::*;

use super::{AXIS, Area, LABEL, TITLE, short};
use crate::cli::demo::plots::{colour, failed, room};
use crate::error::Result;

/// Points (x, y, half the length of the error bar).
pub type Series = Vec<(f64, f64, f64)>;

/// Lines through points, and one at 0; `panels` names the colours.
pub fn lines(area: &Area, title: &str, [x, y]: [&str; 2], series: &[Series]) -> Result<()> {
    let all = || series.iter().flatten();
    let (left, right) = room(all().map(|p| p.0));
    let (low, high) = room(all().flat_map(|p| [p.1 - p.2, p.1 + p.2]).chain([0.0]));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(title, TITLE)
        .x_label_area_size(38)
        .y_label_area_size(62)
        .build_cartesian_2d(left..right, low..high)
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1)).x_labels(6).y_labels(6);
    mesh.x_label_formatter(&|v| short(*v)).y_label_formatter(&|v| short(*v));
    mesh.x_desc(x).y_desc(y).draw().map_err(failed)?;
    chart.draw_series(LineSeries::new([(left, 0.0), (right, 0.0)], BLACK.mix(0.5))).map_err(failed)?;
    for (i, s) in series.iter().enumerate() {
        let style = colour(i).stroke_width(2);
        chart.draw_series(LineSeries::new(s.iter().map(|p| (p.0, p.1)), style)).map_err(failed)?;
        let bars = s.iter().filter(|p| p.2 > 0.0);
        let bar = |p: &(f64, f64, f64)| ErrorBar::new_vertical(p.0, p.1 - p.2, p.1, p.1 + p.2, colour(i).filled(), 6);
        chart.draw_series(bars.map(bar)).map_err(failed)?;
    }
    Ok(())
}

/// The same on a logarithmic axis, positive points only, without error bars.
pub fn logarithmic(area: &Area, [x, y]: [&str; 2], series: &[Series]) -> Result<()> {
    let all = || series.iter().flatten().filter(|p| p.1 > 0.0);
    let (left, right) = room(all().map(|p| p.0));
    let (low, high) = room(all().map(|p| p.1.ln()));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(70)
        .build_cartesian_2d(left.max(0.0)..right, (low.exp()..high.exp()).log_scale())
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1)).y_labels(4).y_label_formatter(&|v| short(*v));
    mesh.x_label_formatter(&|v| short(*v)).x_desc(x).y_desc(y).draw().map_err(failed)?;
    for (i, s) in series.iter().enumerate() {
        let style = colour(i).stroke_width(2);
        // A line bridges no gap.
        for run in s.split(|p| p.1 <= 0.0) {
            let points = run.iter().map(|p| (p.0, p.1));
            let dots = points.clone().map(|p| Circle::new(p, 3, colour(i).filled()));
            chart.draw_series(LineSeries::new(points.clone(), style)).map_err(failed)?;
            chart.draw_series(dots).map_err(failed)?;
        }
    }
    Ok(())
}

/// How values in [-1, 1] are distributed: shares of 40 bins.
pub fn histogram(area: &Area, title: &str, values: &[f64]) -> Result<()> {
    const BINS: usize = 40;
    let mut shares = [0.0; BINS];
    for v in values {
        let bin = ((v + 1.0) * 0.5 * BINS as f64) as usize;
        shares[bin.min(BINS - 1)] += 100.0 / values.len() as f64;
    }
    let highest = shares.iter().copied().fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(title, TITLE)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(-1.0..1.0, 0.0..1.08 * highest)
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1)).disable_x_mesh().x_labels(5).y_labels(4);
    mesh.x_label_formatter(&|v| short(*v)).y_label_formatter(&|v| short(*v));
    mesh.x_desc("cosine").y_desc("pairs, %").draw().map_err(failed)?;
    let at = |i: usize| 2.0 * i as f64 / BINS as f64 - 1.0;
    let bar = |(i, &share): (usize, &f64)| Rectangle::new([(at(i), 0.0), (at(i + 1), share)], colour(0).filled());
    let seen = shares.iter().enumerate().filter(|(_, share)| **share > 0.0);
    chart.draw_series(seen.map(bar)).map_err(failed)?;
    Ok(())
}

/// One bar a value, from 0 up or down.
pub fn bars(area: &Area, title: &str, [x, y]: [&str; 2], values: &[f64], limit: f64) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(title, AXIS)
        .x_label_area_size(34)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..values.len() as f64, -limit..limit)
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1)).disable_x_mesh().x_labels(6).y_labels(5);
    mesh.x_label_formatter(&|v| short(*v)).y_label_formatter(&|v| short(*v));
    mesh.x_desc(x).y_desc(y).draw().map_err(failed)?;
    let bar = |(i, &v): (usize, &f64)| Rectangle::new([(i as f64 + 0.1, 0.0), (i as f64 + 0.9, v)], colour(0).filled());
    chart.draw_series(values.iter().enumerate().map(bar)).map_err(failed)?;
    Ok(())
}
