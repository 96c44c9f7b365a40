//! The usual packet, recognised in one look: [`Plain`], whole IPv4 with TCP or UDP, without options.
//!
//! On the packet's path: where a burst comes in by a port or out of a ring. What is plain takes the forwarder's short way; of
//! anything else nothing is said here, and [`crate::headers::parse`] has the word.
//!
//! ```text
//!  offset  0         6        12      14      16      18      20      22    23    24      26      30      34
//!          +---------+--------+-------+-------+-------+-------+-------+-----+-----+-------+-------+-------+-----------
//!          | destin. | source | 08 00 | 45 cl | length|  ident| 0D0 0 | TTL | 6|17| check | source| destin| TCP or UDP
//!          +---------+--------+-------+-------+-------+-------+-------+-----+-----+-------+-------+-------+-----------
//! ```
//!
//! Shapes: words as they stand in the frame, read as little-endian ones; lengths in host order. Invariant: a plain frame is one
//! that [`crate::headers::parse`] accepts, with the same flow and the same lengths, that is not meant for its link alone and needs
//! no more care: no SYN, whose MSS may have to be clamped.

use std::net::{IpAddr, Ipv4Addr};

use crate::{FiveTuple, checksum, protocol};

/// Bytes in front of the transport header.
const L4: usize = 34;
/// Bytes that are looked at: up to the UDP header's end.
const LEAST: usize = L4 + 8;
/// TCP's SYN flag.
const SYN: u8 = 0x02;
/// The word at offset 12 for IPv4 without options: EtherType, version and header length; the traffic class is the highest byte.
const IPV4_WITHOUT_OPTIONS: u32 = 0x0045_0008;
const IPV4_MASK: u32 = 0x00ff_ffff;
/// Of the word at offset 20: more fragments follow, or others came before.
const FRAGMENT: u32 = 0xff3f;

/// Ethernet and IPv4 header of a plain frame.
pub type PlainHead = [u8; L4];

/// What there is to know of a plain packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// The eight bytes of source and destination address: the first one is lowest.
    pub addresses: u64,
    /// The four bytes of source and destination port, likewise.
    pub ports: u32,
    /// The word at offset 12, see [`IPV4_WITHOUT_OPTIONS`].
    kind: u32,
    /// The word at offset 20: no fragment; the TTL is the third byte, the protocol the highest.
    place: u32,
    /// Bytes of the IP packet; Ethernet padding may follow.
    pub ip_len: u16,
    /// The TCP flag byte, 0 for UDP.
    pub tcp_flags: u8,
    /// Written with the others, so that there is nothing in between to be left out.
    unused: u8,
}

impl Plain {
    /// Bytes of the shortest plain frame.
    pub const LEAST: usize = LEAST;

    /// Bytes of Ethernet header in front of the IP packet.
    pub const ETHERNET: usize = 14;

    /// In place of a packet that is not plain.
    pub const NOTHING: Self = Self { addresses: 0, ports: 0, kind: 0, place: 0, ip_len: 0, tcp_flags: 0, unused: 0 };

    /// True if this is not [`Self::NOTHING`].
    #[inline(always)]
    pub const fn is_something(&self) -> bool {
        self.ip_len > 0
    }

    /// A frame from the world, if it is plain; its IPv4 checksum is verified.
    #[inline(always)]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        Self::parse_frame::<true, false>(frame).filter(Self::has_hosts_addresses)
    }

    /// The same, for who lets known flows pass alone: a plain packet, or one that would be if it were no SYN and if its addresses
    /// were hosts'. No flow with others becomes known.
    #[inline(always)]
    pub fn parse_of_flow(frame: &[u8]) -> Option<Self> {
        Self::parse_frame::<true, true>(frame)
    }

    /// [`Self::parse`] without the checksum: for a frame that was let in before, out of one of our own rings.
    #[inline(always)]
    pub fn parse_trusted(frame: &[u8]) -> Option<Self> {
        Self::parse_frame::<false, false>(frame).filter(Self::has_hosts_addresses)
    }

    #[inline(always)]
    fn parse_frame<const VERIFY: bool, const SYN_TOO: bool>(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<LEAST>()?;
        let (kind, place, addresses) = (word::<12>(head), word::<20>(head), addresses(head));
        if (kind & IPV4_MASK) ^ IPV4_WITHOUT_OPTIONS | place & FRAGMENT != 0 {
            return None;
        }
        if VERIFY {
            // Right if its words sum up to a multiple of 0xffff, in either byte order and width (RFC 1071 section 2).
            let sum = sum(addresses, u64::from_le_bytes(bytes::<14, 8>(head)), word::<22>(head));
            if !sum.is_multiple_of(0xffff) {
                return None;
            }
        }
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let ip_len = half(16);
        let room = i32::from(ip_len) - (L4 - Self::ETHERNET) as i32; // below zero, for no transport header
        if usize::from(ip_len) + Self::ETHERNET > frame.len() {
            return None;
        }
        let protocol = (place >> 24) as u8;
        let tcp_flags = match protocol {
            protocol::UDP => {
                let payload = half(L4 + 4).wrapping_sub(8); // of a length below 8, more than any packet's
                (i32::from(payload) + 8 <= room).then_some(0)?
            }
            protocol::TCP => {
                let tcp = frame.get(L4..L4 + 20)?;
                let header_len = i32::from(tcp[12] >> 4) * 4;
                ((20..=room).contains(&header_len) && (SYN_TOO || tcp[13] & SYN == 0)).then_some(tcp[13])?
            }
            _ => return None,
        };
        Some(Self { addresses, ports: word::<L4>(head), kind, place, ip_len, tcp_flags, unused: 0 })
    }

    /// True unless source or destination is no host's address, or one of the link alone, or shares its first byte with such.
    #[inline(always)]
    pub fn has_hosts_addresses(&self) -> bool {
        let [source, .., destination, _, _, _] = self.addresses.to_le_bytes();
        !(NO_SOURCE[usize::from(source)] | NO_DESTINATION[usize::from(destination)])
    }

    /// True if a frame that this was parsed from is still of the same flow.
    #[inline(always)]
    pub fn stands_in(&self, frame: &[u8]) -> bool {
        let Some(head) = frame.first_chunk::<LEAST>() else { return false };
        let is_ipv4 = word::<12>(head) & IPV4_MASK == IPV4_WITHOUT_OPTIONS;
        let addresses_stand = addresses(head) == self.addresses && word::<L4>(head) == self.ports;
        is_ipv4 && head[23] == self.protocol() && addresses_stand
    }

    /// DSCP above, ECN below.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.kind >> 24) as u8
    }

    /// Time to live.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        (self.place >> 16) as u8
    }

    /// TCP or UDP.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.place >> 24) as u8
    }

    /// True for a SYN, which is not quite plain.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & SYN != 0
    }

    /// Bytes of the frame without padding.
    #[inline(always)]
    pub const fn frame_len(&self) -> usize {
        Self::ETHERNET + self.ip_len as usize
    }

    /// The sender's six bits, or the tag.
    #[inline(always)]
    pub const fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// The addresses of the packets that answer.
    #[inline(always)]
    pub const fn addresses_reversed(&self) -> u64 {
        self.addresses.rotate_left(32)
    }

    /// The ports of the packets that answer.
    #[inline(always)]
    pub const fn ports_reversed(&self) -> u32 {
        self.ports.rotate_left(16)
    }

    /// The source address.
    #[inline(always)]
    pub const fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addresses as u32).swap_bytes())
    }

    /// The destination address.
    #[inline(always)]
    pub const fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(((self.addresses >> 32) as u32).swap_bytes())
    }

    /// The source port.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        (self.ports as u16).swap_bytes()
    }

    /// The destination port.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        ((self.ports >> 16) as u16).swap_bytes()
    }

    /// The flow, see [`FiveTuple`].
    pub const fn five_tuple(&self) -> FiveTuple {
        FiveTuple {
            source: IpAddr::V4(self.source()),
            destination: IpAddr::V4(self.destination()),
            source_port: self.source_port(),
            destination_port: self.destination_port(),
            protocol: self.protocol(),
        }
    }

    /// Takes `hops` (0 or 1) off the TTL, which must have them, and gives the packet another DSCP, with one change of the
    /// header's checksum (RFC 1624 equation 3).
    #[inline(always)]
    pub fn forward(&self, head: &mut PlainHead, hops: u8, dscp: u8) {
        let class = dscp << 2 | self.traffic_class() & 0b11;
        // Summed up in little-endian words (RFC 1071 section 2), of which the class is the upper byte and the TTL the lower. For each
        // of the two, the complement of the old word and the new one are 0xffff and what the word gains.
        let gained =
            (u32::from(class) << 8).wrapping_sub(u32::from(self.traffic_class()) << 8).wrapping_sub(u32::from(hops));
        let old = u16::from_le_bytes([head[24], head[25]]);
        let changed = u32::from(!old).wrapping_add(2 * 0xffff).wrapping_add(gained);
        head[15] = class;
        head[22] = head[22].wrapping_sub(hops);
        [head[24], head[25]] = (!checksum::fold_word(changed)).to_le_bytes();
    }

    /// [`Self::forward`] by one hop and with the DSCP that is there.
    #[inline(always)]
    pub fn hop(head: &mut PlainHead) {
        head[22] = head[22].wrapping_sub(1);
        // What the TTL's half of the sum loses its complement gains; and that is never 0xffff, since no sum is zero.
        let (two_more, wraps) = u16::from_le_bytes([head[24], head[25]]).overflowing_add(2);
        [head[24], head[25]] = two_more.wrapping_add(u16::from(wraps)).wrapping_sub(1).to_le_bytes();
    }
}

/// The sum of words, of which carries come in again at the end: the last word is so short that its own makes no other.
#[inline(always)]
fn sum(first: u64, second: u64, last: u32) -> u64 {
    let (sum, carry) = first.overflowing_add(second);
    let (sum, carry) = sum.carrying_add(u64::from(last), carry);
    sum.wrapping_add(u64::from(carry))
}

#[inline(always)]
fn addresses(head: &[u8; LEAST]) -> u64 {
    u64::from_le_bytes(bytes::<26, 8>(head))
}

#[inline(always)]
fn word<const AT: usize>(head: &[u8; LEAST]) -> u32 {
    u32::from_le_bytes(bytes::<AT, 4>(head))
}

/// Read in one piece: from single bytes the compiler makes as many loads as it pleases.
#[inline(always)]
fn bytes<const AT: usize, const COUNT: usize>(head: &[u8; LEAST]) -> [u8; COUNT] {
    const { assert!(AT + COUNT <= LEAST) };
    head[AT..].first_chunk().map_or([0; COUNT], |bytes| *bytes)
}

/// First bytes of addresses that are no source, or meant for the link alone, or that share their first byte with such.
static NO_SOURCE: [bool; 256] = first_bytes(true);
/// The same for destinations.
static NO_DESTINATION: [bool; 256] = first_bytes(false);

const fn first_bytes(is_source: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut first = 0;
    while first < 256 {
        table[first] = matches!(first, 169 | 224..=255) || is_source && matches!(first, 0 | 127);
        first += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::{self, Fragment};
    use crate::{build, neighbor};

    fn agrees(frame: &[u8]) {
        let (of_flow, trusted) = (Plain::parse_of_flow(frame), Plain::parse_trusted(frame));
        let plain = of_flow.filter(Plain::has_hosts_addresses);
        assert_eq!(Plain::parse(frame), plain.filter(|plain| !plain.is_syn()));
        if let Some(plain) = plain {
            let found = headers::parse_with_care::<true>(frame).expect("what is plain is sound");
            assert_eq!(trusted, Some(plain).filter(|plain| !plain.is_syn()));
            assert_eq!(plain.five_tuple(), found.five_tuple);
            assert_eq!((plain.ip_len, plain.dscp(), plain.ttl()), (found.ip_len(), found.dscp, found.ttl));
            assert_eq!((plain.tcp_flags, Fragment::Whole), (found.tcp_flags, found.fragment));
            assert_eq!((found.l4, found.quoted_l3), (L4 as u16, None));
            let unicast = [&[2], &frame[1..]].concat(); // whose it is by its MAC address, the door asks
            assert!(!neighbor::is_link_local(&unicast) && neighbor::parse(frame).is_none());
        }
        if let Some(plain) = trusted {
            assert_eq!(headers::parse_with_care::<false>(frame).map(|found| found.five_tuple), Ok(plain.five_tuple()));
        }
    }

    #[test]
    fn the_usual_packets_are_plain() {
        let (client, server) = ("10.1.0.2:1000".parse().unwrap(), "10.2.0.2:80".parse().unwrap());
        let udp = build::udp(client, server, b"to and fro");
        assert_eq!(Plain::parse(&udp).unwrap().five_tuple(), headers::parse(&udp).unwrap().five_tuple);
        assert!(Plain::parse(&build::tcp(client, server, 0x10, b"data")).is_some());
        let syn = build::tcp(client, server, 0x02, b"");
        assert!(Plain::parse(&syn).is_none(), "a SYN needs its MSS looked at");
        assert!(Plain::parse_of_flow(&syn).unwrap().is_syn());
    }

    proptest! {
        /// Breaks if a change of identity is missed, or one is seen where there is none.
        #[test]
        fn a_flow_stands_until_a_word_of_it_changes(frame in crate::samples::frame(), at in 0_usize..42, value: u8) {
            let Some(plain) = Plain::parse(&frame) else { return Ok(()) };
            let mut changed = frame.clone();
            changed[at] = value;
            prop_assert!(plain.stands_in(&frame));
            let rewritten = headers::rewritten(&changed, &plain.into()).is_some();
            prop_assert!(!(rewritten && plain.stands_in(&changed)), "a rewritten flow stands");
            let is_identity = matches!(at, 12..=14 | 23 | 26..38);
            prop_assert_eq!(plain.stands_in(&changed), !is_identity || changed == frame);
        }

        /// Breaks if something is called plain that the whole parser refuses or reads in another way.
        #[test]
        fn plain_is_what_the_parser_says(
            mut frame in crate::samples::frame(),
            changes in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
            fixed: bool,
        ) {
            agrees(&frame);
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if fixed && frame.len() >= L4 {
                frame[24..26].fill(0);
                let sum = crate::checksum::of(&frame[14..L4]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            agrees(&frame);
        }

        /// Breaks if a carry is lost where the checksum is verified.
        #[test]
        fn what_is_verified_is_the_checksum(words in prop::array::uniform6(prop_oneof![any::<u16>(), 0xfffe_u16.., 0_u16..2]), off in 0_u16..2) {
            let mut frame = build::udp("10.1.0.2:1000".parse().unwrap(), "10.2.0.2:80".parse().unwrap(), b"x");
            frame[18..20].copy_from_slice(&words[0].to_be_bytes());
            frame[22] = (words[1] >> 8) as u8;
            for (at, word) in (26..L4).step_by(2).zip(&words[2..]) {
                frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
            }
            frame[24..26].fill(0);
            let sum = crate::checksum::of(&frame[14..L4]).wrapping_add(off);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(Plain::parse_of_flow(&frame).is_some(), crate::checksum::is_valid(&frame[14..L4]));
        }

        /// Breaks if the checksum goes wrong, bit for bit, or something else in the frame changes.
        #[test]
        fn forwarding_is_a_hop_and_a_dscp(ports: [u16; 2], class: u8, ttl in 2_u8.., hops in 0_u8..2, dscp in 0_u8..64) {
            let (client, server) = (([10, 1, 0, 2], ports[0]).into(), ([10, 2, 0, 2], ports[1]).into());
            let mut frame = build::udp(client, server, b"x");
            frame[15] = class;
            frame[22] = ttl;
            frame[24..26].fill(0);
            let sum = crate::checksum::of(&frame[14..L4]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            let plain = Plain::parse(&frame).unwrap();
            let mut expected = frame.clone();
            let mut found = headers::parse(&expected).unwrap();
            headers::set_dscp(&mut expected, &mut found, dscp);
            if hops == 1 {
                assert!(headers::decrement_ttl(&mut expected, &mut found));
            }
            plain.forward(frame.first_chunk_mut().unwrap(), hops, dscp);
            prop_assert_eq!(frame, expected);
        }

        /// The same for a hop alone, whatever the checksum is.
        #[test]
        fn a_hop_is_forwarding_with_the_same_dscp(ttl in 2_u8.., class: u8, sum in prop_oneof![any::<u16>(), 0_u16..3, 0xfffc_u16..]) {
            let mut frame = build::udp("10.1.0.2:1000".parse().unwrap(), "10.2.0.2:80".parse().unwrap(), b"x");
            (frame[15], frame[22]) = (class, ttl);
            frame[24..26].copy_from_slice(&sum.to_le_bytes());
            let plain = Plain::parse_trusted(&frame).unwrap();
            let mut expected = frame.clone();
            plain.forward(expected.first_chunk_mut().unwrap(), 1, plain.dscp());
            Plain::hop(frame.first_chunk_mut().unwrap());
            prop_assert_eq!(frame, expected);
        }
    }
}
