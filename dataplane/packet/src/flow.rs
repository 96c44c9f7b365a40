//! What identifies a flow: [`FiveTuple`] in a packet, [`FlowKey`] in the tables.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Vni, VportId};

/// IP protocol numbers that Towpath looks into (IANA "Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
}

/// Source, destination, protocol and ports, in the direction in which the packet travels.
///
/// Ports are host order. ICMP echo carries its identifier in both ports, so that a reply is the reverse of its request. An
/// ICMP error has the reverse of the tuple that it quotes, so that it follows the flow it speaks about. Other protocols have
/// ports 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FiveTuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number, see [`protocol`].
    pub protocol: u8,
}

impl FiveTuple {
    /// The tuple of the packets that answer.
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::new(self.source, self.source_port);
        let destination = SocketAddr::new(self.destination, self.destination_port);
        match self.protocol {
            protocol::TCP => write!(f, "tcp {source} > {destination}"),
            protocol::UDP => write!(f, "udp {source} > {destination}"),
            protocol::ICMP => write!(f, "icmp {source} > {destination}"),
            protocol::ICMPV6 => write!(f, "icmp6 {source} > {destination}"),
            other => write!(f, "ip-{other} {} > {}", self.source, self.destination),
        }
    }
}

/// What ExactTable matches: where the packet comes from, whose it is, and which flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowKey {
    /// The vport that the packet came from: an endpoint, or the NF instance that emitted it.
    pub vport: VportId,
    /// The tenant's primary network, which is the vport's own, whichever network the path's tags belong to.
    pub vni: Vni,
    /// The flow, in this packet's direction.
    pub five_tuple: FiveTuple,
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vport {} vni {} {}", self.vport, self.vni, self.five_tuple)
    }
}
