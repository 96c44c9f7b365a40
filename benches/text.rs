//! A report as text: the machine, one table of latencies, the checks, the search.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use crate::cpu_time::{self, Cause};
use crate::goals;
use crate::report::{FlowSetupReport, Latency, LimitedBy, PacketResult, RateResult, SearchResult};

impl FlowSetupReport {
    /// The report for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let kind = if machine.virtual_machine { "virtual machine" } else { "bare metal" };
        let _ = writeln!(text, "Flow setup over {}", self.path.description);
        let _ = writeln!(
            text,
            "{}: {}, {} CPUs, {kind}, Linux {}",
            machine.host_name, machine.cpu, machine.cpus, machine.kernel
        );
        for warning in self.warnings() {
            let _ = writeln!(text, "warning: {warning}");
        }
        if !self.rates.is_empty() {
            let _ = writeln!(text, "\nLatency from the intended time of sending, µs");
            let _ = writeln!(text, "{}", latency_table(&self.rates));
            text.push_str(&checks(&self.rates));
            text.push_str(&cpu_time_text(&self.rates));
        }
        if let Some(search) = &self.search {
            text.push_str(&search_text(search));
        }
        text.push_str(&goals::text(&self.goals));
        let _ = writeln!(text, "\nRepeat with: {}", self.command());
        text
    }

    /// What makes these figures say less than they seem to.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.path.share_cores == Some(true) {
            warnings.push("lcores share CPUs: this shows that it works, not how fast it is".to_owned());
        }
        if self.path.hugepages == Some(false) {
            warnings
                .push("the dataplane has no hugepages: expect it to be several times slower than with them".to_owned());
        }
        if !self.machine.release_build {
            warnings.push("this is a debug build: build with --release before quoting a figure".to_owned());
        }
        for rate in &self.rates {
            if rate.first.latency.p50_ns > 0 && rate.sender_lateness.p99_ns > rate.first.latency.p50_ns / 2 {
                warnings.push(format!(
                    "at {} flows/s the harness itself was late (p99 {} µs): it has too little CPU for this rate",
                    rate_name(rate.offered_per_s),
                    micros(rate.sender_lateness.p99_ns)
                ));
            }
        }
        warnings
    }
}

fn latency_table(rates: &[RateResult]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["flows/s", "reached", "packet", "sent", "lost", "p50", "p90", "p99", "p99.9", "max", "mean"]);
    for rate in rates {
        let mut head = [rate_name(rate.offered_per_s), rate_name(rate.achieved_per_s)];
        let mut row = |name: &str, sent: String, lost: String, latency: &Latency| {
            let mut cells = head.to_vec();
            cells.extend([name.to_owned(), sent, lost]);
            cells.extend(latency_cells(latency));
            table.add_row(cells);
            head = [String::new(), String::new()];
        };
        let mut packets = |name: &str, result: &PacketResult| {
            row(name, result.sent.to_string(), result.lost.to_string(), &result.latency);
        };
        packets("first", &rate.first);
        if let Some(followers) = &rate.followers {
            packets("follower", followers);
        }
        packets("established", &rate.established);
        row("setup adds", String::new(), String::new(), &rate.added);
        if let Some(machine) = &rate.machine {
            row("the machine alone", String::new(), String::new(), machine);
        }
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if index == 2 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

fn latency_cells(latency: &Latency) -> Vec<String> {
    if latency.count == 0 {
        return vec!["-".to_owned(); 6];
    }
    let values = [latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p99_9_ns, latency.max_ns];
    values.into_iter().chain([latency.mean_ns.round() as u64]).map(micros).collect()
}

/// Nanoseconds as µs, with as many decimals as the histogram's three digits carry.
pub(crate) fn micros(ns: u64) -> String {
    let us = ns as f64 / 1e3;
    if us < 10.0 {
        format!("{us:.2}")
    } else if us < 100.0 {
        format!("{us:.1}")
    } else {
        format!("{us:.0}")
    }
}

/// A rate without superfluous digits: `100`, `9.98k`, `10k`, `1.25M`.
pub(crate) fn rate_name(per_s: f64) -> String {
    let (value, unit) = match per_s {
        _ if per_s >= 999_500.0 => (per_s / 1e6, "M"),
        _ if per_s >= 999.5 => (per_s / 1e3, "k"),
        _ => (per_s, ""),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short}{unit}")
}

fn checks(rates: &[RateResult]) -> String {
    let sum = |count: fn(&RateResult) -> u64| rates.iter().map(count).sum::<u64>();
    let late_ns = rates.iter().map(|rate| rate.sender_lateness.p99_ns).max().unwrap_or(0);
    format!(
        "Checks: {} duplicated, {} reordered, {} foreign, {} lost in warm-up; the harness sent at most {} µs late (p99)\n",
        sum(|rate| rate.duplicates),
        sum(|rate| rate.reordered),
        sum(|rate| rate.foreign),
        sum(|rate| rate.warmup_lost),
        micros(late_ns)
    )
}

fn cpu_time_text(rates: &[RateResult]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "flows/s",
        "thread",
        "CPU",
        "ran",
        "waited",
        "taken off",
        "stood still",
        "longest",
        "because of",
    ]);
    let millis = |ns: u64| format!("{:.2}", ns as f64 / 1e6);
    for rate in rates {
        let mut head = rate_name(rate.offered_per_s);
        for thread in &rate.cpu_time.threads {
            let still = thread.still.unwrap_or_default();
            let cause = rate.cpu_time.cause(thread).map_or("", |cause| match cause {
                Cause::Ours => "our threads beside it",
                Cause::Others => "other processes",
                Cause::Hypervisor => "the hypervisor",
                Cause::Unknown => "itself, or unsaid",
            });
            let stood = |value: String| if thread.still.is_some() { value } else { String::new() };
            table.add_row([
                std::mem::take(&mut head),
                thread.name.clone(),
                thread.cpu.to_string(),
                millis(thread.ran_ns),
                millis(thread.waited_ns),
                thread.taken_off.to_string(),
                stood(format!("{}× {}", still.count, millis(still.total_ns))),
                stood(millis(still.longest_ns)),
                cause.to_owned(),
            ]);
        }
        for (cpu, &stolen_ns) in rate.cpu_time.stolen_ns.iter().enumerate().filter(|(_, stolen_ns)| **stolen_ns > 0) {
            let stolen = [std::mem::take(&mut head), "hypervisor".to_owned(), cpu.to_string(), millis(stolen_ns)];
            table.add_row(stolen.into_iter().chain(std::iter::repeat_n(String::new(), 5)));
        }
    }
    if table.row_count() == 0 {
        return String::new();
    }
    let least = micros(cpu_time::STANDSTILL_NS);
    format!("\nWho had the CPUs of this machine meanwhile, ms; standing still counts from {least} µs on\n{table}\n")
}

fn search_text(search: &SearchResult) -> String {
    let mut text = format!(
        "\nHighest rate without loss: {} flows/s (median of {}; {} to {})\n",
        rate_name(search.median_per_s),
        search.passes.len(),
        rate_name(search.lowest_per_s),
        rate_name(search.highest_per_s)
    );
    for (index, pass) in search.passes.iter().enumerate() {
        let found = pass.highest_per_s.map_or("none".to_owned(), rate_name);
        let confirmed = if pass.confirmed { "confirmed" } else { "not confirmed" };
        let limit = match pass.limited_by {
            LimitedBy::Loss => "above it packets were lost",
            LimitedBy::Sender => "above it the harness could not send fast enough",
            LimitedBy::UpperBound => "the search was allowed no more",
        };
        let _ = writeln!(text, "  search {}: {found}, {confirmed}, {limit} ({} trials)", index + 1, pass.trials.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_three_digits_and_no_empty_ones() {
        let cases = [
            (0.0, "0"),
            (100.0, "100"),
            (99.96, "100"),
            (999.7, "1k"),
            (9_979.6, "9.98k"),
            (10_000.0, "10k"),
            (1_250_000.0, "1.25M"),
        ];
        for (rate, name) in cases {
            assert_eq!(rate_name(rate), name, "{rate}");
        }
    }

    #[test]
    fn microseconds_keep_three_digits() {
        let cases = [(0, "0.00"), (1_234, "1.23"), (12_345, "12.3"), (123_456, "123"), (1_234_567, "1235")];
        for (ns, text) in cases {
            assert_eq!(micros(ns), text);
        }
    }
}
