//! From runs to figures: which series each has, and what its points are. No drawing.
//!
//! A point is the median over the seeds, with the lowest and the highest. Runs without a solution are in no median; how many there were is
//! in the CSV file.

use placement::solve::Load;

use super::measure::{FLOWS_MAX, GROUP, PAPER_FLOWS_MAX};
use super::published::{self, Published};
use super::runs::{Method, Objective, Run, Runs, Status};
use super::{index, table3};

/// Who a series is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Our methods.
    Ours,
    /// A method of the paper, run here.
    Theirs,
    /// Printed in a paper.
    Published,
}

impl Source {
    /// As the CSV files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Theirs => "the paper's method, run here",
            Self::Published => "published",
        }
    }
}

/// A value over seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Where it stands on the horizontal axis: flows, or the number of a category.
    pub x: f64,
    /// The lowest.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The highest.
    pub high: f64,
    /// How many runs have a value.
    pub runs: usize,
    /// How many of them were stopped by the time limit.
    pub limited: usize,
    /// How many further runs have no value.
    pub without: usize,
    /// The bound that goes with the median's solution, and its gap, where one is known.
    pub bound: Option<f64>,
    /// Relative, of the paper's objective: the median.
    pub gap: Option<f64>,
    /// What the numbers leave unsaid.
    pub note: String,
}

impl Point {
    /// Whether the time limit ended most of its runs, so that its value could be better.
    pub fn is_stopped(&self) -> bool {
        self.limited * 2 > self.runs
    }
}

/// Points of one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend.
    pub label: String,
    /// Whose.
    pub source: Source,
    /// Which colour and marker.
    pub colour: usize,
    /// By x.
    pub points: Vec<Point>,
}

/// A line across a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Guide {
    /// Where.
    pub value: f64,
    /// What it is.
    pub label: String,
    /// Where it is printed.
    pub source: &'static str,
}

/// A cell of a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Its text.
    pub text: String,
    /// Its class: an index into the grid's classes.
    pub class: usize,
    /// As the CSV file has it.
    pub point: Option<Point>,
}

/// Rows of cells under a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Above it.
    pub heading: String,
    /// Whose.
    pub source: Source,
    /// Each with its name.
    pub rows: Vec<(String, Vec<Cell>)>,
}

/// Lines with one pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above it; may be empty.
    pub title: String,
    /// The vertical axis, with its unit.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Lines over the number of flows, in one panel or two side by side.
    Lines {
        /// From the left; panels with the same vertical axis have the same range.
        panels: Vec<Panel>,
        /// Published values.
        guides: Vec<Guide>,
        /// A logarithmic vertical axis.
        is_log: bool,
    },
    /// Bars by category.
    Bars {
        /// Names of the categories.
        categories: Vec<String>,
        /// Each with a point per category where it has one.
        series: Vec<Series>,
        /// Published values.
        guides: Vec<Guide>,
        /// A logarithmic vertical axis.
        is_log: bool,
    },
    /// Cells by method and number of flows.
    Grid {
        /// Names of the classes, the best first.
        classes: Vec<String>,
        /// Numbers of flows.
        columns: Vec<usize>,
        /// From above.
        blocks: Vec<Block>,
    },
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// `3`, or `T3` for Table 3.
    pub number: String,
    /// The name of its files.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub subtitle: String,
    /// The horizontal axis.
    pub x: String,
    /// The vertical axis, with its unit.
    pub y: String,
    /// What is drawn.
    pub body: Body,
    /// One line: what the figure says.
    pub reading: String,
}

/// All figures, in the papers' order.
pub fn all(runs: &Runs) -> Vec<Sheet> {
    let mut sheets = vec![
        figure_3(runs),
        utilisation(runs, 4, "Maximum core utilisation", |run| run.worth.map(|worth| worth.core_u)),
        figure_5(runs),
        figure_6(runs),
        utilisation(runs, 7, "Maximum link utilisation", |run| run.worth.map(|worth| worth.link_u)),
        utilisation(runs, 8, "Maximum core or link utilisation", |run| {
            run.worth.map(|worth| worth.core_u.max(worth.link_u))
        }),
        figure_9(runs),
        figure_10(runs),
        figure_11(runs),
        figure_12(runs),
        table3::sheet(runs),
    ];
    for sheet in &mut sheets {
        sheet.reading = index::reading(sheet);
    }
    sheets
}

/// The middle one; of an even number the lower of the two.
fn middle(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// The point of these runs; none if none has a value.
fn point<'r>(x: f64, runs: impl Iterator<Item = &'r Run>, value: impl Fn(&Run) -> Option<f64>) -> Option<Point> {
    let (mut values, mut gaps) = (Vec::new(), Vec::new());
    let (mut limited, mut without, mut bound) = (0, 0, None);
    let mut causes: Vec<String> = Vec::new();
    for run in runs {
        let Some(value) = value(run) else {
            without += 1;
            causes.push(run.status.to_string());
            continue;
        };
        values.push(value);
        limited += usize::from(matches!(run.status, Status::Limit | Status::Nothing));
        gaps.extend(run.gap);
        bound = bound.or(run.u_bound);
    }
    values.sort_by(f64::total_cmp);
    gaps.sort_by(f64::total_cmp);
    causes.sort();
    causes.dedup();
    let median = middle(&values)?;
    let bound = bound.filter(|_| values.len() == 1);
    let (low, high) = (values[0], values[values.len() - 1]);
    let note = causes.join("; ");
    Some(Point { x, low, median, high, runs: values.len(), limited, without, bound, gap: middle(&gaps), note })
}

/// A printed value as a point.
pub fn printed(x: f64, what: Published) -> Point {
    let Published { value, source } = what;
    let note = source.to_owned();
    Point { x, low: value, median: value, high: value, runs: 1, limited: 0, without: 0, bound: None, gap: None, note }
}

fn sizes() -> impl Iterator<Item = usize> {
    (GROUP..=PAPER_FLOWS_MAX).step_by(GROUP)
}

fn panel(title: &str, y: &str, series: Vec<Series>) -> Panel {
    Panel { title: title.to_owned(), y: y.to_owned(), series }
}

fn guide(what: Published, label: &str) -> Guide {
    Guide { value: what.value, label: label.to_owned(), source: what.source }
}

impl Runs {
    pub(super) fn of(&self, method: Method, objective: Option<Objective>) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.method == method && (objective.is_none() || run.objective == objective))
    }

    /// A line over the number of flows, all flows at once.
    fn line(
        &self,
        method: Method,
        objective: Objective,
        colour: usize,
        value: impl Fn(&Run) -> Option<f64> + Copy,
    ) -> Series {
        let at = |flows: usize| {
            let runs = self.of(method, Some(objective)).filter(move |run| run.flows == flows && run.scale == 1);
            point(flows as f64, runs, value)
        };
        let source = if method.is_ours() { Source::Ours } else { Source::Theirs };
        let label = if method.is_ours() { format!("{objective}, ours") } else { format!("{objective}, MILP") };
        Series { label, source, colour, points: sizes().filter_map(at).collect() }
    }

    fn who(&self) -> String {
        let plan = &self.plan;
        let seeds = |count: u64| if count == 1 { "seed 1".to_owned() } else { format!("seeds 1–{count}") };
        format!(
            "AS-16631. Solid: ours, {}, {} s each. Dashed: the paper's MILP, {}, {} s each. Medians. Filled: most runs proven optimal; hollow: most stopped by the limit.",
            seeds(plan.seeds),
            plan.limit_s / 20.0,
            seeds(plan.paper_seeds.min(plan.seeds)),
            plan.limit_s,
        )
    }

    fn who_bars(&self) -> String {
        let plan = &self.plan;
        format!(
            "AS-16631, up to {FLOWS_MAX} flows. Median over seeds ({} for ours and A, {} for the MILPs), lowest and highest. Pale, ≥: most were stopped by the time limit.",
            plan.seeds,
            plan.paper_seeds.min(plan.seeds),
        )
    }
}

fn placed(run: &Run) -> Option<f64> {
    Some(run.placed as f64)
}

fn bars(
    categories: &[Objective],
    label: &str,
    source: Source,
    colour: usize,
    point: impl Fn(f64, Objective) -> Option<Point>,
) -> Series {
    let points = categories.iter().enumerate().filter_map(|(at, &objective)| point(at as f64, objective)).collect();
    Series { label: label.to_owned(), source, colour, points }
}

fn figure_3(runs: &Runs) -> Sheet {
    let of = |method: Method| {
        move |at: f64, objective: Objective| {
            point(at, runs.of(method, Some(objective)).filter(|run| run.scale == 1), placed)
        }
    };
    let at_once = |at: f64, _: Objective| {
        let none = Objective { load: Load::None, delay: false };
        point(at, runs.of(Method::Ours, Some(none)).filter(|run| run.flows == FLOWS_MAX && run.scale == 1), placed)
    };
    let all = Objective::ALL;
    let series = vec![
        bars(&all, "MILP, groups of five", Source::Theirs, 1, of(Method::BPlus)),
        bars(&all, "ours, groups of five", Source::Ours, 0, of(Method::OursInGroups)),
        bars(&all, "ours, all at once", Source::Ours, 2, at_once),
    ];
    let guides = vec![guide(published::FLOWS_OPTIMAL, "optimum: 60 flows")];
    Sheet {
        number: "3".to_owned(),
        file: "figure-03".to_owned(),
        title: "Figure 3: flows supported, by objective".to_owned(),
        subtitle: runs.who_bars(),
        x: "Objective (_D: then MaxDelay)".to_owned(),
        y: "Flows placed before the first failure".to_owned(),
        body: Body::Bars { categories: all.iter().map(Objective::to_string).collect(), series, guides, is_log: false },
        reading: String::new(),
    }
}

/// Figures 4, 7 and 8.
fn utilisation(runs: &Runs, number: usize, what: &str, value: impl Fn(&Run) -> Option<f64> + Copy) -> Sheet {
    let mut names = vec!["C", "L", "M"];
    if number == 8 {
        names.push("M_D");
    }
    let mut series = Vec::new();
    for method in [Method::Ours, Method::Milp] {
        for (colour, name) in names.iter().enumerate() {
            series.extend(Objective::named(name).map(|objective| runs.line(method, objective, colour, value)));
        }
    }
    Sheet {
        number: number.to_string(),
        file: format!("figure-{number:02}"),
        title: format!("Figure {number}: {}, by objective", what.to_lowercase()),
        subtitle: runs.who(),
        x: "Flows".to_owned(),
        y: format!("{what} (share of capacity)"),
        body: Body::Lines {
            panels: vec![panel("", &format!("{what} (share of capacity)"), series)],
            guides: Vec::new(),
            is_log: false,
        },
        reading: String::new(),
    }
}

fn figure_5(runs: &Runs) -> Sheet {
    let named = |name: &str| Objective::named(name);
    let lines = |method: Method, value: fn(&Run) -> Option<f64>| -> Vec<Series> {
        let names = ["C", "L", "M", "C_D", "L_D", "M_D"];
        let lines = names.iter().enumerate();
        lines.filter_map(|(colour, name)| Some(runs.line(method, named(name)?, colour, value))).collect()
    };
    let tried = |run: &Run| run.iterations.filter(|&count| count > 0).map(|count| count as f64);
    let seconds = |run: &Run| (run.status != Status::Skipped).then_some(run.seconds.max(1e-4));
    Sheet {
        number: "5".to_owned(),
        file: "figure-05".to_owned(),
        title: "Figure 5: what it takes to solve, by objective".to_owned(),
        subtitle: runs.who(),
        x: "Flows".to_owned(),
        y: "left: simplex iterations; right: seconds".to_owned(),
        body: Body::Lines {
            panels: vec![
                panel("The paper's MILP", "Simplex iterations", lines(Method::Milp, tried)),
                panel("Ours", "Time (s)", lines(Method::Ours, seconds)),
            ],
            guides: Vec::new(),
            is_log: true,
        },
        reading: String::new(),
    }
}

/// The classes of figure 6, by the largest gap that belongs to them.
const GAPS: [(f64, &str); 5] = [
    (0.0, "proven optimal"),
    (0.05, "gap up to 5 %"),
    (0.10, "gap up to 10 %"),
    (0.25, "gap up to 25 %"),
    (f64::INFINITY, "gap above 25 %"),
];

fn cell(runs: &Runs, method: Method, objective: Objective, flows: usize) -> Cell {
    let of = || runs.of(method, Some(objective)).filter(move |run| run.flows == flows && run.scale == 1);
    let count = of().count();
    let nothing = |text: &str, class: usize| Cell { text: text.to_owned(), class, point: None };
    if of().all(|run| run.status == Status::Skipped) {
        return nothing("", GAPS.len() + 1);
    }
    let gap = |run: &Run| match run.status {
        Status::Optimal | Status::Infeasible => Some(0.0),
        Status::Limit => Some(run.gap.unwrap_or(1.0).max(1e-9)),
        _ => None,
    };
    let Some(point) = point(flows as f64, of(), gap).filter(|point| point.runs * 2 > count) else {
        return nothing("none", GAPS.len());
    };
    let proven = point.runs - point.limited;
    let text = match (count, point.median) {
        (1, gap) if gap > 0.0 => percent(gap),
        (1, _) => "0".to_owned(),
        _ => format!("{proven}/{count}"),
    };
    let class = GAPS.iter().position(|(most, _)| point.median <= *most).unwrap_or(GAPS.len() - 1);
    Cell { text, class, point: Some(point) }
}

fn percent(gap: f64) -> String {
    if gap < 0.001 {
        "<0.1 %".to_owned()
    } else if gap < 0.1 {
        format!("{:.1} %", gap * 100.0)
    } else {
        format!("{:.0} %", gap * 100.0)
    }
}

fn figure_6(runs: &Runs) -> Sheet {
    let columns: Vec<usize> = sizes().collect();
    let block = |heading: String, source: Source, method: Method| {
        let row = |objective: Objective| {
            let cells = columns.iter().map(|&flows| cell(runs, method, objective, flows)).collect();
            (objective.to_string(), cells)
        };
        Block { heading, source, rows: Objective::ALL.into_iter().map(row).collect() }
    };
    let plan = &runs.plan;
    let theirs = format!("The paper's MILP, {} s: its gap", plan.limit_s);
    let ours = format!("Ours, {} s: seeds proven optimal", plan.limit_s / 20.0);
    let classes = GAPS.iter().map(|(_, name)| (*name).to_owned());
    Sheet {
        number: "6".to_owned(),
        file: "figure-06".to_owned(),
        title: "Figure 6: status of the solution found for each problem".to_owned(),
        subtitle: "AS-16631. Colour: the gap (the median's where there are more seeds) of the paper's objective U + MaxDelay/LV.".to_owned(),
        x: "Flows".to_owned(),
        y: "Objective".to_owned(),
        body: Body::Grid {
            classes: classes.chain(["no solution".to_owned(), "not tried".to_owned()]).collect(),
            columns: columns.clone(),
            blocks: vec![
                block(theirs, Source::Theirs, Method::Milp),
                block(ours, Source::Ours, Method::Ours),
            ],
        },
        reading: String::new(),
    }
}

fn delay(run: &Run) -> Option<f64> {
    run.worth.map(|worth| worth.delay_max_ms)
}

/// The longest shortest path between any two hosts, ms.
const LONGEST_SHORTEST_MS: f64 = 27.698;

fn figure_9(runs: &Runs) -> Sheet {
    let lines = |method: Method| -> Vec<Series> {
        let names = ["C", "L", "M", "C_D", "L_D", "M_D"].iter().enumerate();
        names.filter_map(|(colour, name)| Some(runs.line(method, Objective::named(name)?, colour, delay))).collect()
    };
    let stretch = Published {
        value: published::DELAY_STRETCH.value * LONGEST_SHORTEST_MS,
        source: published::DELAY_STRETCH.source,
    };
    Sheet {
        number: "9".to_owned(),
        file: "figure-09".to_owned(),
        title: "Figure 9: maximum delay of flows, by objective".to_owned(),
        subtitle: runs.who(),
        x: "Flows".to_owned(),
        y: "MaxDelay (ms)".to_owned(),
        body: Body::Lines {
            panels: vec![
                panel("The paper's MILP", "MaxDelay (ms)", lines(Method::Milp)),
                panel("Ours", "MaxDelay (ms)", lines(Method::Ours)),
            ],
            guides: vec![
                guide(published::DELAY_TOLERATED_MS, "T = 100 ms"),
                guide(stretch, "3 × longest shortest path"),
            ],
            is_log: false,
        },
        reading: String::new(),
    }
}

fn figure_10(runs: &Runs) -> Sheet {
    let base = |run: &&Run| run.scale == 1;
    let mix = Some(Objective::MIX_DELAY);
    let in_groups = |at: f64, method: Method, objective| point(at, runs.of(method, objective).filter(base), placed);
    let milp = {
        // The largest problem for which the MILP found a solution, per seed.
        let solved: Vec<&Run> = runs.of(Method::Milp, None).filter(|run| run.worth.is_some()).collect();
        let of = |seed: u64| solved.iter().copied().filter(|run| run.seed == seed).max_by_key(|run| run.flows);
        let best: Vec<&Run> = (1..=runs.plan.paper_seeds).filter_map(of).collect();
        point(5.0, best.iter().copied(), placed)
    };
    let theirs = [Method::A, Method::B, Method::BPlus, Method::BPlusCor, Method::C].into_iter().enumerate();
    let theirs =
        theirs.filter_map(|(at, method)| in_groups(at as f64, method, if method == Method::A { None } else { mix }));
    let most = runs.of(Method::Ours, None).filter(base).filter(|run| run.flows == FLOWS_MAX);
    let ours =
        [in_groups(6.0, Method::OursInGroups, mix), in_groups(7.0, Method::OursOnline, None), point(8.0, most, placed)];
    let series = vec![
        Series {
            label: "heuristics and MILP".to_owned(),
            source: Source::Theirs,
            colour: 1,
            points: theirs.chain(milp).collect(),
        },
        Series {
            label: "pipeline, and online".to_owned(),
            source: Source::Ours,
            colour: 0,
            points: ours.into_iter().flatten().collect(),
        },
        Series {
            label: "§V-A".to_owned(),
            source: Source::Published,
            colour: 5,
            points: vec![printed(3.0, published::FLOWS_B_PLUS_COR), printed(5.0, published::FLOWS_OPTIMAL)],
        },
    ];
    let categories = ["A", "B", "B+", "B+COR", "C", "MILP", "groups of five", "one by one", "all at once"];
    Sheet {
        number: "10".to_owned(),
        file: "figure-10".to_owned(),
        title: "Figure 10: flows supported, by method".to_owned(),
        subtitle: runs.who_bars(),
        x: "Method (MILP: largest of 5, 10 … 60 flows with a solution in time)".to_owned(),
        y: "Flows placed".to_owned(),
        body: Body::Bars {
            categories: categories.map(str::to_owned).to_vec(),
            series,
            guides: Vec::new(),
            is_log: false,
        },
        reading: String::new(),
    }
}

fn figure_11(runs: &Runs) -> Sheet {
    let scales = [1_u64, 10, 100];
    let line = |of: &dyn Fn(&&Run) -> bool| -> Vec<Point> {
        let at = |(at, &scale): (usize, &u64)| {
            point(at as f64, runs.runs.iter().filter(|run| of(run) && run.scale == scale), placed)
        };
        scales.iter().enumerate().filter_map(at).collect()
    };
    let b_plus = line(&|run| run.method == Method::BPlus && run.objective == Some(Objective::MIX_DELAY));
    let ours = line(&|run| run.method == Method::Ours && run.flows == FLOWS_MAX * run.scale as usize);
    let series = vec![
        Series { label: "B+, run here".to_owned(), source: Source::Theirs, colour: 1, points: b_plus },
        Series { label: "ours, all at once".to_owned(), source: Source::Ours, colour: 0, points: ours },
    ];
    Sheet {
        number: "11".to_owned(),
        file: "figure-11".to_owned(),
        title: "Figure 11: flows supported with more capacity".to_owned(),
        subtitle: format!(
            "AS-16631, P and H times 1, 10, 100. B+ places groups of five and is stopped after {} s at 10 and 100. Pale, ≥: stopped.",
            runs.plan.limit_s * 6.0
        ),
        x: "Capacity of links and services, times".to_owned(),
        y: "Flows placed".to_owned(),
        body: Body::Bars {
            categories: scales.map(|scale| format!("× {scale}")).to_vec(),
            series,
            guides: Vec::new(),
            is_log: true,
        },
        reading: String::new(),
    }
}

fn figure_12(runs: &Runs) -> Sheet {
    let steps = |method: Method| {
        let after = move |run: &Run, flows: usize| {
            run.steps.iter().find(|step| step.placed == flows).map(|step| step.delay_max_ms)
        };
        move |flows: usize| {
            let of = runs.of(method, None).filter(|run| run.scale == 1);
            let of = of.filter(|run| run.objective.is_none_or(|objective| objective == Objective::MIX_DELAY));
            point(flows as f64, of, |run| after(run, flows))
        }
    };
    let methods = [Method::A, Method::B, Method::BPlus, Method::BPlusCor, Method::C];
    let heuristic = |(colour, &method): (usize, &Method)| Series {
        label: method.to_string(),
        source: Source::Theirs,
        colour: colour + 1,
        points: sizes().filter_map(steps(method)).collect(),
    };
    let mut series = vec![runs.line(Method::Ours, Objective::MIX_DELAY, 0, delay)];
    series.extend(methods.iter().enumerate().map(heuristic));
    let mut milp = runs.line(Method::Milp, Objective::MIX_DELAY, 0, delay);
    milp.label = "MILP M_D (optimal)".to_owned();
    series.push(milp);
    Sheet {
        number: "12".to_owned(),
        file: "figure-12".to_owned(),
        title: "Figure 12: maximum delay of flows, by method".to_owned(),
        subtitle: "AS-16631. Solid: ours, M_D, all flows at once. Dashed: the paper's methods, after so many flows placed in groups of five.".to_owned(),
        x: "Flows placed".to_owned(),
        y: "MaxDelay (ms)".to_owned(),
        body: Body::Lines {
            panels: vec![panel("", "MaxDelay (ms)", series)],
            guides: vec![guide(published::DELAY_TOLERATED_MS, "T = 100 ms")],
            is_log: false,
        },
        reading: String::new(),
    }
}
