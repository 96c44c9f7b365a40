//! Frames for tests, benches and probes: right in every length and checksum, so that a test can break one thing at a time.
//!
//! On the packet's path: nowhere; it makes packets for others to carry. Everything here allocates.
//!
//! Shapes: each function returns a whole Ethernet II frame, from [`CLIENT_MAC`] to [`SERVER_MAC`], untagged, TTL 64, DSCP 0,
//! Not-ECT, IPv4 with DF set and identification 0.
//!
//! Panics if addresses of two families are mixed, if a packet would be longer than 65,535 bytes, or if what is said to be a
//! frame of some kind is not one: the caller's test is then wrong.

use std::net::{IpAddr, SocketAddr};

use crate::checksum::{self, udp_on_the_wire};
use crate::ethernet::{self, EthernetHeader, HEADER_LEN, TAG_LEN};
use crate::headers::{self, Headers};
use crate::ip::IpHeader;
use crate::{Ecn, MacAddr, protocol};

/// Source address of the frames.
pub const CLIENT_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0c]);
/// Destination address of the frames.
pub const SERVER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x05]);

/// TCP flag bytes for [`tcp`].
pub mod flags {
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

/// A packet of any protocol: `transport` follows the IP header as it is.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let ip_len = if source.is_ipv6() { IpHeader::V6_LEN } else { IpHeader::V4_LEN };
    let ethertype = if source.is_ipv6() { ethernet::IPV6 } else { ethernet::IPV4 };
    let mut frame = vec![0; HEADER_LEN + ip_len];
    EthernetHeader { destination: SERVER_MAC, source: CLIENT_MAC, ethertype }.write(&mut frame);
    let payload_len = u16::try_from(transport.len()).expect("an IP payload is at most 65,535 bytes long");
    let header = IpHeader { source, destination, protocol, traffic_class: 0, hop_limit: 64, payload_len };
    header.write(&mut frame[HEADER_LEN..]).expect("the addresses are of one family and the packet fits");
    frame.extend_from_slice(transport);
    frame
}

/// A UDP datagram.
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + payload.len());
    datagram.extend_from_slice(&source.port().to_be_bytes());
    datagram.extend_from_slice(&destination.port().to_be_bytes());
    datagram.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    set_transport_checksum(source.ip(), destination.ip(), protocol::UDP, &mut datagram);
    ip(source.ip(), destination.ip(), protocol::UDP, &datagram)
}

/// A TCP segment with these [`flags`], sequence number 1, acknowledgement number 1 if ACK is set, window 65,535.
pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, payload: &[u8]) -> Vec<u8> {
    let acknowledgement = u32::from(flags & flags::ACK != 0);
    tcp_segment(source, destination, flags, (1, acknowledgement), &[], payload)
}

/// A TCP SYN that announces this maximum segment size.
pub fn tcp_syn(source: SocketAddr, destination: SocketAddr, mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    tcp_segment(source, destination, flags::SYN, (1, 0), &[2, 4, high, low], &[])
}

/// A TCP segment with chosen sequence and acknowledgement numbers and options (padded to a multiple of four with zeros).
pub fn tcp_segment(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    (sequence, acknowledgement): (u32, u32),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_len = 20 + options.len().next_multiple_of(4);
    assert!(header_len <= 60, "TCP options are at most 40 bytes long");
    let mut segment = Vec::with_capacity(header_len + payload.len());
    segment.extend_from_slice(&source.port().to_be_bytes());
    segment.extend_from_slice(&destination.port().to_be_bytes());
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&acknowledgement.to_be_bytes());
    segment.extend_from_slice(&[(header_len / 4 * 16) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(options);
    segment.resize(header_len, 0);
    segment.extend_from_slice(payload);
    set_transport_checksum(source.ip(), destination.ip(), protocol::TCP, &mut segment);
    ip(source.ip(), destination.ip(), protocol::TCP, &segment)
}

/// Which half of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Echo {
    /// The question.
    Request,
    /// The answer.
    Reply,
}

/// An ICMP or ICMPv6 echo request or reply.
pub fn icmp_echo(
    source: IpAddr,
    destination: IpAddr,
    echo: Echo,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let kind = match (echo, source.is_ipv6()) {
        (Echo::Request, false) => 8,
        (Echo::Reply, false) => 0,
        (Echo::Request, true) => 128,
        (Echo::Reply, true) => 129,
    };
    let [i0, i1] = identifier.to_be_bytes();
    let [s0, s1] = sequence.to_be_bytes();
    icmp(source, destination, [kind, 0, 0, 0, i0, i1, s0, s1], payload)
}

/// An ICMP or ICMPv6 error from `source` about the packet in `frame`, to that packet's sender; it quotes the first
/// `quote_len` bytes of it.
pub fn icmp_error(source: IpAddr, (kind, code): (u8, u8), frame: &[u8], quote_len: usize) -> Vec<u8> {
    let headers = parsed(frame);
    let packet = &frame[usize::from(headers.l3)..usize::from(headers.end)];
    let quote = packet.get(..quote_len).unwrap_or(packet);
    icmp(source, headers.five_tuple.source, [kind, code, 0, 0, 0, 0, 0, 0], quote)
}

/// An ICMP or ICMPv6 message: eight header bytes, in which the checksum is filled in, and a body.
pub fn icmp(source: IpAddr, destination: IpAddr, header: [u8; 8], body: &[u8]) -> Vec<u8> {
    let protocol = if source.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP };
    let mut message = header.to_vec();
    message.extend_from_slice(body);
    set_transport_checksum(source, destination, protocol, &mut message);
    ip(source, destination, protocol, &message)
}

/// Computes a TCP, UDP, ICMP or ICMPv6 checksum and writes it into the transport header.
fn set_transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &mut [u8]) {
    let at = match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    transport[at..at + 2].fill(0);
    let sum = match protocol {
        protocol::ICMP => checksum::Sum::new(),
        _ => checksum::pseudo_header(source, destination, protocol, transport.len() as u32),
    };
    let checksum = sum.bytes(transport).checksum();
    let checksum = if protocol == protocol::UDP { udp_on_the_wire(checksum) } else { checksum };
    transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The frame with other MAC addresses.
pub fn with_addresses(mut frame: Vec<u8>, destination: MacAddr, source: MacAddr) -> Vec<u8> {
    assert!(ethernet::set_addresses(&mut frame, destination, source), "a frame has a header");
    frame
}

/// The frame with other DSCP and ECN bits.
pub fn with_traffic_class(mut frame: Vec<u8>, dscp: u8, ecn: Ecn) -> Vec<u8> {
    let mut headers = parsed(&frame);
    headers::set_dscp(&mut frame, &mut headers, dscp);
    headers::set_ecn(&mut frame, &headers, ecn);
    frame
}

/// The frame with another TTL or hop limit.
pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    if parsed(&frame).is_v6 {
        frame[HEADER_LEN + 7] = ttl;
    } else {
        frame[HEADER_LEN + 8] = ttl;
        set_ipv4_checksum(&mut frame);
    }
    frame
}

/// The frame with an 802.1Q tag.
pub fn with_vlan(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut tagged = vec![0; TAG_LEN];
    tagged.extend_from_slice(frame);
    assert!(ethernet::write_tag(&mut tagged, vlan), "a frame has a header");
    tagged
}

/// The IPv4 frame with these options, padded to a multiple of four with zeros.
pub fn with_ipv4_options(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    let headers = parsed(&frame);
    assert!(!headers.is_v6 && options.len() <= 40, "IPv4 has at most 40 bytes of options, IPv6 none");
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    frame[HEADER_LEN] += (options.len() / 4) as u8;
    let total_len = headers.ip_len() + options.len() as u16;
    frame[HEADER_LEN + 2..HEADER_LEN + 4].copy_from_slice(&total_len.to_be_bytes());
    let l4 = usize::from(headers.l4);
    frame.splice(l4..l4, options);
    set_ipv4_checksum(&mut frame);
    frame
}

/// The IPv6 frame with an extension header of this kind in front of what follows the fixed header. `body` is what comes
/// behind the next-header and length octets and is padded with zeros to the header's length, a multiple of eight.
pub fn with_extension_header(mut frame: Vec<u8>, kind: u8, body: &[u8]) -> Vec<u8> {
    let headers = parsed(&frame);
    assert!(headers.is_v6, "IPv4 has no extension headers");
    let length = (2 + body.len()).next_multiple_of(8);
    let mut extension = vec![frame[HEADER_LEN + 6], (length / 8 - 1) as u8];
    extension.extend_from_slice(body);
    extension.resize(length, 0);
    frame[HEADER_LEN + 6] = kind;
    let payload_len = headers.ip_len() - IpHeader::V6_LEN as u16 + length as u16;
    frame[HEADER_LEN + 4..HEADER_LEN + 6].copy_from_slice(&payload_len.to_be_bytes());
    let at = HEADER_LEN + IpHeader::V6_LEN;
    frame.splice(at..at, extension);
    frame
}

/// The packet cut into fragments of at most `payload_len` bytes behind the IP header (rounded down to a multiple of eight).
/// The frame has no IPv4 options and no IPv6 extension headers.
pub fn fragment(frame: &[u8], identification: u32, payload_len: usize) -> Vec<Vec<u8>> {
    let headers = parsed(frame);
    let payload = &frame[usize::from(headers.l4)..usize::from(headers.end)];
    let step = payload_len / 8 * 8;
    assert!(step > 0, "a fragment carries at least eight bytes");
    let count = payload.len().div_ceil(step);
    let pieces = payload.chunks(step).enumerate();
    pieces.map(|(index, piece)| one_fragment(frame, identification, index * step, index + 1 < count, piece)).collect()
}

fn one_fragment(frame: &[u8], identification: u32, start: usize, more: bool, piece: &[u8]) -> Vec<u8> {
    let headers = parsed(frame);
    let mut fragment = frame[..usize::from(headers.l4)].to_vec();
    let ip = HEADER_LEN;
    if headers.is_v6 {
        let word = start as u16 | u16::from(more);
        let payload_len = 8 + piece.len() as u16;
        let protocol = std::mem::replace(&mut fragment[ip + 6], 44);
        fragment[ip + 4..ip + 6].copy_from_slice(&payload_len.to_be_bytes());
        fragment.extend_from_slice(&[protocol, 0]);
        fragment.extend_from_slice(&word.to_be_bytes());
        fragment.extend_from_slice(&identification.to_be_bytes());
    } else {
        let word = (start / 8) as u16 | if more { 0x2000 } else { 0 };
        let total_len = headers.l4 - headers.l3 + piece.len() as u16;
        fragment[ip + 2..ip + 4].copy_from_slice(&total_len.to_be_bytes());
        fragment[ip + 4..ip + 6].copy_from_slice(&(identification as u16).to_be_bytes());
        fragment[ip + 6..ip + 8].copy_from_slice(&word.to_be_bytes());
        set_ipv4_checksum(&mut fragment);
    }
    fragment.extend_from_slice(piece);
    fragment
}

/// Computes the IPv4 header checksum anew, after a test has changed the header.
pub fn set_ipv4_checksum(frame: &mut [u8]) {
    let header_len = usize::from(frame[HEADER_LEN] & 0x0f) * 4;
    let header = &mut frame[HEADER_LEN..HEADER_LEN + header_len];
    header[10..12].fill(0);
    let checksum = checksum::of(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn parsed(frame: &[u8]) -> Headers {
    headers::parse(frame).unwrap_or_else(|reason| panic!("not a frame that can be parsed: {reason}"))
}

#[cfg(test)]
mod tests;
