//! What a host's machine has, as its kernel tells: CPUs with their cores and NUMA nodes, memory, ports with their node.
//!
//! Off the packet's path: read when the controller starts and when a version comes into force, told to the other hosts'
//! controllers, and taken into account where an instance gets its CPU ([`crate::compose`]). CPU numbers are the kernel's; node is
//! the kernel's word for what DPDK calls a socket.
//!
//! The tree that is read is `/sys`, or a copy of one: then everything is as on the machine that the copy is of. A tree that lacks
//! something is no error: what the kernel does not tell (a NUMA node of -1, a virtual device without one, a kernel without NUMA) is
//! none here.
//!
//! Source: the kernel's Documentation/ABI/stable/sysfs-devices-node, stable/sysfs-devices-system-cpu, testing/sysfs-bus-pci.

pub mod affinity;
mod capacity;
mod sysfs;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use capacity::{Meter, MeteredLcore, Reading};
use sysfs::Tree;

use crate::config::{Host, Port};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// All that are present, by number.
    pub cpus: Vec<Cpu>,
    /// By number; empty if the kernel has none.
    pub nodes: Vec<Node>,
    /// Those of the configuration, the underlay's first.
    pub ports: Vec<PortPlace>,
}

/// A CPU, as the kernel numbers them: one hardware thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u16,
    /// Its NUMA node, if the kernel tells.
    pub node: Option<u16>,
    /// The CPUs of its physical core, itself included, ascending.
    pub siblings: Vec<u16>,
    /// Threads can run there.
    pub online: bool,
    /// The kernel puts nothing there by itself (`isolcpus=`).
    pub isolated: bool,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub node: u16,
    /// Its memory.
    pub memory_mib: u64,
    /// Hugepages of all sizes, free or not.
    pub hugepages_mib: u64,
}

/// Where a port is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlace {
    /// The host's name for it.
    pub port: String,
    /// The DPDK device.
    pub device: String,
    /// Its NUMA node, if the kernel tells.
    pub node: Option<u16>,
    /// Its line rate, if the kernel drives it and tells.
    pub speed_mbps: Option<u64>,
}

impl Inventory {
    /// Reads a machine and a host's ports from the tree at `root`.
    pub fn read(root: &Path, host: &Host) -> Self {
        let tree = Tree::new(root);
        let (nodes, node_of) = nodes(&tree);
        let online = tree.list("devices/system/cpu/online");
        let isolated = tree.list("devices/system/cpu/isolated").unwrap_or_default();
        let present = tree.list("devices/system/cpu/present").or_else(|| online.clone()).unwrap_or_default();
        let cpu = |cpu: u16| {
            let siblings = tree.list(&format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
            Cpu {
                cpu,
                node: node_of.iter().find(|(_, cpus)| cpus.contains(&cpu)).map(|(node, _)| *node),
                // One that is offline has no topology.
                siblings: siblings.filter(|cpus| cpus.contains(&cpu)).unwrap_or_else(|| vec![cpu]),
                online: online.as_ref().is_none_or(|online| online.contains(&cpu)),
                isolated: isolated.contains(&cpu),
            }
        };
        let ports = host.underlay.iter().map(|underlay| &underlay.port).chain(&host.ports);
        Self {
            cpus: present.into_iter().map(cpu).collect(),
            nodes,
            ports: ports.map(|port| place(&tree, port)).collect(),
        }
    }

    /// A CPU by its number.
    pub fn cpu(&self, cpu: u16) -> Option<&Cpu> {
        self.cpus.iter().find(|found| found.cpu == cpu)
    }

    /// The NUMA node of a CPU, if it is known.
    pub fn node_of_cpu(&self, cpu: u16) -> Option<u16> {
        self.cpu(cpu)?.node
    }

    /// A port by its name.
    pub fn port(&self, port: &str) -> Option<&PortPlace> {
        self.ports.iter().find(|found| found.port == port)
    }
}

/// Numbers that ascend as the kernel writes them: `0-3,8`; `-` if there are none.
pub fn ranges(numbers: impl Iterator<Item = u16>) -> String {
    let mut found: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => found.push((number, number)),
        }
    }
    let range = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    if found.is_empty() { "-".to_owned() } else { found.iter().map(range).collect::<Vec<_>>().join(",") }
}

/// The nodes, and the CPUs of each.
fn nodes(tree: &Tree<'_>) -> (Vec<Node>, Vec<(u16, Vec<u16>)>) {
    let numbers = tree.list("devices/system/node/online").unwrap_or_default();
    let (mut nodes, mut cpus) = (Vec::new(), Vec::new());
    for node in numbers {
        let below = format!("devices/system/node/node{node}");
        let Some(list) = tree.list(&format!("{below}/cpulist")) else { continue };
        cpus.push((node, list));
        let hugepages_kib = tree.entries(&format!("{below}/hugepages")).into_iter().filter_map(|size| {
            let page_kib: u64 = size.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(page_kib * tree.number::<u64>(&format!("{below}/hugepages/{size}/nr_hugepages"))?)
        });
        nodes.push(Node {
            node,
            memory_mib: memory_kib(&tree.text(&format!("{below}/meminfo")).unwrap_or_default()) / 1_024,
            hugepages_mib: hugepages_kib.sum::<u64>() / 1_024,
        });
    }
    (nodes, cpus)
}

/// `Node 0 MemTotal:       24684092 kB`
fn memory_kib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.split_once("MemTotal:"));
    total.and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A PCI device has a place of its own; a virtual one that of the kernel's interface that it is on, if it is on one.
fn place(tree: &Tree<'_>, port: &Port) -> PortPlace {
    let (node, speed) = match interface(&port.device) {
        Some(interface) => {
            (format!("class/net/{interface}/device/numa_node"), Some(format!("class/net/{interface}/speed")))
        }
        None => {
            let address = port.device.split(',').next().unwrap_or_default();
            let below = format!("bus/pci/devices/{address}");
            let bound = tree.entries(&format!("{below}/net")).into_iter().next();
            (format!("{below}/numa_node"), bound.map(|interface| format!("{below}/net/{interface}/speed")))
        }
    };
    PortPlace {
        port: port.name.clone(),
        device: port.device.clone(),
        // -1 is the kernel's word for unknown, of a node and of a speed.
        node: tree.number(&node),
        speed_mbps: speed.and_then(|path| tree.number(&path)).filter(|speed| *speed > 0),
    }
}

/// The kernel's interface among a virtual device's arguments.
fn interface(device: &str) -> Option<&str> {
    const KEYS: [&str; 5] = ["iface=", "rx_iface_in=", "rx_iface=", "tx_iface=", "remote="];
    let arguments = || device.split(',').skip(1);
    let found = KEYS.iter().find_map(|key| arguments().find_map(|argument| argument.strip_prefix(key)))?;
    // It becomes part of a path.
    (!found.contains('/') && !found.starts_with('.')).then_some(found)
}

#[cfg(test)]
mod tests;
