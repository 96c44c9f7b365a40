//! The operator's one YAML file, read and checked: [`Config`].
//!
//! The same file is given to every host's controller. [`parse`] reports every mistake of a file, each as one line
//! `file:line: key: what is wrong; the remedy`. What it returns is consistent: references are indices that exist, names are
//! unique, prefixes don't overlap, no CPU is given away twice. What depends on paths (tags, MTU) is [`crate::compose`]'s.
//!
//! The keys are documented in [`EXAMPLE`], which is also what `towpath init` writes.

pub(crate) mod capacity;
mod check;
pub mod compaction;
mod hosts;
mod instances;
pub mod operations;
mod segment;
mod selector;
mod tenants;
mod tree;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use packet::Vni;
use shm::launch::{Encapsulation, Limits};

pub use segment::{End, Segment};
pub use selector::{PortRange, Selector};
pub(crate) use tree::Problems;
pub use tree::{ConfigErrors, Problem};

/// A commented example of the whole file; it passes its own check.
pub const EXAMPLE: &str = include_str!("../example.yaml");

/// The version of the file's shape that this release reads.
pub const VERSION: i64 = 1;

/// The whole file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file's name, for messages.
    pub file: String,
    /// In the file's order.
    pub hosts: Vec<Host>,
    /// In the file's order.
    pub tenants: Vec<Arc<Tenant>>,
    /// How packets travel between hosts.
    pub encapsulation: Encapsulation,
    /// What is allowed but should be known.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The index of the host of this name.
    pub fn host(&self, name: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.name == name)
    }
}

/// A host: one dataplane and one controller.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: u64,
    /// CPUs of the I/O lcores, at least one.
    pub io_cpus: Vec<u16>,
    /// CPU of the dataplane's control thread; none lets it float.
    pub control_cpu: Option<u16>,
    /// CPU that the controller's flow thread has for itself and never sleeps on; none lets it float and sleep.
    pub controller_cpu: Option<u16>,
    /// CPUs for instances that name none.
    pub nf_cpus: Vec<u16>,
    /// Lcores on which instances may be started while the dataplane runs; none leaves it to the composition.
    pub spare_lcores: Option<usize>,
    /// Where its controller listens to the other hosts' controllers; without it the host stands alone.
    pub controller: Option<SocketAddr>,
    /// Several lcores may share a CPU.
    pub share_cores: bool,
    /// MiB of memory for mempools and rings.
    pub memory_mib: u32,
    /// Whether that memory is hugepages.
    pub hugepages: Hugepages,
    /// Further EAL arguments.
    pub eal: Vec<String>,
    /// The link to the other hosts.
    pub underlay: Option<Underlay>,
    /// Where endpoints attach.
    pub ports: Vec<Port>,
    /// Table sizes and times.
    pub limits: Limits,
}

/// Whether memory is hugepages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// If enough are free when the dataplane starts.
    Auto,
    /// Or the dataplane does not start.
    Required,
    /// Never.
    Never,
}

/// The link to the other hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The port; its name is `underlay`.
    pub port: Port,
    /// The host's VTEP address and the prefix of the link.
    pub address: IpNet,
    /// The router to VTEPs outside the prefix.
    pub gateway: Option<IpAddr>,
    /// VXLAN's UDP destination port.
    pub udp_port: u16,
    /// What the link carries each way; none leaves it to what the kernel tells of the port.
    pub bandwidth_mbps: Option<u64>,
    /// From here to the middle of the underlay.
    pub delay_us: u64,
}

/// A DPDK device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The host's name for it.
    pub name: String,
    /// PCI address, or virtual device with its arguments.
    pub device: String,
    /// The largest IP packet, bytes.
    pub mtu: u16,
    /// The I/O CPU that polls it, one of the host's.
    pub cpu: u16,
    /// Receive queues.
    pub queues: u16,
    /// Descriptors per queue.
    pub descriptors: u16,
}

/// A tenant: its network, its functions, its chains.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: u64,
    /// Its network.
    pub vni: Vni,
    /// Further networks, for paths that the first one has no tags for.
    pub spill: Vec<Vni>,
    /// Where its clients and servers attach.
    pub endpoints: Vec<Endpoint>,
    /// Its functions.
    pub nfs: Vec<Nf>,
    /// The running copies of its functions.
    pub instances: Vec<Instance>,
    /// Its chains; the first whose selector matches takes a flow.
    pub chains: Vec<Chain>,
}

/// Where clients or servers attach.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its name within the tenant.
    pub name: String,
    /// Its line in the file.
    pub line: u64,
    /// Its host, an index into [`Config::hosts`].
    pub host: usize,
    /// How its packets come and go.
    pub attachment: Attachment,
    /// The prefixes that live there.
    pub prefixes: Vec<IpNet>,
    /// The host's own address on the link, one per family.
    pub gateways: Vec<IpAddr>,
    /// Routers inside the endpoint, one per family at most.
    pub next_hops: Vec<IpAddr>,
}

/// How an endpoint's packets come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A port of the host, an index into [`Host::ports`]; untagged or one VLAN of it.
    Port(usize, Option<u16>),
    /// A foreign VTEP at this address.
    Vtep(IpAddr),
}

/// A function of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf {
    /// Its name within the tenant.
    pub name: String,
    /// Its line in the file.
    pub line: u64,
    /// Its implementation.
    pub function: String,
    /// It rewrites the flow's identity.
    pub mangles: bool,
    /// Whether it does is found by its traffic; until the operator accepts that, it does not count as a mangler.
    pub detect: bool,
    /// Its configuration, for instances yet to come.
    pub config: serde_json::Value,
    /// What one instance on one CPU carries, if the operator says so.
    pub capacity_pps: Option<u64>,
}

/// A running copy of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// `edge/1`: the function's name and the copy's number.
    pub name: String,
    /// From 1; numbers that the file does not give are the lowest free ones, in the file's order.
    pub number: u32,
    /// Its line in the file.
    pub line: u64,
    /// An index into [`Tenant::nfs`].
    pub nf: usize,
    /// An index into [`Config::hosts`]; none lets the composition choose.
    pub host: Option<usize>,
    /// Its CPU; none lets the composition choose one of the host's CPUs for instances.
    pub cpu: Option<u16>,
    /// The chain that it serves, an index into [`Tenant::chains`], if it is bound to one: a mangler's instance.
    pub serves: Option<usize>,
    /// It gets no new flows and ends with its last one.
    pub drain: bool,
    /// The function's configuration, with this instance's own keys in place of the function's.
    pub config: serde_json::Value,
    /// Addresses that it rewrites sources to, if it is a mangler.
    pub pool: Vec<IpNet>,
}

/// Which traffic goes through which functions.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Its name within the tenant.
    pub name: String,
    /// Its line in the file.
    pub line: u64,
    /// An index into [`Tenant::endpoints`].
    pub from: usize,
    /// An index into [`Tenant::endpoints`].
    pub to: usize,
    /// Which flows of `from`.
    pub selector: Selector,
    /// Indices into [`Tenant::nfs`], in order.
    pub through: Vec<usize>,
    /// An index into [`Tenant::instances`] and its share of new flows; an instance that is not named has 1.
    pub weights: Vec<(usize, u32)>,
    /// What traffic it is for, if the operator says so.
    pub demand: Option<Demand>,
}

/// What traffic a chain is for, in each direction; what the network and its instances are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Packets per second.
    pub packets_pps: u64,
    /// Bits on the underlay.
    pub bandwidth_mbps: u64,
    /// The longest time that the way over the underlay may take.
    pub delay_max_us: Option<u64>,
}

impl Demand {
    /// Of a chain that does not say: a little of everything, so that ways of chains are compared by their number.
    pub const UNSAID: Self = Self { packets_pps: 1_000, bandwidth_mbps: 1, delay_max_us: None };
}

impl Tenant {
    /// All its networks, the first one first.
    pub fn vnis(&self) -> impl Iterator<Item = Vni> + '_ {
        std::iter::once(self.vni).chain(self.spill.iter().copied())
    }
}

impl Chain {
    /// The share of new flows of an instance of this tenant.
    pub fn weight(&self, instance: usize) -> u32 {
        self.weights.iter().find(|(index, _)| *index == instance).map_or(1, |(_, weight)| *weight)
    }
}

/// Why a file gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It can't be read.
    #[error("{file}: can't be read: {source}; name a configuration file (`towpath init` writes one)", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It has mistakes.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

/// Reads and checks a file.
pub fn load(file: &Path) -> Result<Config, LoadError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(parse(&file.display().to_string(), &text)?),
        Err(source) => Err(LoadError::Read { file: file.to_owned(), source }),
    }
}

/// Reads and checks a file's text; `file` is its name in messages.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::new(file);
    let mut config = Config {
        file: file.to_owned(),
        hosts: Vec::new(),
        tenants: Vec::new(),
        encapsulation: Encapsulation::default(),
        warnings: Vec::new(),
    };
    if let Some(node) = tree::read(&mut problems, text) {
        let top = tree::Value::top(&node);
        if top.is_null() {
            problems.note(1, "", "the file is empty; start from what `towpath init` writes");
        } else {
            read_top(&mut problems, &top, &mut config);
        }
    }
    problems.finish()?;
    Ok(config)
}

fn read_top(problems: &mut Problems, top: &tree::Value<'_>, config: &mut Config) {
    let section = top.section(
        problems,
        "a table with `version`, `hosts` and `tenants`",
        &["version", "encapsulation", "hosts", "tenants"],
    );
    let version = section.need(problems, "version", "write `version: 1`");
    let _: Option<i64> = version.and_then(|value| value.integer(problems, VERSION..=VERSION, "the file's version"));
    if let Some(value) = section.get("encapsulation") {
        match value.text(problems, "`vxlan` or `nsh`").as_deref() {
            Some("vxlan") | None => {}
            Some("nsh") => config.encapsulation = Encapsulation::Nsh,
            Some(other) => value.note(problems, format!("unknown encapsulation `{other}`; use `vxlan` or `nsh`")),
        }
    }
    if let Some(value) = section.need(problems, "hosts", "declare at least one host") {
        config.hosts = hosts::read(problems, value);
    }
    if let Some(value) = section.need(problems, "tenants", "declare at least one tenant") {
        config.tenants = tenants::read(problems, value, &config.hosts).into_iter().map(Arc::new).collect();
    }
    check::check(problems, config);
}

#[cfg(test)]
mod tests;
