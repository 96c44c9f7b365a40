//! What the dataplane says of itself when a controller attaches, and the few words that pass on their socket later.
//!
//! Off the packet's path. JSON, since it is said once and people read it too.

use packet::VportId;
use serde::{Deserialize, Serialize};

use crate::launch::Launch;

/// Counted up when a Hello's meaning changes.
pub const HELLO_VERSION: u32 = 1;

/// The first message: who runs here, since when, with what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`HELLO_VERSION`]; another one is refused.
    pub version: u32,
    /// The dataplane's process.
    pub pid: u32,
    /// When it started, realtime, ns since 1970.
    pub started_unix_ns: u64,
    /// Realtime minus the monotonic clock that events use, ns.
    pub clock_offset_ns: i64,
    /// The document in force: what it was started with, or what has taken its place since.
    pub launch: Launch,
    /// Its lcores, in the order of the link's and the counters' blocks.
    pub lcores: Vec<LcoreReport>,
    /// Its ports, in the order of the launch document and the counters.
    pub ports: Vec<PortReport>,
    /// What an operator should know: ports and NFs on different sockets, shared CPUs, no hugepages.
    pub warnings: Vec<String>,
}

/// A lcore as it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LcoreReport {
    /// Its place in the launch document, the link and the counters.
    pub index: usize,
    /// The CPU that it is pinned to.
    pub cpu: u16,
    /// True if another lcore runs on the same CPU.
    pub cpu_shared: bool,
    /// The CPU's NUMA node, if the machine says.
    pub socket: Option<u32>,
    /// The NUMA node of its mempool's memory, if the machine says.
    pub mempool_socket: Option<u32>,
    /// What runs on it.
    pub role: LcoreRole,
    /// The NF instance: `firewall/1`.
    pub instance: Option<String>,
    /// The NF instance's vport.
    pub vport: Option<VportId>,
    /// Names of the NF's own counters, in the order of the block's `nf`.
    pub nf_counters: Vec<String>,
}

/// What runs on a lcore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LcoreRole {
    /// Polls ports.
    Io,
    /// Runs one NF instance.
    Nf,
    /// Runs nothing yet.
    Spare,
}

/// A port as it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortReport {
    /// The host's name for it.
    pub name: String,
    /// The DPDK device.
    pub device: String,
    /// The driver that DPDK chose.
    pub driver: String,
    /// The Ethernet address, `02:00:00:00:00:01`.
    pub mac: String,
    /// The device's NUMA node, if it says.
    pub socket: Option<u32>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Receive queues.
    pub queues: u16,
    /// Whether the link was up at the time.
    pub link_up: bool,
}

/// What may pass on the socket after the Hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum Control {
    /// Controller → dataplane: become what this document says without a stop. Functions, endpoints and the tunnel's networks
    /// and peers may differ from what runs; memory, ports, limits and the number of lcores may not.
    Reconfigure {
        /// The whole document.
        launch: Box<Launch>,
    },
    /// Dataplane → controller: the document is in force. Every lcore goes by it, new instances poll, and those that it lacks have
    /// ended; what they said before is in the event rings. Only now may updates for a new instance be written: what is in the update
    /// ring of its lcore when the document comes is thrown away.
    Reconfigured {
        /// The lcores as they are now.
        lcores: Vec<LcoreReport>,
        /// What an operator should know now.
        warnings: Vec<String>,
    },
    /// Dataplane → controller: the document is refused, nothing changed.
    NotReconfigured {
        /// Why, in words.
        reason: String,
    },
    /// Controller → dataplane: end in order, drain and free everything.
    Shutdown,
    /// Dataplane → controller: I end in order; the end of the stream follows.
    Stopping {
        /// Why.
        reason: String,
    },
}
