//! One pass over a frame: where its headers are and which flow it belongs to.
//!
//! On the packet's path: [`parse`] at every door (port, tunnel), [`parse_trusted`] wherever a frame comes out of one of our own
//! rings; then the tables and the NFs work on [`Headers`], and [`set_dscp`],
//! [`decrement_ttl`], [`rewrite_source`] and their like change single fields in place.
//!
//! ```text
//! IPv4 (RFC 791 section 3.1)
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+-----------+---+-------------------------------+
//! |   4   |  IHL  |   DSCP    |ECN|         Total Length          |
//! +-------+-------+-----------+---+-----+-------------------------+
//! |        Identification         |0 D M|     Fragment Offset     |
//! +---------------+---------------+-----+-------------------------+
//! |      TTL      |   Protocol    |        Header Checksum        |
//! +---------------+---------------+-------------------------------+
//! |                            Source                             |
//! +---------------------------------------------------------------+
//! |                          Destination                          |
//! +---------------------------------------------------------------+
//!
//! IPv6 (RFC 8200 section 3)
//! +-------+-----------+---+---------------------------------------+
//! |   6   |   DSCP    |ECN|              Flow Label               |
//! +-------+-----------+---+-------+---------------+---------------+
//! |        Payload Length         |  Next Header  |   Hop Limit   |
//! +-------------------------------+---------------+---------------+
//! |                       Source (128 bits)                       |
//! +---------------------------------------------------------------+
//! |                    Destination (128 bits)                     |
//! +---------------------------------------------------------------+
//!
//! IPv6 fragment header (RFC 8200 section 4.5)
//! +---------------+---------------+-------------------------+---+-+
//! |  Next Header  |   Reserved    |     Fragment Offset     |Res|M|
//! +---------------+---------------+-------------------------+---+-+
//! |                        Identification                         |
//! +---------------------------------------------------------------+
//!
//! TCP (RFC 9293 section 3.1)
//! +-------------------------------+-------------------------------+
//! |          Source Port          |       Destination Port        |
//! +-------------------------------+-------------------------------+
//! |                        Sequence Number                        |
//! +---------------------------------------------------------------+
//! |                    Acknowledgment Number                      |
//! +-------+-------+---------------+-------------------------------+
//! | Offset| Rsrvd |     Flags     |            Window             |
//! +-------+-------+---------------+-------------------------------+
//! |           Checksum            |         Urgent Pointer        |
//! +-------------------------------+-------------------------------+
//!
//! UDP (RFC 768)
//! +-------------------------------+-------------------------------+
//! |          Source Port          |       Destination Port        |
//! +-------------------------------+-------------------------------+
//! |            Length             |           Checksum            |
//! +-------------------------------+-------------------------------+
//!
//! ICMP and ICMPv6 (RFC 792, RFC 4443 section 2.1)
//! +---------------+---------------+-------------------------------+
//! |     Type      |     Code      |           Checksum            |
//! +---------------+---------------+-------------------------------+
//! |  echo: Identifier, Sequence Number; error: unused, then the   |
//! +---------------------------------------------------------------+
//! |  quoted packet                                                |
//! ```
//!
//! Shapes: offsets in bytes from the frame's start; ports and lengths in host order.
//! Invariant: for what [`parse`] returned on a frame, `14 = l3 < l4 <= end <= frame.len()`, and the transport header lies
//! inside `l4..end` unless this is a later fragment.
//! Errors: a [`DropReason`], never a panic, whatever the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ethernet::{self, HEADER_LEN};
use crate::{DropReason, FiveTuple, Plain, checksum, protocol};

mod rewrite;

pub use rewrite::{clamp_mss, decrement_ttl, ecn, rewrite_destination, rewrite_source, set_dscp, set_ecn};

/// How many IPv6 extension headers are walked before the packet is called malformed. RFC 8200 section 4.1 knows six in a
/// sensible packet; without a limit, a sender could have a packet's whole length walked.
const MAX_EXTENSION_HEADERS: usize = 8;

/// What [`parse`] found in an untagged Ethernet II frame with an IPv4 or IPv6 packet in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// True for IPv6.
    pub is_v6: bool,
    /// Offset of the IP header in the frame: 14.
    pub l3: u16,
    /// Offset of the transport header (behind IPv4 options or IPv6 extension headers); of the payload in a later fragment.
    pub l4: u16,
    /// Offset one past the IP packet's last byte; Ethernet padding follows.
    pub end: u16,
    /// The flow, see [`FiveTuple`] for ICMP. In a later fragment the ports are 0 until the caller fills them in.
    pub five_tuple: FiveTuple,
    /// The six DSCP bits as they stand in the header.
    pub dscp: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The TCP flag byte (FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32), 0 when not TCP.
    pub tcp_flags: u8,
    /// Whether this is a fragment, and which.
    pub fragment: Fragment,
    /// Offset of the quoted IP header if this is an ICMP or ICMPv6 error with enough of it quoted.
    pub quoted_l3: Option<u16>,
}

/// Where in a fragmented datagram this packet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// The whole datagram.
    Whole,
    /// The first fragment: it has the transport header.
    First(u32),
    /// A later one: no ports of its own. The value is the identification, 16 bits in IPv4, 32 in IPv6.
    Later(u32),
}

impl Headers {
    /// Bytes of the IP packet, its header included and Ethernet padding not.
    #[inline]
    pub const fn ip_len(&self) -> u16 {
        self.end.saturating_sub(self.l3)
    }

    /// The transport protocol in the packet itself: that of [`Self::five_tuple`], but ICMP in an ICMP error, whose tuple is
    /// the quoted flow's.
    #[inline]
    pub const fn transport(&self) -> u8 {
        match (self.quoted_l3, self.is_v6) {
            (None, _) => self.five_tuple.protocol,
            (Some(_), false) => protocol::ICMP,
            (Some(_), true) => protocol::ICMPV6,
        }
    }

    /// Offset of the payload: behind the TCP, UDP or ICMP header; [`Self::l4`] for other protocols and later fragments.
    #[inline]
    pub fn payload_offset(&self, frame: &[u8]) -> u16 {
        let header = match (self.fragment, self.transport()) {
            (Fragment::Later(_), _) => 0,
            (_, protocol::UDP) => 8,
            (_, protocol::ICMP) if !self.is_v6 => 8,
            (_, protocol::ICMPV6) if self.is_v6 => 8,
            (_, protocol::TCP) => frame.get(usize::from(self.l4) + 12).map_or(20, |byte| u16::from(byte >> 4) * 4),
            _ => 0,
        };
        self.l4.saturating_add(header).min(self.end)
    }
}

/// Parses an untagged Ethernet II frame with an IPv4 or IPv6 packet in it, and verifies the IPv4 header's checksum.
///
/// Transport checksums are the business of the receiving host and are not looked at.
///
/// A fragmented ICMP error is treated as a flow of its own with ports 0, since its later fragments can't know what it
/// quotes; so is an error that quotes too little, another error, or a packet that its receiver never sent.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, DropReason> {
    parse_frame::<true>(frame)
}

/// [`parse`] without the IPv4 checksum: for frames that [`parse`] has already let in, out of one of our own rings.
#[inline]
pub fn parse_trusted(frame: &[u8]) -> Result<Headers, DropReason> {
    parse_frame::<false>(frame)
}

#[inline]
fn parse_frame<const VERIFY: bool>(frame: &[u8]) -> Result<Headers, DropReason> {
    let plain = if VERIFY { Plain::parse(frame) } else { Plain::parse_trusted(frame) };
    match plain {
        Some(plain) => Ok(plain.into()),
        None => parse_with_care::<VERIFY>(frame),
    }
}

impl From<Plain> for Headers {
    #[inline(always)]
    fn from(plain: Plain) -> Self {
        Self {
            is_v6: false,
            l3: HEADER_LEN as u16,
            l4: HEADER_LEN as u16 + 20,
            end: plain.frame_len() as u16,
            five_tuple: plain.five_tuple(),
            dscp: plain.dscp(),
            ttl: plain.ttl(),
            tcp_flags: plain.tcp_flags,
            fragment: Fragment::Whole,
            quoted_l3: None,
        }
    }
}

/// Any frame, whatever is in it.
pub(crate) fn parse_with_care<const VERIFY: bool>(frame: &[u8]) -> Result<Headers, DropReason> {
    let (header, packet) = frame.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::Truncated)?;
    match u16::from_be_bytes([header[12], header[13]]) {
        ethernet::IPV4 => parse_ipv4::<VERIFY>(packet),
        ethernet::IPV6 => parse_ipv6(packet),
        _ => Err(DropReason::UnknownEtherType),
    }
}

#[inline(never)]
fn parse_ipv4<const VERIFY: bool>(packet: &[u8]) -> Result<Headers, DropReason> {
    let header = packet.first_chunk::<20>().ok_or(DropReason::Truncated)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(be16(header, 2));
    if header[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
        return Err(DropReason::MalformedHeader);
    }
    let packet = packet.get(..total_len).ok_or(DropReason::Truncated)?;
    let (whole_header, payload) = packet.split_at_checked(header_len).ok_or(DropReason::Truncated)?;
    if VERIFY && !is_valid_header(header, whole_header) {
        return Err(DropReason::BadIpv4Checksum);
    }
    let source = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
    if is_bad_ipv4_source(source) {
        return Err(DropReason::BadSource);
    }
    let protocol = header[9];
    let fragment = ipv4_fragment(header, header_len, payload.len())?;
    let transport = Transport::parse(payload, protocol, false, fragment)?;
    let (l4, end) = (offset(header_len)?, offset(total_len)?);
    // A closure, so that the result is made where it is returned: a copy would cost as much as all of the parsing.
    let headers = || Headers {
        is_v6: false,
        l3: HEADER_LEN as u16,
        l4,
        end,
        five_tuple: FiveTuple {
            source: IpAddr::V4(Ipv4Addr::from_bits(source)),
            destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            protocol,
        },
        dscp: header[1] >> 2,
        ttl: header[8],
        tcp_flags: transport.tcp_flags,
        fragment,
        quoted_l3: None,
    };
    if protocol == protocol::ICMP { Ok(with_quoted_flow(headers(), payload)) } else { Ok(headers()) }
}

#[inline(never)]
fn parse_ipv6(packet: &[u8]) -> Result<Headers, DropReason> {
    let header = packet.first_chunk::<40>().ok_or(DropReason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::MalformedHeader);
    }
    let total_len = 40 + usize::from(be16(header, 4));
    let packet = packet.get(..total_len).ok_or(DropReason::Truncated)?;
    let (source, destination) = ipv6_addresses(header);
    if is_bad_ipv6_source(source) {
        return Err(DropReason::BadSource);
    }
    let body = packet.get(40..).ok_or(DropReason::Truncated)?;
    let chain = walk_extensions(body, header[6])?;
    let payload = body.get(chain.l4..).ok_or(DropReason::Truncated)?;
    let transport = Transport::parse(payload, chain.protocol, true, chain.fragment)?;
    let (l4, end) = (offset(40 + chain.l4)?, offset(total_len)?);
    let headers = || Headers {
        is_v6: true,
        l3: HEADER_LEN as u16,
        l4,
        end,
        five_tuple: FiveTuple {
            source: IpAddr::V6(source),
            destination: IpAddr::V6(destination),
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            protocol: chain.protocol,
        },
        dscp: (header[0] << 2 | header[1] >> 6) & 0x3f,
        ttl: header[7],
        tcp_flags: transport.tcp_flags,
        fragment: chain.fragment,
        quoted_l3: None,
    };
    if chain.protocol == protocol::ICMPV6 { Ok(with_quoted_flow(headers(), payload)) } else { Ok(headers()) }
}

/// Most headers have no options, and the sum over a known length needs no loop.
#[inline(always)]
fn is_valid_header(header: &[u8; 20], whole_header: &[u8]) -> bool {
    let sum = checksum::Sum::new().bytes(header);
    match whole_header.get(20..) {
        None | Some([]) => sum.folded() == 0xffff,
        Some(options) => sum.bytes(options).folded() == 0xffff,
    }
}

/// An offset in the IP packet as an offset in the frame; a frame of more than 65,535 bytes can't be described.
#[inline]
fn offset(in_packet: usize) -> Result<u16, DropReason> {
    u16::try_from(HEADER_LEN + in_packet).map_err(|_| DropReason::Oversized)
}

/// RFC 1122 section 3.2.1.3: this host on this network, loopback, multicast and limited broadcast are no sources.
#[inline]
const fn is_bad_ipv4_source(address: u32) -> bool {
    matches!(address >> 24, 0 | 127 | 224..=239) || address == u32::MAX
}

/// RFC 4291: the unspecified and loopback addresses are never forwarded, multicast is never a source; IPv4-mapped addresses
/// exist in sockets only.
#[inline]
fn is_bad_ipv6_source(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    bits <= 1 || bits >> 120 == 0xff || bits >> 32 == 0xffff
}

#[inline(always)]
fn ipv4_fragment(header: &[u8; 20], header_len: usize, payload_len: usize) -> Result<Fragment, DropReason> {
    let word = be16(header, 6);
    if word & 0x3fff == 0 {
        return Ok(Fragment::Whole);
    }
    // Lengths of one datagram fit in 16 bits, or reassembly would overflow ("ping of death").
    let start = usize::from(word & 0x1fff) * 8;
    if header_len + start + payload_len > usize::from(u16::MAX) {
        return Err(DropReason::MalformedHeader);
    }
    let identification = u32::from(be16(header, 4));
    classify_fragment(start, word & 0x2000 != 0, payload_len, identification, header[9])
}

fn classify_fragment(
    start: usize,
    more: bool,
    payload_len: usize,
    identification: u32,
    protocol: u8,
) -> Result<Fragment, DropReason> {
    // All fragments but the last are cut at eight bytes (RFC 791 section 3.2, RFC 8200 section 4.5).
    if payload_len == 0 || (more && !payload_len.is_multiple_of(8)) {
        return Err(DropReason::MalformedHeader);
    }
    match start {
        0 => Ok(Fragment::First(identification)),
        // Such a fragment can only serve to overwrite the TCP flags of the first (RFC 1858 section 3.2.2).
        8 if protocol == protocol::TCP => Err(DropReason::MalformedHeader),
        _ => Ok(Fragment::Later(identification)),
    }
}

/// Where an IPv6 header chain ends.
struct Chain {
    protocol: u8,
    /// Offset of the transport header behind the fixed header.
    l4: usize,
    fragment: Fragment,
}

/// Walks the extension headers behind the fixed header; `body` ends with the packet.
#[inline]
fn walk_extensions(body: &[u8], next: u8) -> Result<Chain, DropReason> {
    match next {
        0 | 43 | 44 | 60 => walk_extension_headers(body, next),
        _ => Ok(Chain { protocol: next, l4: 0, fragment: Fragment::Whole }),
    }
}

fn walk_extension_headers(body: &[u8], mut next: u8) -> Result<Chain, DropReason> {
    let mut l4 = 0;
    let mut fragment = Fragment::Whole;
    for place in 0..=MAX_EXTENSION_HEADERS {
        if !matches!(next, 0 | 43 | 44 | 60) {
            return Ok(Chain { protocol: next, l4, fragment });
        }
        let rest = body.get(l4..).ok_or(DropReason::Truncated)?;
        let header = rest.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        let length = if next == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
        let payload_len = rest.len().checked_sub(length).ok_or(DropReason::Truncated)?;
        l4 += length;
        match next {
            // Hop-by-hop options stand first or not at all (RFC 8200 section 4.1).
            0 if place > 0 => return Err(DropReason::MalformedHeader),
            // A packet with a route still to follow carries another destination than its checksum covers and its flow has.
            43 if header[3] != 0 => return Err(DropReason::MalformedHeader),
            44 => {
                let Some(found) = ipv6_fragment(header, payload_len)? else {
                    next = header[0];
                    continue;
                };
                if fragment != Fragment::Whole {
                    return Err(DropReason::MalformedHeader);
                }
                fragment = found;
                if matches!(fragment, Fragment::Later(_)) {
                    return Ok(Chain { protocol: header[0], l4, fragment });
                }
            }
            _ => {}
        }
        next = header[0];
    }
    Err(DropReason::MalformedHeader)
}

/// What a fragment header says; none for an atomic fragment, which is whole (RFC 6946).
fn ipv6_fragment(header: &[u8; 8], payload_len: usize) -> Result<Option<Fragment>, DropReason> {
    let word = be16(header, 2);
    let (start, more) = (usize::from(word & 0xfff8), word & 1 != 0);
    if start == 0 && !more {
        return Ok(None);
    }
    if start + payload_len > usize::from(u16::MAX) {
        return Err(DropReason::MalformedHeader);
    }
    let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    classify_fragment(start, more, payload_len, identification, header[0]).map(Some)
}

/// The flow that a frame is of now, if it is another than `found`, which was parsed from it before somebody worked on it. A frame
/// that can't be parsed any more has none.
///
/// A frame whose addresses, protocol and ports stand is told without parsing it once more.
#[inline]
pub fn rewritten(frame: &[u8], found: &Headers) -> Option<FiveTuple> {
    if identity_stands(frame, found) {
        return None;
    }
    let mut now = parse_trusted(frame).ok()?.five_tuple;
    if matches!(found.fragment, Fragment::Later(_)) {
        let FiveTuple { source_port, destination_port, protocol, .. } = found.five_tuple;
        now = FiveTuple { source_port, destination_port, protocol, ..now }; // they are the first fragment's
    }
    (now != found.five_tuple).then_some(now)
}

/// True if TCP's or UDP's five-tuple is still where it was found; false if it is not, or if that takes more to tell.
#[inline]
fn identity_stands(frame: &[u8], found: &Headers) -> bool {
    let FiveTuple { source, destination, source_port, destination_port, protocol } = found.five_tuple;
    if !matches!(protocol, protocol::TCP | protocol::UDP)
        || found.quoted_l3.is_some()
        || matches!(found.fragment, Fragment::Later(_))
    {
        return false;
    }
    let ip = frame.get(usize::from(found.l3)..).unwrap_or(&[]);
    let header_stands = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ip.first_chunk::<20>().is_some_and(|header| {
            u16::from(header[0] & 0x0f) * 4 == found.l4.wrapping_sub(found.l3)
                && header[9] == protocol
                && header[12..16] == source.octets()
                && header[16..20] == destination.octets()
        }),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ip.first_chunk::<40>().is_some_and(|header| {
            header[6] == protocol && header[8..24] == source.octets() && header[24..40] == destination.octets()
        }),
        _ => false,
    };
    let ports = frame.get(usize::from(found.l4)..).and_then(|transport| transport.first_chunk::<4>());
    header_stands && ports.is_some_and(|ports| be16(ports, 0) == source_port && be16(ports, 2) == destination_port)
}

/// What the transport header says.
#[derive(Clone, Copy, Default)]
struct Transport {
    source_port: u16,
    destination_port: u16,
    tcp_flags: u8,
}

impl Transport {
    /// `payload` is the rest of the IP packet.
    #[inline(always)]
    fn parse(payload: &[u8], protocol: u8, is_v6: bool, fragment: Fragment) -> Result<Self, DropReason> {
        if matches!(fragment, Fragment::Later(_)) {
            return Ok(Self::default());
        }
        match protocol {
            protocol::TCP => Self::parse_tcp(payload),
            protocol::UDP => Self::parse_udp(payload, fragment),
            protocol::ICMP if !is_v6 => Self::parse_icmp(payload, is_v6),
            protocol::ICMPV6 if is_v6 => Self::parse_icmp(payload, is_v6),
            _ => Ok(Self::default()),
        }
    }

    #[inline(always)]
    fn parse_tcp(payload: &[u8]) -> Result<Self, DropReason> {
        let tcp = payload.first_chunk::<20>().ok_or(DropReason::Truncated)?;
        let header_len = usize::from(tcp[12] >> 4) * 4;
        if header_len < 20 {
            return Err(DropReason::MalformedHeader);
        }
        if header_len > payload.len() {
            return Err(DropReason::Truncated);
        }
        let (source_port, destination_port) = (be16(tcp, 0), be16(tcp, 2));
        Ok(Self { source_port, destination_port, tcp_flags: tcp[13] })
    }

    #[inline(always)]
    fn parse_udp(payload: &[u8], fragment: Fragment) -> Result<Self, DropReason> {
        let udp = payload.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        let length = usize::from(be16(udp, 4));
        if length < 8 || (length > payload.len() && fragment == Fragment::Whole) {
            return Err(DropReason::MalformedHeader);
        }
        let (source_port, destination_port) = (be16(udp, 0), be16(udp, 2));
        Ok(Self { source_port, destination_port, tcp_flags: 0 })
    }

    fn parse_icmp(payload: &[u8], is_v6: bool) -> Result<Self, DropReason> {
        let icmp = payload.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        let identifier = if is_echo(is_v6, icmp[0]) { be16(icmp, 4) } else { 0 };
        Ok(Self { source_port: identifier, destination_port: identifier, tcp_flags: 0 })
    }
}

/// Gives an ICMP error the flow that it quotes, and leaves other messages.
fn with_quoted_flow(mut headers: Headers, message: &[u8]) -> Headers {
    if headers.fragment == Fragment::Whole
        && let Some((icmp, quote)) = message.split_first_chunk::<8>()
        && is_icmp_error(headers.is_v6, icmp[0])
        && let Some(quote) = Quote::find(quote, headers.is_v6)
        // An error goes to the sender of what it quotes; anything else is a forgery that would ride on another flow's rule.
        && quote.five_tuple.source == headers.five_tuple.destination
    {
        headers.five_tuple = quote.five_tuple.reversed();
        headers.quoted_l3 = Some(headers.l4 + 8);
    }
    headers
}

#[inline]
const fn is_echo(is_v6: bool, icmp_type: u8) -> bool {
    if is_v6 { matches!(icmp_type, 128 | 129) } else { matches!(icmp_type, 0 | 8) }
}

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792); ICMPv6 types 1 to 4 (RFC
/// 4443 section 2.1).
#[inline]
pub(crate) const fn is_icmp_error(is_v6: bool, icmp_type: u8) -> bool {
    if is_v6 { matches!(icmp_type, 1..=4) } else { matches!(icmp_type, 3 | 4 | 5 | 11 | 12) }
}

/// The packet that an ICMP error quotes.
struct Quote {
    /// The quoted packet's own tuple.
    five_tuple: FiveTuple,
    /// Offset of its transport header in the quote.
    l4: usize,
    /// Offset one past what is quoted of it; RFC 4884 extensions may follow.
    end: usize,
}

impl Quote {
    /// Finds the quoted packet's tuple; none if there is too little of it, or if it is a later fragment or itself an error.
    fn find(quote: &[u8], is_v6: bool) -> Option<Self> {
        let (source, destination, protocol, l4, total_len) = if is_v6 {
            let header = quote.first_chunk::<40>().filter(|header| header[0] >> 4 == 6)?;
            let chain = walk_extensions(quote.get(40..)?, header[6]).ok()?;
            if matches!(chain.fragment, Fragment::Later(_)) {
                return None;
            }
            let (source, destination) = ipv6_addresses(header);
            let total_len = 40 + usize::from(be16(header, 4));
            (IpAddr::V6(source), IpAddr::V6(destination), chain.protocol, 40 + chain.l4, total_len)
        } else {
            let header = quote.first_chunk::<20>().filter(|header| header[0] >> 4 == 4)?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            if header_len < 20 || be16(header, 6) & 0x1fff != 0 {
                return None;
            }
            let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
            let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            (IpAddr::V4(source), IpAddr::V4(destination), header[9], header_len, usize::from(be16(header, 2)))
        };
        let end = total_len.min(quote.len());
        let (source_port, destination_port) = quoted_ports(quote.get(l4..end)?, is_v6, protocol)?;
        let five_tuple = FiveTuple { source, destination, source_port, destination_port, protocol };
        Some(Self { five_tuple, l4, end })
    }
}

fn quoted_ports(transport: &[u8], is_v6: bool, protocol: u8) -> Option<(u16, u16)> {
    let icmp = if is_v6 { protocol::ICMPV6 } else { protocol::ICMP };
    match protocol {
        protocol::TCP | protocol::UDP => transport.first_chunk::<8>().map(|header| (be16(header, 0), be16(header, 2))),
        other if other == icmp => {
            let header = transport.first_chunk::<8>()?;
            match header[0] {
                kind if is_echo(is_v6, kind) => Some((be16(header, 4), be16(header, 4))),
                kind if is_icmp_error(is_v6, kind) => None,
                _ => Some((0, 0)),
            }
        }
        _ => Some((0, 0)),
    }
}

#[inline]
fn ipv6_addresses(header: &[u8; 40]) -> (Ipv6Addr, Ipv6Addr) {
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source.copy_from_slice(&header[8..24]);
    destination.copy_from_slice(&header[24..40]);
    (Ipv6Addr::from(source), Ipv6Addr::from(destination))
}

/// The big-endian word at a constant offset of a header whose length is known.
#[inline(always)]
const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

#[cfg(test)]
mod tests;
