//! The I/O lcore: polls its ports, and delivers to them what the other lcores hand over.
//!
//! [`IoLcore::poll_once`] is the packet's path through it, a burst at a time. What is usual takes the short way
//! (`short_way.rs`); all else takes the long one, packet by packet: [`ingress`](crate::ingress) for what comes in,
//! [`egress`](crate::egress) for what goes out.

use std::net::IpAddr;
use std::sync::Arc;

use dpdk::Port;
use ipnet::IpNet;
use packet::{DropReason, MacAddr, VportId};
use shm::launch::Encapsulation;

use crate::forwarder::Forwarder;
use crate::lcore::{Poll, Ticks};
use crate::meta::{BareBurst, BareMbuf, Burst, Mbuf, Task};
use crate::neighbors::Neighbors;
use crate::outlets::RingConsumer;
use crate::short_way::{Exits, Links, Origins, Outgoing};
use crate::updates::Slot;

/// Receives from one queue of a port.
pub type RxQueue = dpdk::RxQueue<crate::meta::Meta>;
/// Sends to one queue of a port.
pub type TxQueue = dpdk::TxQueue;

/// Polls that a packet may wait for room in a port's transmit queue.
const TX_PATIENCE: u32 = 64;

/// One I/O lcore.
pub struct IoLcore {
    pub(crate) forwarder: Forwarder,
    pub(crate) ports: Vec<IoPort>,
    pub(crate) tunnel: Option<TunnelPort>,
    pub(crate) neighbors: Neighbors<Mbuf>,
    pub(crate) links: Links,
    pub(crate) exits: Exits,
    pub(crate) origins: Origins,
    pub(crate) outgoing: Outgoing,
    ring: RingConsumer,
    ticks: Ticks,
    /// The version of the topology whose links `neighbors` are on.
    links_version: u64,
}

/// A port as its lcore has it.
pub struct IoPort {
    /// Its place among the host's ports and their counters.
    pub index: usize,
    /// The device, for its own counts.
    pub port: Port,
    /// Receive queues, all polled by this lcore.
    pub rx: Vec<RxQueue>,
    /// The transmit queue.
    pub tx: TxQueue,
    /// Its address.
    pub mac: MacAddr,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// What waits to be sent; boxed, to be exchanged for another burst.
    pub waiting: Box<BareBurst>,
    /// Bytes of it.
    pub waiting_bytes: usize,
    /// Polls in which nothing of it could be sent.
    pub stuck_polls: u32,
}

/// The tunnel's end on this host.
pub struct TunnelPort {
    /// Index of the underlay's port among this lcore's ports.
    pub port: usize,
    /// This host's VTEP address.
    pub address: IpAddr,
    /// The underlay's prefix.
    pub prefix: IpNet,
    /// The router to VTEPs outside the prefix.
    pub gateway: Option<IpAddr>,
    /// VXLAN's UDP port.
    pub udp_port: u16,
    /// How packets travel to and from the peers; endpoints behind a VTEP of their own get plain VXLAN always.
    pub encapsulation: Encapsulation,
}

impl TunnelPort {
    /// Whom a packet for this VTEP goes to: it itself, or the router.
    pub fn next_hop(&self, vtep: IpAddr) -> IpAddr {
        let on_link = self.prefix.contains(&vtep);
        self.gateway.filter(|_| !on_link).unwrap_or(vtep)
    }
}

impl IoLcore {
    /// An I/O lcore with these ports.
    pub fn new(forwarder: Forwarder, ports: Vec<IoPort>, tunnel: Option<TunnelPort>, ring: RingConsumer) -> Self {
        let (neighbors, ticks) = (Neighbors::default(), Ticks::default());
        let links = Links::new(&forwarder.topology, &ports);
        let (exits, origins, outgoing) = (Exits::new(), Origins::new(), Outgoing::new());
        let links_version = forwarder.topology.version();
        Self { forwarder, ports, tunnel, neighbors, links, exits, origins, outgoing, ring, ticks, links_version }
    }

    fn receive(&mut self) -> bool {
        let mut burst = BareBurst::new();
        let (mut worked, mut crowded) = (false, false);
        for at in 0..self.ports.len() {
            for queue in 0..self.ports[at].rx.len() {
                let port = &mut self.ports[at];
                if port.rx[queue].rx_bare(&mut burst) == 0 {
                    continue;
                }
                worked = true;
                let mut bytes = 0;
                for mbuf in &burst {
                    mbuf.prefetch();
                    bytes += mbuf.len();
                }
                let counters = &self.forwarder.account.counters;
                counters.received.add(burst.len() as u64);
                counters.ports[port.index].rx_packets.add(burst.len() as u64);
                counters.ports[port.index].rx_bytes.add(bytes as u64);
                self.forwarder.misses.note(burst.len());
                crowded |= burst.is_full();
                self.burst_from_port(at, &mut burst);
            }
        }
        self.forwarder.note_load(crowded);
        worked
    }

    /// Takes as many packets from the other lcores as the ports may have brought in, so that what comes in does not crowd out
    /// what is on its way out.
    fn take_ring(&mut self) -> bool {
        let queues: usize = self.ports.iter().map(|port| port.rx.len()).sum();
        let mut burst = Burst::new();
        let mut worked = false;
        for _ in 0..=queues {
            if self.ring.dequeue_burst(&mut burst) == 0 {
                break;
            }
            worked = true;
            self.burst_from_ring(&mut burst);
        }
        worked
    }

    /// Delivers what this lcore handed to itself.
    pub(crate) fn deliver_local(&mut self) {
        while let Some(mbuf) = self.forwarder.outlets.take_local() {
            self.deliver(mbuf);
        }
    }

    pub(crate) fn deliver(&mut self, mbuf: Mbuf) {
        match mbuf.meta().task {
            Task::Egress(vport) => self.to_endpoint(vport, mbuf),
            Task::Reply(vport) => self.to_link(vport, mbuf),
            Task::Encapsulate(vtep) => self.to_host(vtep, mbuf),
            Task::Process(_) | Task::Undecided => self.forwarder.end(mbuf, DropReason::NoSuchVport),
        }
    }

    fn transmit(&mut self) {
        let Self { forwarder, ports, .. } = self;
        for port in ports.iter_mut().filter(|port| !port.waiting.is_empty()) {
            let sent = port.transmit(forwarder);
            port.stuck_polls = if sent > 0 { 0 } else { port.stuck_polls + 1 };
            if port.stuck_polls > TX_PATIENCE {
                port.end_waiting(DropReason::TxFull, forwarder);
                port.stuck_polls = 0;
            }
        }
        let account = &mut forwarder.account;
        forwarder.outlets.flush(|lost| account.count_drop(DropReason::RingFull, lost));
    }

    /// After a reconfiguration: who is on a link that is no more is nobody's neighbour, nor the neighbour of whoever gets the
    /// link's vport next.
    fn leave_links(&mut self) {
        let Self { neighbors, forwarder, links_version, links, ports, .. } = self;
        *links_version = forwarder.topology.version();
        links.renew(&forwarder.topology, ports);
        let topology = Arc::clone(&forwarder.topology);
        let is_there = |link| link == VportId::TUNNEL || topology.endpoint(link).is_some();
        neighbors.forget_links(is_there, |mbuf| forwarder.end(mbuf, DropReason::NoSuchVport));
    }

    /// What only the device knows: frames that never reached this lcore.
    fn publish_device_counts(&self) {
        for port in &self.ports {
            let (stats, counters) = (port.port.stats(), &self.forwarder.account.counters.ports[port.index]);
            counters.rx_missed.set(stats.rx_missed + stats.rx_no_mbuf);
            counters.rx_errors.set(stats.rx_errors);
            counters.tx_errors.set(stats.tx_errors);
            counters.link_up.set(u64::from(port.port.link_up()));
        }
    }

    fn held(&self) -> usize {
        let waiting: usize = self.ports.iter().map(|port| port.waiting.len()).sum();
        self.forwarder.parking.len() + self.neighbors.held() + self.ring.len() + waiting
    }
}

impl Poll for IoLcore {
    fn poll_once(&mut self, now_ns: u64) -> bool {
        self.forwarder.now_ns = now_ns;
        let mut worked = self.forwarder.serve_controller();
        if self.links_version != self.forwarder.topology.version() {
            self.leave_links();
        }
        self.deliver_local(); // what a rule has just released goes before what comes in
        worked |= self.receive();
        worked |= self.take_ring();
        self.deliver_local();
        self.transmit();
        if self.ticks.millisecond(now_ns) {
            self.forwarder.keep_time();
        }
        if self.ticks.half_second(now_ns) {
            self.keep_neighbors();
            self.publish_device_counts();
        }
        self.forwarder.controller.ring_doorbell(&mut self.forwarder.account);
        self.forwarder.account.counters.held.set(self.held() as u64);
        worked
    }

    fn forwarder(&mut self) -> &mut Forwarder {
        &mut self.forwarder
    }

    fn let_go(&mut self) {
        self.transmit();
        let Self { forwarder, ports, neighbors, .. } = self;
        for port in ports {
            port.end_waiting(DropReason::Shutdown, forwarder);
        }
        neighbors.expire(u64::MAX, |mbuf| forwarder.end(mbuf, DropReason::Shutdown));
        forwarder.let_go();
    }

    fn drain_ring(&mut self) {
        self.forwarder.drain(&mut self.ring);
    }

    fn vacate(self: Box<Self>) -> Option<Slot> {
        None
    }
}

impl IoPort {
    /// Sends what waits, as far as the queue takes it; returns how many it took.
    pub fn transmit(&mut self, forwarder: &mut Forwarder) -> usize {
        let sent = self.tx.tx(&mut self.waiting);
        let left: usize = self.waiting.iter().map(BareMbuf::len).sum();
        let bytes = std::mem::replace(&mut self.waiting_bytes, left) - left;
        let counters = &forwarder.account.counters;
        counters.transmitted.add(sent as u64);
        counters.ports[self.index].tx_packets.add(sent as u64);
        counters.ports[self.index].tx_bytes.add(bytes as u64);
        sent
    }

    /// Queues packets, of so many bytes, to be sent.
    pub fn send_burst(&mut self, mbufs: &mut Box<BareBurst>, bytes: usize, forwarder: &mut Forwarder) {
        if self.waiting.is_empty() {
            std::mem::swap(&mut self.waiting, mbufs);
            self.waiting_bytes = bytes;
        } else {
            mbufs.take_each(|mbuf| self.send(mbuf, forwarder));
        }
    }

    /// Queues a packet to be sent.
    pub fn send(&mut self, mbuf: BareMbuf, forwarder: &mut Forwarder) {
        if let Err(mbuf) = self.wait(mbuf) {
            self.send_after_others(mbuf, forwarder);
        }
    }

    #[inline(never)]
    fn send_after_others(&mut self, mbuf: BareMbuf, forwarder: &mut Forwarder) {
        self.transmit(forwarder);
        if let Err(mbuf) = self.wait(mbuf) {
            forwarder.end(mbuf, DropReason::TxFull);
        }
    }

    fn wait(&mut self, mbuf: BareMbuf) -> Result<(), BareMbuf> {
        let length = mbuf.len();
        self.waiting.push(mbuf)?;
        self.waiting_bytes += length;
        Ok(())
    }

    /// Ends what waits.
    fn end_waiting(&mut self, reason: DropReason, forwarder: &mut Forwarder) {
        forwarder.end_burst(&mut self.waiting, reason);
        self.waiting_bytes = 0;
    }
}
