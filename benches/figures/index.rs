//! The index of a directory of figures: what each says in one line, how it was made, and what was assumed.

use std::fmt::Write as _;

use super::draw::count;
use super::runs::Runs;
use super::sheet::{Block, Body, Cell, Panel, Point, Series, Sheet, Source};
use crate::placement::report::BUSY;

/// The index, in Markdown.
pub fn text(runs: &Runs, sheets: &[Sheet]) -> String {
    let (plan, machine) = (&runs.plan, &runs.machine);
    let mut text = "# The papers' figures, made again\n\n".to_owned();
    let _ = writeln!(
        text,
        "Figures 3 to 12 of \"Virtual Function Placement and Traffic Steering in Flexible and Dynamic Software Defined Networks\" and Table 3 of\n\
         \"Stratos: A Network-Aware Orchestration Layer for Virtual Middleboxes in Clouds\".\n\n\
         Made by `{}`\non {}, {} CPUs, Linux {}, towpath {}.",
        runs.command_line.join(" "),
        machine.cpu,
        machine.cpus,
        machine.kernel,
        runs.version
    );
    if runs.interrupted {
        text.push_str("\n**The measurement was ended early: what is missing was not measured.**\n");
    }
    if !machine.release_build {
        text.push_str("\n**A debug build: build with --release before quoting a figure.**\n");
    }
    if runs.cpu_share < BUSY {
        let share = runs.cpu_share * 100.0;
        let _ = writeln!(
            text,
            "\n**The machine was busy: the measurement got {share:.0} % of a CPU, so every time limit came early. Repeat it on a quiet one.**"
        );
    }
    text.push_str("\n| figure | what it says | data |\n|---|---|---|\n");
    for sheet in sheets {
        let Sheet { file, title, reading, .. } = sheet;
        let _ = writeln!(text, "| [{title}]({file}.svg) | {reading} | [{file}.csv]({file}.csv) |");
    }
    let _ = writeln!(
        text,
        "\nEvery run, with status, bound, gap and seconds: [runs.csv](runs.csv). To draw again without measuring: `towpath bench figures --redraw --into DIR`.\n\n\
         ## Three sources\n\n\
         - **ours**: bounds, search and compact MILP, {} s each (half of that for a group), seeds 1 to {}; online placement; the dense simplex.\n\
         - **the paper's methods, run here**: MILP (1)–(12) and heuristics A, B, B+, B+COR, C as printed, by HiGHS on one thread, {} s for each program,\n  \
         seeds 1 to {}. The paper gave its solver hours: give more with `--limit`. After three sizes without a solution larger ones are not tried.\n\
         - **published**: numbers printed in the papers' text and tables. Their figures print none, and nothing was read off a picture.\n\n\
         ## What was assumed\n\n\
         - The paper publishes neither its flows nor the links' capacity. Here a link carries 10 flows per direction, and entry and exit are drawn by\n  \
         SplitMix64 from the seed. So its figures can be compared in shape, not point by point.\n\
         - Figures 4 to 9 place all flows at once. In figures 3, 10, 11 and 12 flows come in groups of five, and what is placed stays; the count is of\n  \
         the flows before the first group (for A and one by one: the first flow) that finds no place.\n\
         - LV is a hundred times T. The gap is that of U + MaxDelay/LV, for ours too.\n\
         - M is binary: at most one instance of a service on a host. Up to 64 flows fit the cores; the links of some seeds forbid that.",
        plan.limit_s / 20.0,
        plan.seeds,
        plan.limit_s,
        plan.paper_seeds.min(plan.seeds)
    );
    for sheet in sheets {
        let _ = writeln!(text, "\n![{}]({}.svg)", sheet.title, sheet.file);
    }
    text
}

/// What a figure says, in one line.
pub fn reading(sheet: &Sheet) -> String {
    match &sheet.body {
        Body::Lines { panels, .. } if sheet.number == "5" => effort_reading(panels),
        Body::Lines { panels, .. } => {
            let series: Vec<&Series> = panels.iter().flat_map(|panel| &panel.series).collect();
            format!(
                "{}; {}",
                last_points(&series, Source::Ours, "ours"),
                last_points(&series, Source::Theirs, "the paper's")
            )
        }
        Body::Bars { categories, series, .. } => bars_reading(categories, series),
        Body::Grid { blocks, .. } => {
            let parts = blocks.iter().map(|Block { source, rows, .. }| {
                let cells: Vec<&Cell> = rows.iter().flat_map(|(_, cells)| cells).collect();
                let proven = cells.iter().filter(|cell| cell.class == 0).count();
                let name = if *source == Source::Ours { "ours, in the median" } else { "the paper's MILP" };
                format!("{name}: {proven} of {} problems proven optimal", cells.len())
            });
            parts.collect::<Vec<_>>().join("; ") + "; the paper prints: all up to 10 flows"
        }
    }
}

/// Each line's last point, and how much of all is proven.
fn last_points(series: &[&Series], source: Source, name: &str) -> String {
    let of = || series.iter().filter(|series| series.source == source);
    let lasts: Vec<String> = of()
        .filter_map(|series| {
            let last = series.points.last()?;
            let name = series.label.split(',').next().unwrap_or_default();
            Some(format!("{name} {} at {:.0} flows", short(last.median), last.x))
        })
        .collect();
    if lasts.is_empty() {
        return format!("{name}: nothing within the limit");
    }
    let open = of().flat_map(|series| &series.points).filter(|point| point.is_stopped()).count();
    let all = of().map(|series| series.points.len()).sum::<usize>();
    format!("{name}: {} ({open} of {all} points stopped by the limit)", lasts.join(", "))
}

fn effort_reading(panels: &[Panel]) -> String {
    let parts = panels.iter().map(|panel| {
        let points = || panel.series.iter().flat_map(|series| &series.points);
        let most = points().map(|point| point.median).fold(0.0, f64::max);
        let open = points().filter(|point| point.is_stopped()).count();
        let stopped = format!("{open} of {} points stopped by the limit", points().count());
        format!("{}: at most {} {}, {stopped}", panel.title, short(most), panel.y.to_lowercase())
    });
    parts.collect::<Vec<_>>().join("; ")
}

fn short(value: f64) -> String {
    match value {
        _ if value >= 1_000.0 => count(value),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn bars_reading(categories: &[String], series: &[Series]) -> String {
    let name = |point: &Point| {
        let category = categories.get(point.x as usize).map_or("", String::as_str).replace('\n', " ");
        let stopped = if point.is_stopped() { "≥ " } else { "" };
        format!("{category} {stopped}{}", count(point.median))
    };
    let parts = series.iter().filter(|series| !series.points.is_empty()).map(|series| {
        let points: Vec<String> = series.points.iter().map(name).collect();
        let same = series.points.iter().all(|point| point.median == series.points[0].median);
        let whose = if series.source == Source::Published { "published: " } else { "" };
        if same && points.len() > 2 {
            return format!("{whose}{}: {}", series.label, count(series.points[0].median));
        }
        format!("{whose}{}: {}", series.label, points.join(", "))
    });
    parts.collect::<Vec<_>>().join("; ")
}
