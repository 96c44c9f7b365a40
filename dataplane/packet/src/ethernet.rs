//! Ethernet II and 802.1Q: the 14 bytes before every packet, and the four that a VLAN adds.
//!
//! On the packet's path: a frame from a port is classified here first; a VLAN tag is taken off at the door and put back on
//! the way out, so that every frame inside a host is untagged.
//!
//! ```text
//! offset  0            6            12      14
//!         +------------+------------+-------+---------
//!         | destination| source     | type  | payload       untagged
//!         +------------+------------+-------+---------
//! offset  0            6            12      14      16      18
//!         +------------+------------+-------+-------+-------+---------
//!         | destination| source     | 81 00 |PCP D V| type  | payload     tagged: 3 bits priority, 1 DEI, 12 VID
//!         +------------+------------+-------+-------+-------+---------
//! ```
//!
//! Byte order: big-endian on the wire, host order in the types. Functions on a frame that is too short do nothing and say
//! so. Sources: RFC 894, IEEE 802.1Q-2018 section 9.6.

use crate::{DropReason, MacAddr};

/// Bytes of an untagged header.
pub const HEADER_LEN: usize = 14;
/// Bytes that an 802.1Q tag adds.
pub const TAG_LEN: usize = 4;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType (TPID) of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A MAC address as it stands in front of a frame: a little-endian word, of which the two highest bytes are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MacWord(u64);

impl MacWord {
    /// The word of an address.
    #[inline]
    pub const fn new(mac: MacAddr) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// True if the frame is for this address.
    #[inline(always)]
    pub fn is_destination_of(self, frame: &[u8]) -> bool {
        frame.first_chunk().is_some_and(|&head| (u64::from_le_bytes(head) ^ self.0) << 16 == 0)
    }

    /// Makes a frame one from `source` to this address, in two pieces.
    #[inline(always)]
    pub fn address<const LEN: usize>(self, source: Self, head: &mut [u8; LEN]) {
        const { assert!(LEN >= HEADER_LEN) };
        head[..8].copy_from_slice(&(self.0 | source.0 << 48).to_le_bytes());
        head[8..12].copy_from_slice(&((source.0 >> 16) as u32).to_le_bytes());
    }
}

/// An untagged Ethernet II header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EthernetHeader {
    /// To whom.
    pub destination: MacAddr,
    /// From whom.
    pub source: MacAddr,
    /// What follows: [`IPV4`], [`IPV6`], [`ARP`], [`VLAN`], or something else.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// The first 14 bytes of a frame.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low] =
            *frame.first_chunk::<HEADER_LEN>().ok_or(DropReason::Truncated)?;
        Ok(Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([high, low]),
        })
    }

    /// The 14 bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let MacAddr([d0, d1, d2, d3, d4, d5]) = self.destination;
        let MacAddr([s0, s1, s2, s3, s4, s5]) = self.source;
        let [high, low] = self.ethertype.to_be_bytes();
        [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low]
    }

    /// Writes the 14 bytes at the frame's start; false, and nothing written, if it is shorter.
    #[inline]
    pub fn write(self, frame: &mut [u8]) -> bool {
        let Some(header) = frame.first_chunk_mut::<HEADER_LEN>() else { return false };
        *header = self.to_bytes();
        true
    }
}

/// Rewrites the two addresses and leaves the EtherType; false, and nothing written, if the frame is shorter than a header.
#[inline]
pub fn set_addresses(frame: &mut [u8], destination: MacAddr, source: MacAddr) -> bool {
    let Ok(header) = EthernetHeader::parse(frame) else { return false };
    EthernetHeader { destination, source, ..header }.write(frame)
}

/// What an 802.1Q tag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tagged {
    /// The VLAN identifier, 12 bits; 0 is a priority tag that names no VLAN.
    pub vlan: u16,
    /// What follows the tag.
    pub ethertype: u16,
}

/// The frame's outer VLAN tag, if it has a whole one.
#[inline]
pub fn tagged(frame: &[u8]) -> Option<Tagged> {
    match frame.get(12..18)? {
        &[0x81, 0x00, high, low, type_high, type_low] => Some(Tagged {
            vlan: u16::from_be_bytes([high, low]) & 0x0fff,
            ethertype: u16::from_be_bytes([type_high, type_low]),
        }),
        _ => None,
    }
}

/// Takes the VLAN tag off: moves the addresses over it, so that `frame[4..]` is the untagged frame. False, and nothing moved,
/// if there is no tag.
#[inline]
pub fn strip_tag(frame: &mut [u8]) -> bool {
    if tagged(frame).is_none() {
        return false;
    }
    frame.copy_within(0..12, TAG_LEN);
    true
}

/// Puts a VLAN tag on, with priority 0: `frame` has four free bytes and then an untagged frame. False, and nothing moved, if
/// that is too short. Bits of `vlan` above the twelfth are not sent.
#[inline]
pub fn write_tag(frame: &mut [u8], vlan: u16) -> bool {
    if frame.len() < TAG_LEN + HEADER_LEN {
        return false;
    }
    frame.copy_within(TAG_LEN..TAG_LEN + 12, 0);
    let [high, low] = (vlan & 0x0fff).to_be_bytes();
    let [type_high, type_low] = VLAN.to_be_bytes();
    if let Some(tag) = frame.get_mut(12..16) {
        tag.copy_from_slice(&[type_high, type_low, high, low]);
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_shorter_than_its_header_is_truncated() {
        assert_eq!(EthernetHeader::parse(&[0; 13]), Err(DropReason::Truncated));
        assert!(!set_addresses(&mut [0; 13], MacAddr::BROADCAST, MacAddr::BROADCAST));
    }

    #[test]
    fn a_tag_cut_off_by_the_frames_end_is_no_tag() {
        let mut frame = [0; 18];
        frame[12] = 0x81;
        assert_eq!(tagged(&frame), Some(Tagged { vlan: 0, ethertype: 0 }));
        assert_eq!(tagged(&frame[..17]), None);
        assert!(!strip_tag(&mut frame[..17]));
        assert!(!write_tag(&mut frame[..17], 1));
    }

    #[test]
    fn priority_and_dei_are_no_part_of_the_vlan() {
        let mut frame = [0; 18];
        frame[12..18].copy_from_slice(&[0x81, 0x00, 0xff, 0xfe, 0x08, 0x00]);
        assert_eq!(tagged(&frame), Some(Tagged { vlan: 0x0ffe, ethertype: IPV4 }));
    }

    proptest! {
        #[test]
        fn a_header_is_read_back_as_written(
            destination in any::<[u8; 6]>(),
            source in any::<[u8; 6]>(),
            ethertype: u16,
            rest in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let header = EthernetHeader { destination: MacAddr(destination), source: MacAddr(source), ethertype };
            let mut frame = vec![0; HEADER_LEN];
            frame.extend_from_slice(&rest);
            prop_assert!(header.write(&mut frame));
            prop_assert_eq!(EthernetHeader::parse(&frame), Ok(header));
            prop_assert_eq!(&frame[HEADER_LEN..], &rest[..]);
        }

        #[test]
        fn a_tag_put_on_and_taken_off_leaves_the_frame(
            frame in prop::collection::vec(any::<u8>(), HEADER_LEN..80),
            vlan in 0u16..4096,
        ) {
            let mut tagged_frame = vec![0xaa; TAG_LEN];
            tagged_frame.extend_from_slice(&frame);
            prop_assert!(write_tag(&mut tagged_frame, vlan));
            let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
            prop_assert_eq!(tagged(&tagged_frame), Some(Tagged { vlan, ethertype }));
            prop_assert!(strip_tag(&mut tagged_frame));
            prop_assert_eq!(&tagged_frame[TAG_LEN..], &frame[..]);
        }
    }
}
