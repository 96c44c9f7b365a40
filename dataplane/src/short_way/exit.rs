//! The exits to other hosts: for each VTEP and network the outer headers, of which only what is the packet's own has to be filled
//! in.
//!
//! An exit stands as long as the neighbour that it leads to has its address and is not due for a question.

use std::net::Ipv4Addr;

use packet::vxlan::{self, Outer, Template, V4_OVERHEAD};
use packet::{Ecn, Plain, Vni, VportId, ethernet};
use shm::launch::Encapsulation;

use crate::io_lcore::{IoPort, TunnelPort};
use crate::meta::{BareMbuf, Mbuf};
use crate::neighbors::{Known, Neighbors};

/// Exits at hand; a power of two.
const AT_HAND: usize = 256;

/// An exit: one VTEP, one network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    /// The VTEP above, the network below.
    key: u64,
    neighbors: u64,
    until_ns: u64,
    /// The largest frame that fits the underlay, bytes.
    largest: usize,
    /// The underlay's port among the lcore's.
    pub port: usize,
    template: Template,
}

/// The exits of the lcore with the tunnel.
pub(crate) struct Exits(Box<[Option<Exit>; AT_HAND]>);

impl Exits {
    pub fn new() -> Self {
        Self(Box::new([None; AT_HAND]))
    }

    /// The exit to a VTEP in a network; none where that takes more care.
    #[inline(always)]
    pub fn to(
        &mut self,
        (vtep, vni): (Ipv4Addr, Vni),
        tunnel: &Option<TunnelPort>,
        ports: &[IoPort],
        neighbors: &Neighbors<Mbuf>,
        now_ns: u64,
    ) -> Option<&Exit> {
        let key = u64::from(vtep.to_bits()) << 32 | u64::from(vni.value());
        let exit = &mut self.0[(vtep.to_bits() ^ vni.value() << 4) as usize % AT_HAND];
        let stands = exit
            .as_ref()
            .is_some_and(|exit| exit.key == key && exit.neighbors == neighbors.version() && now_ns < exit.until_ns);
        if !stands {
            *exit = open(key, (vtep, vni), tunnel, ports, neighbors, now_ns);
        }
        exit.as_ref()
    }
}

#[cold]
#[inline(never)]
fn open(
    key: u64,
    (vtep, vni): (Ipv4Addr, Vni),
    tunnel: &Option<TunnelPort>,
    ports: &[IoPort],
    neighbors: &Neighbors<Mbuf>,
    now_ns: u64,
) -> Option<Exit> {
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
        vni,
        dscp: 0,
        ecn: Ecn::NotEct,
    })?;
    let largest = (usize::from(port.mtu) + ethernet::HEADER_LEN).saturating_sub(V4_OVERHEAD);
    Some(Exit { key, neighbors: neighbors.version(), until_ns, largest, port: tunnel.port, template })
}

impl Exit {
    /// True if a frame of this length can be put into VXLAN here, in an mbuf with this headroom.
    #[inline(always)]
    pub fn takes(&self, frame_len: usize, headroom: usize) -> bool {
        frame_len <= self.largest && headroom >= V4_OVERHEAD
    }

    /// Puts a frame that [`Self::takes`] has let pass into VXLAN, with this outer traffic class.
    #[inline(always)]
    pub fn wrap(&self, mbuf: &mut BareMbuf, plain: &Plain, traffic_class: u8) {
        let inner_len = mbuf.len() as u16;
        let room = mbuf.prepend(V4_OVERHEAD).and_then(|room| room.first_chunk_mut());
        if let Some(room) = room {
            self.template.write(room, inner_len, vxlan::entropy_port_of_plain(plain), traffic_class);
        }
    }
}
