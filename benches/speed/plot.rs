//! A speed report as an SVG plot: Mpps over the plan's axis, a colour per series, the spread of the rounds as a bar.

use plotters::prelude::*;

use super::report::SpeedReport;
use crate::plot::{COLOURS, FAINT, FONT, INK, PlotError, SIZE};
use crate::text::rate_name;

/// (place, lowest, median, highest)
type Points = Vec<(f64, f64, f64, f64)>;

/// The plot, as the text of an SVG file.
pub fn svg(report: &SpeedReport) -> Result<String, PlotError> {
    let mut series: Vec<(String, Points)> = Vec::new();
    for row in &report.rows {
        let mpps = row.figure(|round| round.mpps);
        if !series.iter().any(|(name, _)| *name == row.case.series) {
            series.push((row.case.series.clone(), Vec::new()));
        }
        if let Some((_, points)) = series.iter_mut().find(|(name, _)| *name == row.case.series) {
            points.push((row.case.at, mpps.low, mpps.median, mpps.high));
        }
    }
    let places = || series.iter().flat_map(|(_, points)| points);
    let low = places().map(|point| point.0).reduce(f64::min).ok_or(PlotError::Empty)?;
    let high = places().map(|point| point.0).fold(low, f64::max);
    let most = places().map(|point| point.3).fold(0.0, f64::max);
    let mut text = String::new();
    draw(&mut text, report, &series, low..high, most.max(0.001) * 1.1)
        .map_err(|error| PlotError::Drawing(error.to_string()))?;
    Ok(text)
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(
    text: &'a mut String,
    report: &SpeedReport,
    series: &[(String, Points)],
    places: std::ops::Range<f64>,
    most_mpps: f64,
) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(&report.title, &(FONT, 21).into_font().color(&INK), (24, 16))?;
    let machine = &report.machine;
    let subtitle = format!("{}, {} CPUs, Linux {}", machine.cpu, machine.cpus, machine.kernel);
    root.draw_text(&subtitle, &(FONT, 13).into_font().color(&INK.mix(0.75)), (24, 46))?;
    let area = root.margin(74, 12, 12, 24);
    let is_wide = places.start > 0.0 && places.end / places.start > 50.0;
    // On a wide axis places stand by their logarithm; the labels undo it.
    let place = |at: f64| if is_wide { at.log10() } else { at };
    let (from, to) = (place(places.start), place(places.end));
    let room = ((to - from) * 0.04).max(0.01);
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(52)
        .y_label_area_size(78)
        .build_cartesian_2d(from - room..to + room, 0.0..most_mpps)?;
    let labels = (FONT, 13).into_font().color(&INK);
    chart
        .configure_mesh()
        .x_desc(report.axis.as_str())
        .y_desc("Mpps (median; bar: all rounds)")
        .x_label_formatter(&|at| rate_name(if is_wide { 10_f64.powf(*at) } else { *at }))
        .label_style(labels.clone())
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .axis_style(INK.mix(0.6))
        .bold_line_style(FAINT)
        .light_line_style(FAINT.mix(0.4))
        .draw()?;
    for ((name, points), &colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let line = points.iter().map(|&(at, _, median, _)| (place(at), median));
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(3)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 34, y)], colour.stroke_width(3)));
        chart.draw_series(line.map(|point| Circle::new(point, 4, colour.filled())))?;
        let bars = points.iter().map(|&(at, low, _, high)| [(place(at), low), (place(at), high)]);
        chart.draw_series(bars.map(|bar| PathElement::new(bar, colour.stroke_width(1))))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .legend_area_size(42)
        .margin(10)
        .background_style(WHITE.mix(0.9))
        .border_style(FAINT)
        .label_font(labels)
        .draw()?;
    root.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_its_axes_and_every_series() {
        let svg = svg(&super::super::report::tests::report(&[10, 30, 20])).unwrap();
        for text in ["Forwarding", "flows", "Mpps", "exact + DSCP"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn without_a_case_there_is_no_plot_but_an_error_that_says_so() {
        let mut report = super::super::report::tests::report(&[10]);
        report.rows.clear();
        assert!(matches!(svg(&report), Err(PlotError::Empty)));
    }
}
