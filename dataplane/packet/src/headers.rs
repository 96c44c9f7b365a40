//! One pass over a frame: where its headers are and which flow it belongs to.
use crate::FiveTuple;
use std::net::IpAddr;

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
pub(crate) fn rewrite_source(_frame: &mut [u8], _headers: &mut Headers, _address: IpAddr) {}
pub(crate) fn rewrite_destination(_frame: &mut [u8], _headers: &mut Headers, _address: IpAddr) {}
