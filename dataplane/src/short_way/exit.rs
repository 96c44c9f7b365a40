//! The exits to other hosts: for each VTEP and network the outer headers, of which only what is the packet's own has to be filled
//! in.
//!
//! An exit stands as long as the neighbour that it leads to has its address and is not due for a question.

use packet::vxlan::{self, Outer, Template, V4_OVERHEAD};
use packet::{Ecn, Plain, VportId, ethernet};
use shm::launch::Encapsulation;

use crate::io_lcore::{IoPort, TunnelPort};
use crate::meta::Mbuf;
use crate::neighbors::{Known, Neighbors};
use crate::ways::Exit;

/// Exits at hand: one for each digest.
const AT_HAND: usize = 256;

/// An exit that is open: what its packets get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenExit {
    exit: Exit,
    neighbors: u64,
    until_ns: u64,
    /// The largest frame that fits the underlay, bytes.
    largest: usize,
    /// The underlay's port among the lcore's.
    pub port: usize,
    template: Template,
}

/// The exits of the lcore with the tunnel.
pub(crate) struct Exits(Box<[Option<OpenExit>; AT_HAND]>);

impl Exits {
    pub fn new() -> Self {
        Self(Box::new([None; AT_HAND]))
    }

    /// An exit, opened if need be; none where that takes more care.
    #[inline(always)]
    pub fn open(
        &mut self,
        exit: Exit,
        tunnel: &Option<TunnelPort>,
        ports: &[IoPort],
        neighbors: &Neighbors<Mbuf>,
        now_ns: u64,
    ) -> Option<&OpenExit> {
        let place = &mut self.0[usize::from(exit.digest())];
        let stands = place
            .as_ref()
            .is_some_and(|open| open.exit.is(exit) && open.neighbors == neighbors.version() && now_ns < open.until_ns);
        if !stands {
            *place = open(exit, tunnel, ports, neighbors, now_ns);
        }
        place.as_ref()
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
    let largest = (usize::from(port.mtu) + ethernet::HEADER_LEN).saturating_sub(V4_OVERHEAD);
    Some(OpenExit { exit, neighbors: neighbors.version(), until_ns, largest, port: tunnel.port, template })
}

impl OpenExit {
    /// True if a frame of this length can be put into VXLAN here, in an mbuf with this headroom.
    #[inline(always)]
    pub fn takes(&self, frame_len: usize, headroom: usize) -> bool {
        frame_len <= self.largest && headroom >= V4_OVERHEAD
    }

    /// Writes what stands before a frame of this length, which [`Self::takes`] has let pass, in VXLAN with this outer traffic class.
    #[inline(always)]
    pub fn write(&self, room: &mut [u8; V4_OVERHEAD], frame_len: usize, plain: &Plain, traffic_class: u8) {
        self.template.write(room, frame_len as u16, vxlan::entropy_port_of_plain(plain), traffic_class);
    }
}
