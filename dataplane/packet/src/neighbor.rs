//! ARP and IPv6 neighbour discovery: who has an address, and at which MAC address.
//!
//! On the packet's path: the forwarder shows every frame from an endpoint's port first to [`parse`] (answer, or learn), then
//! to [`is_link_local`] (absorb), and only then to [`crate::headers::parse`].
//!
//! ```text
//! Neighbour solicitation (135) and advertisement (136), RFC 4861 sections 4.3, 4.4; ICMPv6 behind an IPv6 header
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     Type      |   Code = 0    |           Checksum            |
//! +-+-+-+---------+---------------+-------------------------------+
//! |R|S|O|                  Reserved (R, S, O in 136)              |
//! +-+-+-+---------------------------------------------------------+
//! |                    Target address (128 bits)                  |
//! +---------------+---------------+-------------------------------+
//! | Option 1 or 2 | Length 1 (8 B)|   Link-layer address (48 bits)
//! +---------------+---------------+-------------------------------+
//! ```
//!
//! Errors: a message that breaks a rule of its RFC is not a message ([`parse`] gives none); a writer gives none if its
//! buffer is shorter than the message or the addresses are not of one family.
//! Sources: RFC 826, RFC 5227, RFC 4861, RFC 4862, RFC 2464 section 7.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use crate::ethernet::{self, EthernetHeader, HEADER_LEN};
use crate::ip::IpHeader;
use crate::{MacAddr, checksum, protocol};

/// The longest frame that [`write_request`] and [`write_reply`] make: Ethernet, IPv6, NS or NA with a link-layer address.
pub const MAX_LEN: usize = HEADER_LEN + IpHeader::V6_LEN + NDISC_LEN;

const ARP_LEN: usize = 28;
const NDISC_LEN: usize = 24 + 8;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const SOLICITED: u8 = 0x40;

/// A valid ARP or ND message, in one shape for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighborMessage {
    /// Who has `target`? A gratuitous ARP request asks for its asker's own address.
    Request {
        /// Who asks, worth learning; none while an address is being probed (RFC 5227) or tested for duplicates (RFC 4862).
        asker: Option<(IpAddr, MacAddr)>,
        /// The address asked for.
        target: IpAddr,
    },
    /// `who` is at `mac`; unsolicited announcements too.
    Reply {
        /// The address.
        who: IpAddr,
        /// Where it is.
        mac: MacAddr,
    },
}

/// Reads an untagged frame as ARP, neighbour solicitation or neighbour advertisement; none if it is something else or not
/// valid.
pub fn parse(frame: &[u8]) -> Option<NeighborMessage> {
    let ethernet = EthernetHeader::parse(frame).ok()?;
    let message = match ethernet.ethertype {
        ethernet::ARP => parse_arp(frame.get(HEADER_LEN..)?)?,
        ethernet::IPV6 => parse_ndisc(frame.get(HEADER_LEN..)?, ethernet.source)?,
        _ => return None,
    };
    // A group address is nobody's: it would make every packet to that neighbour a broadcast.
    let learned = match message {
        NeighborMessage::Request { asker, .. } => asker,
        NeighborMessage::Reply { who, mac } => Some((who, mac)),
    };
    learned.is_none_or(|(address, mac)| !mac.is_multicast() && is_unicast(address)).then_some(message)
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(broadcast || address.is_multicast() || address.is_unspecified() || address.is_loopback())
}

fn parse_arp(packet: &[u8]) -> Option<NeighborMessage> {
    let packet = ArpPacket::new_checked(packet).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let (who, mac) = (IpAddr::V4(source_protocol_addr), MacAddr(source_hardware_addr.0));
    match operation {
        ArpOperation::Request => {
            let asker = (!who.is_unspecified()).then_some((who, mac));
            Some(NeighborMessage::Request { asker, target: IpAddr::V4(target_protocol_addr) })
        }
        ArpOperation::Reply => Some(NeighborMessage::Reply { who, mac }),
        ArpOperation::Unknown(_) => None,
    }
}

/// The rules of RFC 4861 sections 7.1.1 and 7.1.2. `from` is the frame's source address.
fn parse_ndisc(packet: &[u8], from: MacAddr) -> Option<NeighborMessage> {
    let header = packet.first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let icmp = packet.get(40..40 + length)?;
    let message = icmp.first_chunk::<24>()?;
    let (kind, code, hop_limit) = (message[0], message[1], header[7]);
    if header[0] >> 4 != 6 || header[6] != protocol::ICMPV6 || hop_limit != 255 || code != 0 {
        return None;
    }
    let (source, destination) = (address_at(packet, 8)?, address_at(packet, 24)?);
    let pseudo_header = checksum::pseudo_header(source.into(), destination.into(), protocol::ICMPV6, length as u32);
    if pseudo_header.bytes(icmp).folded() != 0xffff {
        return None;
    }
    let target = address_at(icmp, 8).filter(|target| !target.is_multicast())?;
    let (source_mac, target_mac) = link_layer_options(icmp.get(24..)?)?;
    match kind {
        SOLICITATION if source.is_unspecified() => {
            let valid = is_solicited_node(destination) && source_mac.is_none();
            valid.then_some(NeighborMessage::Request { asker: None, target: target.into() })
        }
        SOLICITATION => {
            // A unicast solicitation may leave its sender's address out, since the receiver knows it (section 4.3).
            let asker = Some((source.into(), source_mac.unwrap_or(from)));
            Some(NeighborMessage::Request { asker, target: target.into() })
        }
        ADVERTISEMENT => {
            let solicited = message[4] & SOLICITED != 0;
            if solicited && destination.is_multicast() {
                return None;
            }
            // The answer to a unicast solicitation may leave the address out (section 4.4).
            let mac = target_mac.or(solicited.then_some(from))?;
            Some(NeighborMessage::Reply { who: target.into(), mac })
        }
        _ => None,
    }
}

/// The source and target link-layer addresses among the options; none if an option is malformed.
fn link_layer_options(mut options: &[u8]) -> Option<(Option<MacAddr>, Option<MacAddr>)> {
    let (mut source, mut target) = (None, None);
    // Each turn takes at least 8 bytes off.
    while let [kind, length, ..] = *options {
        if length == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(usize::from(length) * 8)?;
        let mac = || option.get(2..8).and_then(|mac| mac.try_into().ok()).map(MacAddr);
        match (kind, length) {
            (SOURCE_LINK_LAYER, 1) => source = mac(),
            (TARGET_LINK_LAYER, 1) => target = mac(),
            _ => {}
        }
        options = rest;
    }
    options.is_empty().then_some((source, target))
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.to_bits() >> 24 == SOLICITED_NODE >> 24
}

/// ff02::1:ff00:0/104, to which the last 24 bits of the target are added (RFC 4291 section 2.7.1).
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(SOLICITED_NODE | target.to_bits() & 0x00ff_ffff)
}

/// 33:33 and the last four octets of the group (RFC 2464 section 7).
fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Writes the question "who has `target`?" and returns the frame's length, at most [`MAX_LEN`].
///
/// With `known_mac` the question goes to that station alone, to learn whether it is still there; without, to all that may
/// be it.
pub fn write_request(
    buf: &mut [u8],
    our_mac: MacAddr,
    our_ip: IpAddr,
    target: IpAddr,
    known_mac: Option<MacAddr>,
) -> Option<usize> {
    match (our_ip, target) {
        (IpAddr::V4(our_ip), IpAddr::V4(target)) => {
            let to_mac = known_mac.unwrap_or(MacAddr::BROADCAST);
            let target_mac = known_mac.unwrap_or_default();
            write_arp(buf, ArpOperation::Request, (our_ip, our_mac), (target, target_mac), to_mac)
        }
        (IpAddr::V6(our_ip), IpAddr::V6(target)) => {
            let group = solicited_node(target);
            let (to_ip, to_mac) = match known_mac {
                Some(mac) => (target, mac),
                None => (group, multicast_mac(group)),
            };
            let lladdr = (!our_ip.is_unspecified()).then(|| EthernetAddress(our_mac.0).into());
            let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr };
            write_ndisc(buf, message, (our_ip, our_mac), (to_ip, to_mac))
        }
        _ => None,
    }
}

/// Writes the answer "`claimed_ip` is at `our_mac`" and returns the frame's length, at most [`MAX_LEN`].
///
/// To an asker without an address ([`NeighborMessage::Request`] with `asker` none) pass the unspecified address and the
/// source of its frame; in IPv6 the answer then goes to all nodes (RFC 4861 section 7.2.4).
pub fn write_reply(
    buf: &mut [u8],
    our_mac: MacAddr,
    claimed_ip: IpAddr,
    to_mac: MacAddr,
    to_ip: IpAddr,
) -> Option<usize> {
    match (claimed_ip, to_ip) {
        (IpAddr::V4(claimed_ip), IpAddr::V4(to_ip)) => {
            write_arp(buf, ArpOperation::Reply, (claimed_ip, our_mac), (to_ip, to_mac), to_mac)
        }
        (IpAddr::V6(claimed_ip), IpAddr::V6(to_ip)) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
            let to = if to_ip.is_unspecified() {
                (all_nodes, multicast_mac(all_nodes))
            } else {
                flags |= NdiscNeighborFlags::SOLICITED;
                (to_ip, to_mac)
            };
            let lladdr = Some(EthernetAddress(our_mac.0).into());
            let message = NdiscRepr::NeighborAdvert { flags, target_addr: claimed_ip, lladdr };
            write_ndisc(buf, message, (claimed_ip, our_mac), to)
        }
        _ => None,
    }
}

fn write_arp(
    buf: &mut [u8],
    operation: ArpOperation,
    (source_ip, source_mac): (Ipv4Addr, MacAddr),
    (target_ip, target_mac): (Ipv4Addr, MacAddr),
    to_mac: MacAddr,
) -> Option<usize> {
    let frame = buf.get_mut(..HEADER_LEN + ARP_LEN)?;
    EthernetHeader { destination: to_mac, source: source_mac, ethertype: ethernet::ARP }.write(frame);
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source_mac.0),
        source_protocol_addr: source_ip,
        target_hardware_addr: EthernetAddress(target_mac.0),
        target_protocol_addr: target_ip,
    };
    message.emit(&mut ArpPacket::new_unchecked(frame.get_mut(HEADER_LEN..)?));
    Some(HEADER_LEN + ARP_LEN)
}

fn write_ndisc(
    buf: &mut [u8],
    message: NdiscRepr<'_>,
    (from_ip, from_mac): (Ipv6Addr, MacAddr),
    (to_ip, to_mac): (Ipv6Addr, MacAddr),
) -> Option<usize> {
    let length = message.buffer_len();
    let frame = buf.get_mut(..HEADER_LEN + IpHeader::V6_LEN + length)?;
    EthernetHeader { destination: to_mac, source: from_mac, ethertype: ethernet::IPV6 }.write(frame);
    let header = IpHeader {
        source: from_ip.into(),
        destination: to_ip.into(),
        protocol: protocol::ICMPV6,
        traffic_class: 0,
        hop_limit: 255,
        payload_len: u16::try_from(length).ok()?,
    };
    header.write(frame.get_mut(HEADER_LEN..)?)?;
    let icmp = frame.get_mut(HEADER_LEN + IpHeader::V6_LEN..)?;
    // Reserved fields and padding must be zero, and a buffer may have been used before.
    icmp.fill(0);
    let mut packet = Icmpv6Packet::new_unchecked(icmp);
    Icmpv6Repr::Ndisc(message).emit(&from_ip, &to_ip, &mut packet, &ChecksumCapabilities::default());
    Some(frame.len())
}

/// True for a frame that no chain carries because it is meant for the link alone: to a group (MAC or IP), to or from a
/// link-local address, limited broadcast, or an ICMPv6 message of ND or MLD.
///
/// Works on any bytes, also where [`crate::headers::parse`] refuses the source (DHCP from 0.0.0.0, MLD from `::`).
#[inline]
pub fn is_link_local(frame: &[u8]) -> bool {
    let Some((ethernet, packet)) = frame.split_first_chunk::<HEADER_LEN>() else { return false };
    if ethernet[0] & 1 == 1 {
        return true;
    }
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ethernet::IPV4 => packet.first_chunk::<20>().is_some_and(|header| {
            let destination = [header[16], header[17], header[18], header[19]];
            matches!(destination, [224..=239, ..] | [169, 254, ..] | [255, 255, 255, 255])
                || matches!(header[12..14], [169, 254])
        }),
        ethernet::IPV6 => packet.first_chunk::<40>().is_some_and(|header| {
            let is_link_local = |at: usize| header[at] == 0xfe && header[at + 1] & 0xc0 == 0x80;
            header[24] == 0xff
                || is_link_local(8)
                || is_link_local(24)
                || (header[6] == protocol::ICMPV6 && matches!(packet.get(40), Some(130..=137 | 143)))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
