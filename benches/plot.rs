//! A report as an SVG plot: latency by percentile, a colour per rate; solid for first packets, dashed for established ones.
//!
//! The horizontal axis is that of HDR histograms: each further nine has the same width, so that the tail can be read. The
//! vertical axis is logarithmic.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::FlowSetupReport;
use crate::text::rate_name;

pub(crate) const SIZE: (u32, u32) = (1_000, 600);
pub(crate) const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
pub(crate) const FAINT: RGBColor = RGBColor(215, 219, 226);
/// Colours that remain apart for the colour-blind (after Okabe and Ito).
pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 86, 86),
];

/// A plot that can't be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// No packet came out, or the plan had no rates.
    #[error("there is nothing to plot: no packet came out at any rate")]
    Empty,
    /// The drawing failed.
    #[error("the plot could not be drawn: {0}")]
    Drawing(String),
}

/// One line of the plot.
struct Curve {
    label: String,
    colour: RGBColor,
    dashed: bool,
    /// (nines, ns)
    points: Vec<(f64, f64)>,
}

/// The plot, as the text of an SVG file.
pub fn svg(report: &FlowSetupReport) -> Result<String, PlotError> {
    let curves = curves(report);
    let (low_ns, high_ns) = bounds(&curves).ok_or(PlotError::Empty)?;
    let mut text = String::new();
    draw(&mut text, report, &curves, low_ns..high_ns).map_err(|error| PlotError::Drawing(error.to_string()))?;
    Ok(text)
}

fn curves(report: &FlowSetupReport) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (rate, &colour) in report.rates.iter().zip(COLOURS.iter().cycle()) {
        for (name, result, dashed) in [("first", &rate.first, false), ("established", &rate.established, true)] {
            let points = nines(&result.latency.curve);
            if !points.is_empty() {
                let label = format!("{} flows/s, {name}", rate_name(rate.offered_per_s));
                curves.push(Curve { label, colour, dashed, points });
            }
        }
    }
    curves
}

/// Quantiles as nines: 0.9 is 1, 0.99 is 2. The highest value stands at the rarest quantile that the count supports.
fn nines(curve: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let rarest = curve.iter().map(|point| point.0).filter(|&quantile| quantile < 1.0).fold(0.0, f64::max);
    let place = |quantile: f64| -(1.0 - quantile.min(rarest)).log10() + if quantile < 1.0 { 0.0 } else { 0.1 };
    curve.iter().map(|&(quantile, ns)| (place(quantile), ns.max(1) as f64)).collect()
}

/// The whole powers of ten around all values.
fn bounds(curves: &[Curve]) -> Option<(f64, f64)> {
    let values = || curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
    let low = values().reduce(f64::min)?;
    let high = values().reduce(f64::max)?;
    let low_ns = 10_f64.powf(low.log10().floor());
    Some((low_ns, 10_f64.powf((high * 1.001).log10().ceil()).max(low_ns * 10.0)))
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(
    text: &'a mut String,
    report: &FlowSetupReport,
    curves: &[Curve],
    latency_ns: std::ops::Range<f64>,
) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let small = (FONT, 13).into_font().color(&INK.mix(0.75));
    root.draw_text(
        "Flow setup: latency of first and established packets",
        &(FONT, 21).into_font().color(&INK),
        (24, 16),
    )?;
    root.draw_text(&subtitle(report), &small, (24, 46))?;
    let area = root.margin(74, 12, 12, 24);
    let most = curves.iter().flat_map(|curve| curve.points.last()).map(|point| point.0).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(52)
        .y_label_area_size(78)
        .build_cartesian_2d(0.0..most + 0.1, latency_ns.log_scale())?;
    let labels = (FONT, 13).into_font().color(&INK);
    chart
        .configure_mesh()
        .x_desc("Percentile of packets that came out")
        .y_desc("Latency from the intended time of sending")
        .x_labels(most.ceil() as usize + 1)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|ns| duration(*ns))
        .y_max_light_lines(9)
        .label_style(labels.clone())
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .axis_style(INK.mix(0.6))
        .bold_line_style(FAINT)
        .light_line_style(FAINT.mix(0.4))
        .draw()?;
    for curve in curves {
        let style = curve.colour.stroke_width(if curve.dashed { 2 } else { 3 });
        let points = curve.points.iter().copied();
        let colour = curve.colour;
        if curve.dashed {
            chart
                .draw_series(DashedLineSeries::new(points, 7, 5, style))?
                .label(&curve.label)
                .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 34, y)], 7, 5, colour.stroke_width(2)));
        } else {
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(&curve.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 34, y)], colour.stroke_width(3)));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .legend_area_size(42)
        .margin(10)
        .background_style(WHITE.mix(0.9))
        .border_style(FAINT)
        .label_font(labels.pos(Pos::new(HPos::Left, VPos::Top)))
        .draw()?;
    root.present()
}

fn subtitle(report: &FlowSetupReport) -> String {
    let machine = &report.machine;
    let search = report.search.as_ref();
    let limit = search.map(|search| format!(" · without loss up to {} flows/s", rate_name(search.median_per_s)));
    let cores = if report.path.share_cores == Some(true) { " · lcores share CPUs" } else { "" };
    let limit = limit.unwrap_or_default();
    format!(
        "{} · {}, {} CPUs, Linux {}{cores}{limit}",
        report.path.description, machine.cpu, machine.cpus, machine.kernel
    )
}

fn percentile(nines: f64) -> String {
    let whole = nines.round();
    if (nines - whole).abs() > 1e-6 {
        return String::new();
    }
    match whole as i64 {
        i64::MIN..=0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more as usize - 2)),
    }
}

fn duration(ns: f64) -> String {
    match ns {
        _ if ns >= 1e9 => format!("{:.0} s", ns / 1e9),
        _ if ns >= 1e6 => format!("{:.0} ms", ns / 1e6),
        _ if ns >= 1e3 => format!("{:.0} µs", ns / 1e3),
        _ => format!("{ns:.0} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated;

    #[test]
    fn a_plot_has_a_title_both_axes_with_units_and_a_line_in_the_legend_for_each_curve() {
        let svg = svg(&simulated::long_tailed_report()).unwrap();
        let texts = [
            "Flow setup: latency of first and established packets",
            "Percentile of packets that came out",
            "Latency from the intended time of sending",
            "99.9 %",
            "1 ms",
            "100 flows/s, first",
            "100 flows/s, established",
            "10k flows/s, first",
        ];
        for text in texts {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn without_a_packet_there_is_no_plot_but_an_error_that_says_so() {
        let mut report = simulated::long_tailed_report();
        report.rates.clear();
        assert!(matches!(svg(&report), Err(PlotError::Empty)));
    }

    #[test]
    fn percentiles_get_one_more_nine_at_each_step() {
        let names: Vec<String> = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0].into_iter().map(percentile).collect();
        assert_eq!(names, ["0 %", "", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
