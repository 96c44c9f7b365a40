//! Everything of a dataplane, built and at rest: from the launch document to lcores that only need to be polled.
//!
//! The order of building: what can be wrong in the document, the NFs, mempools (one per socket), ports, rings, lcores.
//! Everything that the hot path needs is allocated here. [`crate::launch`] lets the lcores run; a test may poll them by hand.
//!
//! A spare lcore has its place in all that is numbered by lcore: a ring from the others, a block of counters, a mailbox. It has
//! no tables, mbufs or function; those are made when an instance starts on it ([`crate::roster`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use dpdk::{Device, Eal, EalConfig, LcoreBinding, MempoolConfig, Port, PortConfig, SocketId, cpu};
use packet::NetworkFunction;
use shm::counters::{self, CountersWriter, MAX_PORTS};
use shm::launch::{Launch, Limits, PortLaunch, RoleLaunch};

use crate::io_lcore::{IoLcore, IoPort, RxQueue, TunnelPort, TxQueue};
use crate::lcore::Poll;
use crate::meta::{Mempool, Meta};
use crate::nf_lcore::NfLcore;
use crate::outlets::RingProducer;
use crate::report;
use crate::roster::Roster;
use crate::topology::{Topology, TopologyError};
use crate::updates::Slot;

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
    /// What is known of the lcores, and what is needed to start others.
    pub roster: Roster,
    /// The lcores, in the launch document's order; none where one is spare.
    pub lcores: Vec<Option<Box<dyn Poll>>>,
}

/// Devices that were opened before, by the port's name; they are used in place of the launch document's.
pub type OpenDevices = BTreeMap<String, Device>;

/// A port while it is being built.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    rx: Vec<RxQueue>,
    tx: TxQueue,
}

impl Assembly {
    /// Builds everything but EAL.
    pub fn build(eal: &Eal, launch: &Launch, devices: OpenDevices) -> Result<Self, LaunchError> {
        cpu::place_large_memory_anew(); // tables come and go with instances, on any socket
        check_cores(launch)?;
        let topology = Arc::new(Topology::new(launch)?);
        let functions = functions(launch)?;
        let sockets = sockets(launch);
        let mempools = mempools(eal, launch, &sockets)?;
        let ports = open_ports(eal, launch, &mempools, &sockets, devices)?;
        let (counters, writers) = counters::create(launch.lcores.len())?;
        let hello = report::hello(launch, eal, &ports, &sockets, &functions);
        let port_sockets = ports.iter().map(|open| open.port.socket()).collect();
        let (producers, slots) = slots(eal, launch, &sockets, writers)?;
        let mut roster = Roster::new(hello, counters, topology, mempools, producers, port_sockets);
        let lcores = assemble(launch, &mut roster, slots, ports, functions);
        Ok(Self { roster, lcores })
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

/// The socket of each lcore's CPU.
pub(crate) fn sockets(launch: &Launch) -> Vec<SocketId> {
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
    let mut busy = launch.lcores.iter().enumerate().filter(|(_, spec)| spec.role != RoleLaunch::Spare);
    launch.eal.share_cores || busy.any(|(other, spec)| other != lcore && spec.cpu == cpu)
}

/// One NF per core: no CPU is given twice, unless the operator says that cores are shared. A spare lcore uses none.
pub(crate) fn check_cores(launch: &Launch) -> Result<(), LaunchError> {
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
    let busy = launch.lcores.iter().enumerate().filter(|(_, spec)| spec.role != RoleLaunch::Spare);
    for (lcore, spec) in busy {
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

/// One mempool on each socket that has a lcore with something to do.
fn mempools(eal: &Eal, launch: &Launch, sockets: &[SocketId]) -> Result<BTreeMap<i32, Mempool>, LaunchError> {
    let mut mempools = BTreeMap::new();
    for (spec, &socket) in launch.lcores.iter().zip(sockets) {
        if spec.role != RoleLaunch::Spare && !mempools.contains_key(&socket.0) {
            mempools.insert(socket.0, Mempool::new(eal, &mempool_config(launch, mempools.len(), socket))?);
        }
    }
    Ok(mempools)
}

/// The host's mempool of this number, on this socket.
pub(crate) fn mempool_config(launch: &Launch, number: usize, socket: SocketId) -> MempoolConfig {
    let largest = launch.ports.iter().map(|port| port.mtu).max().unwrap_or(0);
    let data_room = largest.saturating_add(ROOM_AROUND_PACKET).max(SMALLEST_DATA_ROOM);
    MempoolConfig { name: format!("mbufs-{number}"), count: launch.limits.mbufs, cache: CACHE, data_room, socket }
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

/// Rings between all lcores, spare ones too; with its counters each is a lcore's slot.
fn slots(
    eal: &Eal,
    launch: &Launch,
    sockets: &[SocketId],
    writers: Vec<CountersWriter>,
) -> Result<(Vec<RingProducer>, Vec<Slot>), LaunchError> {
    let mut producers: Vec<RingProducer> = Vec::new();
    let mut slots = Vec::new();
    for ((index, &socket), counters) in sockets.iter().enumerate().zip(writers) {
        let make = |socket| dpdk::ring::ring(eal, &format!("lcore-{index}"), launch.limits.ring, socket);
        let (producer, ring) = match make(socket) {
            Err(_) if launch.lcores[index].role == RoleLaunch::Spare => make(SocketId::ANY)?, // it only waits on that CPU
            made => made?,
        };
        producers.push(producer);
        slots.push(Slot { ring, counters });
    }
    Ok((producers, slots))
}

/// Gives every lcore its tables, and its ports or its function. A spare lcore's slot is kept for later.
fn assemble(
    launch: &Launch,
    roster: &mut Roster,
    slots: Vec<Slot>,
    ports: Vec<OpenPort>,
    functions: Vec<Option<Box<dyn NetworkFunction>>>,
) -> Vec<Option<Box<dyn Poll>>> {
    let mut of_lcore: Vec<Vec<IoPort>> = launch.lcores.iter().map(|_| Vec::new()).collect();
    for (index, (spec, open)) in launch.ports.iter().zip(ports).enumerate() {
        of_lcore[spec.lcore].push(IoPort {
            index,
            rx: open.rx,
            tx: open.tx,
            mac: open.port.mac(),
            port: open.port,
            mtu: spec.mtu,
            waiting: Box::default(),
            waiting_bytes: 0,
            stuck_polls: 0,
        });
    }
    let parts = launch.lcores.iter().zip(slots).zip(of_lcore).zip(functions).enumerate();
    let lcores = parts.map(|(lcore, (((spec, slot), ports), function))| -> Option<Box<dyn Poll>> {
        let materials = match roster.materials(launch, lcore) {
            Some(materials) if spec.role != RoleLaunch::Spare => materials,
            _ => {
                roster.keep(lcore, slot);
                return None;
            }
        };
        let Slot { ring, counters } = slot;
        let io = (spec.role == RoleLaunch::Io).then_some(lcore);
        let forwarder = cpu::run_on(spec.cpu, || materials.forwarder(io, counters)); // its tables belong on the lcore's socket
        Some(match (&spec.role, function) {
            (RoleLaunch::Nf(nf), Some(function)) => {
                Box::new(NfLcore::new(forwarder, ring, nf.vport, nf.mangles, function))
            }
            _ => {
                let tunnel = tunnel_on(launch, &ports);
                Box::new(IoLcore::new(forwarder, ports, tunnel, ring))
            }
        })
    });
    lcores.collect()
}

fn tunnel_on(launch: &Launch, ports: &[IoPort]) -> Option<TunnelPort> {
    let tunnel = launch.tunnel.as_ref()?;
    let index = launch.ports.iter().position(|port| port.name == tunnel.port)?;
    Some(TunnelPort {
        port: ports.iter().position(|port| port.index == index)?,
        address: tunnel.address.addr(),
        prefix: tunnel.address.trunc(),
        gateway: tunnel.gateway,
        udp_port: tunnel.udp_port,
        encapsulation: tunnel.encapsulation,
    })
}
