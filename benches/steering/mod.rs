//! `towpath bench steering`: ways to steer chains, compared over the same traffic (table 1 of the Stratos paper, by numbers).
//!
//! A model, not a measurement of time: hosts have tables, NF instances know the flows that they have seen, and everything is
//! counted exactly. No DPDK. The same seed gives the same figures on every machine.
//!
//! ```text
//! testbed ─► trace ─┬─► per_flow                ─┐
//!                   ├─► hashed    (division)     ├─► walk: every packet, hop by hop ─► report ─► text, JSON, CSV
//!                   ├─► versions  (division)     │
//!                   ├─► header                   │
//!                   └─► towpath   (controller)  ─┘
//! ```
//!
//! - The testbed has pairs of chains that share a mangler and part behind it. The trace has flows in both directions, and for every
//!   pair two scale-outs of stateful kinds, a change of weights, a scale-in and a scale-out of the mangler.
//! - Each mode's module says what the paper says of it, what its tables hold, and what was assumed in its favour.
//!
//! What is not modelled: time (a rule is there as soon as it is set), table sizes, failures, packets in flight during a change.

mod choice;
mod division;
mod hashed;
mod header;
mod per_flow;
mod report;
mod switches;
mod testbed;
mod towpath;
mod trace;
mod versions;
mod walk;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use report::{FORMAT, ModeResult, RulesPerHost, SizeResult, SteeringReport};
use testbed::Testbed;
use walk::{Mode, Outcome};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeringPlan {
    /// Numbers of hosts, one run each.
    pub hosts: Vec<usize>,
    /// Chains per host; they come in pairs.
    pub chains_per_host: usize,
    /// NFs of each chain, one run each.
    pub nfs_per_chain: Vec<usize>,
    /// Flows of each chain.
    pub flows_per_chain: usize,
    /// Seed of the traffic and of what modes draw.
    pub seed: u64,
    /// Whether instances and weights change while traffic runs.
    pub changes: bool,
}

impl Default for SteeringPlan {
    fn default() -> Self {
        Self {
            hosts: vec![4, 16],
            chains_per_host: 2,
            nfs_per_chain: vec![3, 5],
            flows_per_chain: 200,
            seed: 1,
            changes: true,
        }
    }
}

/// The most chains: a /24 for each endpoint, and for each mangler's pool.
const MAX_CHAINS: usize = 4_096;

/// The most flows of a chain: ports and addresses of a client's /24.
const MAX_FLOWS: usize = 1_000_000;

/// The most NFs of a chain: service paths multiply with each.
const MAX_NFS: usize = 7;

/// Why a comparison can't be run.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// A number of hosts.
    #[error("{0} hosts can't be compared; give 1 to 1000")]
    Hosts(usize),
    /// A number of chains.
    #[error("{0} chains can't be compared; give an even number of chains per host, and at most 4096 in all")]
    Chains(usize),
    /// A number of NFs.
    #[error("{0} NFs per chain can't be compared; give 3 to 7")]
    Nfs(usize),
    /// A number of flows.
    #[error("{0} flows per chain can't be compared; give 1 to 1000000")]
    Flows(usize),
    /// The controller's own composition refuses the testbed.
    #[error("the testbed can't be composed, which is a fault of the bench: {0}")]
    Composition(String),
}

/// A way of steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeName {
    /// An exact rule per flow and hop.
    PerFlowRules,
    /// PLayer and SIMPLE.
    HashRedivision,
    /// Every packet by one version.
    ConsistentPerPacket,
    /// Every flow by one version.
    ConsistentPerFlow,
    /// A service header, with NFs that lose it.
    ServiceHeader,
    /// A service header, with NFs changed to carry it.
    ServiceHeaderChangedNfs,
    /// Tags and reactive rules at subchain heads.
    Towpath,
}

impl ModeName {
    /// All, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::PerFlowRules,
        Self::HashRedivision,
        Self::ConsistentPerPacket,
        Self::ConsistentPerFlow,
        Self::ServiceHeader,
        Self::ServiceHeaderChangedNfs,
        Self::Towpath,
    ];
}

impl fmt::Display for ModeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerFlowRules => "per-flow rules",
            Self::HashRedivision => "hash re-division",
            Self::ConsistentPerPacket => "consistent, per packet",
            Self::ConsistentPerFlow => "consistent, per flow",
            Self::ServiceHeader => "service header",
            Self::ServiceHeaderChangedNfs => "service header, NFs changed",
            Self::Towpath => "Towpath",
        })
    }
}

impl SteeringPlan {
    fn check(&self) -> Result<(), SteeringError> {
        for hosts in &self.hosts {
            let chains = hosts.saturating_mul(self.chains_per_host);
            if !(1..=1_000).contains(hosts) {
                return Err(SteeringError::Hosts(*hosts));
            }
            if chains == 0 || chains > MAX_CHAINS || !self.chains_per_host.is_multiple_of(2) {
                return Err(SteeringError::Chains(chains));
            }
        }
        if let Some(nfs) = self.nfs_per_chain.iter().find(|nfs| !(3..=MAX_NFS).contains(nfs)) {
            return Err(SteeringError::Nfs(*nfs));
        }
        if !(1..=MAX_FLOWS).contains(&self.flows_per_chain) {
            return Err(SteeringError::Flows(self.flows_per_chain));
        }
        Ok(())
    }
}

/// Drives every mode through the same trace, for each size; `say` is told hosts, NFs per chain and the mode.
pub fn run(
    plan: &SteeringPlan,
    command_line: Vec<String>,
    mut say: impl FnMut(usize, usize, ModeName),
) -> Result<SteeringReport, SteeringError> {
    plan.check()?;
    let mut sizes = Vec::new();
    for &nfs in &plan.nfs_per_chain {
        for &hosts in &plan.hosts {
            let testbed = Testbed::new(hosts, hosts * plan.chains_per_host / 2, nfs);
            let trace = trace::trace(&testbed, plan.flows_per_chain, plan.seed, plan.changes);
            let mut modes = Vec::new();
            for name in ModeName::ALL {
                say(hosts, nfs, name);
                modes.push(run_mode(name, &testbed, &trace, plan.seed)?);
            }
            sizes.push(SizeResult::new(&testbed, &trace, nfs, modes));
        }
    }
    Ok(SteeringReport::new(plan, command_line, sizes))
}

fn run_mode(name: ModeName, testbed: &Testbed, trace: &trace::Trace, seed: u64) -> Result<ModeResult, SteeringError> {
    fn drive<M: Mode>(
        name: ModeName,
        testbed: &Testbed,
        trace: &trace::Trace,
        mut mode: M,
    ) -> Result<ModeResult, SteeringError> {
        let outcome: Outcome = walk::drive(testbed, trace, &mut mode)?;
        Ok(ModeResult::new(name, trace, &outcome, mode.costs(), &mode.peaks()))
    }
    use header::{Functions, Header};
    use versions::{Consistency, Versions};
    match name {
        ModeName::PerFlowRules => drive(name, testbed, trace, per_flow::PerFlow::new(testbed, seed)),
        ModeName::HashRedivision => drive(name, testbed, trace, hashed::Hashed::new(testbed, seed)),
        ModeName::ConsistentPerPacket => drive(name, testbed, trace, Versions::new(testbed, Consistency::PerPacket)),
        ModeName::ConsistentPerFlow => drive(name, testbed, trace, Versions::new(testbed, Consistency::PerFlow)),
        ModeName::ServiceHeader => drive(name, testbed, trace, Header::new(testbed, Functions::Unchanged, seed)),
        ModeName::ServiceHeaderChangedNfs => {
            drive(name, testbed, trace, Header::new(testbed, Functions::Changed, seed))
        }
        ModeName::Towpath => drive(name, testbed, trace, towpath::Towpath::new(testbed)?),
    }
}

#[cfg(test)]
mod tests;
