//! Rows about machines, and about instances: where they are and how.

use serde::{Deserialize, Serialize};

use crate::inventory::Inventory;

/// A host's machine, as its controller reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryRow {
    /// The host.
    pub host: String,
    /// True for the host of this controller.
    pub here: bool,
    /// None until the host's controller has said it.
    pub inventory: Option<Inventory>,
    /// The instances that its lcores run, where the kernel says they run.
    pub lcores: Vec<OccupiedLcore>,
}

/// An lcore that runs an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupiedLcore {
    /// What the dataplane calls it: `acme/edge/1`.
    pub instance: String,
    /// Its place among the host's lcores.
    pub lcore: usize,
    /// The one CPU that the kernel lets its thread run on; none if the kernel says something else.
    pub cpu: Option<u16>,
    /// Packets per second that it was measured to carry; none until enough went through, or where lcores share the CPU.
    pub capacity_pps: Option<u64>,
}

/// An NF instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// `acme/edge/1`.
    pub instance: String,
    /// The function: `firewall`.
    pub function: String,
    /// It rewrites the flow's identity.
    pub mangles: bool,
    /// Its host.
    pub host: String,
    /// Its place among the host's lcores.
    pub lcore: usize,
    /// Its CPU, by the version in force.
    pub cpu: u16,
    /// The CPU that it really runs on, as its host's kernel says.
    pub confirmed_cpu: Option<u16>,
    /// The NUMA node of its CPU, if it is known.
    pub node: Option<u16>,
    /// Packets per second that it was measured to carry.
    pub capacity_pps: Option<u64>,
    /// Why it was put there.
    pub why: Vec<String>,
    /// How it is.
    pub state: InstanceState,
    /// Seconds since it was taken out of the configuration, if it drains.
    pub draining_s: Option<u64>,
    /// A flow that it rewrote though it is not declared a mangler; only of instances of this host.
    pub rewrites: Option<String>,
    /// The instance's own counters, in its order; empty for instances of other hosts.
    pub counters: Vec<NamedCount>,
}

/// How an NF instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// It runs here.
    Running,
    /// It is not in the configuration any more and ends with its last flow.
    Draining,
    /// Its dataplane is starting it.
    Starting,
    /// It panicked; its paths get no new flows.
    Failed,
    /// It is on another host: ask that host's controller.
    Elsewhere,
}

/// A counter with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCount {
    /// What it counts.
    pub name: String,
    /// How many.
    pub value: u64,
}

/// What becomes of an instance by a change, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRow {
    /// `acme/edge/1`.
    pub instance: String,
    /// What becomes of it.
    pub change: PlacementChange,
    /// Its host.
    pub host: String,
    /// The NUMA node of its CPU, if it is known.
    pub node: Option<u16>,
    /// Its CPU.
    pub cpu: u16,
    /// Its place among the host's lcores.
    pub lcore: usize,
    /// Why it is there.
    pub why: Vec<String>,
    /// After the change: the CPU that it really runs on, as its host's kernel says.
    pub confirmed_cpu: Option<u16>,
}

/// What becomes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementChange {
    /// It is new there.
    Starts,
    /// It was there and stays.
    Stays,
    /// It gets no new flows, and ends with its last one.
    Drains,
    /// It is gone.
    Ends,
}
