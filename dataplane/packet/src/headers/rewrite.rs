//! Changes of single header fields in place, with every checksum that covers them (RFC 1624).
//!
//! On the packet's path: DSCP carries the tag from a subchain's head to its end; TTL, ECN and MSS change at the doors;
//! addresses change in manglers.
//!
//! Invariants: only the field and the checksums that cover it are written; what was right stays right, what was wrong stays
//! wrong (so that a damaged packet is still recognised by its receiver). `headers` are those of this very frame; if they
//! are not, offsets beyond the frame are left alone.

use std::net::IpAddr;

use super::{Fragment, Headers, Quote};
use crate::checksum::{Delta, udp_on_the_wire};
use crate::{Ecn, protocol};

const TCP_SYN: u8 = 0x02;

/// Sets the six DSCP bits and leaves the two ECN bits (RFC 2474 section 3, RFC 3168 section 5).
#[inline]
pub fn set_dscp(frame: &mut [u8], headers: &mut Headers, dscp: u8) {
    let dscp = dscp & 0x3f;
    if change_traffic_class(frame, headers, 0b11, dscp << 2) {
        headers.dscp = dscp;
    }
}

/// The two ECN bits as they stand in the frame.
#[inline]
pub fn ecn(frame: &[u8], headers: &Headers) -> Ecn {
    let l3 = usize::from(headers.l3);
    let shift = if headers.is_v6 { 4 } else { 0 };
    frame.get(l3 + 1).map_or(Ecn::NotEct, |byte| Ecn::from_traffic_class(byte >> shift))
}

/// Sets the two ECN bits and leaves DSCP.
#[inline]
pub fn set_ecn(frame: &mut [u8], headers: &Headers, ecn: Ecn) {
    change_traffic_class(frame, headers, 0b1111_1100, ecn as u8);
}

/// Keeps the traffic class's bits in `keep` and sets `value` in the others; false if the header is not in the frame.
#[inline]
fn change_traffic_class(frame: &mut [u8], headers: &Headers, keep: u8, value: u8) -> bool {
    let l3 = usize::from(headers.l3);
    if headers.is_v6 {
        // Four bits of version, eight of traffic class, twenty of flow label.
        let Some([first, second]) = chunk::<2>(frame, l3) else { return false };
        let word = u16::from_be_bytes([*first, *second]);
        let keep = 0xf00f | u16::from(keep) << 4;
        [*first, *second] = (word & keep | u16::from(value) << 4).to_be_bytes();
        return true;
    }
    let Some(header) = chunk::<20>(frame, l3) else { return false };
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[1] = header[1] & keep | value;
    let new = u16::from_be_bytes([header[0], header[1]]);
    update(&mut header[10..12], Delta::of_word(old, new));
    true
}

/// Takes one off TTL or hop limit. False, and nothing changed, if it would run out: the packet must not be forwarded (RFC
/// 1812 section 5.3.1, RFC 8200 section 3).
#[inline]
pub fn decrement_ttl(frame: &mut [u8], headers: &mut Headers) -> bool {
    let l3 = usize::from(headers.l3);
    let left = if headers.is_v6 {
        let Some([hop_limit]) = chunk::<1>(frame, l3 + 7) else { return false };
        if *hop_limit <= 1 {
            return false;
        }
        *hop_limit -= 1;
        *hop_limit
    } else {
        let Some(header) = chunk::<20>(frame, l3) else { return false };
        if header[8] <= 1 {
            return false;
        }
        let old = u16::from_be_bytes([header[8], header[9]]);
        header[8] -= 1;
        update(&mut header[10..12], Delta::of_word(old, old - 0x100));
        header[8]
    };
    headers.ttl = left;
    true
}

/// Lowers the maximum segment size that a TCP SYN announces to at most `mss` bytes (RFC 9293 section 3.7.1), so that the
/// answers fit the path. Other packets, and a SYN without the option, are left as they are.
pub fn clamp_mss(frame: &mut [u8], headers: &Headers, mss: u16) {
    let is_syn = headers.tcp_flags & TCP_SYN != 0 && headers.transport() == protocol::TCP;
    if !is_syn || matches!(headers.fragment, Fragment::Later(_)) {
        return;
    }
    let Some(tcp) = frame.get_mut(usize::from(headers.l4)..usize::from(headers.end)) else { return };
    let Some(header_len) = tcp.get(12).map(|byte| usize::from(byte >> 4) * 4) else { return };
    let Some(tcp) = tcp.get_mut(..header_len) else { return };
    let Some(at) = find_mss(tcp) else { return };
    let Some(value) = chunk::<2>(tcp, at) else { return };
    let old = u16::from_be_bytes(*value);
    if old <= mss {
        return;
    }
    *value = mss.to_be_bytes();
    // NOPs may have pushed the value to an odd offset.
    let delta = if at.is_multiple_of(2) { Delta::of_word(old, mss) } else { Delta::of_odd_word(old, mss) };
    if let Some(checksum) = tcp.get_mut(16..18) {
        update(checksum, delta);
    }
}

/// Offset of the MSS option's value in a TCP header.
fn find_mss(tcp: &[u8]) -> Option<usize> {
    let mut at = 20;
    // Each turn passes at least one of at most 40 bytes of options.
    while let Some(rest) = tcp.get(at..) {
        match rest {
            [] | [0, ..] => return None,
            [1, ..] => at += 1,
            [2, 4, _, _, ..] => return Some(at + 2),
            [_, length @ 2..=255, ..] => at += usize::from(*length),
            _ => return None,
        }
    }
    None
}

/// Rewrites the source address, and all that depends on it: the IPv4 header checksum, the TCP, UDP or ICMPv6 checksum (which
/// covers the addresses), the flow in `headers`; in an ICMP error also the quoted packet's destination and its checksums.
///
/// A UDP checksum of zero (none was computed) stays zero. Of a fragmented datagram only the first fragment has the transport
/// checksum; in later ones the IP header alone changes. An address of the other family changes nothing.
#[inline]
pub fn rewrite_source(frame: &mut [u8], headers: &mut Headers, address: IpAddr) {
    if rewrite(frame, headers, address, Side::Source) {
        headers.five_tuple.source = address;
    }
}

/// Rewrites the destination address as [`rewrite_source`] does the source; in an ICMP error also the quoted source.
#[inline]
pub fn rewrite_destination(frame: &mut [u8], headers: &mut Headers, address: IpAddr) {
    if rewrite(frame, headers, address, Side::Destination) {
        headers.five_tuple.destination = address;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// Offset of the address in an IP header.
    const fn offset(self, is_v6: bool) -> usize {
        match (self, is_v6) {
            (Self::Source, false) => 12,
            (Self::Destination, false) => 16,
            (Self::Source, true) => 8,
            (Self::Destination, true) => 24,
        }
    }
}

#[inline]
fn rewrite(frame: &mut [u8], headers: &Headers, address: IpAddr, side: Side) -> bool {
    match (address, headers.is_v6) {
        (IpAddr::V4(address), false) => rewrite_bytes(frame, headers, address.octets(), side),
        (IpAddr::V6(address), true) => rewrite_bytes(frame, headers, address.octets(), side),
        _ => false,
    }
}

fn rewrite_bytes<const N: usize>(frame: &mut [u8], headers: &Headers, address: [u8; N], side: Side) -> bool {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let Some(packet) = frame.get_mut(l3..usize::from(headers.end)) else { return false };
    let Some(l4) = l4.checked_sub(l3) else { return false };
    let Some(delta) = replace_address(packet, headers.is_v6, address, side) else { return false };
    if matches!(headers.fragment, Fragment::Later(_)) {
        return true;
    }
    let Some(transport) = packet.get_mut(l4..) else { return true };
    update_transport(transport, headers.is_v6, headers.transport(), delta);
    if headers.quoted_l3.is_some() {
        rewrite_quote(transport, headers.is_v6, address, side.other());
    }
    true
}

/// Rewrites one address of an IP header and the IPv4 checksum; returns what it changed for the checksums that cover it.
#[inline]
fn replace_address<const N: usize>(packet: &mut [u8], is_v6: bool, address: [u8; N], side: Side) -> Option<Delta> {
    let field = chunk::<N>(packet, side.offset(is_v6))?;
    let delta = Delta::of_bytes(&*field, &address);
    *field = address;
    if !is_v6 {
        update(packet.get_mut(10..12)?, delta);
    }
    Some(delta)
}

/// Updates the checksum of a transport header for a change in its pseudo header; returns the checksum before and after.
#[inline]
fn update_transport(transport: &mut [u8], is_v6: bool, protocol: u8, delta: Delta) -> Option<(u16, u16)> {
    let at = match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMPV6 if is_v6 => 2,
        _ => return None,
    };
    let field = chunk::<2>(transport, at)?;
    let old = u16::from_be_bytes(*field);
    let new = match (protocol, old) {
        (protocol::UDP, 0) => 0,
        (protocol::UDP, _) => udp_on_the_wire(delta.apply(old)),
        _ => delta.apply(old),
    };
    *field = new.to_be_bytes();
    Some((old, new))
}

/// Rewrites an address in the packet that an ICMP message quotes, the quoted checksums as far as they are in the quote, and
/// the ICMP checksum, which covers all of that.
fn rewrite_quote<const N: usize>(icmp: &mut [u8], is_v6: bool, address: [u8; N], side: Side) {
    let Some(packet) = icmp.get_mut(8..) else { return };
    let Some(quote) = Quote::find(packet, is_v6) else { return };
    let Some(packet) = packet.get_mut(..quote.end) else { return };
    let header_checksum = |packet: &[u8]| packet.get(10..12).map_or(0, |at| u16::from_be_bytes([at[0], at[1]]));
    let before = header_checksum(packet);
    let Some(delta) = replace_address(packet, is_v6, address, side) else { return };
    let mut total = delta;
    if !is_v6 {
        total = total.and_word(before, header_checksum(packet));
    }
    if let Some(transport) = packet.get_mut(quote.l4..)
        && let Some((old, new)) = update_transport(transport, is_v6, quote.five_tuple.protocol, delta)
    {
        total = total.and_word(old, new);
    }
    if let Some(checksum) = icmp.get_mut(2..4) {
        update(checksum, total);
    }
}

/// Applies a change to a checksum field of two bytes.
#[inline]
fn update(field: &mut [u8], delta: Delta) {
    if let Ok(field) = <&mut [u8; 2]>::try_from(field) {
        *field = delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
    }
}

#[inline]
fn chunk<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..)?.first_chunk_mut::<N>()
}
