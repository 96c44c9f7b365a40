//! ICMP errors that the host sends: a packet was too big for its path, or its TTL ran out.
//!
//! On the packet's path: where a packet ends as too big or as expired, its sender is told. The answer goes back the way the
//! offending frame came: its MAC addresses are swapped.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     Type      |     Code      |           Checksum            |
//! +---------------+---------------+-------------------------------+
//! |  unused (0); type 3 code 4: 16 bits unused, 16 bits MTU; ICMPv6 type 2: 32 bits MTU |
//! +---------------------------------------------------------------+
//! |  the offending packet, as much of it as fits                  |
//! ```
//!
//! Errors: none is sent (the writers return none) where RFC 1122 section 3.2.2 and RFC 4443 section 2.4 forbid it, where the
//! buffer is too short, or where `our_ip` is of the other family.
//! Sources: RFC 792, RFC 1191 section 4, RFC 1812 section 4.3.2, RFC 4443 sections 3.2, 3.3.

use std::net::{IpAddr, Ipv4Addr};

use crate::ethernet::{self, EthernetHeader, HEADER_LEN};
use crate::headers::{Fragment, Headers, is_icmp_error};
use crate::ip::IpHeader;
use crate::{checksum, protocol};

/// The longest frame that the writers make.
pub const MAX_LEN: usize = HEADER_LEN + MAX_V6_PACKET;

/// "as much of the original datagram as possible without the length of the ICMP datagram exceeding 576 bytes" (RFC 1812
/// section 4.3.2.3).
const MAX_V4_PACKET: usize = 576;
/// "without the ICMPv6 packet exceeding the minimum IPv6 MTU" (RFC 4443 section 3.1).
const MAX_V6_PACKET: usize = 1280;
const ICMP_HEADER_LEN: usize = 8;
const REDIRECT_V6: u8 = 137;

/// Writes "too big, `mtu` bytes of IP fit" (IPv4: type 3 code 4; ICMPv6: type 2) about the packet in `frame`, and returns
/// the length of the whole Ethernet frame.
pub fn write_too_big(buf: &mut [u8], frame: &[u8], headers: &Headers, our_ip: IpAddr, mtu: u16) -> Option<usize> {
    let [high, low] = mtu.to_be_bytes();
    let (kind, code) = if headers.is_v6 { (2, 0) } else { (3, 4) };
    write_error(buf, frame, headers, our_ip, [kind, code, 0, 0, 0, 0, high, low])
}

/// Writes "TTL or hop limit ran out in transit" (IPv4: type 11 code 0; ICMPv6: type 3 code 0) about the packet in `frame`, as
/// it was when it arrived, and returns the length of the whole Ethernet frame.
pub fn write_ttl_expired(buf: &mut [u8], frame: &[u8], headers: &Headers, our_ip: IpAddr) -> Option<usize> {
    let kind = if headers.is_v6 { 3 } else { 11 };
    write_error(buf, frame, headers, our_ip, [kind, 0, 0, 0, 0, 0, 0, 0])
}

fn write_error(
    buf: &mut [u8],
    frame: &[u8],
    headers: &Headers,
    our_ip: IpAddr,
    icmp_header: [u8; ICMP_HEADER_LEN],
) -> Option<usize> {
    if !may_be_answered(frame, headers) || our_ip.is_ipv6() != headers.is_v6 {
        return None;
    }
    let (ip_len, max_packet, ethertype, protocol) = if headers.is_v6 {
        (IpHeader::V6_LEN, MAX_V6_PACKET, ethernet::IPV6, protocol::ICMPV6)
    } else {
        (IpHeader::V4_LEN, MAX_V4_PACKET, ethernet::IPV4, protocol::ICMP)
    };
    let quote = frame.get(usize::from(headers.l3)..usize::from(headers.end))?;
    let quote = quote.get(..max_packet - ip_len - ICMP_HEADER_LEN).unwrap_or(quote);
    let icmp_len = ICMP_HEADER_LEN + quote.len();
    let frame_len = HEADER_LEN + ip_len + icmp_len;

    let out = buf.get_mut(..frame_len)?;
    let offending = EthernetHeader::parse(frame).ok()?;
    EthernetHeader { destination: offending.source, source: offending.destination, ethertype }.write(out);
    let header = IpHeader {
        source: our_ip,
        destination: headers.five_tuple.source,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: u16::try_from(icmp_len).ok()?,
    };
    header.write(out.get_mut(HEADER_LEN..)?)?;
    let icmp = out.get_mut(HEADER_LEN + ip_len..)?;
    icmp.get_mut(..ICMP_HEADER_LEN)?.copy_from_slice(&icmp_header);
    icmp.get_mut(ICMP_HEADER_LEN..)?.copy_from_slice(quote);
    let sum = if headers.is_v6 {
        checksum::pseudo_header(header.source, header.destination, protocol, icmp_len as u32)
    } else {
        checksum::Sum::new()
    };
    let checksum = sum.bytes(icmp).checksum();
    icmp.get_mut(2..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some(frame_len)
}

/// Not in answer to an ICMP error (or redirect), a later fragment, or what was sent to a group.
fn may_be_answered(frame: &[u8], headers: &Headers) -> bool {
    let destination = headers.five_tuple.destination;
    let to_group = frame.first().is_none_or(|octet| octet & 1 == 1)
        || destination.is_multicast()
        || destination == IpAddr::V4(Ipv4Addr::BROADCAST);
    let icmp = if headers.is_v6 { protocol::ICMPV6 } else { protocol::ICMP };
    let about_error = headers.transport() == icmp
        && frame
            .get(usize::from(headers.l4))
            .is_none_or(|&kind| is_icmp_error(headers.is_v6, kind) || (headers.is_v6 && kind == REDIRECT_V6));
    !(to_group || about_error || matches!(headers.fragment, Fragment::Later(_)))
}

#[cfg(test)]
mod tests;
