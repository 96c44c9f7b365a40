//! The in-process rig: a forwarder and its controller in this process, on DPDK's virtual devices.
//!
//! This module is the door to it; what is behind it needs DPDK and comes with the `dpdk` feature.

use crate::path::Path;

/// How the rig is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Insist on hugepages. Otherwise they are used if enough are free; without them the figures mean little.
    pub hugepages: bool,
    /// Let lcores share CPUs where there are too few of them.
    pub share_cores: bool,
    /// NFs of the chain: names of functions in the `nf` crate.
    pub chain: Vec<String>,
}

impl Options {
    /// A chain of these functions; cores are shared if the machine has too few for the lcores, the controller and the harness.
    pub fn for_this_machine(chain: Vec<String>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (io, controller, harness) = (1, 1, 1);
        Self { hugepages: false, share_cores: cpus < io + chain.len() + controller + harness, chain }
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

/// Says that there is no rig in this build.
#[cfg(not(feature = "dpdk"))]
pub fn open(_options: &Options) -> Result<Box<dyn Path>, RigError> {
    Err(RigError::WithoutDpdk)
}
