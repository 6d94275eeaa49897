//! The report's plots as SVG text. Text and axes are pure black, which the page's style sheet turns light on a dark background.
//! Called by `figures`.

pub mod boxes;
pub mod contours;
pub mod heat;
pub mod lines;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cli::demo::plots::{colour, failed};
use crate::error::Result;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Fonts of titles, of axes' names, and of the numbers on them: plots differ in size, their text does not.
const TITLE: (&str, i32) = ("sans-serif", 15);
const AXIS: (&str, i32) = ("sans-serif", 13);
const LABEL: (&str, i32) = ("sans-serif", 12);

/// Low, middle, high: blue, pale, red.
const DIVERGING: [RGBColor; 5] = [
    RGBColor(33, 102, 172),
    RGBColor(146, 197, 222),
    RGBColor(245, 245, 243),
    RGBColor(244, 165, 130),
    RGBColor(178, 24, 43),
];

/// A colour between blue (0) and red (1).
pub fn diverging(at: f64) -> RGBColor {
    DerivedColorMap::new(&DIVERGING).get_color(at.clamp(0.0, 1.0))
}

/// A colour between dark violet (0) and yellow (1).
pub fn sequential(at: f64) -> RGBColor {
    ViridisRGB.get_color(at.clamp(0.0, 1.0))
}

/// A plot of this size, drawn by `draw`. Inside a page an SVG needs no name space: without it, the page holds no address at all.
pub fn svg(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root)?;
        root.present().map_err(failed)?;
    }
    Ok(text.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1))
}

/// Panels side by side, at most `columns` in a row, each of this size; above them what the colours of the series are, if any.
pub fn panels(
    count: usize,
    columns: usize,
    (width, height): (u32, u32),
    series: &[String],
    mut draw: impl FnMut(usize, &Area) -> Result<()>,
) -> Result<String> {
    const KEY: u32 = 30;
    let columns = columns.min(count).max(1);
    let rows = count.div_ceil(columns).max(1);
    let above = if series.is_empty() { 0 } else { KEY };
    svg((width * columns as u32, above + height * rows as u32), |root| {
        let (top, below) = root.split_vertically(above);
        key(&top, series)?;
        below.split_evenly((rows, columns)).iter().take(count).enumerate().try_for_each(|(i, area)| draw(i, area))
    })
}

/// The names of the series beside their colours, in a row.
fn key(area: &Area, series: &[String]) -> Result<()> {
    let mut x = 64;
    for (i, name) in series.iter().enumerate() {
        area.draw(&Rectangle::new([(x, 10), (x + 14, 22)], colour(i).filled())).map_err(failed)?;
        area.draw(&Text::new(name.clone(), (x + 20, 9), AXIS)).map_err(failed)?;
        x += 48 + 7 * name.chars().count() as i32;
    }
    Ok(())
}

/// A number as an axis writes it: short, whatever its size.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || size < 1e-12 {
        "0".into()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.1e}")
    } else {
        let digits = (2 - size.log10().floor() as i32).clamp(0, 4) as usize;
        let text = format!("{value:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    }
}
