//! What goes out by a port: to an endpoint, with the sender's DSCP restored, or to another host in VXLAN.
//!
//! On the packet's path: step 5 (to another host) and step 6 (egress). With a service header between the hosts, the packet gets
//! its sender's DSCP back before it leaves, as at the last host; the tag is in that header.
//!
//! A link is named by vport: an endpoint's own, or the tunnel's for the underlay. A frame goes to a *neighbour* (its address must
//! be known), then to a *link* (a port, or once more into VXLAN for an endpoint behind a foreign VTEP).

use std::net::IpAddr;

use arrayvec::ArrayVec;
use packet::headers::{self, Headers};
use packet::nsh;
use packet::vxlan::{self, Outer};
use packet::{DropReason, Ecn, MacAddr, Vni, VportId, ethernet, neighbor};
use shm::launch::{Attachment, Encapsulation};

use crate::io_lcore::IoLcore;
use crate::meta::{Mbuf, Task};
use crate::neighbors::{Ask, NeighborKey};
use crate::topology::{gateway_for, next_hop};

/// Bytes of Ethernet header in front of the outer IP packet.
const OUTER_ETHERNET: usize = ethernet::HEADER_LEN;
/// Outer source port of a frame that belongs to no flow (ARP): the first of the range of RFC 7348 section 5.
const NO_FLOW_PORT: u16 = 49_152;

/// What the outer headers say of the packet inside.
struct Inside {
    source_port: u16,
    ecn: Ecn,
}

impl Inside {
    /// `found` is none for what is no IP packet.
    fn of(frame: &[u8], found: Option<&Headers>) -> Self {
        Self {
            source_port: found.map_or(NO_FLOW_PORT, vxlan::entropy_port_of),
            ecn: found.map_or(Ecn::NotEct, |found| vxlan::ecn_at_encap(headers::ecn(frame, found))),
        }
    }
}

impl IoLcore {
    /// The end of a chain, or of its reverse: the packet leaves Towpath as it came, but for what NFs changed.
    pub(crate) fn to_endpoint(&mut self, vport: VportId, mut mbuf: Mbuf) {
        let kept = self.forwarder.parse_own(vport, &mbuf).and_then(|found| {
            self.forwarder.keep_opposite(vport, &found, &mbuf)?;
            Ok(found)
        });
        let mut found = match kept {
            Ok(found) => found,
            Err(reason) => return self.forwarder.end(mbuf, reason),
        };
        let dscp = mbuf.meta().dscp;
        headers::set_dscp(mbuf.data_mut(), &mut found, dscp);
        let Some(endpoint) = self.forwarder.topology.endpoint(vport) else {
            return self.forwarder.end(mbuf, DropReason::NoSuchVport);
        };
        let hop = next_hop(endpoint, found.five_tuple.destination);
        self.forwarder.account.enter(vport, mbuf.data());
        self.to_neighbor((vport, hop), mbuf);
    }

    /// Between elements on two hosts. What is counted and captured is the packet as it is inside the host.
    pub(crate) fn to_host(&mut self, vtep: IpAddr, mut mbuf: Mbuf) {
        self.forwarder.account.enter(VportId::TUNNEL, mbuf.data());
        let found = match headers::parse_trusted(mbuf.data()) {
            Ok(found) => found,
            Err(reason) => return self.forwarder.end(mbuf, reason),
        };
        let (vni, inside) = (mbuf.meta().vni, Inside::of(mbuf.data(), Some(&found)));
        if self.tunnel.as_ref().is_some_and(|tunnel| tunnel.encapsulation == Encapsulation::Nsh)
            && let Err(reason) = put_service_header(&mut mbuf, found)
        {
            return self.forwarder.end(mbuf, reason);
        }
        self.encapsulate(vtep, vni, inside, mbuf);
    }

    /// To an endpoint behind a VTEP that is not ours, in the endpoint's own network.
    fn to_vtep(&mut self, vtep: IpAddr, vni: Vni, mbuf: Mbuf) {
        let found = headers::parse_trusted(mbuf.data()).ok();
        let inside = Inside::of(mbuf.data(), found.as_ref());
        self.encapsulate(vtep, vni, inside, mbuf);
    }

    fn encapsulate(&mut self, vtep: IpAddr, vni: Vni, inside: Inside, mut mbuf: Mbuf) {
        let Some(tunnel) = &self.tunnel else { return self.forwarder.end(mbuf, DropReason::NoSuchVport) };
        let port = &self.ports[tunnel.port];
        let outer = Outer {
            source_mac: port.mac,
            destination_mac: MacAddr::BROADCAST, // until the neighbour is known
            source: tunnel.address,
            destination: vtep,
            source_port: inside.source_port,
            udp_port: tunnel.udp_port,
            vni,
            dscp: mbuf.meta().dscp,
            ecn: inside.ecn,
        };
        let length = outer.overhead();
        if mbuf.len() + length - OUTER_ETHERNET > usize::from(port.mtu) {
            return self.forwarder.end(mbuf, DropReason::TooBig);
        }
        if mbuf.prepend(length).is_none() {
            return self.forwarder.end(mbuf, DropReason::NoHeadroom);
        }
        let (room, inner) = mbuf.data_mut().split_at_mut(length);
        if let Err(reason) = outer.write(room, inner) {
            return self.forwarder.end(mbuf, reason);
        }
        let hop = tunnel.next_hop(vtep);
        self.to_neighbor((VportId::TUNNEL, hop), mbuf);
    }

    /// Sends a frame to a neighbour, or lets it wait until the neighbour is known.
    fn to_neighbor(&mut self, key: NeighborKey, mbuf: Mbuf) {
        let Some(resolution) = self.neighbors.resolve(key, self.forwarder.now_ns) else {
            return self.forwarder.end(mbuf, DropReason::NeighborQueueFull);
        };
        if let Some(ask) = resolution.ask {
            self.ask(key, ask);
        }
        match resolution.mac {
            Some(mac) => self.to_known_neighbor(key.0, mac, mbuf),
            None => {
                if let Err(mbuf) = self.neighbors.hold(key, mbuf) {
                    self.forwarder.end(mbuf, DropReason::NeighborQueueFull);
                }
            }
        }
    }

    fn to_known_neighbor(&mut self, link: VportId, mac: MacAddr, mut mbuf: Mbuf) {
        let Some(own) = self.mac_on(link) else { return self.forwarder.end(mbuf, DropReason::NoSuchVport) };
        ethernet::set_addresses(mbuf.data_mut(), mac, own);
        self.to_link(link, mbuf);
    }

    /// Sends a frame whose addresses stand to a link.
    pub(crate) fn to_link(&mut self, link: VportId, mut mbuf: Mbuf) {
        if link == VportId::TUNNEL {
            return match self.tunnel.as_ref().map(|tunnel| tunnel.port) {
                Some(port) => self.ports[port].send(mbuf.without_meta(), &mut self.forwarder),
                None => self.forwarder.end(mbuf, DropReason::NoSuchVport),
            };
        }
        let behind = self.forwarder.topology.endpoint(link).and_then(|endpoint| match endpoint.attachment {
            Attachment::Vtep { address } => Some((address, endpoint.vni)),
            Attachment::Port { .. } => None,
        });
        if let Some((vtep, vni)) = behind {
            return self.to_vtep(vtep, vni, mbuf);
        }
        let Some((port, vlan)) = self.port_of(link) else {
            return self.forwarder.end(mbuf, DropReason::NoSuchVport);
        };
        if let Some(vlan) = vlan {
            if mbuf.prepend(ethernet::TAG_LEN).is_none() {
                return self.forwarder.end(mbuf, DropReason::NoHeadroom);
            }
            ethernet::write_tag(mbuf.data_mut(), vlan);
        }
        self.ports[port].send(mbuf.without_meta(), &mut self.forwarder);
    }

    fn port_of(&self, link: VportId) -> Option<(usize, Option<u16>)> {
        let topology = &self.forwarder.topology;
        self.ports.iter().enumerate().find_map(|(at, port)| topology.vlan_on(port.index, link).map(|vlan| (at, vlan)))
    }

    /// The host's own MAC address on a link; behind a foreign VTEP it is the underlay port's.
    fn mac_on(&self, link: VportId) -> Option<MacAddr> {
        let underlay = self.tunnel.as_ref().map(|tunnel| tunnel.port);
        let port = self.port_of(link).map(|(port, _)| port).or(underlay)?;
        Some(self.ports[port].mac)
    }

    /// The packets that waited for a neighbour leave, in order.
    pub(crate) fn release_held(&mut self, key: NeighborKey) {
        while let Some((mac, mbuf)) = self.neighbors.take_held(key) {
            self.to_known_neighbor(key.0, mac, mbuf);
        }
    }

    /// Asks who has an address.
    fn ask(&mut self, (link, target): NeighborKey, whom: Ask) {
        let own_ip = match (link == VportId::TUNNEL, &self.tunnel) {
            (true, Some(tunnel)) => Some(tunnel.address),
            (true, None) => None,
            (false, _) => self.forwarder.topology.endpoint(link).and_then(|endpoint| gateway_for(endpoint, target)),
        };
        let (Some(own_ip), Some(mac)) = (own_ip, self.mac_on(link)) else { return };
        let known = match whom {
            Ask::Known(mac) => Some(mac),
            Ask::Everybody => None,
        };
        self.originate(link, |buffer| neighbor::write_request(buffer, mac, own_ip, target, known));
    }

    /// Answers who asked for an address that this host speaks for.
    pub(crate) fn answer(&mut self, link: VportId, target: IpAddr, (asker, asker_mac): (IpAddr, MacAddr)) {
        let Some(mac) = self.mac_on(link) else { return };
        self.originate(link, |buffer| neighbor::write_reply(buffer, mac, target, asker_mac, asker));
    }

    /// Sends a frame of the host's own to a link.
    fn originate(&mut self, link: VportId, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let Some(mut mbuf) = self.forwarder.mempool.alloc() else { return };
        let Some(length) = mbuf.append(neighbor::MAX_LEN).and_then(write) else { return };
        if !mbuf.trim(neighbor::MAX_LEN - length) {
            return;
        }
        mbuf.meta_mut().task = Task::Reply(link);
        self.forwarder.account.counters.originated.add(1);
        self.to_link(link, mbuf);
    }

    /// Twice a second: ends what waited too long, and asks again for what still waits.
    pub(crate) fn keep_neighbors(&mut self) {
        let now_ns = self.forwarder.now_ns;
        let Self { neighbors, forwarder, .. } = self;
        neighbors.expire(now_ns, |mbuf| forwarder.end(mbuf, DropReason::NeighborUnresolved));
        let mut due = ArrayVec::<NeighborKey, 64>::new();
        self.neighbors.to_ask_again(now_ns, |key| {
            let _ = due.try_push(key); // the rest is asked for next time
        });
        for key in due {
            self.ask(key, Ask::Everybody);
        }
    }
}

/// Puts a service header into a frame, and the sender's DSCP into its packet.
fn put_service_header(mbuf: &mut Mbuf, mut found: Headers) -> Result<(), DropReason> {
    let meta = *mbuf.meta();
    let tag = meta.tag.ok_or(DropReason::UnknownTag)?;
    headers::set_dscp(mbuf.data_mut(), &mut found, meta.dscp);
    mbuf.prepend(nsh::OVERHEAD).ok_or(DropReason::NoHeadroom)?;
    nsh::push(mbuf.data_mut(), tag, meta.service)
}
