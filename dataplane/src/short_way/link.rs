//! The endpoints' links of a lcore, by vport: all that the short way out needs to know of them.

use std::net::{IpAddr, Ipv4Addr};

use packet::ethernet::MacWord;
use packet::{Plain, Vni, VportId};
use shm::counters::MAX_VPORTS;

use crate::io_lcore::IoPort;
use crate::meta::BareMbuf;
use crate::topology::Topology;

/// An endpoint's link: untagged frames of a port. As short as it can be, since ways hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The endpoint.
    pub(crate) vport: VportId,
    /// Its place among the lcore's ports.
    port: u16,
    /// The network of flow keys at the endpoint.
    pub(crate) vni: Vni,
    /// The host's own address there.
    mac: MacWord,
    /// The router to everywhere, and no bits of a destination; or all of a destination.
    router: u32,
    of_destination: u32,
}

impl Link {
    /// By which of the lcore's ports its packets go.
    pub(crate) fn port(&self) -> usize {
        usize::from(self.port)
    }

    /// Whom a packet for this destination goes to.
    #[inline(always)]
    pub(crate) fn next_hop(&self, destination: Ipv4Addr) -> Ipv4Addr {
        Ipv4Addr::from_bits(destination.to_bits() & self.of_destination | self.router)
    }

    /// Makes a packet one that leaves this host to a neighbour on the link, with so many hops fewer and this DSCP.
    #[inline(always)]
    pub(crate) fn address(&self, mbuf: &mut BareMbuf, (plain, hops, dscp): (&Plain, u8, u8), to: MacWord) {
        if let Some(head) = mbuf.data_mut().first_chunk_mut() {
            plain.forward(head, hops, dscp);
            to.address(self.mac, head);
        }
    }

    /// The same by one hop and with the DSCP that is there.
    #[inline(always)]
    pub(crate) fn pass(&self, mbuf: &mut BareMbuf, to: MacWord) {
        if let Some(head) = mbuf.data_mut().first_chunk_mut() {
            Plain::hop(head);
            to.address(self.mac, head);
        }
    }
}

/// The links of a lcore in one topology.
pub(crate) struct Links(Box<[Option<Link>; MAX_VPORTS]>);

impl Links {
    pub fn new(topology: &Topology, ports: &[IoPort]) -> Self {
        let mut links = Self(Box::new([None; MAX_VPORTS]));
        links.renew(topology, ports);
        links
    }

    /// Goes by another topology.
    pub fn renew(&mut self, topology: &Topology, ports: &[IoPort]) {
        for (vport, link) in self.0.iter_mut().enumerate() {
            *link = find(topology, ports, VportId(vport as u16));
        }
    }

    /// The link of an endpoint, unless it has a VLAN or is behind a VTEP: there the long way leads.
    #[inline(always)]
    pub fn of(&self, vport: VportId) -> Option<&Link> {
        self.0.get(usize::from(vport.0))?.as_ref()
    }
}

fn find(topology: &Topology, ports: &[IoPort], vport: VportId) -> Option<Link> {
    let endpoint = topology.endpoint(vport)?;
    let port = ports.iter().position(|port| topology.vlan_on(port.index, vport) == Some(None))?;
    let router = endpoint.next_hops.iter().find_map(|hop| match hop {
        IpAddr::V4(router) => Some(*router),
        IpAddr::V6(_) => None,
    });
    let (router, of_destination) = router.map_or((0, u32::MAX), |router| (router.to_bits(), 0));
    let mac = MacWord::new(ports[port].mac);
    Some(Link { vport, port: u16::try_from(port).ok()?, vni: endpoint.vni, mac, router, of_destination })
}
