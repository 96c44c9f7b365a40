//! Places network functions on cores and routes flows through them, with a proven bound. A problem in, a solution out.
//!
//! It is not on the packet's path: it says where instances are to run and which instance path flows are to take. Pure but for the clock
//! that time limits need ([`clock`]); no I/O, no DPDK.
//!
//! - [`problem`]: hosts, links, kinds, flows, what runs already. [`instance`]: the paper's evaluation, seeded.
//! - [`solve`]: bounds, search, compact MILP as one pipeline; a solution, a proven bound and the gap at any time limit.
//! - [`checker`]: what a solution is, and the independent check that every solution of every method passes.
//! - [`online`]: flows arrive and leave, nothing placed moves.
//! - [`paper`], [`heuristics`]: the paper's MILP (1)–(12) and heuristics A, B, B+, B+COR, C.
//! - [`stratos`]: flow distribution and rack placement of Stratos.
//! - [`formats`]: topologies and documents in, JSON, tables and pictures out.
//!
//! Units: delays in nanoseconds, bandwidth and capacities as integers in the caller's unit; utilisations are exact fractions.
//! Sources: "Virtual Function Placement and Traffic Steering in Flexible and Dynamic Software Defined Networks" (the paper),
//! "Stratos: A Network-Aware Orchestration Layer for Virtual Middleboxes in Clouds".
#![forbid(unsafe_code)]

mod bounds;
pub mod checker;
pub mod clock;
pub mod formats;
pub mod heuristics;
mod highs_run;
pub mod instance;
mod milp;
pub mod online;
mod pack;
pub mod problem;
#[cfg(test)]
mod random;
pub mod ratio;
mod search;
pub mod solve;
pub mod stratos;

pub use milp::paper;
