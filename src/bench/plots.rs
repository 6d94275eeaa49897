//! The page's plots as SVG text: the roofline, and the ladders from a kernel's slowest variant to its best.
//! Called by `page`; the analysis has the axis of names from here.

use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;

use super::ceilings::Ceilings;
use super::results::Row;
use crate::error::{Error, Result};

const COLOURS: [RGBColor; 8] = [
    RGBColor(47, 107, 176),
    RGBColor(214, 96, 44),
    RGBColor(38, 135, 93),
    RGBColor(140, 82, 165),
    RGBColor(176, 142, 32),
    RGBColor(92, 104, 120),
    RGBColor(190, 60, 110),
    RGBColor(30, 150, 160),
];

fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::usage(format!("a plot could not be drawn: {error}"), "please report this")
}

/// A range of positive values with room for a logarithmic axis; 0.1 to 10 where there are none.
fn room(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let sound = values.filter(|v| v.is_finite() && *v > 0.0);
    let (low, high) = sound.fold((f64::INFINITY, 0f64), |(l, h), v| (l.min(v), h.max(v)));
    if high == 0.0 { 0.1..10.0 } else { low / 1.5..high * 1.5 }
}

/// FLOPs a byte, and GFLOP/s.
fn place(row: &Row) -> Option<(f64, f64)> {
    let (flops, bytes) = (row.gflop_s?, row.gb_s?);
    (flops > 0.0 && bytes > 0.0).then(|| (flops / bytes, flops))
}

/// GFLOP/s against FLOPs a byte, one colour a family, under the measured ceilings.
pub fn roofline(families: &[(String, Vec<&Row>)], ceilings: &Ceilings) -> Result<String> {
    let points = || families.iter().flat_map(|(_, rows)| rows).filter_map(|row| place(row));
    let balance = ceilings.fma_gflop_s / ceilings.copy_gb_s;
    let x = room(points().map(|p| p.0).chain([balance]));
    let y = room(points().map(|p| p.1).chain([ceilings.fma_gflop_s]));
    let roof: Vec<_> =
        [x.start, balance, x.end].map(|i| (i, (i * ceilings.copy_gb_s).min(ceilings.fma_gflop_s))).into();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 560)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d(x.log_scale(), y.log_scale())
            .map_err(failed)?;
        let mesh = &mut chart.configure_mesh();
        mesh.x_desc("FLOPs a byte").y_desc("GFLOP/s").light_line_style(WHITE).draw().map_err(failed)?;
        let style = BLACK.mix(0.7).stroke_width(2);
        chart.draw_series(LineSeries::new(roof.into_iter().filter(|p| p.1 > 0.0), style)).map_err(failed)?;
        for (i, (name, rows)) in families.iter().enumerate() {
            let dots = rows.iter().filter_map(|row| place(row)).map(|p| Circle::new(p, 4, colour(i).mix(0.8).filled()));
            chart
                .draw_series(dots)
                .map_err(failed)?
                .label(name.as_str())
                .legend(move |(x, y)| Circle::new((x + 9, y), 4, colour(i).filled()));
        }
        let legend = &mut chart.configure_series_labels();
        let legend = legend.position(SeriesLabelPosition::LowerRight).border_style(BLACK.mix(0.2));
        legend.background_style(WHITE).draw().map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Rungs of one kernel at one shape.
pub struct Ladder<'a> {
    pub label: String,
    /// At least two, the naive one first.
    pub rungs: Vec<&'a Row>,
}

/// Whole numbers of an axis, one for each line, none between.
pub(crate) struct Lines(pub usize);

impl Ranged for Lines {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value + 0.5) / self.0 as f64;
        limit.0 + (share * f64::from(limit.1 - limit.0)) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0).map(|i| i as f64).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        -0.5..self.0 as f64 - 0.5
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Lines {
    fn format(value: &f64) -> String {
        format!("{value:.0}")
    }
}

/// Runs a second of every variant as multiples of the first rung's, one line a kernel and shape; the chosen one is full.
pub fn ladders(ladders: &[Ladder], variants: &[&str]) -> Result<String> {
    let speed = |ladder: &Ladder, row: &Row| ladder.rungs[0].median_s / row.median_s;
    let x = room(ladders.iter().flat_map(|l| l.rungs.iter().map(|row| speed(l, row))));
    let mut svg = String::new();
    {
        let height = 110 + 17 * ladders.len() as u32;
        let root = SVGBackend::with_string(&mut svg, (1100, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(430)
            .build_cartesian_2d(x.log_scale(), Lines(ladders.len()))
            .map_err(failed)?;
        let label = |y: &f64| ladders.get(y.round() as usize).map_or(String::new(), |l| l.label.clone());
        let mesh = &mut chart.configure_mesh();
        mesh.y_label_formatter(&label).y_labels(ladders.len()).x_desc("times the first variant's speed");
        mesh.light_line_style(WHITE).draw().map_err(failed)?;
        for (y, ladder) in ladders.iter().enumerate() {
            let ends = ladder.rungs.iter().map(|row| (speed(ladder, row), y as f64));
            chart.draw_series(LineSeries::new(ends, BLACK.mix(0.25))).map_err(failed)?;
        }
        for (i, variant) in variants.iter().enumerate() {
            let dots = ladders.iter().enumerate().flat_map(|(y, ladder)| {
                let of = ladder.rungs.iter().filter(|row| row.kind() == *variant);
                of.map(move |row| {
                    let style = ShapeStyle { color: colour(i).to_rgba(), filled: row.chosen, stroke_width: 2 };
                    Circle::new((speed(ladder, row), y as f64), 4, style)
                })
            });
            chart
                .draw_series(dots.collect::<Vec<_>>())
                .map_err(failed)?
                .label(*variant)
                .legend(move |(x, y)| Circle::new((x + 9, y), 4, colour(i).filled()));
        }
        let legend = &mut chart.configure_series_labels();
        let legend = legend.position(SeriesLabelPosition::LowerRight).border_style(BLACK.mix(0.2));
        legend.background_style(WHITE).draw().map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
