//! The small words: [`Tag`], [`Vni`], [`VportId`], [`PathId`], [`Direction`], [`MacAddr`].
//!
//! Each is a distinct type, checked where it is made, so that a tag can't be passed for a VNI or a value can't be out of
//! range further in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value that is out of its type's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Tags are the 6 bits of the DSCP field, and 0 marks an untagged packet.
    #[error("tag {0} is outside 1..=63 (the six DSCP bits, 0 meaning untagged)")]
    Tag(u8),
    /// VNIs have 24 bits (RFC 7348 section 5).
    #[error("VNI {0} is outside 0..=16777215 (24 bits)")]
    Vni(u32),
}

/// The value in the six DSCP bits that names an instance path and a direction: 1..=63.
///
/// Zero is the default DSCP of the world outside and never names a path. Between hosts that use service headers, the tag is in the
/// path identifier of those ([`crate::nsh`]) and the DSCP bits are the sender's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Tag(u8);

impl Tag {
    /// How many tags there are: 1..=63.
    pub const COUNT: usize = 63;
    /// The least one.
    pub const FIRST: Self = Self(1);

    /// The tag of this value, if it is in 1..=63.
    pub const fn new(value: u8) -> Result<Self, NameError> {
        if value >= 1 && value <= 63 { Ok(Self(value)) } else { Err(NameError::Tag(value)) }
    }

    /// The six bits, 1..=63.
    pub const fn dscp(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Tag {
    type Error = NameError;
    fn try_from(value: u8) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl From<Tag> for u8 {
    fn from(tag: Tag) -> u8 {
        tag.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A VXLAN network identifier: 24 bits; a tenant owns one or more, of which the first is its primary one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The network of number 0.
    pub const ZERO: Self = Self(0);

    /// The VNI of this value, if it fits in 24 bits.
    pub const fn new(value: u32) -> Result<Self, NameError> {
        if value < 1 << 24 { Ok(Self(value)) } else { Err(NameError::Vni(value)) }
    }

    /// The 24 bits.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = NameError;
    fn try_from(value: u32) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An attachment in a host's forwarding graph: the tunnel (always 0), an endpoint, or an NF instance.
///
/// Numbers are given by the composition and mean something only together with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VportId(pub u16);

impl VportId {
    /// The tunnel to the other hosts, the same number everywhere.
    pub const TUNNEL: Self = Self(0);
}

impl fmt::Display for VportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of an instance path, unique over the whole composition; rules carry it so that a flow can say where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathId(pub u32);

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which way a packet travels along its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// As the chain runs: from its source endpoint to its destination endpoint.
    Forward,
    /// As replies run.
    Reverse,
}

/// The two ECN bits (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// 00: the transport does not understand ECN.
    NotEct = 0b00,
    /// 01: ECN-capable, ECT(1).
    Ect1 = 0b01,
    /// 10: ECN-capable, ECT(0).
    Ect0 = 0b10,
    /// 11: congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The code point in the two low bits of a traffic-class byte; the upper six are not looked at.
    pub const fn from_traffic_class(byte: u8) -> Self {
        match byte & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// A 48-bit Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The locally administered address that names a vport inside Towpath: `02:74:70:00:vv:vv`.
    ///
    /// Between hosts the inner destination address says with it which element of the path is next, which keeps a path that
    /// enters the same host twice unambiguous.
    pub const fn of_vport(vport: VportId) -> Self {
        let [high, low] = vport.0.to_be_bytes();
        Self([0x02, 0x74, 0x70, 0x00, high, low])
    }

    /// The vport that this address names, if it is one of [`Self::of_vport`].
    pub const fn vport(self) -> Option<VportId> {
        match self.0 {
            [0x02, 0x74, 0x70, 0x00, high, low] => Some(VportId(u16::from_be_bytes([high, low]))),
            _ => None,
        }
    }

    /// True for group addresses, broadcast among them.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_never_zero_nor_wider_than_six_bits() {
        assert_eq!(Tag::new(0), Err(NameError::Tag(0)));
        assert_eq!(Tag::new(64), Err(NameError::Tag(64)));
        assert_eq!((1..=63).filter(|&value| Tag::new(value).is_ok()).count(), Tag::COUNT);
    }

    #[test]
    fn a_vni_has_24_bits() {
        assert_eq!(Vni::new((1 << 24) - 1).map(Vni::value), Ok((1 << 24) - 1));
        assert_eq!(Vni::new(1 << 24), Err(NameError::Vni(1 << 24)));
    }

    #[test]
    fn a_vport_is_read_back_from_its_address_and_from_no_other() {
        for id in [0, 1, 255, 256, u16::MAX] {
            assert_eq!(MacAddr::of_vport(VportId(id)).vport(), Some(VportId(id)));
        }
        assert_eq!(MacAddr::BROADCAST.vport(), None);
        assert_eq!(MacAddr([0x02, 0x74, 0x71, 0, 0, 1]).vport(), None);
    }
}
