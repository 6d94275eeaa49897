//! The report's plots as SVG text: training curves, and the change of the loss by range.
//! Called by `report`; the search's plot shares its colours.

use plotters::prelude::*;

use super::report::{Curve, LossRow};
use crate::error::{Error, Result};

const SIZE: (u32, u32) = (640, 400);
const COLOURS: [RGBColor; 6] = [
    RGBColor(47, 107, 176),
    RGBColor(214, 96, 44),
    RGBColor(38, 135, 93),
    RGBColor(140, 82, 165),
    RGBColor(176, 142, 32),
    RGBColor(92, 104, 120),
];

pub(in crate::cli) fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

pub(in crate::cli) fn failed(error: impl std::fmt::Display) -> Error {
    Error::usage(format!("a plot could not be drawn: {error}"), "please report this")
}

/// The range of values with a little room, never empty.
pub(in crate::cli) fn room(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if !low.is_finite() || !high.is_finite() {
        return (0.0, 1.0);
    }
    let pad = ((high - low) * 0.08).max(high.abs() * 1e-3).max(1e-9);
    (low - pad, high + pad)
}

/// Loss against update, one line an expert, logarithmic loss.
pub fn training(curves: &[Curve]) -> Result<String> {
    let mut svg = String::new();
    {
        let points = || curves.iter().flat_map(|c| &c.points).filter(|p| p.1 > 0.0);
        let (x_low, x_high) = room(points().map(|p| p.0));
        let (y_low, y_high) = room(points().map(|p| p.1.ln()));
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(x_low.max(0.0)..x_high, (y_low.exp()..y_high.exp()).log_scale())
            .map_err(failed)?;
        chart.configure_mesh().x_desc("update").y_desc("loss").light_line_style(WHITE).draw().map_err(failed)?;
        for (i, curve) in curves.iter().enumerate() {
            let line = curve.points.iter().copied().filter(|p| p.1 > 0.0);
            chart
                .draw_series(LineSeries::new(line, colour(i).stroke_width(2)))
                .map_err(failed)?
                .label(curve.name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour(i).stroke_width(2)));
        }
        chart.configure_series_labels().border_style(BLACK.mix(0.2)).background_style(WHITE).draw().map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Change against the first model in percent of its loss, by range, with error bars.
pub fn changes(models: &[String], rows: &[LossRow]) -> Result<String> {
    let percent = |row: &LossRow, m: usize| {
        let base = row.losses[0].mean;
        let d = row.differences[m];
        (100.0 * d.mean / base, 100.0 * d.standard_error.0.unwrap_or(0.0) / base)
    };
    let compared = models.len().saturating_sub(1);
    let bars = || (0..compared).flat_map(|m| rows.iter().map(move |row| percent(row, m)));
    let (low, high) = room(bars().flat_map(|(v, e)| [v - e, v + e]).chain([0.0]).filter(|v| v.is_finite()));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.5..rows.len() as f64 - 0.5, low..high)
            .map_err(failed)?;
        let label = |x: &f64| {
            let i = x.round();
            let near = (x - i).abs() < 1e-6 && i >= 0.0;
            near.then(|| rows.get(i as usize)).flatten().map_or(String::new(), |r| r.range.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(2 * rows.len() + 1)
            .x_label_formatter(&label)
            .y_desc("change, %")
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        chart
            .draw_series(LineSeries::new([(-0.5, 0.0), (rows.len() as f64 - 0.5, 0.0)], BLACK.mix(0.5)))
            .map_err(failed)?;
        for m in 0..compared {
            let shift = 0.12 * (m as f64 - (compared as f64 - 1.0) / 2.0);
            let style = colour(m).stroke_width(2);
            let bar = |(i, row): (usize, &LossRow)| {
                let (value, error) = percent(row, m);
                ErrorBar::new_vertical(i as f64 + shift, value - error, value, value + error, style.filled(), 9)
            };
            chart
                .draw_series(rows.iter().enumerate().map(bar))
                .map_err(failed)?
                .label(models[m + 1].as_str())
                .legend(move |(x, y)| Circle::new((x + 9, y), 4, colour(m).filled()));
        }
        chart.configure_series_labels().border_style(BLACK.mix(0.2)).background_style(WHITE).draw().map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
