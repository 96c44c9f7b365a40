//! What a comparison counted: the types of the JSON report, and its text and CSV.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde::{Deserialize, Serialize};

use super::switches::Sizes;
use super::testbed::Testbed;
use super::trace::Trace;
use super::walk::{Costs, Outcome};
use super::{ModeName, SteeringPlan};

/// The version of the JSON report's layout.
pub const FORMAT: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteeringReport {
    /// [`FORMAT`].
    pub format: u32,
    /// Towpath's version.
    pub version: String,
    /// The command that repeats the run.
    pub command_line: Vec<String>,
    /// What was asked for.
    pub plan: SteeringPlan,
    /// One result per number of NFs and hosts.
    pub sizes: Vec<SizeResult>,
}

/// All modes over one trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SizeResult {
    /// Hosts.
    pub hosts: usize,
    /// Chains.
    pub chains: usize,
    /// NFs of each chain.
    pub nfs_per_chain: usize,
    /// NF instances at the beginning, the same in all modes.
    pub instances: usize,
    /// Flows.
    pub flows: u64,
    /// Packets of the trace.
    pub packets: u64,
    /// Changes of instances and weights.
    pub changes: u64,
    /// One result per mode.
    pub modes: Vec<ModeResult>,
}

/// What one mode gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeResult {
    /// Which mode.
    pub mode: ModeName,
    /// The most rules that hosts had at a time.
    pub rules_per_host: RulesPerHost,
    /// Messages between controllers and switches for flows, in all.
    pub flow_messages: u64,
    /// The same per flow.
    pub messages_per_flow: f64,
    /// Packets that the controller was asked about.
    pub asked_packets: u64,
    /// Rules added, changed or removed because of changes, in all.
    pub rules_touched: u64,
    /// The same per change.
    pub rules_touched_per_change: f64,
    /// The most at one change.
    pub rules_touched_most: u64,
    /// Packets that reached another instance of a kind than their flow's first.
    pub affinity_violations: u64,
    /// Flows of which a stateful instance refused a packet, or no rule knew one.
    pub broken_flows: u64,
    /// Flows that went through other kinds than their chain's.
    pub misrouted_flows: u64,
    /// Packets that came out at an endpoint.
    pub delivered: u64,
    /// Packets that a stateful instance refused.
    pub refused: u64,
    /// Packets that no rule knew.
    pub without_rule: u64,
    /// Answers of servers that had got nothing to answer.
    pub unanswered: u64,
}

/// The most rules that hosts had at a time: over all hosts the largest and the mean of their peaks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RulesPerHost {
    /// All rules.
    pub max: usize,
    /// All rules.
    pub mean: f64,
    /// Exact rules.
    pub exact_max: usize,
    /// Exact rules.
    pub exact_mean: f64,
    /// Wildcard rules, tag rules being some.
    pub wildcard_max: usize,
    /// Wildcard rules, tag rules being some.
    pub wildcard_mean: f64,
}

impl RulesPerHost {
    fn of(peaks: &[Sizes]) -> Self {
        let max = |value: fn(&Sizes) -> usize| peaks.iter().map(value).max().unwrap_or(0);
        let mean = |value: fn(&Sizes) -> usize| per(peaks.iter().map(value).sum::<usize>() as u64, peaks.len() as u64);
        Self {
            max: max(|sizes| sizes.both),
            mean: mean(|sizes| sizes.both),
            exact_max: max(|sizes| sizes.exact),
            exact_mean: mean(|sizes| sizes.exact),
            wildcard_max: max(|sizes| sizes.wildcard),
            wildcard_mean: mean(|sizes| sizes.wildcard),
        }
    }
}

fn per(sum: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum as f64 / count as f64 }
}

impl ModeResult {
    pub(super) fn new(mode: ModeName, trace: &Trace, outcome: &Outcome, costs: Costs, peaks: &[Sizes]) -> Self {
        Self {
            mode,
            rules_per_host: RulesPerHost::of(peaks),
            flow_messages: costs.flow_messages,
            messages_per_flow: per(costs.flow_messages, trace.flows.len() as u64),
            asked_packets: costs.asked,
            rules_touched: costs.touched,
            rules_touched_per_change: per(costs.touched, trace.changes),
            rules_touched_most: costs.touched_most,
            affinity_violations: outcome.affinity_violations,
            broken_flows: outcome.broken_flows,
            misrouted_flows: outcome.misrouted_flows,
            delivered: outcome.delivered,
            refused: outcome.refused,
            without_rule: outcome.without_rule,
            unanswered: outcome.unanswered,
        }
    }
}

impl SizeResult {
    pub(super) fn new(testbed: &Testbed, trace: &Trace, nfs_per_chain: usize, modes: Vec<ModeResult>) -> Self {
        Self {
            hosts: testbed.hosts,
            chains: testbed.chains.len(),
            nfs_per_chain,
            instances: testbed.kinds.iter().map(|kind| kind.instances.len()).sum(),
            flows: trace.flows.len() as u64,
            packets: trace.packets,
            changes: trace.changes,
            modes,
        }
    }

    /// What a mode gave.
    pub fn mode(&self, name: ModeName) -> Option<&ModeResult> {
        self.modes.iter().find(|result| result.mode == name)
    }
}

impl SteeringReport {
    pub(super) fn new(plan: &SteeringPlan, command_line: Vec<String>, sizes: Vec<SizeResult>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, version, command_line, plan: plan.clone(), sizes }
    }

    /// The report as JSON.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        let mut text = "Steering modes over the same traffic: a model, counted exactly\n".to_owned();
        for size in &self.sizes {
            let SizeResult { hosts, chains, nfs_per_chain, instances, flows, packets, changes, .. } = size;
            let _ = writeln!(
                text,
                "\n{hosts} hosts, {chains} chains of {nfs_per_chain} NFs, {instances} instances; {flows} flows, {packets} packets, {changes} changes"
            );
            let _ = writeln!(text, "{}", table(size));
        }
        text.push_str(
            "\nrules: peak per host, largest and mean; exact and wildcard alone: largest. messages: between controllers and\n\
             switches, per flow. asked: packets that waited for a controller. touched: rules per change, mean and most.\n\
             violations: packets that reached another instance than their flow's first. broken: flows that a stateful NF\n\
             refused. misrouted: flows that went through another chain's NFs behind a mangler.\n",
        );
        let _ = writeln!(text, "\nRepeat with: {}", self.command_line.join(" "));
        text
    }

    /// One line per number of hosts and mode.
    pub fn csv(&self) -> String {
        let mut text =
            "hosts,chains,nfs_per_chain,flows,packets,changes,mode,rules_max,rules_mean,exact_max,exact_mean,wildcard_max,\
                        wildcard_mean,flow_messages,asked_packets,rules_touched,rules_touched_most,affinity_violations,\
                        broken_flows,misrouted_flows,delivered,refused,without_rule,unanswered\n"
                .to_owned();
        for size in &self.sizes {
            for result in &size.modes {
                let rules = &result.rules_per_host;
                let cells = [
                    size.hosts.to_string(),
                    size.chains.to_string(),
                    size.nfs_per_chain.to_string(),
                    size.flows.to_string(),
                    size.packets.to_string(),
                    size.changes.to_string(),
                    format!("\"{}\"", result.mode),
                    rules.max.to_string(),
                    rules.mean.to_string(),
                    rules.exact_max.to_string(),
                    rules.exact_mean.to_string(),
                    rules.wildcard_max.to_string(),
                    rules.wildcard_mean.to_string(),
                    result.flow_messages.to_string(),
                    result.asked_packets.to_string(),
                    result.rules_touched.to_string(),
                    result.rules_touched_most.to_string(),
                    result.affinity_violations.to_string(),
                    result.broken_flows.to_string(),
                    result.misrouted_flows.to_string(),
                    result.delivered.to_string(),
                    result.refused.to_string(),
                    result.without_rule.to_string(),
                    result.unanswered.to_string(),
                ];
                text.push_str(&cells.join(","));
                text.push('\n');
            }
        }
        text
    }
}

fn table(size: &SizeResult) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    table.set_header([
        "mode",
        "rules",
        "mean",
        "exact",
        "wildcard",
        "messages",
        "asked",
        "touched",
        "most",
        "violations",
        "broken",
        "misrouted",
    ]);
    for result in &size.modes {
        let rules = &result.rules_per_host;
        table.add_row([
            result.mode.to_string(),
            rules.max.to_string(),
            format!("{:.0}", rules.mean),
            rules.exact_max.to_string(),
            rules.wildcard_max.to_string(),
            format!("{:.2}", result.messages_per_flow),
            result.asked_packets.to_string(),
            format!("{:.1}", result.rules_touched_per_change),
            result.rules_touched_most.to_string(),
            result.affinity_violations.to_string(),
            result.broken_flows.to_string(),
            result.misrouted_flows.to_string(),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}
