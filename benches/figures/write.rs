//! Figures and runs as CSV (RFC 4180: a header, commas, quotes where a cell needs them).

use super::runs::{Run, Runs, Worth};
use super::sheet::{Block, Body, Cell, Point, Series, Sheet, Source};

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\"").replace('\n', " "))
    } else {
        cell.to_owned()
    }
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    cells.join(",") + "\n"
}

fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn maybe(value: Option<f64>) -> String {
    value.map_or(String::new(), number)
}

const HEADER: &str =
    "figure,panel,series,source,x,median,lowest,highest,runs,stopped_by_limit,without_solution,bound,gap,note\n";

/// A figure as it is drawn: one line per point.
pub fn csv(sheet: &Sheet) -> String {
    let mut text = HEADER.to_owned();
    let mut add = |panel: &str, name: &str, source: Source, x: &str, point: &Point| {
        let Point { low, median, high, runs, limited, without, bound, gap, ref note, .. } = *point;
        let counts = [runs, limited, without].map(|count| count.to_string());
        let mut cells = [&sheet.number, panel, name, source.name(), x].map(str::to_owned).to_vec();
        cells.extend([median, low, high].map(number));
        cells.extend(counts);
        cells.extend([maybe(bound), maybe(gap), note.clone()]);
        text.push_str(&line(&cells));
    };
    let mut add_series = |panel: &str, series: &Series, x: &dyn Fn(&Point) -> String| {
        for point in &series.points {
            add(panel, &series.label, series.source, &x(point), point);
        }
    };
    let mut all_guides = &Vec::new();
    match &sheet.body {
        Body::Lines { panels, guides, .. } => {
            all_guides = guides;
            for panel in panels {
                for series in &panel.series {
                    add_series(&panel.y, series, &|point| number(point.x));
                }
            }
        }
        Body::Bars { categories, series, guides, .. } => {
            all_guides = guides;
            for series in series {
                add_series(&sheet.y, series, &|point| categories.get(point.x as usize).cloned().unwrap_or_default());
            }
        }
        Body::Grid { blocks, columns, .. } => {
            for block in blocks {
                for (name, cells) in &block.rows {
                    for (cell, flows) in cells.iter().zip(columns) {
                        text.push_str(&grid_line(sheet, block, name, *flows, cell));
                    }
                }
            }
        }
    }
    for guide in all_guides {
        let cells = [&sheet.number, &sheet.y, &guide.label, Source::Published.name(), "all"].map(str::to_owned);
        let values = [guide.value, guide.value, guide.value].map(number);
        let rest = ["1", "0", "0", "", "", guide.source].map(str::to_owned);
        text.push_str(&line(&[cells.as_slice(), &values, &rest].concat()));
    }
    text
}

fn grid_line(sheet: &Sheet, block: &Block, name: &str, flows: usize, cell: &Cell) -> String {
    let mut cells = [&sheet.number, &block.heading, name, block.source.name()].map(str::to_owned).to_vec();
    cells.push(flows.to_string());
    match &cell.point {
        Some(point) => {
            cells.extend([point.median, point.low, point.high].map(number));
            cells.extend([point.runs, point.limited, point.without].map(|count| count.to_string()));
            cells.extend([String::new(), number(point.median), point.note.clone()]);
        }
        None => {
            cells.extend(std::iter::repeat_n(String::new(), 8));
            cells.push(if cell.text.is_empty() {
                "not tried".to_owned()
            } else {
                "no solution within the limit".to_owned()
            });
        }
    }
    line(&cells)
}

/// Every run, one line each.
pub fn runs_csv(runs: &Runs) -> String {
    let mut text = "method,source,objective,scale,flows,seed,limit_s,status,placed,core_u,link_u,max_delay_ms,cores,u_bound,max_delay_bound_ms,gap,simplex_iterations,seconds\n".to_owned();
    for run in &runs.runs {
        let Run { method, objective, scale, flows, seed, limit_s, status, placed, worth, .. } = run;
        let of = |value: fn(&Worth) -> f64| maybe(worth.as_ref().map(value));
        let source = if method.is_ours() { Source::Ours } else { Source::Theirs };
        let mut cells = vec![method.to_string(), source.name().to_owned()];
        cells.push(objective.map_or(String::new(), |objective| objective.to_string()));
        cells.extend([*scale, *flows as u64, *seed].map(|count| count.to_string()));
        cells.extend([number(*limit_s), status.to_string(), placed.to_string()]);
        cells.extend([of(|worth| worth.core_u), of(|worth| worth.link_u), of(|worth| worth.delay_max_ms)]);
        cells.push(of(|worth| f64::from(worth.cores)));
        cells.extend([maybe(run.u_bound), maybe(run.delay_bound_ms), maybe(run.gap)]);
        cells.push(run.iterations.map_or(String::new(), |count| count.to_string()));
        cells.push(number(run.seconds));
        text.push_str(&line(&cells));
    }
    text
}

/// Everything, to draw the figures again.
pub fn runs_json(runs: &Runs) -> String {
    let mut text = serde_json::to_string(runs).unwrap_or_default();
    text.push('\n');
    text
}
