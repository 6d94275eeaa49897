//! The search's plot as SVG text: every candidate's loss against what had been spent by then, and against each weight.
//! Called by `deme search`.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cli::demo::plots::{colour, failed, room};
use crate::deme::search::{Candidate, Table};
use crate::error::Result;

const SIZE: (u32, u32) = (900, 640);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Losses that are drawn: the worst candidates would flatten all others.
fn losses(rows: &[&Candidate]) -> (f64, f64) {
    let mut sorted: Vec<f64> = rows.iter().map(|r| r.loss).collect();
    sorted.sort_by(f64::total_cmp);
    // The base is the first row and always seen.
    let most = sorted[sorted.len() * 3 / 4].max(rows[0].loss);
    room(sorted.into_iter().filter(|loss| *loss <= most))
}

/// Above: the candidates in order, with the best so far, the base, and the elite on fresh noise. Below: loss against the
/// weight of each expert, its mean over the blocks.
pub fn svg(table: &Table, pairs: u64, experts: usize) -> Result<String> {
    let rows: Vec<&Candidate> = table.rows.iter().filter(|r| !r.fresh).collect();
    let mut svg = String::new();
    if rows.is_empty() {
        return Ok(svg);
    }
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (above, below) = root.split_vertically(360);
        progress(&above, &rows, table, pairs)?;
        // More than eight panels would be too narrow to read.
        let panels = experts.min(8);
        for (i, area) in below.split_evenly((1, panels)).iter().enumerate() {
            slice(area, &rows, i, experts)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Loss against forward passes.
fn progress(area: &Area, rows: &[&Candidate], table: &Table, pairs: u64) -> Result<()> {
    let spent = rows.iter().scan(0, |sum, row| {
        *sum += row.passes() * pairs;
        Some(*sum as f64)
    });
    let points: Vec<(f64, f64)> = spent.zip(rows).map(|(x, row)| (x, row.loss)).collect();
    let best: Vec<(f64, f64)> = points
        .iter()
        .scan(f64::INFINITY, |best, &(x, loss)| {
            *best = best.min(loss);
            Some((x, *best))
        })
        .collect();
    let end = points[points.len() - 1].0;
    let fresh: Vec<(f64, f64)> = table.ranked(true).into_iter().map(|c| (end, c.loss)).collect();
    let (low, high) = losses(rows);
    let low = fresh.iter().fold(low, |low, (_, loss)| low.min(loss - 0.02 * (high - low)));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..1.03 * end, low..high)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("forward passes of an image (a backward pass counts two)")
        .y_desc("loss")
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    let inside = |p: &&(f64, f64)| p.1 <= high;
    let dots = points.iter().filter(inside).map(|&p| Circle::new(p, 3, colour(0).mix(0.5).filled()));
    let series = chart.draw_series(dots).map_err(failed)?;
    series.label("candidates").legend(|p| Circle::new((p.0 + 9, p.1), 3, colour(0).mix(0.5).filled()));
    let line = |y: f64| [(0.0, y), (end, y)];
    let key = |p: (i32, i32), i: usize| PathElement::new(vec![p, (p.0 + 18, p.1)], colour(i).stroke_width(2));
    let series = chart.draw_series(LineSeries::new(line(rows[0].loss), colour(5).stroke_width(2))).map_err(failed)?;
    series.label("base").legend(move |p| key(p, 5));
    let series = chart.draw_series(LineSeries::new(best, colour(1).stroke_width(2))).map_err(failed)?;
    series.label("best so far").legend(move |p| key(p, 1));
    if !fresh.is_empty() {
        let crosses = fresh.into_iter().filter(|p| p.1 <= high).map(|p| Cross::new(p, 4, colour(2).stroke_width(2)));
        let series = chart.draw_series(crosses).map_err(failed)?;
        series.label("on fresh noise").legend(|p| Cross::new((p.0 + 9, p.1), 4, colour(2).stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.2)).background_style(WHITE).draw().map_err(failed)
}

/// Loss against the weight of expert `i`, the other weights being whatever they were.
fn slice(area: &Area, rows: &[&Candidate], i: usize, experts: usize) -> Result<()> {
    let (low, high) = losses(rows);
    let weight = |r: &Candidate| {
        let of = r.w.iter().skip(i).step_by(experts);
        of.sum::<f64>() * experts as f64 / r.w.len() as f64
    };
    let (left, right) = room(rows.iter().map(|r| weight(r)));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(if i == 0 { 72 } else { 12 })
        .build_cartesian_2d(left..right, low..high)
        .map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(4).x_desc(format!("w of expert {i}")).light_line_style(WHITE);
    if i == 0 {
        mesh.y_desc("loss").y_labels(5);
    } else {
        mesh.y_labels(0);
    }
    mesh.draw().map_err(failed)?;
    let dots = rows.iter().filter(|r| r.loss <= high).map(|r| (weight(r), r.loss));
    chart.draw_series(dots.map(|p| Circle::new(p, 3, colour(i).mix(0.5).filled()))).map_err(failed)?;
    Ok(())
}
