//! What a plan measured: the types of the JSON report, and the report as text.
//!
//! Of each case's rounds the report gives the median and the whole spread; nothing is left out.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::cases::Case;
use super::{Source, TrialResult};
use crate::goals::{self, Goal};
use crate::machine::Machine;

/// The version of the JSON report's layout.
pub const FORMAT: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedReport {
    /// [`FORMAT`].
    pub format: u32,
    /// Towpath's version.
    pub version: String,
    /// The command that repeats the run.
    pub command_line: Vec<String>,
    /// When the run began, seconds since 1970.
    pub started_unix_s: u64,
    /// The machine.
    pub machine: Machine,
    /// What was measured.
    pub title: String,
    /// What the cases differ in along the plot's horizontal axis.
    pub axis: String,
    /// Where packets came from.
    pub source: Source,
    /// True if the trials had hugepages.
    pub hugepages: bool,
    /// Cases that were not measured, and why.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// One row per case.
    pub rows: Vec<Row>,
    /// What was to be reached, and whether it is.
    #[serde(default)]
    pub goals: Vec<Goal>,
}

/// A case and what its rounds gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// In the order in which they were measured.
    pub rounds: Vec<TrialResult>,
}

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figure {
    /// The lowest.
    pub low: f64,
    /// The lower middle one.
    pub median: f64,
    /// The highest.
    pub high: f64,
}

impl Row {
    /// A figure of every round.
    pub fn figure(&self, of: impl Fn(&TrialResult) -> f64) -> Figure {
        let mut values: Vec<f64> = self.rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else { return Figure::default() };
        Figure { low: values[0], median: values[last / 2], high: values[last] }
    }

    /// Allocations of all rounds.
    pub fn allocations(&self) -> u64 {
        self.rounds.iter().map(|round| round.allocations).sum()
    }
}

impl SpeedReport {
    /// The report as JSON, indented, ending in a newline.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report has string keys only");
        json.push('\n');
        json
    }

    /// What makes these figures say less than they seem to.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.left_out.iter().map(|case| format!("left out: {case}")).collect();
        if !self.hugepages {
            warnings.push("without hugepages everything is several times slower: never quote these figures".to_owned());
        }
        if !self.machine.release_build {
            warnings.push("this is a debug build: build with --release before quoting a figure".to_owned());
        }
        for row in &self.rows {
            let mpps = row.figure(|round| round.mpps);
            let name = format!("{}, {}", row.case.series, row.case.label);
            let busy = |round: &TrialResult| round.further.get("busy_percent").copied().unwrap_or(100.0);
            if self.source == Source::Ring && row.figure(busy).median < 95.0 {
                warnings
                    .push(format!("{name}: the source was slower than the forwarder, so this is the source's rate"));
            }
            if mpps.high > mpps.low * 1.2 {
                warnings.push(format!("{name}: the rounds differ by {:.0} %", (mpps.high / mpps.low - 1.0) * 100.0));
            }
        }
        warnings
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let kind = if machine.virtual_machine { "virtual machine" } else { "bare metal" };
        let _ = writeln!(text, "{}", self.title);
        let _ = writeln!(
            text,
            "{}: {}, {} CPUs, {kind}, Linux {}, {} MiB of hugepages",
            machine.host_name, machine.cpu, machine.cpus, machine.kernel, machine.hugepages_mib
        );
        for warning in self.warnings() {
            let _ = writeln!(text, "warning: {warning}");
        }
        let rounds = self.rows.first().map_or(0, |row| row.rounds.len());
        let _ = writeln!(
            text,
            "\nMedians of {rounds} rounds that took turns; ns (of all, of the fastest and the 99th of 100 windows) and cycles are per packet"
        );
        let _ = writeln!(text, "{}", self.table());
        text.push_str(&goals::text(&self.goals));
        let _ = writeln!(text, "\nRepeat with: {}", self.command_line.join(" "));
        text
    }

    fn table(&self) -> Table {
        let further: Vec<&String> = {
            let mut names: Vec<&String> =
                self.rows.iter().flat_map(|row| &row.rounds).flat_map(|round| round.further.keys()).collect();
            names.sort();
            names.dedup();
            names.retain(|name| !name.starts_with("hop")); // hop by hop is for the JSON
            names
        };
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        let mut header = vec!["case".to_owned(), self.axis.clone()];
        header.extend(["Mpps", "low", "high", "ns", "fastest", "p99", "cycles", "allocations"].map(str::to_owned));
        header.extend(further.iter().map(|name| name.replace('_', " ")));
        header.push("drops".to_owned());
        table.set_header(header);
        for row in &self.rows {
            let mpps = row.figure(|round| round.mpps);
            let median = |of: fn(&TrialResult) -> f64| short(row.figure(of).median);
            let mut cells = vec![row.case.series.clone(), row.case.label.clone()];
            cells.extend([short(mpps.median), short(mpps.low), short(mpps.high)]);
            cells.push(median(|round| round.ns_per_packet));
            cells.push(median(|round| round.windows.min_ns));
            cells.push(median(|round| round.windows.p99_ns));
            cells.push(median(|round| round.cycles_per_packet));
            cells.push(row.allocations().to_string());
            for &name in &further {
                let has = row.rounds.iter().any(|round| round.further.contains_key(name));
                let value = row.figure(|round| round.further.get(name).copied().unwrap_or(0.0)).median;
                cells.push(if has { short(value) } else { String::new() });
            }
            cells.push(drops(row));
            table.add_row(cells);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
        }
        table
    }
}

fn drops(row: &Row) -> String {
    let mut names: Vec<String> = row.rounds.iter().flat_map(|round| round.drops.keys().cloned()).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

/// Three digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::super::{Traffic, Work};
    use super::*;

    pub(crate) fn report(mpps: &[u64]) -> SpeedReport {
        let round = |&mpps: &u64| TrialResult::of(mpps * 1_000_000, Duration::from_secs(1), 3_000_000_000);
        let case = Case {
            series: "exact + DSCP".to_owned(),
            at: 1_000.0,
            label: "1k".to_owned(),
            work: Work::Deliver,
            traffic: Traffic::default(),
        };
        SpeedReport {
            format: FORMAT,
            version: "0".to_owned(),
            command_line: vec!["towpath".to_owned(), "bench".to_owned(), "forward".to_owned()],
            started_unix_s: 0,
            machine: Machine::read(),
            title: "Forwarding".to_owned(),
            axis: "flows".to_owned(),
            source: Source::Pcap,
            hugepages: true,
            left_out: Vec::new(),
            rows: vec![Row { case, rounds: mpps.iter().map(round).collect() }],
            goals: Vec::new(),
        }
    }

    #[test]
    fn the_median_and_the_whole_spread_are_told() {
        let report = report(&[10, 30, 20]);
        assert_eq!(report.rows[0].figure(|round| round.mpps), Figure { low: 10.0, median: 20.0, high: 30.0 });
        let text = report.text();
        assert!(text.contains("exact + DSCP") && text.contains("20.0") && text.contains("differ by 200 %"), "{text}");
        assert!(text.contains("Repeat with: towpath bench forward"));
    }

    #[test]
    fn a_report_read_back_is_the_report_that_was_written() {
        let report = report(&[10, 20]);
        assert_eq!(serde_json::from_str::<SpeedReport>(&report.json()).unwrap(), report);
    }
}
