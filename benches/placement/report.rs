//! What the goals gave: the types of the JSON report, and the report as text.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::{Deserialize, Serialize};

use super::PlacementPlan;
use crate::machine::Machine;

/// The version of the JSON report's layout.
pub const FORMAT: u32 = 1;

/// Below this share of a CPU, what a time limit ended says little.
pub(crate) const BUSY: f64 = 0.8;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacementReport {
    /// [`FORMAT`].
    pub format: u32,
    /// Towpath's version.
    pub version: String,
    /// The command that repeats the run.
    pub command_line: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub plan: PlacementPlan,
    /// True if it was ended before all was measured.
    pub interrupted: bool,
    /// The share of a CPU that the cases got; none if nothing ran.
    pub cpu_share: Option<f64>,
    /// One result per goal.
    pub goals: Vec<GoalResult>,
}

/// What a goal gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoalResult {
    /// Its name.
    pub name: String,
    /// What it says.
    pub text: String,
    /// All that must hold.
    pub criteria: Vec<Criterion>,
    /// How many cases were run.
    pub cases: usize,
    /// How long they took, by the wall's clock.
    pub seconds: f64,
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// What is measured.
    pub what: String,
    /// Its value.
    pub value: f64,
    /// What it should be; none if it is only told.
    pub goal: Option<f64>,
    /// True if more is better.
    pub at_least: bool,
    /// `s`, `ms`, `µs`, `/s`, `of 20`, or nothing.
    pub unit: String,
    /// Whether it is as it should be.
    pub is_met: bool,
}

impl Criterion {
    /// At least the goal.
    pub fn at_least(what: impl Into<String>, value: f64, goal: f64, unit: impl Into<String>) -> Self {
        Self { what: what.into(), value, goal: Some(goal), at_least: true, unit: unit.into(), is_met: value >= goal }
    }

    /// At most the goal.
    pub fn at_most(what: impl Into<String>, value: f64, goal: f64, unit: impl Into<String>) -> Self {
        Self { what: what.into(), value, goal: Some(goal), at_least: false, unit: unit.into(), is_met: value <= goal }
    }

    /// Below the goal.
    pub fn below(what: impl Into<String>, value: f64, goal: f64, unit: impl Into<String>) -> Self {
        Self { is_met: value < goal, ..Self::at_most(what, value, goal, unit) }
    }

    /// Without a goal.
    pub fn told(what: impl Into<String>, value: f64, unit: impl Into<String>) -> Self {
        Self { what: what.into(), value, goal: None, at_least: true, unit: unit.into(), is_met: true }
    }
}

impl GoalResult {
    /// Whether all holds.
    pub fn is_met(&self) -> bool {
        !self.criteria.is_empty() && self.criteria.iter().all(|criterion| criterion.is_met)
    }
}

/// The middle one; of an even number the lower of the two; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// The highest; 0 of none.
pub fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

impl PlacementReport {
    pub(super) fn new(
        plan: &PlacementPlan,
        command_line: Vec<String>,
        interrupted: bool,
        (cpu_s, wall_s): (f64, f64),
        goals: Vec<GoalResult>,
    ) -> Self {
        let cpu_share = (wall_s > 0.0).then(|| cpu_s / wall_s);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let machine = Machine::read();
        Self { format: FORMAT, version, command_line, machine, plan: plan.clone(), interrupted, cpu_share, goals }
    }

    /// The report as JSON.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// What makes these figures say less than they seem to.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.machine.release_build {
            warnings.push("this is a debug build: build with --release before quoting a figure".to_owned());
        }
        if let Some(share) = self.cpu_share.filter(|&share| share < BUSY) {
            let share = share * 100.0;
            warnings
                .push(format!("the machine is busy: the cases got {share:.0} % of a CPU, so time limits came early"));
        }
        if self.plan.seeds < PlacementPlan::default().seeds || self.plan.limit_s < PlacementPlan::default().limit_s {
            warnings.push("fewer seeds or less time than the goals are for".to_owned());
        }
        if self.interrupted {
            warnings.push("ended early: the goals that are missing were not measured".to_owned());
        }
        warnings
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!("Placement, AS-16631, seeds 1 to {}, one thread\n", self.plan.seeds);
        let _ =
            writeln!(text, "{}: {}, {} CPUs, Linux {}", machine.host_name, machine.cpu, machine.cpus, machine.kernel);
        for warning in self.warnings() {
            let _ = writeln!(text, "warning: {warning}");
        }
        let met = self.goals.iter().filter(|goal| goal.is_met()).count();
        let _ = writeln!(text, "\n{}\n\n{met} of {} goals met", self.table(), self.goals.len());
        let _ = writeln!(text, "\nRepeat with: {}", self.command_line.join(" "));
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.remove_style(TableComponent::HorizontalLines);
        table.remove_style(TableComponent::MiddleIntersections);
        table.set_header(["goal", "measured", "value", "wanted", "verdict", "cases", "took"]);
        for goal in &self.goals {
            for (row, criterion) in goal.criteria.iter().enumerate() {
                let Criterion { what, value, goal: wanted, at_least, unit, is_met } = criterion;
                let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
                let first = |text: String| if row == 0 { text } else { String::new() };
                table.add_row([
                    first(goal.name.clone()),
                    what.clone(),
                    format!("{}{unit}", short(*value)),
                    wanted.map_or(String::new(), |wanted| {
                        format!("{} {}{unit}", if *at_least { "≥" } else { "≤" }, short(wanted))
                    }),
                    if wanted.is_none() {
                        ""
                    } else if *is_met {
                        "met"
                    } else {
                        "NOT MET"
                    }
                    .to_owned(),
                    first(goal.cases.to_string()),
                    first(format!("{:.1} s", goal.seconds)),
                ]);
            }
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let is_text = index <= 1 || index == 4;
            column.set_cell_alignment(if is_text { CellAlignment::Left } else { CellAlignment::Right });
        }
        table
    }
}

/// A whole number as it is, another one with three digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
