//! A figure as SVG: one style for all. Solid lines and blue bars are ours, dashed lines and vermilion bars are the paper's methods run here,
//! grey is what is published; a filled marker is proven optimal, a hollow one was stopped by the time limit.
//!
//! The legend stands beside the plot, so that it never hides a point.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::grid;
use super::sheet::{Body, Guide, Panel, Point, Series, Sheet, Source};
use crate::plot::{COLOURS, FAINT, FONT, INK, PlotError};

/// Width and height of every figure.
pub(super) const SIZE: (u32, u32) = (1_100, 620);
/// Of the legend's column.
const LEGEND: u32 = 230;
/// Of the title's band.
const HEAD: i32 = 82;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;
type Axes = Cartesian2d<RangedCoordf64, RangedCoordf64>;

/// The figure, as the text of an SVG file.
pub fn svg(sheet: &Sheet) -> Result<String, PlotError> {
    let mut text = String::new();
    draw(&mut text, sheet).map_err(|error| PlotError::Drawing(error.to_string()))?;
    Ok(text)
}

fn draw<'a>(text: &'a mut String, sheet: &Sheet) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(&sheet.title, &(FONT, 21).into_font().color(&INK), (24, 16))?;
    root.draw_text(&sheet.subtitle, &font(13), (24, 48))?;
    match &sheet.body {
        Body::Lines { panels, guides, is_log } => lines(&root, sheet, panels, guides, *is_log)?,
        Body::Bars { categories, series, guides, is_log } => bars(&root, sheet, categories, series, guides, *is_log)?,
        Body::Grid { classes, columns, blocks } => grid::draw(&root, sheet, classes, columns, blocks)?,
    }
    root.present()
}

/// Text of a size, dark.
pub(super) fn font(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK.mix(0.85))
}

/// Text that hangs at a point.
pub(super) fn anchored(size: i32, across: HPos, down: VPos) -> TextStyle<'static> {
    font(size).pos(Pos::new(across, down))
}

pub(super) fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// The marker of a colour, around the origin.
fn shape(number: usize) -> Vec<(i32, i32)> {
    match number % COLOURS.len() {
        0 => vec![
            (5, 0),
            (4, 3),
            (3, 4),
            (0, 5),
            (-3, 4),
            (-4, 3),
            (-5, 0),
            (-4, -3),
            (-3, -4),
            (0, -5),
            (3, -4),
            (4, -3),
        ],
        1 => vec![(0, -6), (6, 5), (-6, 5)],
        2 => vec![(-4, -4), (4, -4), (4, 4), (-4, 4)],
        3 => vec![(0, -6), (6, 0), (0, 6), (-6, 0)],
        4 => vec![(0, 6), (6, -5), (-6, -5)],
        _ => vec![
            (-5, -2),
            (-2, -2),
            (-2, -5),
            (2, -5),
            (2, -2),
            (5, -2),
            (5, 2),
            (2, 2),
            (2, 5),
            (-2, 5),
            (-2, 2),
            (-5, 2),
        ],
    }
}

/// A marker at a pixel.
fn marker<'a>(root: &Area<'a>, at: (i32, i32), number: usize, is_filled: bool) -> Drawn<'a> {
    let moved = |(x, y): (i32, i32)| (x + at.0, y + at.1);
    let points: Vec<(i32, i32)> = shape(number).into_iter().map(moved).collect();
    let closed: Vec<(i32, i32)> = points.iter().chain(points.first()).copied().collect();
    root.draw(&Polygon::new(points, if is_filled { colour(number).filled() } else { WHITE.filled() }))?;
    root.draw(&PathElement::new(closed, colour(number).stroke_width(2)))
}

/// A line through pixels, as its source is drawn.
fn stroke<'a>(root: &Area<'a>, points: Vec<(i32, i32)>, source: Source, style: ShapeStyle) -> Drawn<'a> {
    match source {
        Source::Ours => root.draw(&PathElement::new(points, style)),
        Source::Theirs => root.draw(&DashedPathElement::new(points, 7, 4, style)),
        Source::Published => root.draw(&DashedPathElement::new(points, 2, 4, style)),
    }
}

/// Where a plot stands, and how its values become pixels.
struct Plot<'a> {
    area: DrawingArea<SVGBackend<'a>, Axes>,
    is_log: bool,
    values: Range<f64>,
}

impl Plot<'_> {
    /// A value's height on the axis.
    fn height(&self, value: f64) -> f64 {
        if self.is_log { value.max(1e-9).log10() } else { value }.clamp(self.values.start, self.values.end)
    }

    fn pixel(&self, x: f64, value: f64) -> (i32, i32) {
        self.area.map_coordinate(&(x, self.height(value)))
    }
}

/// Axes with units, a faint mesh, numbers on the vertical axis and, without categories, on the horizontal one.
fn axes<'a>(
    area: &Area<'a>,
    x: (&str, Range<f64>, bool),
    y: (&str, Range<f64>, bool),
) -> Result<Plot<'a>, DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let ((x_name, places, has_numbers), (y_name, values, is_log)) = (x, y);
    let decades = (values.end - values.start).round() as usize;
    let mut chart = ChartBuilder::on(area)
        .margin_right(10)
        .x_label_area_size(if has_numbers { 48 } else { 74 })
        .y_label_area_size(76)
        .build_cartesian_2d(places.clone(), values.clone())?;
    let in_log = move |value: &f64| {
        let is_whole = (value - value.round()).abs() < 1e-6;
        if is_whole { count(10_f64.powf(value.round())) } else { String::new() }
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x_name).y_desc(y_name).label_style(font(13)).axis_desc_style(font(14));
    mesh.axis_style(INK.mix(0.6)).bold_line_style(FAINT).light_line_style(WHITE);
    mesh.x_labels(if has_numbers { 13 } else { 0 }).x_label_formatter(&|at| format!("{at:.0}"));
    if !has_numbers {
        mesh.disable_x_mesh();
    }
    if is_log {
        mesh.y_labels(decades + 1).y_label_formatter(&in_log);
    } else {
        mesh.y_labels(9);
    }
    let plain = |value: &f64| if values.end > 10.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    if !is_log {
        mesh.y_label_formatter(&plain);
    }
    mesh.draw()?;
    Ok(Plot { area: chart.plotting_area().clone(), is_log, values })
}

/// A whole number with its thousands apart; a small one as it is.
pub(super) fn count(value: f64) -> String {
    if value < 1.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The range of the vertical axis around all values: from 0, or whole powers of ten.
fn range(values: impl Iterator<Item = f64>, is_log: bool) -> Result<Range<f64>, PlotError> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return Err(PlotError::Empty);
    }
    if !is_log {
        return Ok(0.0..if high > 0.0 { high * 1.12 } else { 1.0 });
    }
    let low = low.max(1e-9).log10().floor();
    Ok(low..(high.max(1e-9) * 1.3).log10().ceil().max(low + 1.0))
}

fn lines<'a>(root: &Area<'a>, sheet: &Sheet, panels: &[Panel], guides: &[Guide], is_log: bool) -> Drawn<'a> {
    let (width, _) = root.dim_in_pixel();
    let below = root.split_vertically(HEAD).1;
    let areas = below.split_horizontally(width - LEGEND).0.margin(0, 10, 14, 0).split_evenly((1, panels.len()));
    let places = 2.5..62.5;
    for (panel, area) in panels.iter().zip(&areas) {
        let same = panels.iter().filter(|other| other.y == panel.y).flat_map(|other| &other.series);
        let values = same.flat_map(|series| &series.points).flat_map(|point| [point.low, point.high]);
        let values = values.chain(guides.iter().map(|guide| guide.value));
        // A panel whose method found nothing stays empty, with its axes.
        let values = range(values, is_log).unwrap_or(0.0..1.0);
        let (above, area) = area.split_vertically(if panel.title.is_empty() { 0 } else { 24 });
        if !panel.title.is_empty() {
            above.draw_text(&panel.title, &font(15), (80, 2))?;
        }
        let plot = axes(&area, (&sheet.x, places.clone(), true), (&panel.y, values, is_log))?;
        for guide in guides {
            draw_guide(root, &plot, guide, places.clone())?;
        }
        for (number, series) in panel.series.iter().enumerate() {
            // Side by side, so that equal values of different series are all seen.
            let aside = (number as f64 - (panel.series.len() as f64 - 1.0) / 2.0) * 0.28;
            draw_line(root, &plot, series, aside, panel.series.len() <= SPREAD_MAX)?;
        }
    }
    let mut shown: Vec<&Series> = Vec::new();
    for series in panels.iter().flat_map(|panel| &panel.series) {
        if !series.points.is_empty() {
            shown.push(series);
        }
    }
    legend(root, &shown, guides, true)
}

fn draw_guide<'a>(root: &Area<'a>, plot: &Plot<'a>, guide: &Guide, places: Range<f64>) -> Drawn<'a> {
    let ends = [places.start, places.end].map(|x| plot.pixel(x, guide.value));
    stroke(root, ends.to_vec(), Source::Published, INK.stroke_width(2))
}

/// With more lines in a panel, the spread over the seeds would hide them; it is in the CSV file.
const SPREAD_MAX: usize = 5;

fn draw_line<'a>(root: &Area<'a>, plot: &Plot<'a>, series: &Series, aside: f64, has_spread: bool) -> Drawn<'a> {
    let tint = colour(series.colour);
    let at = |point: &Point, value: f64| plot.pixel(point.x + aside, value);
    for point in series.points.iter().filter(|point| has_spread && point.high > point.low) {
        let ends = vec![at(point, point.low), at(point, point.high)];
        root.draw(&PathElement::new(ends, tint.mix(0.35).stroke_width(3)))?;
    }
    // A line joins neighbours only: where a size has no solution there is a gap.
    for pair in series.points.windows(2).filter(|pair| pair[1].x - pair[0].x < 5.5) {
        let ends = vec![at(&pair[0], pair[0].median), at(&pair[1], pair[1].median)];
        stroke(root, ends, series.source, tint.stroke_width(2))?;
    }
    for point in &series.points {
        marker(root, at(point, point.median), series.colour, !point.is_stopped())?;
    }
    Ok(())
}

/// The legend: ours, then the paper's methods, then what is published.
fn legend<'a>(root: &Area<'a>, shown: &[&Series], guides: &[Guide], is_lines: bool) -> Drawn<'a> {
    let left = SIZE.0 as i32 - LEGEND as i32 + 14;
    let mut top = HEAD + 26;
    for (source, head) in [
        (Source::Ours, "Ours"),
        (Source::Theirs, "The paper's methods, run here"),
        (Source::Published, "Printed in the paper"),
    ] {
        let of = shown.iter().filter(|series| series.source == source);
        let guides: &[Guide] = if source == Source::Published { guides } else { &[] };
        if of.clone().count() + guides.len() == 0 {
            continue;
        }
        root.draw_text(head, &font(13), (left, top))?;
        top += 26;
        for series in of {
            let middle = top + 7;
            if is_lines {
                let ends = vec![(left, middle), (left + 40, middle)];
                stroke(root, ends, source, colour(series.colour).stroke_width(2))?;
                marker(root, (left + 20, middle), series.colour, true)?;
            } else {
                bar(root, (left + 6, top), (left + 34, top + 14), series, false)?;
            }
            root.draw_text(&series.label, &font(13), (left + 50, top))?;
            top += 24;
        }
        for guide in guides {
            let ends = vec![(left, top + 7), (left + 40, top + 7)];
            stroke(root, ends, source, INK.stroke_width(2))?;
            root.draw_text(&guide.label, &font(13), (left + 50, top))?;
            top += 24;
        }
        top += 14;
    }
    Ok(())
}

/// A bar between two corners: full, or hollow if it was stopped.
fn bar<'a>(root: &Area<'a>, from: (i32, i32), to: (i32, i32), series: &Series, is_hollow: bool) -> Drawn<'a> {
    let tint = if series.source == Source::Published { INK } else { colour(series.colour) };
    let share = match (series.source, is_hollow) {
        (Source::Published, _) => 0.12,
        (_, true) => 0.2,
        _ => 0.85,
    };
    root.draw(&Rectangle::new([from, to], on_white(tint, share).filled()))?;
    root.draw(&Rectangle::new([from, to], tint.stroke_width(1)))
}

/// A colour thinned with white, opaque, so that the mesh does not shine through.
fn on_white(tint: RGBColor, share: f64) -> RGBColor {
    let thin = |part: u8| (f64::from(part) * share + 255.0 * (1.0 - share)).round() as u8;
    RGBColor(thin(tint.0), thin(tint.1), thin(tint.2))
}

fn bars<'a>(
    root: &Area<'a>,
    sheet: &Sheet,
    categories: &[String],
    series: &[Series],
    guides: &[Guide],
    is_log: bool,
) -> Drawn<'a> {
    let (width, _) = root.dim_in_pixel();
    let below = root.split_vertically(HEAD).1;
    let area = below.split_horizontally(width - LEGEND).0.margin(0, 10, 14, 0);
    let values = series.iter().flat_map(|series| &series.points).flat_map(|point| [point.low, point.high]);
    let values = range(values.chain(guides.iter().map(|guide| guide.value)), is_log).unwrap_or(0.0..1.0);
    let values = if is_log { 0.0..values.end } else { values };
    let places = -0.6..categories.len() as f64 - 0.4;
    let plot = axes(&area, ("", places.clone(), false), (&sheet.y, values, is_log))?;
    for (at, name) in categories.iter().enumerate() {
        let (across, bottom) = plot.area.map_coordinate(&(at as f64, plot.values.start));
        for (row, line) in name.lines().enumerate() {
            let text = anchored(if row == 0 { 13 } else { 11 }, HPos::Center, VPos::Top);
            root.draw_text(line, &text, (across, bottom + 8 + 16 * row as i32))?;
        }
        let here: Vec<(&Series, &Point)> = series
            .iter()
            .flat_map(|series| series.points.iter().map(move |point| (series, point)))
            .filter(|(_, point)| point.x as usize == at)
            .collect();
        let wide = 0.78 / here.len().max(1) as f64;
        let wide = wide.min(0.5);
        for (slot, (series, point)) in here.iter().enumerate() {
            let middle = at as f64 + (slot as f64 - (here.len() as f64 - 1.0) / 2.0) * wide;
            draw_bar(root, &plot, series, point, middle - wide * 0.46..middle + wide * 0.46)?;
        }
    }
    for guide in guides {
        draw_guide(root, &plot, guide, places.clone())?;
    }
    let (across, bottom) = plot.area.map_coordinate(&((places.start + places.end) / 2.0, plot.values.start));
    root.draw_text(&sheet.x, &anchored(14, HPos::Center, VPos::Top), (across, bottom + 48))?;
    legend(root, &series.iter().filter(|series| !series.points.is_empty()).collect::<Vec<_>>(), guides, false)
}

fn draw_bar<'a>(root: &Area<'a>, plot: &Plot<'a>, series: &Series, point: &Point, places: Range<f64>) -> Drawn<'a> {
    let (left, right) = (plot.pixel(places.start, point.median), plot.pixel(places.end, point.median));
    let foot = plot.area.map_coordinate(&(places.end, plot.values.start));
    bar(root, left, (right.0, foot.1), series, point.is_stopped())?;
    let middle = i32::midpoint(left.0, right.0);
    let mut top = left.1;
    if point.high > point.low {
        let (high, low) = (plot.pixel(places.start, point.high).1, plot.pixel(places.start, point.low).1);
        let ink = INK.stroke_width(1);
        root.draw(&PathElement::new(vec![(middle, high), (middle, low)], ink))?;
        for end in [high, low] {
            root.draw(&PathElement::new(vec![(middle - 4, end), (middle + 4, end)], ink))?;
        }
        top = high;
    }
    // What was stopped could be more.
    let text = match (point.is_stopped(), point.median) {
        (true, 0.0) => "none yet".to_owned(),
        (true, median) => format!("≥ {}", count(median)),
        (false, median) => count(median),
    };
    root.draw_text(&text, &anchored(12, HPos::Center, VPos::Bottom), (middle, top - 4))
}
