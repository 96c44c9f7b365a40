//! What a dataplane is: one JSON document, written by the controller (or by hand).
//!
//! It is started with one. Another one may take its place while it runs ([`crate::hello::Control::Reconfigure`]): instances start on
//! spare lcores and end, an instance may begin or cease to mangle, endpoints may come and go on the ports that are there, what they
//! answer for may change, and so may the tunnel's peers and vnis. All else stays: a lcore and a vport belong to one instance for as
//! long as it lives.

use std::net::IpAddr;

use ipnet::IpNet;
use packet::{Vni, VportId};
use serde::{Deserialize, Serialize};

/// The whole document: the host, its memory, lcores, ports, vports and limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The host's name.
    pub host: String,
    /// EAL's memory and CPUs.
    pub eal: EalLaunch,
    /// The I/O lcore and the NF lcores.
    pub lcores: Vec<LcoreLaunch>,
    /// DPDK devices.
    pub ports: Vec<PortLaunch>,
    /// Endpoints that attach here.
    pub endpoints: Vec<EndpointLaunch>,
    /// The tunnel to the other hosts; none on a single host.
    pub tunnel: Option<TunnelLaunch>,
    /// Table sizes and times.
    #[serde(default)]
    pub limits: Limits,
}

/// EAL's memory and CPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EalLaunch {
    /// MiB of memory for mempools and rings.
    pub memory_mib: u32,
    /// Hugepages: true requires them, false never uses them.
    pub hugepages: bool,
    /// Several lcores may share a CPU: for tests on small machines, never for measurements.
    pub share_cores: bool,
    /// The CPU of the control thread; none lets it float.
    pub control_cpu: Option<u16>,
    /// Further EAL arguments, passed on as they are.
    #[serde(default)]
    pub extra: Vec<String>,
}

/// One lcore: a thread pinned to a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LcoreLaunch {
    /// The CPU that it is pinned to, as the kernel numbers it. A spare lcore only waits there; the next instance on it brings a
    /// CPU of its own.
    pub cpu: u16,
    /// What runs on it.
    pub role: RoleLaunch,
}

/// What runs on a lcore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RoleLaunch {
    /// Polls ports.
    Io,
    /// Runs one NF instance.
    Nf(NfLaunch),
    /// Runs nothing; an NF instance may be started on it, on any CPU. Its thread sleeps and it has no tables, only its place in what
    /// is numbered by lcore: a ring from the others and a block of counters.
    Spare,
}

/// One NF instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NfLaunch {
    /// Its vport.
    pub vport: VportId,
    /// Its tenant's network: the one that its flow keys carry, whichever network a path's tags belong to.
    pub vni: Vni,
    /// `firewall/1`.
    pub instance: String,
    /// The kind's implementation in the `nf` crate: `firewall`.
    pub function: String,
    /// The function's own configuration.
    #[serde(default)]
    pub config: serde_json::Value,
    /// True if it rewrites the flow's identity: a new subchain begins behind it.
    pub mangles: bool,
}

/// One DPDK device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortLaunch {
    /// The host's name for it: `left`.
    pub name: String,
    /// A PCI address (`0000:21:00.0`) or a virtual device with its arguments (`net_af_packet0,iface=eth0`).
    pub device: String,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// The I/O lcore that polls it, as an index into `lcores`.
    pub lcore: usize,
    /// Receive queues; more than one spreads flows over them by symmetric RSS.
    #[serde(default = "one")]
    pub queues: u16,
    /// Descriptors per queue.
    #[serde(default = "descriptors")]
    pub descriptors: u16,
}

/// A place where a tenant's clients or servers attach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointLaunch {
    /// Its vport.
    pub vport: VportId,
    /// `acme/clients`.
    pub name: String,
    /// The tenant's network.
    pub vni: Vni,
    /// How its packets come and go.
    pub attachment: Attachment,
    /// The prefixes that live there: their addresses are resolved by ARP and ND, unless `next_hops` says otherwise.
    pub prefixes: Vec<IpNet>,
    /// Routers inside the endpoint, one per family at most; traffic goes to them instead of to its destination on the link.
    #[serde(default)]
    pub next_hops: Vec<IpAddr>,
    /// Addresses that the host answers ARP and ND for: gateways, the tenant's other endpoints, mangler pools.
    pub answers: Vec<IpNet>,
    /// An address of the host on this link per family, used as the source of its own ARP, ND and ICMP messages.
    pub gateways: Vec<IpAddr>,
}

/// How an endpoint's packets come and go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Attachment {
    /// A port of this host, untagged or one 802.1Q VLAN of it.
    Port {
        /// The port's name.
        port: String,
        /// The VLAN, 1..=4094, if tagged.
        vlan: Option<u16>,
    },
    /// A VXLAN tunnel endpoint that is not ours: a kernel's, a switch's.
    Vtep {
        /// Its address on the underlay.
        address: IpAddr,
    },
}

/// The tunnel to the other hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelLaunch {
    /// The port of the underlay.
    pub port: String,
    /// This host's VTEP address and the underlay's prefix.
    pub address: ipnet::IpNet,
    /// The router to VTEPs outside the prefix.
    pub gateway: Option<IpAddr>,
    /// VTEPs of the other hosts; VXLAN from anybody else is dropped.
    pub peers: Vec<IpAddr>,
    /// UDP destination port, 4789 (RFC 7348 section 5).
    pub udp_port: u16,
    /// VNIs that may arrive from the peers.
    pub vnis: Vec<Vni>,
    /// How packets travel between the hosts.
    #[serde(default)]
    pub encapsulation: Encapsulation,
}

/// How packets travel between Towpath hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encapsulation {
    /// Ethernet in VXLAN (RFC 7348); the tag travels in the inner DSCP.
    #[default]
    Vxlan,
    /// A network service header (RFC 8300) between the inner Ethernet header and the packet; the tag travels in it.
    Nsh,
}

/// Table sizes and times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Exact rules per lcore.
    pub flows: u32,
    /// Tag rules per lcore.
    pub tag_rules: u32,
    /// Packets parked per lcore while their flows are being set up.
    pub parked: u32,
    /// Packets parked per flow.
    pub parked_per_flow: u16,
    /// How long a packet is parked before it is dropped, ms.
    pub setup_timeout_ms: u32,
    /// Idle time after which a TCP flow's rule goes, s.
    pub tcp_idle_s: u32,
    /// The same while a connection is not open: only SYNs have passed, or FINs or a RST came, s.
    pub tcp_closing_s: u32,
    /// The same for UDP, s.
    pub udp_idle_s: u32,
    /// The same for ICMP and the rest, s.
    pub other_idle_s: u32,
    /// Entries of a ring between lcores; a power of two above `parked`, since parked packets may all leave at once.
    pub ring: u32,
    /// Mbufs of the host's mempool.
    pub mbufs: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 65_536,
            tag_rules: 1_024,
            parked: 2_048,
            parked_per_flow: 32,
            setup_timeout_ms: 1_000,
            tcp_idle_s: 300,
            tcp_closing_s: 15,
            udp_idle_s: 60,
            other_idle_s: 15,
            ring: 4_096,
            mbufs: 16_383,
        }
    }
}

const fn one() -> u16 {
    1
}

const fn descriptors() -> u16 {
    512
}
