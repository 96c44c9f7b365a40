//! IPv4 and IPv6 headers that the host writes itself: 20 or 40 bytes, no options, no extension headers.
//!
//! On the packet's path: in front of VXLAN, ICMP errors and neighbour messages. Headers of passing packets are parsed by
//! [`crate::headers`], which shows their bit diagrams, and changed in place.
//!
//! IPv4 is sent as an atomic datagram: DF set, identification 0 (RFC 6864 section 4.1). IPv6 has flow label 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;

/// An IP header to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpHeader {
    /// From whom.
    pub source: IpAddr,
    /// To whom, of the same family.
    pub destination: IpAddr,
    /// What follows, see [`crate::protocol`].
    pub protocol: u8,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Bytes behind the header.
    pub payload_len: u16,
}

impl IpHeader {
    /// Bytes of an IPv4 header.
    pub const V4_LEN: usize = 20;
    /// Bytes of an IPv6 header.
    pub const V6_LEN: usize = 40;

    /// Writes the header at the start of `bytes` and returns its length. None, and nothing written, if the addresses are of
    /// different families, the bytes too few, or the IPv4 packet longer than 65,535 bytes.
    #[inline]
    pub fn write(&self, bytes: &mut [u8]) -> Option<usize> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                *bytes.first_chunk_mut()? = self.v4_bytes(source, destination)?;
                Some(Self::V4_LEN)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                *bytes.first_chunk_mut()? = self.v6_bytes(source, destination);
                Some(Self::V6_LEN)
            }
            _ => None,
        }
    }

    fn v4_bytes(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Option<[u8; Self::V4_LEN]> {
        let total_len = self.payload_len.checked_add(Self::V4_LEN as u16)?;
        let mut header = [0; Self::V4_LEN];
        header[0] = 0x45;
        header[1] = self.traffic_class;
        header[2..4].copy_from_slice(&total_len.to_be_bytes());
        header[6] = 0x40;
        header[8] = self.hop_limit;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&source.octets());
        header[16..20].copy_from_slice(&destination.octets());
        let checksum = checksum::of(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        Some(header)
    }

    fn v6_bytes(&self, source: Ipv6Addr, destination: Ipv6Addr) -> [u8; Self::V6_LEN] {
        let mut header = [0; Self::V6_LEN];
        header[0] = 0x60 | self.traffic_class >> 4;
        header[1] = self.traffic_class << 4;
        header[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        header[6] = self.protocol;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&source.octets());
        header[24..40].copy_from_slice(&destination.octets());
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

    use super::*;
    use crate::{headers, samples};

    #[test]
    fn what_can_not_be_written_is_refused() {
        let v4 = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let v6 = IpAddr::V6(Ipv6Addr::from_bits(2 << 124));
        let header = |source, destination, payload_len| IpHeader {
            source,
            destination,
            protocol: 59,
            traffic_class: 0,
            hop_limit: 1,
            payload_len,
        };
        let mut bytes = [0; 40];
        assert_eq!(header(v4, v6, 0).write(&mut bytes), None);
        assert_eq!(header(v4, v4, 65_516).write(&mut bytes), None);
        assert_eq!(header(v4, v4, 65_515).write(&mut bytes), Some(20));
        assert_eq!(header(v4, v4, 0).write(&mut bytes[..19]), None);
        assert_eq!(header(v6, v6, 65_535).write(&mut bytes), Some(40));
        assert_eq!(header(v6, v6, 0).write(&mut bytes[..39]), None);
    }

    proptest! {
        /// smoltcp reads the fields back, so that one mistake in writer and parser can't hide the other.
        #[test]
        fn a_header_is_read_back_as_written(
            (source, destination) in samples::addresses(),
            protocol in prop_oneof![Just(47u8), Just(50), Just(132)],
            traffic_class: u8,
            hop_limit: u8,
            payload_len in 0u16..300,
        ) {
            let header = IpHeader { source, destination, protocol, traffic_class, hop_limit, payload_len };
            let mut frame = vec![0u8; 14 + 40 + usize::from(payload_len)];
            frame[12..14].copy_from_slice(if source.is_ipv6() { &[0x86, 0xdd] } else { &[0x08, 0x00] });
            let length = header.write(&mut frame[14..]).unwrap();
            let parsed = headers::parse(&frame).unwrap();
            prop_assert_eq!(usize::from(parsed.l4 - parsed.l3), length);
            prop_assert_eq!(parsed.end - parsed.l4, payload_len);
            prop_assert_eq!((parsed.five_tuple.source, parsed.five_tuple.destination), (source, destination));
            prop_assert_eq!((parsed.five_tuple.protocol, parsed.ttl), (protocol, hop_limit));
            prop_assert_eq!(parsed.dscp << 2 | headers::ecn(&frame, &parsed) as u8, traffic_class);
            if source.is_ipv6() {
                let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
                prop_assert_eq!((packet.traffic_class(), packet.flow_label()), (traffic_class, 0));
                prop_assert_eq!((packet.payload_len(), packet.hop_limit()), (payload_len, hop_limit));
                prop_assert_eq!((IpAddr::V6(packet.src_addr()), IpAddr::V6(packet.dst_addr())), (source, destination));
            } else {
                let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
                prop_assert!(packet.verify_checksum() && packet.dont_frag() && !packet.more_frags());
                prop_assert_eq!((packet.dscp() << 2 | packet.ecn(), packet.ident()), (traffic_class, 0));
                prop_assert_eq!((packet.hop_limit(), packet.total_len()), (hop_limit, 20 + payload_len));
                prop_assert_eq!((IpAddr::V4(packet.src_addr()), IpAddr::V4(packet.dst_addr())), (source, destination));
            }
        }
    }
}
