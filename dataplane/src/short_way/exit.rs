//! The exits to other hosts: for each VTEP and network the outer headers, of which only what is the packet's own has to be filled
//! in.
//!
//! An exit stands as long as the neighbour that it leads to has its address and is not due for a question. That is asked of all
//! together, before a burst and after each packet of it that took the long way, by which alone neighbours change.

use packet::vxlan::{self, Outer, Template, V4_OVERHEAD};
use packet::{Ecn, Plain, VportId};
use shm::launch::Encapsulation;

use crate::io_lcore::{IoPort, TunnelPort};
use crate::meta::Mbuf;
use crate::neighbors::{Known, Neighbors};
use crate::ways::Exit;

/// Exits at hand: one for each digest.
const AT_HAND: usize = 256;

/// An exit that is open, unless it is [`Self::CLOSED`]: what its packets get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenExit {
    exit: Exit,
    until_ns: u64,
    /// The largest frame that fits the underlay, bytes.
    largest: usize,
    template: Template,
}

/// The exits of the lcore with the tunnel.
pub(crate) struct Exits {
    at_hand: Box<[OpenExit; AT_HAND]>,
    /// The version of the neighbours with which all were opened.
    neighbors: u64,
    /// Until when all stand.
    until_ns: u64,
}

impl Exits {
    pub fn new() -> Self {
        Self { at_hand: Box::new([OpenExit::CLOSED; AT_HAND]), neighbors: 0, until_ns: u64::MAX }
    }

    /// Closes all if one of them may no longer stand.
    #[inline(always)]
    pub fn check(&mut self, neighbors: &Neighbors<Mbuf>, now_ns: u64) {
        if self.neighbors != neighbors.version() || now_ns >= self.until_ns {
            self.close(neighbors.version());
        }
    }

    #[cold]
    #[inline(never)]
    fn close(&mut self, neighbors: u64) {
        self.at_hand.fill(OpenExit::CLOSED);
        (self.neighbors, self.until_ns) = (neighbors, u64::MAX);
    }

    /// An exit that stood when [`Self::check`] was last called, or is opened now; none where that takes more care.
    #[inline(always)]
    pub fn open(
        &mut self,
        exit: Exit,
        tunnel: &Option<TunnelPort>,
        ports: &[IoPort],
        neighbors: &Neighbors<Mbuf>,
        now_ns: u64,
    ) -> Option<&OpenExit> {
        let place = &mut self.at_hand[usize::from(exit.digest())];
        if !place.exit.is(exit) {
            *place = open(exit, tunnel, ports, neighbors, now_ns)?;
            self.until_ns = self.until_ns.min(place.until_ns);
        }
        Some(place)
    }
}

#[cold]
#[inline(never)]
fn open(
    exit: Exit,
    tunnel: &Option<TunnelPort>,
    ports: &[IoPort],
    neighbors: &Neighbors<Mbuf>,
    now_ns: u64,
) -> Option<OpenExit> {
    let vtep = exit.vtep();
    let tunnel = tunnel.as_ref().filter(|tunnel| tunnel.encapsulation == Encapsulation::Vxlan)?;
    let port = &ports[tunnel.port];
    let Known { mac, until_ns } = neighbors.known((VportId::TUNNEL, tunnel.next_hop(vtep.into())), now_ns)?;
    let template = Template::new(&Outer {
        source_mac: port.mac,
        destination_mac: mac,
        source: tunnel.address,
        destination: vtep.into(),
        source_port: 0,
        udp_port: tunnel.udp_port,
        vni: exit.vni(),
        dscp: 0,
        ecn: Ecn::NotEct,
    })?;
    let largest = Plain::ETHERNET + usize::from(mtu_inside(port));
    Some(OpenExit { exit, until_ns, largest, template })
}

/// The largest IP packet that fits the underlay in VXLAN, bytes.
pub(super) fn mtu(tunnel: &Option<TunnelPort>, ports: &[IoPort]) -> u16 {
    tunnel.as_ref().map_or(0, |tunnel| mtu_inside(&ports[tunnel.port]))
}

fn mtu_inside(underlay: &IoPort) -> u16 {
    underlay.mtu.saturating_sub(V4_OVERHEAD as u16)
}

impl OpenExit {
    /// None that is open.
    const CLOSED: Self = Self { exit: Exit::NONE, until_ns: 0, largest: 0, template: Template::NOTHING };

    /// True if a frame of this length can be put into VXLAN here, as one can whose packet is within [`mtu`].
    #[inline(always)]
    pub fn takes(&self, frame_len: usize) -> bool {
        frame_len <= self.largest
    }

    /// Writes what stands before a frame of this length, which fits, in VXLAN with this outer traffic class.
    #[inline(always)]
    pub fn write(&self, room: &mut [u8; V4_OVERHEAD], frame_len: usize, plain: &Plain, traffic_class: u8) {
        self.template.write(room, frame_len, vxlan::entropy_port_of_plain(plain), traffic_class);
    }
}
