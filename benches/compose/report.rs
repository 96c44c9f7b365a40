//! What composing cost: the types of the JSON report, and its text.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::{Deserialize, Serialize};

use super::ComposePlan;
use crate::machine::Machine;

/// The version of the JSON report's layout.
pub const FORMAT: u32 = 1;

/// From nothing, at [`GOAL_CHAINS`].
const GOAL_FROM_NOTHING_NS: u64 = 1_000_000_000;
/// One instance more, at [`GOAL_CHAINS`].
const GOAL_ONE_MORE_NS: u64 = 10_000_000;
/// The size that the goals are for.
const GOAL_CHAINS: usize = 1_000;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComposeReport {
    /// [`FORMAT`].
    pub format: u32,
    /// Towpath's version.
    pub version: String,
    /// The command that repeats the run.
    pub command_line: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub plan: ComposePlan,
    /// One result per number of chains.
    pub sizes: Vec<SizeResult>,
    /// The power of the number of chains by which the time from nothing grows; none with fewer than two sizes.
    pub growth_from_nothing: Option<f64>,
    /// The same for one instance more.
    pub growth_one_more: Option<f64>,
}

/// What one size gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SizeResult {
    /// Chains.
    pub chains: usize,
    /// Hosts.
    pub hosts: usize,
    /// Tenants.
    pub tenants: usize,
    /// NF instances.
    pub instances: usize,
    /// Instance paths.
    pub paths: usize,
    /// Tag rules of all hosts.
    pub rules: usize,
    /// Tag rules of the host that has the most.
    pub rules_of_fullest_host: usize,
    /// VNIs that paths use.
    pub networks: usize,
    /// Tags that paths use, counted in each VNI.
    pub tags: usize,
    /// Length of the specification.
    pub specification_bytes: usize,
    /// To parse and check the specification, once.
    pub parse: Cost,
    /// To compose it from nothing.
    pub from_nothing: Cost,
    /// To prove the composition right, once.
    pub check_ns: u64,
    /// To compose it with one instance more, on top of the composition in force.
    pub one_more: Cost,
    /// Paths that the instance adds.
    pub one_more_paths: usize,
    /// Allocations of composing from nothing, if they were counted.
    pub allocations_from_nothing: Option<u64>,
    /// Allocations of composing one instance more, if they were counted.
    pub allocations_one_more: Option<u64>,
    /// Tag rules that the instance adds, changes or removes.
    pub one_more_rules: usize,
}

/// CPU times of repeated runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The lowest.
    pub min_ns: u64,
    /// The median; of an even number of runs the lower one in the middle.
    pub median_ns: u64,
    /// The highest.
    pub max_ns: u64,
    /// Each run, in order.
    pub runs_ns: Vec<u64>,
}

impl Cost {
    pub(super) fn of(runs_ns: Vec<u64>) -> Self {
        let mut sorted = runs_ns.clone();
        sorted.sort_unstable();
        let at = |place: usize| sorted.get(place).copied().unwrap_or(0);
        Self {
            min_ns: at(0),
            median_ns: at(sorted.len().saturating_sub(1) / 2),
            max_ns: at(sorted.len().saturating_sub(1)),
            runs_ns,
        }
    }
}

/// The slope of the best line through the logarithms; none for fewer than two different sizes.
fn growth(points: &[(usize, u64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> =
        points.iter().map(|(size, ns)| ((*size as f64).ln(), (*ns.max(&1) as f64).ln())).collect();
    let count = logs.len() as f64;
    let (x, y) =
        (logs.iter().map(|point| point.0).sum::<f64>() / count, logs.iter().map(|point| point.1).sum::<f64>() / count);
    let spread: f64 = logs.iter().map(|point| (point.0 - x).powi(2)).sum();
    (spread > 0.0).then(|| logs.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread)
}

impl ComposeReport {
    pub(super) fn new(plan: &ComposePlan, command_line: Vec<String>, sizes: Vec<SizeResult>) -> Self {
        let of = |cost: fn(&SizeResult) -> &Cost| -> Vec<(usize, u64)> {
            sizes.iter().map(|size| (size.chains, cost(size).median_ns)).collect()
        };
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command_line,
            machine: Machine::read(),
            plan: plan.clone(),
            growth_from_nothing: growth(&of(|size| &size.from_nothing)),
            growth_one_more: growth(&of(|size| &size.one_more)),
            sizes,
        }
    }

    /// The report as JSON.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!("Composition, CPU time of one thread, median of {} runs\n", self.plan.runs);
        let _ =
            writeln!(text, "{}: {}, {} CPUs, Linux {}", machine.host_name, machine.cpu, machine.cpus, machine.kernel);
        if !machine.release_build {
            text.push_str("warning: this is a debug build: build with --release before quoting a figure\n");
        }
        let _ = writeln!(text, "\n{}\n\n{}", self.what_table(), self.cost_table());
        for size in &self.sizes {
            let (Some(from_nothing), Some(one_more)) = (size.allocations_from_nothing, size.allocations_one_more)
            else {
                continue;
            };
            let _ = writeln!(
                text,
                "Allocations, {} chains: {from_nothing} from nothing, {one_more} for one more",
                size.chains
            );
        }
        text.push_str(&self.growth_text("from nothing", self.growth_from_nothing, |size| &size.from_nothing));
        text.push_str(&self.growth_text("one instance more", self.growth_one_more, |size| &size.one_more));
        let at_goal = self.sizes.iter().find(|size| size.chains == GOAL_CHAINS);
        if let Some(size) = at_goal.filter(|_| machine.release_build) {
            text.push_str(&goal("from nothing", size.from_nothing.median_ns, GOAL_FROM_NOTHING_NS));
            text.push_str(&goal("one instance more", size.one_more.median_ns, GOAL_ONE_MORE_NS));
        }
        let _ = writeln!(text, "\nRepeat with: {}", self.command_line.join(" "));
        text
    }

    /// Over all sizes, and over the last two, where constant costs weigh least.
    fn growth_text(&self, name: &str, fitted: Option<f64>, cost: fn(&SizeResult) -> &Cost) -> String {
        let last = &self.sizes[self.sizes.len().saturating_sub(2)..];
        let points: Vec<(usize, u64)> = last.iter().map(|size| (size.chains, cost(size).median_ns)).collect();
        match (fitted, growth(&points)) {
            (Some(fitted), Some(last)) => {
                format!("Growth, {name}: chains to the power of {fitted:.2} (last two sizes: {last:.2})\n")
            }
            _ => String::new(),
        }
    }

    fn what_table(&self) -> Table {
        let head = [
            "chains",
            "hosts",
            "tenants",
            "instances",
            "paths",
            "rules",
            "fullest host",
            "VNIs",
            "tags",
            "paths added",
            "rules touched",
        ];
        let rows = self.sizes.iter().map(|size| {
            let counts = [
                size.chains,
                size.hosts,
                size.tenants,
                size.instances,
                size.paths,
                size.rules,
                size.rules_of_fullest_host,
                size.networks,
                size.tags,
                size.one_more_paths,
                size.one_more_rules,
            ];
            counts.map(|count| count.to_string()).to_vec()
        });
        table(&head, rows)
    }

    fn cost_table(&self) -> Table {
        let head = ["chains", "parse, ms", "from nothing, ms", "min", "max", "one more, ms", "min", "max", "check, ms"];
        let rows = self.sizes.iter().map(|size| {
            let mut row = vec![size.chains.to_string(), ms(size.parse.median_ns)];
            for cost in [&size.from_nothing, &size.one_more] {
                row.extend([cost.median_ns, cost.min_ns, cost.max_ns].map(ms));
            }
            row.push(ms(size.check_ns));
            row
        });
        table(&head, rows)
    }
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    table.set_header(head);
    table.add_rows(rows);
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn ms(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

fn goal(name: &str, ns: u64, goal_ns: u64) -> String {
    let verdict = if ns < goal_ns { "met" } else { "not met" };
    format!("Goal, {GOAL_CHAINS} chains {name}: {} ms of {} ms, {verdict}\n", ms(ns), goal_ns / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_exponent() {
        let points = |power: i32| [10_usize, 100, 1_000].map(|size| (size, 7 * (size as u64).pow(power as u32)));
        for power in [1, 2] {
            assert!((growth(&points(power)).unwrap() - f64::from(power)).abs() < 1e-9);
        }
        assert_eq!(growth(&[(10, 5)]), None);
        assert_eq!(growth(&[]), None);
    }

    #[test]
    fn a_cost_keeps_its_runs_and_tells_their_middle() {
        let cost = Cost::of(vec![5, 1, 9, 3]);
        assert_eq!((cost.min_ns, cost.median_ns, cost.max_ns, cost.runs_ns), (1, 3, 9, vec![5, 1, 9, 3]));
    }
}
