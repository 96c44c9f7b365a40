//! How fast packets go: the forwarder under full load, and what slows it down.
//!
//! A *trial* runs one piece of [`Work`] over one [`Traffic`] in a process of its own, because EAL starts once in a process. A
//! *case* is a trial that is repeated; the cases of a plan take turns, round by round, so that what the machine does meanwhile
//! hits all of them alike ([`rounds`]).
//!
//! ```text
//! plan ─► cases ─► rounds ─► child: EAL, devices, dataplane, rules through the update ring, windows of 10 ms ─► TrialResult
//!                    └──────────────────────────► report ─► text, JSON, SVG
//! ```
//!
//! - [`traffic`]: which packets: flows, sizes, order; written as a pcap that `net_pcap` replays without end.
//! - `site`: a real dataplane in this process and the harness as its controller; `trial` what is measured on it, `bare` the
//!   plain loop over the same devices, `hops` chains whose lcores are polled by hand, `updates` rules that come and go, `lookups` the tables alone,
//!   `stages` the steps of a packet's path for an instruction counter.
//! - [`cases`]: the plans behind `towpath bench forward`, `chain`, `tables`, `updates` and `flood`.
//!
//! Units: rates in millions of packets per second (Mpps), times in ns, cycles are those of the time stamp counter.

#[cfg(feature = "dpdk")]
mod bare;
pub mod cases;
#[cfg(feature = "dpdk")]
mod feeder;
#[cfg(feature = "dpdk")]
mod hops;
#[cfg(feature = "dpdk")]
mod lookups;
pub mod plot;
pub mod report;
pub mod rounds;
#[cfg(feature = "dpdk")]
mod rules;
#[cfg(feature = "dpdk")]
mod site;
#[cfg(feature = "dpdk")]
pub mod stages;
pub mod traffic;
#[cfg(feature = "dpdk")]
mod trial;
#[cfg(feature = "dpdk")]
mod updates;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use traffic::Traffic;

/// What a trial does with the packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A plain loop from one device to the other, without a dataplane: the cost of the devices.
    Bare,
    /// The same loop over two `net_null` devices.
    BareNull,
    /// Exact match and set DSCP, then out by the other port.
    Deliver,
    /// The same by the rule that a controller installs for a chain on one host: the answers' rule is kept alive too.
    DeliverAndLearn,
    /// Exact match, set DSCP, and VXLAN to the next element on another host.
    Encapsulate,
    /// [`Work::Encapsulate`], and rules that come and go meanwhile, so many between two commits.
    Updates {
        /// Rules between two commits.
        batch: usize,
    },
    /// [`Work::Encapsulate`] while the traffic's strangers are opening packets of new flows.
    Flood {
        /// True if the controller rejects each of them, false if it never answers.
        reject: bool,
    },
    /// A chain of these functions on one host.
    Chain {
        /// The functions.
        functions: Vec<Function>,
        /// One thread polls all lcores in turn; else each lcore has a CPU.
        by_hand: bool,
        /// Only the flows' first packets.
        first_packets: bool,
    },
    /// ExactTable alone: find flows, a burst at a time.
    ExactLookup,
    /// The same, and account for a packet of each in its entry.
    ExactMeet,
    /// TagTable alone, with as many rules as the traffic has flows.
    TagLookup,
    /// Hash each key of a burst, and read one prefetched cache line of as many as the table has: what no table can beat.
    MemoryLimit,
}

/// An NF of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its name in the `nf` crate.
    pub name: String,
    /// Its configuration.
    pub config: serde_json::Value,
}

/// Where packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `net_pcap` with `infinite_rx=1`: the driver copies them from memory, on the forwarder's own lcore.
    Pcap,
    /// `net_ring`: a lcore of the harness on another CPU makes them.
    Ring,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialSpec {
    /// What is done.
    pub work: Work,
    /// With which packets.
    pub traffic: Traffic,
    /// Where they come from.
    pub source: Source,
    /// The traffic's pcap.
    pub pcap: PathBuf,
    /// A pcap with the other side's ARP messages.
    pub neighbors: PathBuf,
    /// CPU of the forwarder.
    pub cpu: u16,
    /// CPU of everything else.
    pub control_cpu: u16,
    /// Use hugepages.
    pub hugepages: bool,
    /// Time before the measurement, ms.
    pub warm_up_ms: u64,
    /// Time of the measurement, ms.
    pub duration_ms: u64,
}

/// What one trial measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    /// Packets (or lookups).
    pub packets: u64,
    /// In this time.
    pub duration_ns: u64,
    /// Millions a second.
    pub mpps: f64,
    /// Wall time of each.
    pub ns_per_packet: f64,
    /// Useful cycles of each.
    pub cycles_per_packet: f64,
    /// Memory allocations of the whole process while it was measured.
    pub allocations: u64,
    /// ns per packet over windows of 10 ms.
    pub windows: Windows,
    /// Packets that ended for a reason, while measured.
    pub drops: BTreeMap<String, u64>,
    /// What else this work shows, by name with its unit.
    pub further: BTreeMap<String, f64>,
}

/// ns per packet over short windows, by quantile.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Windows {
    /// How many windows.
    pub count: usize,
    /// The fastest.
    pub min_ns: f64,
    /// Half of them.
    pub p50_ns: f64,
    /// 90 %.
    pub p90_ns: f64,
    /// 99 %.
    pub p99_ns: f64,
    /// The slowest.
    pub max_ns: f64,
}

impl Windows {
    /// Sums windows up; an empty list gives zeros.
    pub fn of(mut ns_per_packet: Vec<f64>) -> Self {
        ns_per_packet.sort_by(f64::total_cmp);
        let last = ns_per_packet.len().saturating_sub(1);
        let at = |quantile: f64| ns_per_packet.get((last as f64 * quantile).round() as usize).copied().unwrap_or(0.0);
        Self {
            count: ns_per_packet.len(),
            min_ns: at(0.0),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            max_ns: at(1.0),
        }
    }
}

impl TrialResult {
    /// The result of `packets` in `duration` with so many useful cycles.
    pub fn of(packets: u64, duration: Duration, cycles: u64) -> Self {
        let (count, ns) = (packets.max(1) as f64, duration.as_nanos() as f64);
        Self {
            packets,
            duration_ns: duration.as_nanos() as u64,
            mpps: packets as f64 * 1e3 / ns.max(1.0),
            ns_per_packet: ns / count,
            cycles_per_packet: cycles as f64 / count,
            allocations: 0,
            windows: Windows::default(),
            drops: BTreeMap::new(),
            further: BTreeMap::new(),
        }
    }
}

/// A trial that can't be run.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// A step of a trial.
    #[error("the trial could not {step}: {problem}")]
    Step {
        /// Which.
        step: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A rule batch was refused, or never answered.
    #[error("the dataplane did not take the rules: {0}")]
    Rules(String),
    /// The forwarder does not come to a steady state.
    #[error("after the warm-up packets still end ({drops}); give --warm-up more time")]
    NotSettled {
        /// Why they end.
        drops: String,
    },
    /// A child that failed.
    #[error("{case}: {problem}")]
    Child {
        /// Which case.
        case: String,
        /// What it said.
        problem: String,
    },
    /// The traffic's files.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: std::io::Error,
    },
    /// This build has no DPDK.
    #[error("this build has no DPDK, so there is nothing to measure: build with `--features dpdk`")]
    WithoutDpdk,
}

/// Runs one trial in this process, which can run no second one.
#[cfg(feature = "dpdk")]
pub fn run_trial(spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    trial::run(spec)
}

/// Says that this build can't.
#[cfg(not(feature = "dpdk"))]
pub fn run_trial(_spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    Err(SpeedError::WithoutDpdk)
}

#[cfg(feature = "dpdk")]
fn failed(step: &'static str, problem: impl ToString) -> SpeedError {
    SpeedError::Step { step, problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_sorted_into_quantiles() {
        let windows = Windows::of((0..=100).rev().map(f64::from).collect());
        assert_eq!((windows.min_ns, windows.p50_ns, windows.p90_ns, windows.max_ns), (0.0, 50.0, 90.0, 100.0));
        assert_eq!(Windows::of(Vec::new()), Windows::default());
    }

    #[test]
    fn a_million_packets_in_a_second_are_one_mpps_and_a_microsecond_each() {
        let result = TrialResult::of(1_000_000, Duration::from_secs(1), 3_000_000_000);
        assert_eq!((result.mpps, result.ns_per_packet, result.cycles_per_packet), (1.0, 1_000.0, 3_000.0));
    }

    #[test]
    fn a_spec_survives_the_way_to_the_child() {
        let spec = TrialSpec {
            work: Work::Chain {
                functions: vec![Function { name: "passthrough".to_owned(), config: serde_json::json!({}) }],
                by_hand: true,
                first_packets: false,
            },
            traffic: Traffic::default(),
            source: Source::Pcap,
            pcap: "left.pcap".into(),
            neighbors: "right.pcap".into(),
            cpu: 1,
            control_cpu: 0,
            hugepages: true,
            warm_up_ms: 100,
            duration_ms: 1_000,
        };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<TrialSpec>(&json).unwrap(), spec);
    }
}
