//! The bench harness: what it costs to set a flow up, and how many flows can be set up in a second without loss.
//!
//! Each new flow sends a first packet, which Towpath must park, ask the controller about and release, and later an
//! established packet, which finds its rule. The harness sends both on an open-loop [`schedule`] and keeps their latencies in
//! HDR histograms.
//!
//! ```text
//! schedule ──► driver ──► Path::send ──► (the system under test) ──► Path::poll ──► ledger ──► report ──► text, JSON, SVG
//! ```
//!
//! - [`path`]: what the harness needs of a way through the system. [`udp`] is one over real sockets (with [`echo`] at the far
//!   end), [`in_process`] is one over DPDK's virtual devices in this process.
//! - [`schedule`]: when each flow is *meant* to begin. Latency always counts from there, so a stall shows in every packet that
//!   it held up (no coordinated omission).
//! - [`driver`]: one [`plan::Plan`] run over one path; [`search`]: the highest rate without loss.
//! - [`report`], [`text`], [`plot`]: the figures, and the machine that they were measured on ([`machine`]).
//!
//! [`speed`] measures how fast packets go; [`goals`] holds each report's figures against what is to be reached.
//!
//! Two more benches send no packets: [`steering`] compares ways to steer chains over one modelled traffic, [`compose`] measures what
//! composing a specification costs. Each has its own report.
//!
//! Units: times are nanoseconds of the path's own monotonic clock, rates are flows per second.
#![forbid(unsafe_code)]

pub mod allocations;
pub mod compose;
pub mod cpu_time;
pub mod driver;
pub mod echo;
pub mod figures;
pub mod goals;
pub mod in_process;
mod ledger;
pub mod machine;
pub mod path;
pub mod placement;
pub mod plan;
pub mod plot;
pub mod probe;
pub mod report;
#[cfg(feature = "dpdk")]
pub mod rig;
pub mod schedule;
pub mod search;
#[cfg(test)]
mod simulated;
pub mod speed;
pub mod stalls;
pub mod steering;
pub mod text;
pub mod udp;

pub use driver::{Progress, run};
pub use path::{Packet, PacketKind, Path, PathError, PathFacts, Received, Taken};
pub use plan::Plan;
pub use report::FlowSetupReport;
