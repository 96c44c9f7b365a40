//! What a run measured: the types of the JSON report.
//!
//! Units: latencies ns, rates flows per second. Percentiles are of the packets that came out; what was lost is counted beside
//! them and is in no percentile. The latencies are read from HDR histograms of 3 significant digits.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu_time::CpuTime;
use crate::goals::Goal;
use crate::machine::Machine;
use crate::path::PathFacts;
use crate::plan::Plan;

/// The version of the JSON report's layout.
pub const FORMAT: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowSetupReport {
    /// [`FORMAT`].
    pub format: u32,
    /// Towpath's version.
    pub version: String,
    /// The command that repeats the run.
    pub command_line: Vec<String>,
    /// When the run began, seconds since 1970.
    pub started_unix_s: u64,
    /// The machine that sent and measured.
    pub machine: Machine,
    /// The way through the system.
    pub path: PathFacts,
    /// What was asked for.
    pub plan: Plan,
    /// One result per rate, in the plan's order.
    pub rates: Vec<RateResult>,
    /// The highest rate without loss, if it was searched for.
    pub search: Option<SearchResult>,
    /// What was to be reached, and whether it is.
    #[serde(default)]
    pub goals: Vec<Goal>,
}

/// What one rate gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateResult {
    /// The rate asked for.
    pub offered_per_s: f64,
    /// The rate at which first packets really left.
    pub achieved_per_s: f64,
    /// First packets.
    pub first: PacketResult,
    /// Packets right behind the first; none if the plan has none.
    pub followers: Option<PacketResult>,
    /// Packets of established flows.
    pub established: PacketResult,
    /// What setup adds, flow by flow: the first packet's latency minus the first established packet's; below 0 counts as 0.
    pub added: Latency,
    /// How late the harness itself sent first packets: the part of the latencies that is its own.
    pub sender_lateness: Latency,
    /// Packets that came out a second time.
    pub duplicates: u64,
    /// Packets that came out after a later one of their flow.
    pub reordered: u64,
    /// Packets that came out and were not sent by this measurement.
    pub foreign: u64,
    /// Packets of the warm-up that did not come out.
    pub warmup_lost: u64,
    /// Memory allocations of this process while the packets went, the harness's among them.
    #[serde(default)]
    pub allocations: u64,
    /// What packets would wait on this machine for a thread that does nothing else, measured just before.
    #[serde(default)]
    pub machine: Option<Latency>,
    /// Who had the CPUs of this machine meanwhile.
    #[serde(default)]
    pub cpu_time: CpuTime,
}

/// What one kind of packet gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PacketResult {
    /// Packets that were due.
    pub scheduled: u64,
    /// Packets that the path took.
    pub sent: u64,
    /// Packets that came out.
    pub received: u64,
    /// Due and not come out.
    pub lost: u64,
    /// From the intended time to coming out.
    pub latency: Latency,
}

/// A distribution of latencies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many values; with none, all the others are 0.
    pub count: u64,
    /// The lowest.
    pub min_ns: u64,
    /// The arithmetic mean.
    pub mean_ns: f64,
    /// Half of the values are at most this.
    pub p50_ns: u64,
    /// 90 % are at most this.
    pub p90_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// 99.9 % are at most this.
    pub p99_9_ns: u64,
    /// The highest.
    pub max_ns: u64,
    /// The distribution as (quantile, ns), denser towards 1, for plotting; it ends at the highest value.
    pub curve: Vec<(f64, u64)>,
}

/// What the repeated searches gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchResult {
    /// The median of the repetitions' rates; a repetition without a clean rate counts as 0.
    pub median_per_s: f64,
    /// The lowest of them.
    pub lowest_per_s: f64,
    /// The highest of them.
    pub highest_per_s: f64,
    /// Every repetition.
    pub passes: Vec<SearchPass>,
}

/// One search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchPass {
    /// The highest clean rate; none if not even the lowest was.
    pub highest_per_s: Option<f64>,
    /// Whether it stayed clean in as many further trials as the plan wants.
    pub confirmed: bool,
    /// What stood in the way of more.
    pub limited_by: LimitedBy,
    /// The lowest rate that was not clean.
    pub first_unclean_per_s: Option<f64>,
    /// Every trial, in order.
    pub trials: Vec<Trial>,
}

/// What stands in the way of a higher rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The system lost packets.
    Loss,
    /// The harness could not send faster.
    Sender,
    /// The plan allows no more.
    UpperBound,
}

/// One trial of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The rate asked for.
    pub rate_per_s: f64,
    /// The rate reached.
    pub achieved_per_s: f64,
    /// New flows.
    pub flows: u64,
    /// Packets lost, of every kind.
    pub lost: u64,
}

impl RateResult {
    /// Packets lost, of every kind.
    pub fn lost(&self) -> u64 {
        self.first.lost + self.followers.as_ref().map_or(0, |followers| followers.lost) + self.established.lost
    }

    /// The result as a search sees it.
    pub fn trial(&self) -> Trial {
        Trial {
            rate_per_s: self.offered_per_s,
            achieved_per_s: self.achieved_per_s,
            flows: self.first.scheduled,
            lost: self.lost(),
        }
    }
}

impl Latency {
    /// Reads a histogram of ns.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self {
                count: 0,
                min_ns: 0,
                mean_ns: 0.0,
                p50_ns: 0,
                p90_ns: 0,
                p99_ns: 0,
                p99_9_ns: 0,
                max_ns: 0,
                curve: Vec::new(),
            };
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns: histogram.max(),
            curve: curve(histogram),
        }
    }
}

/// Ten points per factor of ten in 1 − quantile, as far as the count supports them.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let rarest = (histogram.len() as f64).log10();
    let steps = (rarest * 10.0).floor() as u32;
    let quantiles = (0..=steps).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 10.0));
    let mut points: Vec<_> = quantiles.map(|quantile| (quantile, histogram.value_at_quantile(quantile))).collect();
    points.push((1.0, histogram.max()));
    points
}

impl SearchResult {
    /// Sums the repetitions up; there is at least one.
    pub fn of(passes: Vec<SearchPass>) -> Self {
        let mut rates: Vec<f64> = passes.iter().map(|pass| pass.highest_per_s.unwrap_or(0.0)).collect();
        rates.sort_by(f64::total_cmp);
        let at = |index: usize| rates.get(index).copied().unwrap_or(0.0);
        Self {
            median_per_s: at(rates.len().saturating_sub(1) / 2),
            lowest_per_s: at(0),
            highest_per_s: at(rates.len().saturating_sub(1)),
            passes,
        }
    }
}

impl FlowSetupReport {
    /// The report as JSON, indented, ending in a newline.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report has string keys only");
        json.push('\n');
        json
    }

    /// The command that repeats the run, quoted for a shell.
    pub fn command(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%[]".contains(c);
        let quote = |word: &String| match !word.is_empty() && word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        };
        self.command_line.iter().map(quote).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution_are_right_to_three_digits() {
        let mut histogram = Histogram::new_with_max(100_000_000_000, 3).unwrap();
        (1..=100_000_u64).for_each(|value| histogram.record(value * 1_000).unwrap());
        let latency = Latency::of(&histogram);
        let close = |found: u64, wanted: u64| assert!(found.abs_diff(wanted) * 1_000 <= wanted, "{found} for {wanted}");
        close(latency.p50_ns, 50_000_000);
        close(latency.p90_ns, 90_000_000);
        close(latency.p99_ns, 99_000_000);
        close(latency.p99_9_ns, 99_900_000);
        close(latency.max_ns, 100_000_000);
        assert!((latency.mean_ns / 50_000_500.0 - 1.0).abs() < 1e-3);
        assert_eq!(latency.curve.len(), 52);
        assert!(latency.curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
    }

    #[test]
    fn an_empty_distribution_is_all_zero_and_not_an_error() {
        let latency = Latency::of(&Histogram::new_with_max(1_000, 3).unwrap());
        assert_eq!((latency.count, latency.max_ns, latency.curve.len()), (0, 0, 0));
    }

    #[test]
    fn the_median_of_repetitions_is_the_lower_middle_and_a_failed_one_counts_as_zero() {
        let pass = |highest_per_s| SearchPass {
            highest_per_s,
            confirmed: true,
            limited_by: LimitedBy::Loss,
            first_unclean_per_s: None,
            trials: vec![],
        };
        let result = SearchResult::of(vec![pass(Some(30.0)), pass(None), pass(Some(10.0))]);
        assert_eq!((result.lowest_per_s, result.median_per_s, result.highest_per_s), (0.0, 10.0, 30.0));
        let result = SearchResult::of(vec![pass(Some(30.0)), pass(Some(10.0))]);
        assert_eq!(result.median_per_s, 10.0);
    }
}
