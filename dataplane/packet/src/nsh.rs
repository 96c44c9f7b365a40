//! The network service header: a packet's path and place on it, between the inner Ethernet header and the packet (RFC 8300).
//!
//! On the packet's path: between hosts, where the encapsulation is `nsh`; put on before the outer headers of [`crate::vxlan`],
//! taken off behind them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---+-+-+-----------+-----------+-------+-------+---------------+
//! |Ver|O|U|    TTL    |  Length   |U U U U|MD Type| Next Protocol |
//! +---+-+-+-----------+-----------+-------+-------+---------------+
//! |          Service Path Identifier              | Service Index |
//! +-----------------------------------------------+---------------+
//! |                 Context headers, none of ours                 |
//!
//! | Ethernet 14, type 89 4f | NSH 8 | IPv4 or IPv6 packet |
//! ```
//!
//! - Service Path Identifier: the tag, 1..=63, in the low six bits and zeros above. Together with the VXLAN header's network
//!   it names a path and a direction, as the DSCP bits do without this header; the packet keeps its sender's own DSCP. The next
//!   element stays in the inner Ethernet destination.
//! - Service Index: 255 at a subchain's head, one less behind each NF.
//! - TTL: 63 at a subchain's head, one less at each host that receives the packet.
//! - MD type 2 without context headers, so Length is 2 words. Either type is read; what is in context headers is skipped
//!   unread, and does not travel on: each host takes the header off and writes its own, with the unassigned bits as they came.
//!
//! Byte order: big-endian on the wire, host order in the types. Lengths in bytes, but for the header's own Length field.
//! Invariant: what [`push`] puts into a frame, [`pop`] takes out, and the frame is as it was.
//! Errors: a [`DropReason`] each.

use crate::ethernet::{self, HEADER_LEN};
use crate::{DropReason, Tag};

/// EtherType of a service header.
pub const ETHERTYPE: u16 = 0x894f;
/// Bytes of a header without context headers: what this encapsulation costs a path's MTU beside [`crate::vxlan`].
pub const OVERHEAD: usize = 8;

/// Bytes of the two addresses, the part of an Ethernet header that stays.
const ADDRESSES_LEN: usize = 12;
const WORD_BYTES: usize = 4;
const OAM: u8 = 0x20;
const MD_TYPE_FIXED: u8 = 1;
const MD_TYPE_VARIABLE: u8 = 2;
const MD_FIXED_WORDS: usize = 6;
const MD_LEAST_WORDS: usize = 2;
const TTL_BITS: u8 = 0x3f;

/// What follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NextProtocol {
    /// An IPv4 packet.
    Ipv4 = 1,
    /// An IPv6 packet.
    Ipv6 = 2,
}

impl NextProtocol {
    const fn of_ethertype(ethertype: u16) -> Option<Self> {
        match ethertype {
            ethernet::IPV4 => Some(Self::Ipv4),
            ethernet::IPV6 => Some(Self::Ipv6),
            _ => None,
        }
    }

    const fn ethertype(self) -> u16 {
        match self {
            Self::Ipv4 => ethernet::IPV4,
            Self::Ipv6 => ethernet::IPV6,
        }
    }
}

/// How far a packet is along its service path: what a host keeps of the header while the packet is inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service {
    /// Service Index.
    pub index: u8,
    /// TTL, six bits.
    pub ttl: u8,
    /// The unassigned bits: bit 4 is the one behind O, bits 3..=0 are the four before MD Type.
    pub unassigned: u8,
}

impl Service {
    /// At a path's head.
    pub const START: Self = Self { index: 255, ttl: 63, unassigned: 0 };

    /// A host is about to forward the packet: takes one off TTL, in six bits. False if it must not.
    #[inline]
    #[must_use]
    pub const fn enter_host(&mut self) -> bool {
        self.ttl = self.ttl.wrapping_sub(1) & TTL_BITS;
        self.ttl != 0
    }

    /// A network function has done its work.
    #[inline]
    pub const fn leave_function(&mut self) {
        self.index = self.index.saturating_sub(1);
    }
}

impl Default for Service {
    fn default() -> Self {
        Self::START
    }
}

/// A header, context headers aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceHeader {
    /// Service Path Identifier, 24 bits.
    pub path: u32,
    /// Index, TTL and what rides along.
    pub service: Service,
    /// What follows.
    pub next: NextProtocol,
}

impl ServiceHeader {
    /// The tag that the path identifier is, if it is one.
    #[inline]
    pub fn tag(&self) -> Option<Tag> {
        u8::try_from(self.path).ok().and_then(|value| Tag::new(value).ok())
    }

    /// Reads a header and its length, context headers included, which all are in `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), DropReason> {
        let &[first, second, third, next, high, middle, low, index] =
            bytes.first_chunk::<OVERHEAD>().ok_or(DropReason::Truncated)?;
        if first >> 6 != 0 {
            return Err(DropReason::BadNshHeader);
        }
        let words = usize::from(second & 0x3f);
        match third & 0x0f {
            MD_TYPE_FIXED if words == MD_FIXED_WORDS => {}
            MD_TYPE_VARIABLE if words >= MD_LEAST_WORDS => {}
            _ => return Err(DropReason::BadNshHeader),
        }
        if first & OAM != 0 {
            return Err(DropReason::NshOam);
        }
        let next = match next {
            1 => NextProtocol::Ipv4,
            2 => NextProtocol::Ipv6,
            _ => return Err(DropReason::UnknownNshProtocol),
        };
        if bytes.len() < words * WORD_BYTES {
            return Err(DropReason::Truncated);
        }
        let ttl = (first & 0x0f) << 2 | second >> 6;
        let service = Service { index, ttl, unassigned: first & 0x10 | third >> 4 };
        Ok((Self { path: u32::from_be_bytes([0, high, middle, low]), service, next }, words * WORD_BYTES))
    }

    /// The eight bytes of a header without context headers. Bits of a field beyond its width are not sent.
    #[inline]
    pub const fn to_bytes(self) -> [u8; OVERHEAD] {
        let Service { index, ttl, unassigned } = self.service;
        let [_, high, middle, low] = self.path.to_be_bytes();
        let first = unassigned & 0x10 | (ttl & TTL_BITS) >> 2;
        let second = ttl << 6 | MD_LEAST_WORDS as u8;
        [first, second, unassigned << 4 | MD_TYPE_VARIABLE, self.next as u8, high, middle, low, index]
    }
}

/// True for a frame whose Ethernet header is followed by a service header.
#[inline]
pub fn is_next(frame: &[u8]) -> bool {
    frame.get(ADDRESSES_LEN..HEADER_LEN) == Some(&ETHERTYPE.to_be_bytes())
}

/// Puts a header in: `frame` has [`OVERHEAD`] free bytes and then an untagged frame with an IP packet. What the header says to
/// follow is that packet's kind.
///
/// Errors, and nothing moved: [`DropReason::Truncated`] if that is too short, [`DropReason::UnknownNshProtocol`] if it is not IP.
#[inline]
pub fn push(frame: &mut [u8], tag: Tag, service: Service) -> Result<(), DropReason> {
    let header = ethernet::EthernetHeader::parse(frame.get(OVERHEAD..).unwrap_or(&[]))?;
    let next = NextProtocol::of_ethertype(header.ethertype).ok_or(DropReason::UnknownNshProtocol)?;
    let bytes = ServiceHeader { path: u32::from(tag.dscp()), service, next }.to_bytes();
    let (front, rest) = frame.split_first_chunk_mut::<HEADER_LEN>().ok_or(DropReason::Truncated)?;
    *front = ethernet::EthernetHeader { ethertype: ETHERTYPE, ..header }.to_bytes();
    *rest.first_chunk_mut::<OVERHEAD>().ok_or(DropReason::Truncated)? = bytes;
    Ok(())
}

/// Takes the header out: moves the Ethernet header over its end, so that `frame[length..]`, with the length that is returned, is
/// the untagged frame without it.
///
/// Errors, and nothing moved: [`DropReason::EncapsulationMismatch`] if there is no header, and those of
/// [`ServiceHeader::parse`].
#[inline]
pub fn pop(frame: &mut [u8]) -> Result<(ServiceHeader, usize), DropReason> {
    let ethernet = ethernet::EthernetHeader::parse(frame)?;
    if ethernet.ethertype != ETHERTYPE {
        return Err(DropReason::EncapsulationMismatch);
    }
    let (header, length) = ServiceHeader::parse(frame.get(HEADER_LEN..).unwrap_or(&[]))?;
    let moved = ethernet::EthernetHeader { ethertype: header.next.ethertype(), ..ethernet };
    moved.write(frame.get_mut(length..).unwrap_or(&mut []));
    Ok((header, length))
}

#[cfg(test)]
mod tests;
