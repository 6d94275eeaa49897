//! Box plots by group and series, from percentiles. Called by `figures`.

use plotters::prelude::*;

use super::{AXIS, Area, LABEL, TITLE, short};
use crate::bench::plots::Lines;
use crate::cli::demo::plots::{colour, failed, room};
use crate::error::Result;

/// The 5th, 25th, 50th, 75th and 95th percentile: whiskers, box and middle.
pub type Percentiles = [f64; 5];

/// Percentiles of values; none where there are none.
pub fn percentiles(mut values: Vec<f64>) -> Option<Percentiles> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)? as f64;
    Some([0.05, 0.25, 0.5, 0.75, 0.95].map(|q| values[(q * last).round() as usize]))
}

/// `boxes[series][group]`; `panels` names the colours of the series.
pub fn boxes(area: &Area, title: &str, y: &str, groups: &[String], boxes: &[Vec<Option<Percentiles>>]) -> Result<()> {
    let (low, high) = room(boxes.iter().flatten().flatten().flatten().copied().chain([0.0]));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(title, TITLE)
        .x_label_area_size(34)
        .y_label_area_size(66)
        .build_cartesian_2d(Lines(groups.len()), low..high)
        .map_err(failed)?;
    let name = |x: &f64| groups.get(x.round() as usize).cloned().unwrap_or_default();
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1)).y_labels(6);
    mesh.x_labels(groups.len()).x_label_formatter(&name).y_label_formatter(&|v| short(*v));
    mesh.y_desc(y).draw().map_err(failed)?;
    let width = 0.8 / boxes.len() as f64;
    for (s, row) in boxes.iter().enumerate() {
        let style = colour(s).stroke_width(1);
        let half = 0.4 * width;
        for (g, values) in row.iter().enumerate() {
            let Some([bottom, lower, middle, upper, top]) = *values else { continue };
            let x = g as f64 + width * (s as f64 - (boxes.len() as f64 - 1.0) / 2.0);
            let line = |from: (f64, f64), to: (f64, f64)| PathElement::new(vec![from, to], style);
            let whiskers = [line((x, bottom), (x, lower)), line((x, upper), (x, top))];
            chart.draw_series(whiskers).map_err(failed)?;
            let place = [(x - half, lower), (x + half, upper)];
            let filled = [Rectangle::new(place, colour(s).mix(0.35).filled()), Rectangle::new(place, style)];
            chart.draw_series(filled).map_err(failed)?;
            let thick = colour(s).stroke_width(3);
            chart
                .draw_series([PathElement::new(vec![(x - half, middle), (x + half, middle)], thick)])
                .map_err(failed)?;
        }
    }
    Ok(())
}
