//! The in-process rig: a forwarder and its controller in this process, on DPDK's virtual devices.
//!
//! This module is the door to it; what is behind it needs DPDK and comes with the `dpdk` feature.

use crate::path::Path;

/// How the rig is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Insist on hugepages. Otherwise they are used if enough are free; without them the figures mean little.
    pub hugepages: bool,
    /// Who has which CPU.
    pub cores: Cores,
    /// NFs of the chain: names of functions in the `nf` crate.
    pub chain: Vec<String>,
}

/// Who has which CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Each lcore, the controller's flow thread and the harness have one each.
    Own,
    /// The harness polls the lcores in turn on one CPU, the flow thread has another.
    PolledInTurn,
    /// All take turns as the kernel lets them: shows that it works, not how fast.
    Shared,
    /// One thread does all of it, the flow thread's work too, step by step: for an instruction counter.
    Counted,
}

impl Options {
    /// A chain of these functions, on as many CPUs as there are.
    pub fn for_this_machine(chain: Vec<String>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (io, controller, harness) = (1, 1, 1);
        let cores = match cpus {
            1 => Cores::Shared,
            cpus if cpus < io + chain.len() + controller + harness => Cores::PolledInTurn,
            _ => Cores::Own,
        };
        Self { hugepages: false, cores, chain }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::for_this_machine(vec!["passthrough".to_owned()])
    }
}

/// A rig that can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// A step of setting it up.
    #[error("the in-process rig could not {step}: {problem}")]
    Failed {
        /// Which.
        step: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// This build has no DPDK.
    #[error(
        "this build has no in-process rig, because it was built without DPDK: build with `--features dpdk`, or measure across \
         hosts with `towpath bench flow-setup --target ADDR:PORT`"
    )]
    WithoutDpdk,
}

/// Sets the rig up.
#[cfg(feature = "dpdk")]
pub fn open(options: &Options) -> Result<Box<dyn Path>, RigError> {
    Ok(Box::new(crate::rig::Rig::open(options)?))
}

/// Sets flows up and installs rules, so many bursts of them, step by step for an instruction counter.
#[cfg(feature = "dpdk")]
pub fn count(bursts: u32) -> Result<Counted, RigError> {
    crate::rig::stages::run(bursts)
}

/// What `count` did, which only builds with DPDK have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Flows, or rules, that went through each stage.
    pub flows: u32,
    /// Allocations within the stages.
    pub allocations: u64,
}

/// Says that there is no rig in this build.
#[cfg(not(feature = "dpdk"))]
pub fn open(_options: &Options) -> Result<Box<dyn Path>, RigError> {
    Err(RigError::WithoutDpdk)
}
