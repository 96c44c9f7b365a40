//! What rides with a packet inside the host: the mbuf's metadata.
//!
//! Written by the lcore that decided, read by the lcore that receives. It never leaves the host. Between hosts the network is
//! in the VXLAN header, the next element in the inner destination address, the tag in the inner DSCP bits and the sender's DSCP
//! in the outer ones; with a service header the tag is in that, and the inner DSCP is the sender's own.
//!
//! It fits into one cache line, since every lcore that a packet comes to reads it. A packet that stays on the lcore where it
//! came in has none ([`BareMbuf`]), and its line is not touched.

use std::net::IpAddr;

use packet::nsh::Service;
use packet::{Direction, PathId, Tag, Vni, VportId};
use shm::rules::Delivery;

/// A packet with its metadata.
pub type Mbuf = dpdk::Mbuf<Meta>;
/// Up to 32 packets.
pub type Burst = dpdk::Burst<Meta>;
/// A packet that nothing is said about.
pub type BareMbuf = dpdk::Mbuf;
/// Up to 32 of them.
pub type BareBurst = dpdk::Burst;
/// Where packets come from.
pub type Mempool = dpdk::Mempool<Meta>;

/// The metadata.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// What the receiving lcore is to do.
    pub task: Task,
    /// The network that the packet's path has its tags in, once a head set one; before that, the tenant's primary one.
    pub vni: Vni,
    /// The tag that the packet carries in its DSCP bits, once a head set one.
    pub tag: Option<Tag>,
    /// The instance path, by the last rule that the packet met.
    pub path: PathId,
    /// How far along its path the packet is, for a service header.
    pub service: Service,
    /// The sender's own DSCP, restored at egress.
    pub dscp: u8,
    /// Elements passed on this host.
    pub hops: u8,
    /// Which way along the chain.
    pub direction: Direction,
    /// What the end of the subchain keeps about the other direction.
    pub delivery: Delivery,
}

/// What the receiving lcore is to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Nothing was decided yet.
    Undecided,
    /// Let this NF instance process it.
    Process(VportId),
    /// Deliver it to this endpoint.
    Egress(VportId),
    /// Send this complete frame, as it is, to the endpoint's link.
    Reply(VportId),
    /// Encapsulate it to another host.
    Encapsulate(IpAddr),
}

impl Meta {
    /// Of a packet that nothing was decided about yet.
    pub const NEW: Self = Self {
        task: Task::Undecided,
        vni: Vni::ZERO,
        tag: None,
        path: PathId(0),
        service: Service::START,
        dscp: 0,
        hops: 0,
        direction: Direction::Forward,
        delivery: Delivery::None,
    };

    /// Goes on by a tag rule, of whose way this is `to`; what is the packet's own stays.
    #[inline(always)]
    pub fn follow(&mut self, to: &Self) {
        self.task = to.task;
        self.path = to.path;
        self.direction = to.direction;
        self.delivery = to.delivery;
        self.hops += to.hops;
    }
}

impl Default for Meta {
    fn default() -> Self {
        Self::NEW
    }
}

const _: () = assert!(size_of::<Meta>() <= 64, "the metadata no longer fits into one cache line");
