//! Everything of a dataplane, built and at rest: from the launch document to lcores that only need to be polled.
//!
//! The order of building: what can be wrong in the document, the NFs, mempools (one per socket), ports, rings, lcores.
//! Everything that the hot path needs is allocated here. [`crate::launch`] lets the lcores run; a test may poll them by hand.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use dpdk::{Device, Eal, EalConfig, LcoreBinding, MempoolConfig, Port, PortConfig, SocketId, cpu};
use packet::{NetworkFunction, VportId};
use shm::counters::{self, CountersWriter, MAX_PORTS};
use shm::hello::Hello;
use shm::launch::{Attachment, Launch, Limits, PortLaunch, RoleLaunch};

use crate::account::Account;
use crate::forwarder::Forwarder;
use crate::io_lcore::{IoLcore, IoPort, RxQueue, TunnelPort, TxQueue};
use crate::lcore::Poll;
use crate::meta::{Burst, Mempool, Meta};
use crate::nf_lcore::NfLcore;
use crate::outlets::{Outlets, RingConsumer, RingProducer};
use crate::report;
use crate::topology::{Topology, TopologyError};
use crate::updates::{ControllerPort, Mailbox};

/// Mbufs that each lcore keeps at hand.
const CACHE: u32 = 250;
/// Bytes in an mbuf around the largest IP packet: headroom (128, which the outer headers use) and Ethernet with a VLAN tag.
const ROOM_AROUND_PACKET: u16 = 128 + 18;
const SMALLEST_DATA_ROOM: u16 = 2_048 + 128;

/// A launch that can't be done.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Two lcores on one CPU.
    #[error(
        "CPU {cpu} is given to {first} and to {second}: one NF per core. Give each its own CPU, or set share_cores: true to \
         share (for tests on small machines, not for measurements)"
    )]
    SharedCpu {
        /// The CPU.
        cpu: u16,
        /// Who has it.
        first: String,
        /// Who wants it too.
        second: String,
    },
    /// Nothing to do.
    #[error("the launch document has no {0}")]
    Missing(&'static str),
    /// More ports than counters.
    #[error("{0} ports are too many: a host has at most {MAX_PORTS}")]
    TooManyPorts(usize),
    /// The document contradicts itself.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// An NF's configuration.
    #[error("instance {instance}: {problem}")]
    Function {
        /// The instance.
        instance: String,
        /// What is wrong.
        problem: packet::NfError,
    },
    /// EAL.
    #[error(transparent)]
    Eal(#[from] dpdk::EalError),
    /// A device.
    #[error("port \"{name}\": {problem}")]
    Device {
        /// The port.
        name: String,
        /// What is wrong.
        problem: dpdk::DeviceError,
    },
    /// A port.
    #[error("port \"{name}\": {problem}")]
    Port {
        /// The port.
        name: String,
        /// What is wrong.
        problem: dpdk::PortError,
    },
    /// A mempool.
    #[error(transparent)]
    Mempool(#[from] dpdk::MempoolError),
    /// A ring between lcores that can't be made.
    #[error(transparent)]
    RingMemory(#[from] dpdk::RingError),
    /// Rings too small to take what may be let go at once.
    #[error(
        "limits.ring is {ring}: it must be a power of two above limits.parked ({parked}), which may all be let go at once"
    )]
    Ring {
        /// What it is.
        ring: u32,
        /// What must fit in.
        parked: u32,
    },
    /// A lcore that does not start.
    #[error(transparent)]
    Lcore(#[from] dpdk::LcoreError),
    /// The counters' memory.
    #[error(transparent)]
    Counters(#[from] counters::CountersError),
}

/// A dataplane at rest.
pub struct Assembly {
    /// What a controller is told when it attaches.
    pub hello: Hello,
    /// The counters' memory, for readers.
    pub counters: OwnedFd,
    /// Where each lcore takes a new controller's rings from.
    pub mailboxes: Vec<Mailbox>,
    /// The lcores, in the launch document's order.
    pub lcores: Vec<Box<dyn Poll>>,
    /// One on each socket that has a lcore.
    pub mempools: Vec<Mempool>,
}

/// Devices that were opened before, by the port's name; they are used in place of the launch document's.
pub type OpenDevices = BTreeMap<String, Device>;

/// A lcore while it is being built.
struct Site {
    forwarder: Forwarder,
    ring: RingConsumer,
}

/// A port while it is being built.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    rx: Vec<RxQueue>,
    tx: TxQueue,
}

impl Assembly {
    /// Builds everything but EAL.
    pub fn build(eal: &Eal, launch: &Launch, devices: OpenDevices) -> Result<Self, LaunchError> {
        check_cores(launch)?;
        let topology = Arc::new(Topology::new(launch)?);
        let functions = functions(launch)?;
        let sockets = sockets(launch);
        let mempools = mempools(eal, launch, &sockets)?;
        let ports = open_ports(eal, launch, &mempools, &sockets, devices)?;
        let (counters, writers) = counters::create(launch.lcores.len())?;
        let hello = report::hello(launch, eal, &ports, &sockets, &functions);
        let (sites, mailboxes) = sites(eal, launch, &topology, &mempools, &sockets, writers)?;
        let lcores = assemble(launch, sites, ports, functions);
        Ok(Self { hello, counters, mailboxes, lcores, mempools: mempools.into_values().collect() })
    }
}

/// What EAL is to be started with; checks first that the document can be launched at all.
pub fn eal_config(launch: &Launch) -> Result<EalConfig, LaunchError> {
    check_cores(launch)?;
    Topology::new(launch)?;
    for spec in &launch.lcores {
        if let RoleLaunch::Nf(nf) = &spec.role {
            nf::validate(&nf.function, &nf.config)
                .map_err(|problem| LaunchError::Function { instance: nf.instance.clone(), problem })?;
        }
    }
    let lcores = launch.lcores.iter().enumerate();
    let pci = launch.ports.iter().map(|port| &port.device).filter(|device| !device.starts_with("net_"));
    Ok(EalConfig {
        program: "towpath-dataplane".to_owned(),
        memory_mib: launch.eal.memory_mib,
        hugepages: launch.eal.hugepages,
        lcores: lcores.map(|(index, spec)| LcoreBinding { lcore: lcore_number(index), cpu: spec.cpu }).collect(),
        control_cpus: launch.eal.control_cpu.into_iter().collect(),
        pci_allow: pci.cloned().collect(),
        file_prefix: format!("towpath-{}", launch.host),
        extra: launch.eal.extra.clone(),
        ..EalConfig::default()
    })
}

fn sockets(launch: &Launch) -> Vec<SocketId> {
    launch.lcores.iter().map(|lcore| cpu::socket(lcore.cpu).unwrap_or(SocketId::ANY)).collect()
}

/// A lcore's number for EAL.
pub(crate) const fn lcore_number(index: usize) -> u32 {
    index as u32 + 1 // 0 is the control thread
}

pub(crate) fn name_of(launch: &Launch, lcore: usize) -> String {
    match &launch.lcores[lcore].role {
        RoleLaunch::Io => "I/O".to_owned(),
        RoleLaunch::Nf(nf) => nf.instance.clone(),
        RoleLaunch::Spare => "a spare lcore".to_owned(),
    }
}

pub(crate) fn shares_cpu(launch: &Launch, lcore: usize) -> bool {
    let cpu = launch.lcores[lcore].cpu;
    let others = launch.lcores.iter().enumerate().any(|(other, spec)| other != lcore && spec.cpu == cpu);
    others || launch.eal.share_cores
}

/// One NF per core: no CPU is given twice, unless the operator says that cores are shared.
fn check_cores(launch: &Launch) -> Result<(), LaunchError> {
    if launch.lcores.is_empty() {
        return Err(LaunchError::Missing("lcores"));
    }
    if launch.ports.is_empty() {
        return Err(LaunchError::Missing("ports"));
    }
    let Limits { ring, parked, .. } = launch.limits;
    if ring <= parked || !ring.is_power_of_two() {
        return Err(LaunchError::Ring { ring, parked });
    }
    if launch.ports.len() > MAX_PORTS {
        return Err(LaunchError::TooManyPorts(launch.ports.len()));
    }
    if launch.eal.share_cores {
        return Ok(());
    }
    let mut taken = BTreeMap::new();
    for (lcore, spec) in launch.lcores.iter().enumerate() {
        if let Some(first) = taken.insert(spec.cpu, lcore) {
            let (first, second) = (name_of(launch, first), name_of(launch, lcore));
            return Err(LaunchError::SharedCpu { cpu: spec.cpu, first, second });
        }
    }
    Ok(())
}

fn functions(launch: &Launch) -> Result<Vec<Option<Box<dyn NetworkFunction>>>, LaunchError> {
    let create = |role: &RoleLaunch| match role {
        RoleLaunch::Io | RoleLaunch::Spare => Ok(None),
        RoleLaunch::Nf(nf) => nf::create(&nf.function, &nf.config, &nf.instance)
            .map(Some)
            .map_err(|problem| LaunchError::Function { instance: nf.instance.clone(), problem }),
    };
    launch.lcores.iter().map(|lcore| cpu::run_on(lcore.cpu, || create(&lcore.role))).collect()
}

/// One mempool on each socket that has a lcore.
fn mempools(eal: &Eal, launch: &Launch, sockets: &[SocketId]) -> Result<BTreeMap<i32, Mempool>, LaunchError> {
    let largest = launch.ports.iter().map(|port| port.mtu).max().unwrap_or(0);
    let data_room = largest.saturating_add(ROOM_AROUND_PACKET).max(SMALLEST_DATA_ROOM);
    let mut mempools = BTreeMap::new();
    for &socket in sockets {
        if !mempools.contains_key(&socket.0) {
            let name = format!("mbufs-{}", mempools.len());
            let config = MempoolConfig { name, count: launch.limits.mbufs, cache: CACHE, data_room, socket };
            mempools.insert(socket.0, Mempool::new(eal, &config)?);
        }
    }
    Ok(mempools)
}

fn open_ports(
    eal: &Eal,
    launch: &Launch,
    mempools: &BTreeMap<i32, Mempool>,
    sockets: &[SocketId],
    mut devices: OpenDevices,
) -> Result<Vec<OpenPort>, LaunchError> {
    let mut open = |spec: &PortLaunch| {
        let device = match devices.remove(&spec.name) {
            Some(device) => device,
            None => eal
                .open_device(&spec.device)
                .map_err(|problem| LaunchError::Device { name: spec.name.clone(), problem })?,
        };
        let config = PortConfig {
            mtu: spec.mtu,
            rx_queues: spec.queues,
            tx_queues: 1,
            descriptors: spec.descriptors,
            ..PortConfig::<Meta>::new(mempools[&sockets[spec.lcore].0].clone())
        };
        let (port, rx, mut tx) = Port::configure(device, &config)
            .map_err(|problem| LaunchError::Port { name: spec.name.clone(), problem })?;
        Ok(OpenPort { port, rx, tx: tx.remove(0) })
    };
    launch.ports.iter().map(&mut open).collect()
}

/// Rings between all lcores, and a forwarder for each.
fn sites(
    eal: &Eal,
    launch: &Launch,
    topology: &Arc<Topology>,
    mempools: &BTreeMap<i32, Mempool>,
    sockets: &[SocketId],
    writers: Vec<CountersWriter>,
) -> Result<(Vec<Site>, Vec<Mailbox>), LaunchError> {
    let mut producers: Vec<RingProducer> = Vec::new();
    let mut consumers = Vec::new();
    for (index, &socket) in sockets.iter().enumerate() {
        let (producer, consumer) = dpdk::ring::ring(eal, &format!("lcore-{index}"), launch.limits.ring, socket)?;
        producers.push(producer);
        consumers.push(consumer);
    }
    let mailboxes: Vec<Mailbox> = sockets.iter().map(|_| Arc::new(ArrayQueue::new(1))).collect();
    let sites = consumers.into_iter().zip(writers).enumerate().map(|(index, (ring, writer))| {
        let polls_ports = launch.lcores[index].role == RoleLaunch::Io;
        let local = (launch.limits.parked + launch.limits.ring) as usize; // what one poll can let go at once
        let build = || {
            Forwarder::new(
                Arc::clone(topology),
                Outlets::new(polls_ports.then_some(index), producers.clone(), local),
                Account::new(writer),
                ControllerPort::new(Arc::clone(&mailboxes[index]), launch.limits.tag_rules),
                mempools[&sockets[index].0].clone(),
                &launch.limits,
            )
        };
        let forwarder = cpu::run_on(launch.lcores[index].cpu, build); // its tables belong on the lcore's socket
        Site { forwarder, ring }
    });
    Ok((sites.collect(), mailboxes))
}

/// Gives every lcore its ports or its function.
fn assemble(
    launch: &Launch,
    sites: Vec<Site>,
    ports: Vec<OpenPort>,
    functions: Vec<Option<Box<dyn NetworkFunction>>>,
) -> Vec<Box<dyn Poll>> {
    let mut of_lcore: Vec<Vec<IoPort>> = launch.lcores.iter().map(|_| Vec::new()).collect();
    for (index, (spec, open)) in launch.ports.iter().zip(ports).enumerate() {
        of_lcore[spec.lcore].push(IoPort {
            index,
            rx: open.rx,
            tx: open.tx,
            mac: open.port.mac(),
            port: open.port,
            mtu: spec.mtu,
            endpoints: endpoints_on(launch, &spec.name),
            waiting: Burst::default(),
            stuck_polls: 0,
        });
    }
    let parts = launch.lcores.iter().zip(sites).zip(of_lcore).zip(functions);
    let lcores = parts.map(|(((spec, site), ports), function)| -> Box<dyn Poll> {
        let Site { forwarder, ring } = site;
        match (&spec.role, function) {
            (RoleLaunch::Nf(nf), Some(function)) => {
                Box::new(NfLcore::new(forwarder, ring, nf.vport, nf.mangles, function))
            }
            _ => {
                let tunnel = tunnel_on(launch, &ports);
                Box::new(IoLcore::new(forwarder, ports, tunnel, ring))
            }
        }
    });
    lcores.collect()
}

fn endpoints_on(launch: &Launch, name: &str) -> Vec<(Option<u16>, VportId)> {
    let on_port = |attachment: &Attachment| match attachment {
        Attachment::Port { port, vlan } if port == name => Some(*vlan),
        _ => None,
    };
    let endpoints = launch.endpoints.iter();
    endpoints.filter_map(|endpoint| on_port(&endpoint.attachment).map(|vlan| (vlan, endpoint.vport))).collect()
}

fn tunnel_on(launch: &Launch, ports: &[IoPort]) -> Option<TunnelPort> {
    let tunnel = launch.tunnel.as_ref()?;
    let index = launch.ports.iter().position(|port| port.name == tunnel.port)?;
    Some(TunnelPort {
        port: ports.iter().position(|port| port.index == index)?,
        address: tunnel.address.addr(),
        prefix: tunnel.address.trunc(),
        gateway: tunnel.gateway,
        peers: tunnel.peers.clone(),
        udp_port: tunnel.udp_port,
        vnis: tunnel.vnis.clone(),
        encapsulation: tunnel.encapsulation,
    })
}
