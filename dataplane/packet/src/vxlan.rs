//! VXLAN: an Ethernet frame in UDP between hosts (RFC 7348), and what becomes of DSCP and ECN (RFC 2983, RFC 6040).
//!
//! On the packet's path: the last step before a packet leaves for another host, the first when it arrives there.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-----------------------------------------------+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-------------------------------+---------------+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-----------------------------------------------+---------------+
//!
//! | Ethernet 14 | IPv4 20 or IPv6 40 | UDP 8 | VXLAN 8 | inner Ethernet frame |
//! ```
//!
//! Invariant: what [`Outer::write`] puts before a frame, [`parse_outer`] reads back. Byte order: big-endian on the wire.
//! Errors: a [`DropReason`] each.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use crate::ethernet::{self, EthernetHeader, HEADER_LEN};
use crate::headers::{Fragment, Headers};
use crate::ip::IpHeader;
use crate::{DropReason, Ecn, FiveTuple, MacAddr, Plain, Vni, checksum, headers, neighbor, protocol};

/// The UDP destination port that IANA assigned (RFC 7348 section 5).
pub const UDP_PORT: u16 = 4789;
/// Bytes of the VXLAN header.
pub const VXLAN_HEADER_LEN: usize = 8;
/// Bytes before the inner frame on an IPv4 underlay.
pub const V4_OVERHEAD: usize = HEADER_LEN + IpHeader::V4_LEN + UDP_HEADER_LEN + VXLAN_HEADER_LEN;
/// Bytes before the inner frame on an IPv6 underlay.
pub const V6_OVERHEAD: usize = HEADER_LEN + IpHeader::V6_LEN + UDP_HEADER_LEN + VXLAN_HEADER_LEN;

const UDP_HEADER_LEN: usize = 8;
const VALID_VNI: u8 = 0x08;
const TTL: u8 = 64;

/// Reads the VNI of a VXLAN header. Reserved bits are ignored.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Vni, DropReason> {
    let &[flags, _, _, _, high, middle, low, _] = bytes.first_chunk::<8>().ok_or(DropReason::Truncated)?;
    if flags & VALID_VNI == 0 {
        return Err(DropReason::BadVxlanHeader);
    }
    Vni::new(u32::from_be_bytes([0, high, middle, low])).map_err(|_| DropReason::BadVxlanHeader)
}

/// The VXLAN header of this VNI: I flag set, reserved bits zero.
#[inline]
pub const fn header(vni: Vni) -> [u8; VXLAN_HEADER_LEN] {
    let [_, high, middle, low] = vni.value().to_be_bytes();
    [VALID_VNI, 0, 0, 0, high, middle, low, 0]
}

/// Everything that the outer headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outer {
    /// Our port's address.
    pub source_mac: MacAddr,
    /// The next hop's address on the underlay.
    pub destination_mac: MacAddr,
    /// Our VTEP.
    pub source: IpAddr,
    /// Their VTEP, of the same family.
    pub destination: IpAddr,
    /// The flow's entropy, see [`entropy_port`].
    pub source_port: u16,
    /// Destination port, [`UDP_PORT`] by default.
    pub udp_port: u16,
    /// The network of the packet's path, one of its tenant's.
    pub vni: Vni,
    /// Outer DSCP: carries the sender's own, while the inner one carries the tag, unless a service header ([`crate::nsh`]) does.
    pub dscp: u8,
    /// Outer ECN, see [`ecn_at_encap`].
    pub ecn: Ecn,
}

impl Outer {
    /// Bytes that [`Self::write`] writes: 50 or 70.
    #[inline]
    pub const fn overhead(&self) -> usize {
        if self.destination.is_ipv6() { V6_OVERHEAD } else { V4_OVERHEAD }
    }

    /// Writes the outer headers. `headroom` are the [`Self::overhead`] bytes that lie right before the inner frame, and
    /// `inner` is that frame. Returns how many bytes were written: all of them.
    ///
    /// IPv4: DF set, UDP checksum 0 (RFC 7348 section 5). IPv6: UDP checksum over the whole inner frame, since RFC 8200
    /// section 8.1 demands one of all who can't be sure of RFC 6936's conditions.
    ///
    /// Errors: [`DropReason::NoHeadroom`] if `headroom` has another length, [`DropReason::Oversized`] if the packet would
    /// be longer than 65,535 bytes, [`DropReason::MalformedHeader`] if the VTEPs are not of one family.
    #[inline]
    pub fn write(&self, headroom: &mut [u8], inner: &[u8]) -> Result<usize, DropReason> {
        if headroom.len() != self.overhead() {
            return Err(DropReason::NoHeadroom);
        }
        let ip_len = self.overhead() - (HEADER_LEN + UDP_HEADER_LEN + VXLAN_HEADER_LEN);
        let udp_len = u16::try_from(UDP_HEADER_LEN + VXLAN_HEADER_LEN + inner.len())
            .ok()
            .filter(|length| length.checked_add(IpHeader::V6_LEN as u16).is_some())
            .ok_or(DropReason::Oversized)?;
        let (ethernet, rest) = headroom.split_first_chunk_mut::<HEADER_LEN>().ok_or(DropReason::NoHeadroom)?;
        let (ip, rest) = rest.split_at_mut_checked(ip_len).ok_or(DropReason::NoHeadroom)?;
        let header = IpHeader {
            source: self.source,
            destination: self.destination,
            protocol: protocol::UDP,
            traffic_class: self.dscp << 2 | self.ecn as u8,
            hop_limit: TTL,
            payload_len: udp_len,
        };
        header.write(ip).ok_or(DropReason::MalformedHeader)?;
        let ethertype = if self.destination.is_ipv6() { ethernet::IPV6 } else { ethernet::IPV4 };
        let header = EthernetHeader { destination: self.destination_mac, source: self.source_mac, ethertype };
        *ethernet = header.to_bytes();
        let udp = self.udp_and_vxlan(udp_len, inner);
        *rest.first_chunk_mut().ok_or(DropReason::NoHeadroom)? = udp;
        Ok(self.overhead())
    }

    #[inline]
    fn udp_and_vxlan(&self, udp_len: u16, inner: &[u8]) -> [u8; UDP_HEADER_LEN + VXLAN_HEADER_LEN] {
        let [s0, s1] = self.source_port.to_be_bytes();
        let [d0, d1] = self.udp_port.to_be_bytes();
        let [l0, l1] = udp_len.to_be_bytes();
        let [v0, v1, v2, v3, v4, v5, v6, v7] = header(self.vni);
        let mut bytes = [s0, s1, d0, d1, l0, l1, 0, 0, v0, v1, v2, v3, v4, v5, v6, v7];
        if self.destination.is_ipv6() {
            let sum = checksum::pseudo_header(self.source, self.destination, protocol::UDP, u32::from(udp_len));
            let checksum = checksum::udp_on_the_wire(sum.bytes(&bytes).bytes(inner).checksum());
            [bytes[6], bytes[7]] = checksum.to_be_bytes();
        }
        bytes
    }
}

/// The outer headers to one VTEP in one network on an IPv4 underlay, with everything in place that is the same for all packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    bytes: [u8; V4_OVERHEAD],
    /// Of the IPv4 header without its checksum and its first word, where the traffic class and the length are.
    sum: u32,
}

impl Template {
    /// In place of one.
    pub const NOTHING: Self = Self { bytes: [0; V4_OVERHEAD], sum: 0 };

    /// The template of these headers; source port, DSCP and ECN are each packet's own. None on an IPv6 underlay, where the UDP
    /// checksum covers the whole frame.
    pub fn new(outer: &Outer) -> Option<Self> {
        let mut bytes = [0; V4_OVERHEAD];
        Outer { source_port: 0, dscp: 0, ecn: Ecn::NotEct, ..*outer }.write(&mut bytes, &[]).ok()?;
        bytes[HEADER_LEN..][..4].fill(0);
        bytes[IP_CHECKSUM..][..2].fill(0);
        let sum = checksum::Sum::new().bytes(&bytes[HEADER_LEN..UDP]).folded();
        Some(Self { bytes, sum: u32::from(sum) })
    }

    /// Writes the outer headers of a packet, as [`Outer::write`] does. The frame inside has `inner_len` bytes, which the whole's
    /// 65,535 have room for.
    #[inline(always)]
    pub fn write(&self, room: &mut [u8; V4_OVERHEAD], inner_len: usize, source_port: u16, traffic_class: u8) {
        let udp_len = (inner_len + UDP_HEADER_LEN + VXLAN_HEADER_LEN) as u16;
        let ip_len = (inner_len + V4_OVERHEAD - HEADER_LEN) as u32;
        let first = IPV4_WITHOUT_OPTIONS + (u32::from(traffic_class) << 16) + ip_len;
        let checksum = !checksum::fold_word(self.sum + first);
        *room = self.bytes;
        room[HEADER_LEN..][..4].copy_from_slice(&first.to_be_bytes());
        room[IP_CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
        room[UDP..][..2].copy_from_slice(&source_port.to_be_bytes());
        room[UDP + 4..][..2].copy_from_slice(&udp_len.to_be_bytes());
    }
}

/// Offsets in the outer headers on an IPv4 underlay.
const IP_CHECKSUM: usize = HEADER_LEN + 10;
const UDP: usize = HEADER_LEN + IpHeader::V4_LEN;
/// The first word of an IPv4 header: version and header length.
const IPV4_WITHOUT_OPTIONS: u32 = 0x4500_0000;

/// What [`parse_outer`] found around an inner frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decap {
    /// The VTEP that sent it.
    pub source: IpAddr,
    /// The VTEP that it was sent to.
    pub destination: IpAddr,
    /// The network of the packet's path, one of its tenant's.
    pub vni: Vni,
    /// Outer DSCP.
    pub dscp: u8,
    /// Outer ECN, for [`ecn_at_decap`].
    pub ecn: Ecn,
    /// Where the inner Ethernet frame is, padding of the outer frame not included.
    pub inner: Range<usize>,
}

/// Reads a frame of the underlay. None if it is not VXLAN, that is not UDP to `udp_port`; an error if it is, or if nobody
/// can tell because its headers are broken.
///
/// Verified: the outer IPv4 checksum, the lengths, and the UDP checksum unless it is zero. A fragment is refused: VTEPs must
/// not fragment (RFC 7348 section 4.3).
#[inline]
pub fn parse_outer(frame: &[u8], udp_port: u16) -> Option<Result<Decap, DropReason>> {
    let outer = match headers::parse(frame) {
        Ok(outer) => outer,
        Err(DropReason::UnknownEtherType) => return None,
        // The underlay's own chatter, DHCP from 0.0.0.0 for one.
        Err(_) if neighbor::is_link_local(frame) => return None,
        Err(reason) => return Some(Err(reason)),
    };
    let is_vxlan = outer.transport() == protocol::UDP && outer.five_tuple.destination_port == udp_port;
    is_vxlan.then(|| decap(frame, &outer))
}

#[inline]
fn decap(frame: &[u8], outer: &Headers) -> Result<Decap, DropReason> {
    if outer.fragment != Fragment::Whole {
        return Err(DropReason::MalformedHeader);
    }
    let l4 = usize::from(outer.l4);
    let payload = frame.get(l4..usize::from(outer.end)).ok_or(DropReason::Truncated)?;
    let udp = payload.first_chunk::<UDP_HEADER_LEN>().ok_or(DropReason::Truncated)?;
    let udp_len = u16::from_be_bytes([udp[4], udp[5]]);
    let datagram = payload.get(..usize::from(udp_len)).ok_or(DropReason::MalformedHeader)?;
    let (source, destination) = (outer.five_tuple.source, outer.five_tuple.destination);
    if [udp[6], udp[7]] != [0, 0] {
        let sum = checksum::pseudo_header(source, destination, protocol::UDP, u32::from(udp_len));
        if sum.bytes(datagram).folded() != 0xffff {
            return Err(DropReason::MalformedHeader);
        }
    }
    let vxlan = datagram.get(UDP_HEADER_LEN..).ok_or(DropReason::Truncated)?;
    let vni = parse(vxlan)?;
    if vxlan.len() < VXLAN_HEADER_LEN + HEADER_LEN {
        return Err(DropReason::Truncated);
    }
    let inner = l4 + UDP_HEADER_LEN + VXLAN_HEADER_LEN..l4 + datagram.len();
    Ok(Decap { source, destination, vni, dscp: outer.dscp, ecn: headers::ecn(frame, outer), inner })
}

/// The outer source port of a flow's packets, in 49152..=65535 (RFC 7348 section 5), so that the underlay spreads flows over
/// its links and keeps each in order. The protocol takes no part: in IPv6 a later fragment may name an extension header.
#[inline]
pub fn entropy_port(five_tuple: &FiveTuple) -> u16 {
    let wide = |address: IpAddr| match address {
        IpAddr::V4(address) => u64::from(narrow(address)),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            mix((bits >> 64) as u64, bits as u64)
        }
    };
    let addresses = match (five_tuple.source, five_tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            u64::from(narrow(source)) | u64::from(narrow(destination)) << 32
        }
        (source, destination) => mix(wide(source), wide(destination)),
    };
    let ports =
        u32::from(five_tuple.source_port.swap_bytes()) | u32::from(five_tuple.destination_port.swap_bytes()) << 16;
    entropy(addresses, ports)
}

/// An IPv4 address as it stands in a frame, as [`Plain`] has it.
#[inline]
const fn narrow(address: Ipv4Addr) -> u32 {
    u32::from_le_bytes(address.octets())
}

/// [`entropy_port`] of a plain packet.
#[inline(always)]
pub const fn entropy_port_of_plain(plain: &Plain) -> u16 {
    entropy(plain.addresses, plain.ports)
}

/// The upper bits of the hash, in the order in which they are written without a swap.
#[inline(always)]
const fn entropy(addresses: u64, ports: u32) -> u16 {
    let [low, high] = ((mix(addresses, ports as u64) >> 48 | 0xc0) as u16).to_le_bytes();
    u16::from_be_bytes([low, high])
}

/// [`entropy_port`] of a packet: fragments, the first too, are hashed without their ports, which later ones lack.
#[inline]
pub fn entropy_port_of(headers: &Headers) -> u16 {
    let five_tuple = headers.five_tuple;
    match headers.fragment {
        Fragment::Whole => entropy_port(&five_tuple),
        _ => entropy_port(&FiveTuple { source_port: 0, destination_port: 0, ..five_tuple }),
    }
}

/// Two words into one whose upper bits depend on all of theirs (multiply and fold, the constants are odd and arbitrary).
#[inline]
const fn mix(a: u64, b: u64) -> u64 {
    let product = (a ^ 0x9e37_79b9_7f4a_7c15) as u128 * (b ^ 0xd1b5_4a32_d192_ed03) as u128;
    (product >> 64) as u64 ^ product as u64
}

/// Outer ECN from inner at the tunnel's entrance: normal mode copies it (RFC 6040 section 4.1).
#[inline]
pub const fn ecn_at_encap(inner: Ecn) -> Ecn {
    inner
}

/// Inner ECN at the tunnel's exit, or the packet's end (RFC 6040 section 4.2).
///
/// ```text
///  inner    | outer: Not-ECT   ECT(0)    ECT(1)    CE
/// ----------+-----------------------------------------
///  Not-ECT  |        Not-ECT   Not-ECT   Not-ECT   drop
///  ECT(0)   |        ECT(0)    ECT(0)    ECT(1)    CE
///  ECT(1)   |        ECT(1)    ECT(1)    ECT(1)    CE
///  CE       |        CE        CE        CE        CE
/// ```
#[inline]
pub const fn ecn_at_decap(outer: Ecn, inner: Ecn) -> Result<Ecn, DropReason> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(DropReason::EcnMismatch),
        (Ecn::NotEct, _) => Ok(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ok(Ecn::Ce),
        (Ecn::Ect1, _) | (_, Ecn::Ect1) => Ok(Ecn::Ect1),
        (Ecn::Ect0, _) => Ok(Ecn::Ect0),
    }
}

/// True if decapsulation leaves the inner packet's ECN as it is, by both traffic classes.
#[inline(always)]
pub const fn ecn_stays_at_decap(outer: u8, inner: u8) -> bool {
    ECN_STAYS >> ((outer & 0b11) << 2 | inner & 0b11) & 1 == 1
}

/// One bit for each pair, the outer one above.
const ECN_STAYS: u16 = {
    let (mut stays, mut pair) = (0, 0);
    while pair < 16 {
        let (outer, inner) = (Ecn::from_traffic_class(pair >> 2), Ecn::from_traffic_class(pair));
        if let Ok(ecn) = ecn_at_decap(outer, inner)
            && ecn as u8 == inner as u8
        {
            stays |= 1 << pair;
        }
        pair += 1;
    }
    stays
};

#[cfg(test)]
mod tests;
