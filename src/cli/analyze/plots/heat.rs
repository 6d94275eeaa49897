//! Heat maps: a matrix with named rows and columns, and the bar that says what its colours mean. Called by `figures`.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{AXIS, Area, LABEL, diverging, sequential, short, svg};
use crate::bench::plots::Lines;
use crate::cli::demo::plots::failed;
use crate::error::Result;

/// What the colours stand for.
#[derive(Clone, Copy)]
pub enum Colours {
    /// From -limit (blue) to limit (red).
    Around(f64),
    /// From 0 (dark) to limit (bright).
    UpTo(f64),
}

impl Colours {
    fn of(self, value: f64) -> RGBColor {
        match self {
            Self::Around(limit) => diverging(0.5 + 0.5 * value / limit),
            Self::UpTo(limit) => sequential(value / limit),
        }
    }

    fn range(self) -> std::ops::Range<f64> {
        match self {
            Self::Around(limit) => -limit..limit,
            Self::UpTo(limit) => 0.0..limit,
        }
    }
}

/// A matrix to be drawn; the first row is on top.
pub struct Heat<'a> {
    pub size: (u32, u32),
    pub rows: &'a [String],
    pub columns: &'a [String],
    pub x: &'a str,
    pub y: &'a str,
    /// Of the bar of colours.
    pub unit: &'a str,
    pub colours: Colours,
    /// Decimals of the numbers in the cells; none writes none.
    pub digits: Option<usize>,
}

/// Cells without a value are left empty.
pub fn heat(what: &Heat, cells: &[Vec<Option<f64>>]) -> Result<String> {
    svg(what.size, |root| {
        let (left, right) = root.split_horizontally(what.size.0 as i32 - 104);
        matrix(what, cells, &left)?;
        bar(what.colours, what.unit, &right)
    })
}

fn matrix(what: &Heat, cells: &[Vec<Option<f64>>], area: &Area) -> Result<()> {
    let (rows, columns) = (what.rows.len(), what.columns.len());
    let widest = what.rows.iter().map(|r| r.chars().count()).max().unwrap_or(0) as u32;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(34 + 7 * widest)
        .build_cartesian_2d(Lines(columns), Lines(rows))
        .map_err(failed)?;
    // Many names would overlap: every other, every third...
    let name = |names: &[String], i: usize, room: usize| {
        let step = names.len().div_ceil(room).max(1);
        names.get(i).filter(|_| i.is_multiple_of(step)).cloned().unwrap_or_default()
    };
    let column = |x: &f64| name(what.columns, x.round() as usize, 14);
    let row = |y: &f64| name(what.rows, rows - 1 - (y.round() as usize).min(rows - 1), 24);
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS);
    mesh.disable_mesh().x_labels(columns).y_labels(rows).x_label_formatter(&column).y_label_formatter(&row);
    mesh.x_desc(what.x).y_desc(what.y).draw().map_err(failed)?;
    let places = cells.iter().enumerate().flat_map(|(i, row)| {
        row.iter().enumerate().filter_map(move |(j, v)| v.map(|v| ((j as f64, (rows - 1 - i) as f64), v)))
    });
    let cell = |((x, y), v): ((f64, f64), f64)| {
        Rectangle::new([(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)], what.colours.of(v).filled())
    };
    chart.draw_series(places.clone().map(cell)).map_err(failed)?;
    let Some(digits) = what.digits else { return Ok(()) };
    let number = |((x, y), v): ((f64, f64), f64)| {
        let RGBColor(r, g, b) = what.colours.of(v);
        let bright = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) > 140.0;
        // Not pure black or white: those change with the page's background.
        let ink = if bright { RGBColor(20, 20, 20) } else { RGBColor(250, 250, 250) };
        let style = ("sans-serif", 12).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
        Text::new(format!("{v:.digits$}"), (x, y), style)
    };
    chart.draw_series(places.map(number)).map_err(failed)?;
    Ok(())
}

/// The bar of colours.
fn bar(colours: Colours, unit: &str, area: &Area) -> Result<()> {
    const STEPS: usize = 64;
    let range = colours.range();
    let mut chart = ChartBuilder::on(area)
        .margin_top(12)
        .margin_bottom(54)
        .margin_right(10)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..1.0, range.clone())
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.label_style(LABEL).axis_desc_style(AXIS).disable_x_axis();
    mesh.disable_mesh().y_labels(5).y_desc(unit).y_label_formatter(&|v| short(*v)).draw().map_err(failed)?;
    let at = |i: usize| range.start + (range.end - range.start) * i as f64 / STEPS as f64;
    let step = |i: usize| {
        let middle = 0.5 * (at(i) + at(i + 1));
        Rectangle::new([(0.0, at(i)), (1.0, at(i + 1))], colours.of(middle).filled())
    };
    chart.draw_series((0..STEPS).map(step)).map_err(failed)?;
    Ok(())
}

/// A map without axes, such as a feature map, its first row on top.
pub fn picture(
    area: &Area,
    title: &str,
    (rows, columns): (usize, usize),
    values: &[f64],
    colours: Colours,
) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(title, ("sans-serif", 13))
        .build_cartesian_2d(Lines(columns), Lines(rows))
        .map_err(failed)?;
    let cell = |(i, &v): (usize, &f64)| {
        let (x, y) = ((i % columns) as f64, (rows - 1 - i / columns) as f64);
        Rectangle::new([(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)], colours.of(v).filled())
    };
    chart.draw_series(values.iter().enumerate().map(cell)).map_err(failed)?;
    Ok(())
}
