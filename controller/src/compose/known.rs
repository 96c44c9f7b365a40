//! What is known of the machines when new instances get their places: [`Known`].
//!
//! It is no part of the configuration and may differ from host to host and from day to day. So only the host that leads a change goes by
//! it; where it put what is in the [`State`](super::State), from which all others come to the same. A composition that nobody leads (the
//! file that several hosts are started with) knows nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::inventory::Inventory;

/// What is known of the machines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// By host.
    pub inventories: BTreeMap<String, Arc<Inventory>>,
    /// What an instance of a kind (`acme/edge`) was measured to carry on a host, by host and kind.
    pub measured_pps: BTreeMap<(String, String), u64>,
    /// Instances that run and name no CPU may be put elsewhere if that is better: they drain, and new ones start.
    pub may_move: bool,
    /// How long the solver may look for hosts; not at all if it is nothing.
    pub solve_within: Duration,
}

impl Known {
    /// Of this host; none if its kernel shows no CPU at all.
    pub fn inventory(&self, host: &str) -> Option<&Inventory> {
        self.inventories.get(host).map(Arc::as_ref).filter(|inventory| !inventory.cpus.is_empty())
    }

    /// What an instance of a tenant's kind was measured to carry on a host.
    pub fn measured_pps(&self, host: &str, tenant: &str, kind: &str) -> Option<u64> {
        self.measured_pps.get(&(host.to_owned(), format!("{tenant}/{kind}"))).copied()
    }
}
