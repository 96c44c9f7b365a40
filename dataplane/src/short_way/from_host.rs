//! The short way in by the tunnel: VXLAN from other hosts, whose tag and destination address say which element is next.

use std::net::{IpAddr, Ipv4Addr};

use packet::ethernet::MacWord;
use packet::ip::IpHeader;
use packet::vxlan::{self, V4_OVERHEAD, VXLAN_HEADER_LEN};
use packet::{MacAddr, Plain, Tag, Vni, VportId, protocol};
use shm::launch::Encapsulation;

use super::{Leaving, Looked, exit, trim};
use crate::forwarder::Forwarder;
use crate::io_lcore::IoLcore;
use crate::meta::{BareBurst, BareMbuf, Meta};
use crate::topology::Topology;
use crate::ways::{To, Way};

/// Origins at hand; a power of two.
const AT_HAND: usize = 256;
/// Where the UDP checksum and the VXLAN header are in a frame on an IPv4 underlay.
const UDP_CHECKSUM: usize = 40;
const VXLAN: usize = V4_OVERHEAD - VXLAN_HEADER_LEN;
/// Bytes of the shortest frame with a plain one inside.
const LEAST: usize = V4_OVERHEAD + Plain::LEAST;

/// Where the tunnel ends.
struct Door {
    mac: MacWord,
    address: Ipv4Addr,
    udp_port: u16,
}

/// A plain packet in VXLAN that needs no more care.
#[derive(Clone, Copy)]
struct Inside {
    plain: Plain,
    segment: VportId,
    vni: Vni,
    tag: Tag,
    /// The outer header's: the sender's own.
    dscp: u8,
}

impl Inside {
    /// In place of a packet that is not plain.
    const NOTHING: Self =
        Self { plain: Plain::NOTHING, segment: VportId::TUNNEL, vni: Vni::ZERO, tag: Tag::FIRST, dscp: 0 };

    /// Makes a way's metadata the packet's.
    #[inline(always)]
    fn own(&self, meta: &mut Meta) {
        meta.vni = self.vni;
        meta.tag = Some(self.tag);
        meta.dscp = self.dscp;
    }
}

impl Door {
    /// What is in a frame, if it is plain outside and inside.
    #[inline(always)]
    fn look(&self, mbuf: &BareMbuf, origins: &mut Origins, topology: &Topology) -> Option<Inside> {
        let frame = mbuf.data();
        let head = frame.first_chunk::<LEAST>()?;
        if !mbuf.is_single_segment() || !self.mac.is_destination_of(head) {
            return None;
        }
        let outer = Plain::parse(frame)?;
        if outer.protocol() != protocol::UDP || outer.destination_port() != self.udp_port {
            return None;
        }
        let udp_len = u16::from_be_bytes([head[UDP_CHECKSUM - 2], head[UDP_CHECKSUM - 1]]);
        let is_whole = usize::from(outer.ip_len) == IpHeader::V4_LEN + usize::from(udp_len);
        if outer.destination() != self.address || !is_whole || head[UDP_CHECKSUM..][..2] != [0, 0] {
            return None;
        }
        let vni = vxlan::parse(&head[VXLAN..]).ok()?;
        let inner = frame.get(V4_OVERHEAD..outer.frame_len())?;
        let plain = Plain::parse(inner)?;
        let segment = MacAddr(*inner.first_chunk::<6>()?).vport()?;
        let tag = Tag::new(plain.dscp()).ok()?;
        let stays = vxlan::ecn_stays_at_decap(outer.traffic_class(), plain.traffic_class());
        let goes = stays && plain.ttl() > 1 && origins.is_host(outer.source(), vni, topology);
        goes.then_some(Inside { plain, segment, vni, tag, dscp: outer.dscp() })
    }
}

impl IoLcore {
    /// Frames of the underlay's port `at`.
    #[inline(never)]
    pub(super) fn burst_from_host(&mut self, at: usize, burst: &mut BareBurst) {
        let mac = self.ports[at].mac;
        let door = self.tunnel.as_ref().and_then(|tunnel| match tunnel.address {
            IpAddr::V4(address) if tunnel.encapsulation == Encapsulation::Vxlan => {
                Some(Door { mac: MacWord::new(mac), address, udp_port: tunnel.udp_port })
            }
            _ => None,
        });
        let Some(door) = door else { return self.burst_the_long_way(at, burst) };
        let (origins, topology) = (&mut self.origins, &self.forwarder.topology);
        let mut looked = Looked::new();
        burst.note_each(&mut looked, Inside::NOTHING, |mbuf| door.look(mbuf, origins, topology));
        let mut leaving = Leaving::new();
        let (mut packets, mut bytes) = (looked.len() as u64, 0);
        burst.take_each_beside(&looked, |mbuf, inside| {
            let entered = if inside.plain.is_something() { self.enter(inside, mbuf, &mut leaving) } else { Err(mbuf) };
            let length = match entered {
                Ok(length) => length,
                Err(mbuf) => {
                    self.take_long_way(at, mbuf, &mut leaving);
                    packets -= 1; // the long way counts it
                    0
                }
            };
            bytes += length as u64;
        });
        self.leave(&mut leaving);
        self.forwarder.account.leave_uncaptured(VportId::TUNNEL, packets, bytes);
    }

    /// A packet meets its tag rule; returns its length. One that needs more care is given back as it came.
    #[inline(always)]
    fn enter(&mut self, inside: &Inside, mut mbuf: BareMbuf, leaving: &mut Leaving) -> Result<usize, BareMbuf> {
        let Self { forwarder, ports, neighbors, links, tunnel, .. } = self;
        let Forwarder { tags, topology, outlets, account, now_ns, .. } = forwarder;
        let &Inside { ref plain, segment, vni, tag, .. } = inside;
        let Some(rule) = tags.meet(VportId::TUNNEL, segment, vni, tag) else { return Err(mbuf) };
        let counter = rule.action().counter;
        let way = rule.way(|rule| Way::of_tag(rule, topology, outlets).by(links, exit::mtu(tunnel, ports)));
        let length = plain.frame_len();
        match way.to {
            To::Lcore(lcore) => {
                if !mbuf.adj(V4_OVERHEAD) {
                    return Err(mbuf);
                }
                mbuf = trim(mbuf, length);
                if let Some(head) = mbuf.data_mut().first_chunk_mut() {
                    plain.forward(head, 1, tag.dscp());
                    way.address(head);
                }
                account.count_rule_later(counter, length);
                let mut mbuf = mbuf.with_meta(way.meta);
                inside.own(mbuf.meta_mut());
                let counters = &account.counters;
                outlets.push_away(lcore, mbuf, |lost| {
                    counters.drop_packets(packet::DropReason::RingFull, lost);
                });
            }
            To::Link(link) if way.is_kept_nowhere() && leaving.is_empty() => {
                let hop = link.next_hop(plain.destination());
                let Some(mac) = neighbors.known_v4(link.vport, hop, *now_ns) else { return Err(mbuf) };
                if !mbuf.adj(V4_OVERHEAD) {
                    return Err(mbuf);
                }
                mbuf = trim(mbuf, length);
                account.count_rule_later(counter, length);
                link.address(&mut mbuf, (plain, 1, inside.dscp), mac);
                self.send_on(mbuf, length, link.vport);
            }
            To::Link(link) => {
                if !mbuf.adj(V4_OVERHEAD) {
                    return Err(mbuf);
                }
                mbuf = trim(mbuf, length);
                account.count_rule_later(counter, length);
                if let Some(meta) = leaving.push(mbuf, plain, &link, 1, &way.meta) {
                    inside.own(meta);
                }
            }
            To::LongWay | To::Endpoint(_) | To::Tunnel(_) => return Err(mbuf),
        }
        Ok(length)
    }
}

/// Whose VXLAN was looked at lately: which sources are hosts of ours with a network that may come in.
pub(crate) struct Origins(Box<[Origin; AT_HAND]>);

#[derive(Debug, Clone, Copy)]
struct Origin {
    source: Ipv4Addr,
    vni: Vni,
    topology: Option<u64>,
    is_host: bool,
}

impl Origins {
    pub fn new() -> Self {
        let nobody = Origin { source: Ipv4Addr::UNSPECIFIED, vni: Vni::ZERO, topology: None, is_host: false };
        Self(Box::new([nobody; AT_HAND]))
    }

    #[inline(always)]
    fn is_host(&mut self, source: Ipv4Addr, vni: Vni, topology: &Topology) -> bool {
        let origin = &mut self.0[(source.to_bits() ^ vni.value() << 4) as usize % AT_HAND];
        let version = Some(topology.version());
        if origin.source != source || origin.vni != vni || origin.topology != version {
            let vtep = IpAddr::V4(source);
            let is_endpoints = topology.endpoint_behind(vtep, vni).is_some();
            let is_host = topology.has_peer(vtep) && topology.has_network(vni) && !is_endpoints;
            *origin = Origin { source, vni, topology: version, is_host };
        }
        origin.is_host
    }
}
