//! What comes in by a port: endpoints' packets to the head of their chain, VXLAN to the next element of its path.
//!
//! On the packet's path: step 1 (ingress) and step 5 (tunnel ingress). Behind the door every packet of a path has its tag in its
//! DSCP bits, whether it came with a service header or without. Frames are what the world sends: each is checked
//! before it is believed, and ends with a reason if it is not sound.

use std::net::IpAddr;

use packet::ethernet::{self, EthernetHeader};
use packet::headers::{self, Headers};
use packet::neighbor::{self, NeighborMessage};
use packet::nsh::{self, ServiceHeader};
use packet::vxlan::{self, Decap};
use packet::{DropReason, Ecn, FlowKey, MacAddr, Tag, VportId, icmp};
use shm::launch::Encapsulation;

use crate::io_lcore::IoLcore;
use crate::meta::Mbuf;
use crate::topology::covers;

impl IoLcore {
    /// A frame from port `at` of this lcore.
    pub(crate) fn from_port(&mut self, at: usize, mut mbuf: Mbuf) {
        if !mbuf.is_single_segment() {
            return self.forwarder.end(mbuf, DropReason::Oversized);
        }
        let vlan = ethernet::tagged(mbuf.data()).map(|tag| tag.vlan).filter(|&vlan| vlan != 0); // 0 is a priority only
        if ethernet::strip_tag(mbuf.data_mut()) && !mbuf.adj(ethernet::TAG_LEN) {
            return self.forwarder.end(mbuf, DropReason::Truncated);
        }
        let port = &self.ports[at];
        if let Some(vport) = self.forwarder.topology.endpoint_on(port.index, vlan) {
            let (mac, mtu) = (port.mac, port.mtu);
            self.from_endpoint(vport, mac, mtu, mbuf);
        } else if vlan.is_none() && self.tunnel.as_ref().is_some_and(|tunnel| tunnel.port == at) {
            self.from_underlay(mbuf);
        } else {
            self.forwarder.end(mbuf, DropReason::UnknownEtherType);
        }
    }

    /// A frame from an endpoint, whose link knows the host by `mac`.
    fn from_endpoint(&mut self, vport: VportId, mac: MacAddr, mtu: u16, mut mbuf: Mbuf) {
        let header = match EthernetHeader::parse(mbuf.data()) {
            Ok(header) => header,
            Err(reason) => return self.forwarder.end(mbuf, reason),
        };
        if let Some(message) = neighbor::parse(mbuf.data()) {
            return self.neighbor_message(vport, message, mbuf);
        }
        if neighbor::is_link_local(mbuf.data()) {
            return self.forwarder.end(mbuf, DropReason::LinkLocal);
        }
        if header.destination != mac {
            return self.forwarder.end(mbuf, DropReason::NotForUs);
        }
        let mut found = match headers::parse(mbuf.data()) {
            Ok(found) => found,
            Err(reason) => return self.forwarder.end(mbuf, reason),
        };
        if found.ip_len() > mtu {
            return self.forwarder.end(mbuf, DropReason::Oversized);
        }
        trim_padding(&mut mbuf, &found);
        self.forwarder.account.leave(vport, mbuf.data());
        if !headers::decrement_ttl(mbuf.data_mut(), &mut found) {
            self.forwarder.reply(vport, &mbuf, &found, |buffer, frame, gateway| {
                icmp::write_ttl_expired(buffer, frame, &found, gateway)
            });
            return self.forwarder.end(mbuf, DropReason::TtlExpired);
        }
        let Some(vni) = self.forwarder.topology.endpoint(vport).map(|endpoint| endpoint.vni) else {
            return self.forwarder.end(mbuf, DropReason::NoSuchVport);
        };
        let now_ns = self.forwarder.now_ns;
        if let Err(reason) = self.forwarder.fragments.resolve((VportId::TUNNEL, vni), &mut found, now_ns) {
            return self.forwarder.end(mbuf, reason);
        }
        let meta = mbuf.meta_mut();
        meta.vni = vni;
        meta.dscp = found.dscp;
        self.forwarder.from_head(mbuf, found, FlowKey { vport, vni, five_tuple: found.five_tuple });
    }

    /// A frame from the underlay: VXLAN from another host or from an endpoint's VTEP, or a neighbour's question.
    fn from_underlay(&mut self, mut mbuf: Mbuf) {
        if let Some(message) = neighbor::parse(mbuf.data()) {
            return self.neighbor_message(VportId::TUNNEL, message, mbuf);
        }
        let Some(tunnel) = &self.tunnel else { return self.forwarder.end(mbuf, DropReason::NotForUs) };
        let (address, mac) = (tunnel.address, self.ports[tunnel.port].mac);
        let for_us = EthernetHeader::parse(mbuf.data()).is_ok_and(|header| header.destination == mac);
        let decap = match vxlan::parse_outer(mbuf.data(), tunnel.udp_port) {
            Some(Ok(decap)) if for_us && decap.destination == address => decap,
            Some(Err(reason)) if for_us => return self.forwarder.end(mbuf, reason),
            _ => return self.forwarder.end(mbuf, DropReason::NotForUs),
        };
        let behind = self.forwarder.topology.endpoint_behind(decap.source, decap.vni).map(|endpoint| endpoint.vport);
        if behind.is_none() && !self.forwarder.topology.has_peer(decap.source) {
            return self.forwarder.end(mbuf, DropReason::UnknownVtep);
        }
        if behind.is_none() && !self.forwarder.topology.has_network(decap.vni) {
            return self.forwarder.end(mbuf, DropReason::UnknownVni);
        }
        trim_to(&mut mbuf, decap.inner.end);
        if !mbuf.adj(decap.inner.start) {
            return self.forwarder.end(mbuf, DropReason::Truncated);
        }
        match behind {
            Some(_) if ethernet::tagged(mbuf.data()).is_some() => {
                self.forwarder.end(mbuf, DropReason::UnknownEtherType); // RFC 7348 section 6.1: no inner VLAN tag
            }
            Some(vport) => match merge_ecn(&mut mbuf, decap.ecn) {
                Ok(()) => self.from_endpoint(vport, mac, u16::MAX, mbuf),
                Err(reason) => self.forwarder.end(mbuf, reason),
            },
            None => self.from_host(decap, mbuf),
        }
    }

    /// An inner frame from another host: its tag and its destination address say which element is next.
    fn from_host(&mut self, decap: Decap, mut mbuf: Mbuf) {
        let expected = self.tunnel.as_ref().map(|tunnel| tunnel.encapsulation).unwrap_or_default();
        let parts = take_service_header(&mut mbuf, expected)
            .and_then(|service| inner(mbuf.data()).map(|(found, segment)| (service, found, segment)));
        let (service, mut found, segment) = match parts {
            Ok(parts) => parts,
            Err(reason) => return self.forwarder.end(mbuf, reason),
        };
        trim_padding(&mut mbuf, &found);
        if let Err(reason) = merge_ecn(&mut mbuf, decap.ecn) {
            return self.forwarder.end(mbuf, reason);
        }
        let (tag, dscp) = match service {
            Some(header) => (header.tag(), found.dscp),
            None => (Tag::new(found.dscp).ok(), decap.dscp),
        };
        if let (Some(tag), Some(_)) = (tag, service) {
            headers::set_dscp(mbuf.data_mut(), &mut found, tag.dscp());
        }
        self.forwarder.account.leave(VportId::TUNNEL, mbuf.data());
        if !headers::decrement_ttl(mbuf.data_mut(), &mut found) {
            return self.forwarder.end(mbuf, DropReason::TtlExpired);
        }
        let Some(tag) = tag else { return self.forwarder.end(mbuf, DropReason::UnknownTag) };
        let meta = mbuf.meta_mut();
        meta.vni = decap.vni;
        meta.tag = Some(tag);
        meta.dscp = dscp;
        if let Some(header) = service {
            meta.service = header.service;
        }
        self.forwarder.from_tag(mbuf, VportId::TUNNEL, segment, decap.vni, tag);
    }

    /// An ARP or ND message on a link: who asks becomes known, who is asked for here is answered.
    fn neighbor_message(&mut self, link: VportId, message: NeighborMessage, mbuf: Mbuf) {
        self.forwarder.end(mbuf, DropReason::NeighborMessage);
        match message {
            NeighborMessage::Request { asker, target } => {
                let Some((address, mac)) = asker else { return };
                self.neighbors.learn((link, address), mac, self.lives_on(link, address), self.forwarder.now_ns);
                self.release_held((link, address));
                if self.answers_for(link, target) && address != target {
                    self.answer(link, target, (address, mac));
                }
            }
            NeighborMessage::Reply { who, mac } => {
                self.neighbors.learn((link, who), mac, false, self.forwarder.now_ns);
                self.release_held((link, who));
            }
        }
    }

    fn lives_on(&self, link: VportId, address: IpAddr) -> bool {
        if link == VportId::TUNNEL {
            return self.tunnel.as_ref().is_some_and(|tunnel| tunnel.prefix.contains(&address));
        }
        self.forwarder
            .topology
            .endpoint(link)
            .is_some_and(|endpoint| covers(&endpoint.prefixes, address) || endpoint.next_hops.contains(&address))
    }

    fn answers_for(&self, link: VportId, target: IpAddr) -> bool {
        if link == VportId::TUNNEL {
            return self.tunnel.as_ref().is_some_and(|tunnel| tunnel.address == target);
        }
        self.forwarder.topology.endpoint(link).is_some_and(|endpoint| covers(&endpoint.answers, target))
    }
}

/// Takes the service header out of an inner frame, where the hosts use one.
fn take_service_header(mbuf: &mut Mbuf, expected: Encapsulation) -> Result<Option<ServiceHeader>, DropReason> {
    match expected {
        Encapsulation::Vxlan if nsh::is_next(mbuf.data()) => Err(DropReason::EncapsulationMismatch),
        Encapsulation::Vxlan => Ok(None),
        Encapsulation::Nsh => {
            let (mut header, length) = nsh::pop(mbuf.data_mut())?;
            if !mbuf.adj(length) {
                return Err(DropReason::Truncated);
            }
            if header.service.index == 0 {
                return Err(DropReason::SteeringLoop); // more functions than any path has
            }
            if header.service.enter_host() { Ok(Some(header)) } else { Err(DropReason::NshTtlExpired) }
        }
    }
}

/// The headers of an inner frame, and the element that its destination address names.
fn inner(frame: &[u8]) -> Result<(Headers, VportId), DropReason> {
    let header = EthernetHeader::parse(frame)?;
    let found = headers::parse(frame)?;
    Ok((found, header.destination.vport().ok_or(DropReason::UnknownTag)?))
}

/// Carries the outer header's congestion mark over to the inner packet (RFC 6040 section 4.2); what is not IP has none.
fn merge_ecn(mbuf: &mut Mbuf, outer: Ecn) -> Result<(), DropReason> {
    let Ok(found) = headers::parse_trusted(mbuf.data()) else { return Ok(()) };
    let merged = vxlan::ecn_at_decap(outer, headers::ecn(mbuf.data(), &found))?;
    headers::set_ecn(mbuf.data_mut(), &found, merged);
    Ok(())
}

/// Takes Ethernet padding off.
fn trim_padding(mbuf: &mut Mbuf, found: &Headers) {
    trim_to(mbuf, usize::from(found.end));
}

fn trim_to(mbuf: &mut Mbuf, end: usize) {
    if let Some(padding) = mbuf.len().checked_sub(end) {
        let _ = mbuf.trim(padding); // what is cut is behind the packet's end, so it is there
    }
}
