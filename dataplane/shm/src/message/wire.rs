//! The bodies of messages: packed structures, little-endian, without padding, and their way to and from the checked types.
//!
//! Off the packet's path. Making a structure can't fail; reading one checks every field that has a range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{Direction, FiveTuple, FlowKey, PathId, Tag, Vni, VportId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use super::{DecodeError, TAG_COUNTERS};
use crate::rules::{Delivery, ExactAction, ExactRule, Next, Refusal, ReverseHead, TagAction, TagKey, TagRule};

/// An address: IPv4 in the first four octets.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Address {
    octets: [u8; 16],
    /// 4 or 6.
    family: u8,
}

impl Address {
    const NONE: Self = Self { octets: [0; 16], family: 0 };
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self { octets: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], family: 4 }
            }
            IpAddr::V6(address) => Self { octets: address.octets(), family: 6 },
        }
    }
}

impl TryFrom<Address> for IpAddr {
    type Error = DecodeError;
    fn try_from(address: Address) -> Result<Self, DecodeError> {
        match address.family {
            4 => {
                let [a, b, c, d, ..] = address.octets;
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            6 => Ok(Ipv6Addr::from(address.octets).into()),
            family => Err(DecodeError::Family(family)),
        }
    }
}

/// [`FlowKey`]: 45 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct KeyBody {
    source: Address,
    destination: Address,
    source_port: U16,
    destination_port: U16,
    vni: U32,
    vport: U16,
    protocol: u8,
}

impl From<&FlowKey> for KeyBody {
    fn from(key: &FlowKey) -> Self {
        Self {
            source: key.five_tuple.source.into(),
            destination: key.five_tuple.destination.into(),
            source_port: key.five_tuple.source_port.into(),
            destination_port: key.five_tuple.destination_port.into(),
            vni: key.vni.value().into(),
            vport: key.vport.0.into(),
            protocol: key.five_tuple.protocol,
        }
    }
}

impl TryFrom<KeyBody> for FlowKey {
    type Error = DecodeError;
    fn try_from(body: KeyBody) -> Result<Self, DecodeError> {
        let five_tuple = FiveTuple {
            source: body.source.try_into()?,
            destination: body.destination.try_into()?,
            source_port: body.source_port.get(),
            destination_port: body.destination_port.get(),
            protocol: body.protocol,
        };
        if five_tuple.source.is_ipv4() != five_tuple.destination.is_ipv4() {
            return Err(DecodeError::MixedFamilies);
        }
        Ok(Self { vport: VportId(body.vport.get()), vni: vni(body.vni)?, five_tuple })
    }
}

/// [`Next`]: 20 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct NextBody {
    /// 0 vport, 1 tunnel.
    kind: u8,
    vport: U16,
    /// The VTEP; nothing for a vport.
    vtep: Address,
}

impl NextBody {
    const NONE: Self = Self { kind: 0, vport: U16::ZERO, vtep: Address::NONE };
}

impl From<Next> for NextBody {
    fn from(next: Next) -> Self {
        match next {
            Next::Vport(vport) => Self { kind: 0, vport: vport.0.into(), vtep: Address::NONE },
            Next::Tunnel { vtep, next } => Self { kind: 1, vport: next.0.into(), vtep: vtep.into() },
        }
    }
}

impl TryFrom<NextBody> for Next {
    type Error = DecodeError;
    fn try_from(body: NextBody) -> Result<Self, DecodeError> {
        let vport = VportId(body.vport.get());
        match body.kind {
            0 => Ok(Self::Vport(vport)),
            1 => Ok(Self::Tunnel { vtep: body.vtep.try_into()?, next: vport }),
            kind => Err(DecodeError::Next(kind)),
        }
    }
}

/// [`Delivery`]: 29 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct DeliveryBody {
    /// 0 none, 1 learn, 2 refresh; what follows only means something when learning.
    kind: u8,
    next: NextBody,
    path: U32,
    path_mtu: U16,
    tag: u8,
    ends_here: u8,
}

impl From<Delivery> for DeliveryBody {
    fn from(delivery: Delivery) -> Self {
        let empty = Self { kind: 0, next: NextBody::NONE, path: U32::ZERO, path_mtu: U16::ZERO, tag: 0, ends_here: 0 };
        match delivery {
            Delivery::None => empty,
            Delivery::Refresh => Self { kind: 2, ..empty },
            Delivery::Learn(head) => Self {
                kind: 1,
                next: head.next.into(),
                path: head.path.0.into(),
                path_mtu: head.path_mtu.into(),
                tag: head.tag.dscp(),
                ends_here: u8::from(head.ends_here),
            },
        }
    }
}

impl TryFrom<DeliveryBody> for Delivery {
    type Error = DecodeError;
    fn try_from(body: DeliveryBody) -> Result<Self, DecodeError> {
        match body.kind {
            0 => Ok(Self::None),
            1 => Ok(Self::Learn(ReverseHead {
                tag: tag(body.tag)?,
                next: body.next.try_into()?,
                ends_here: truth(body.ends_here)?,
                path: PathId(body.path.get()),
                path_mtu: body.path_mtu.get(),
            })),
            2 => Ok(Self::Refresh),
            kind => Err(DecodeError::Delivery(kind)),
        }
    }
}

/// [`ExactRule`]: 106 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExactBody {
    key: KeyBody,
    next: NextBody,
    delivery: DeliveryBody,
    path: U32,
    vni: U32,
    path_mtu: U16,
    tag: u8,
    direction: u8,
}

impl From<&ExactRule> for ExactBody {
    fn from(rule: &ExactRule) -> Self {
        let action = rule.action;
        Self {
            key: (&rule.key).into(),
            next: action.next.into(),
            delivery: action.delivery.into(),
            path: action.path.0.into(),
            vni: action.vni.value().into(),
            path_mtu: action.path_mtu.into(),
            tag: action.tag.dscp(),
            direction: direction_byte(action.direction),
        }
    }
}

impl TryFrom<ExactBody> for ExactRule {
    type Error = DecodeError;
    fn try_from(body: ExactBody) -> Result<Self, DecodeError> {
        let action = ExactAction {
            vni: vni(body.vni)?,
            tag: tag(body.tag)?,
            direction: direction(body.direction)?,
            next: body.next.try_into()?,
            delivery: body.delivery.try_into()?,
            path: PathId(body.path.get()),
            path_mtu: body.path_mtu.get(),
        };
        Ok(Self { key: body.key.try_into()?, action })
    }
}

/// [`TagKey`]: 9 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TagKeyBody {
    prior: U16,
    segment: U16,
    vni: U32,
    tag: u8,
}

impl From<&TagKey> for TagKeyBody {
    fn from(key: &TagKey) -> Self {
        let (prior, segment) = (key.prior.0.into(), key.segment.0.into());
        Self { prior, segment, vni: key.vni.value().into(), tag: key.tag.dscp() }
    }
}

impl TryFrom<TagKeyBody> for TagKey {
    type Error = DecodeError;
    fn try_from(body: TagKeyBody) -> Result<Self, DecodeError> {
        let (prior, segment) = (VportId(body.prior.get()), VportId(body.segment.get()));
        Ok(Self { prior, segment, vni: vni(body.vni)?, tag: tag(body.tag)? })
    }
}

/// [`TagRule`]: 65 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TagBody {
    key: TagKeyBody,
    next: NextBody,
    delivery: DeliveryBody,
    path: U32,
    counter: U16,
    direction: u8,
}

impl From<&TagRule> for TagBody {
    fn from(rule: &TagRule) -> Self {
        Self {
            key: (&rule.key).into(),
            next: rule.action.next.into(),
            delivery: rule.action.delivery.into(),
            path: rule.action.path.0.into(),
            counter: rule.action.counter.into(),
            direction: direction_byte(rule.action.direction),
        }
    }
}

impl TryFrom<TagBody> for TagRule {
    type Error = DecodeError;
    fn try_from(body: TagBody) -> Result<Self, DecodeError> {
        let counter = body.counter.get();
        if usize::from(counter) >= TAG_COUNTERS {
            return Err(DecodeError::Counter(counter));
        }
        let action = TagAction {
            direction: direction(body.direction)?,
            next: body.next.try_into()?,
            delivery: body.delivery.try_into()?,
            path: PathId(body.path.get()),
            counter,
        };
        Ok(Self { key: body.key.try_into()?, action })
    }
}

/// An epoch.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct EpochBody {
    pub(super) epoch: U64,
}

/// The number of a read-back.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct NumberBody {
    pub(super) number: U32,
}

/// A vport.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct VportBody {
    pub(super) vport: U16,
}

/// A capture's start.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SnapBody {
    pub(super) vport: U16,
    pub(super) snap: U16,
}

/// A flow miss.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MissBody {
    pub(super) key: KeyBody,
    pub(super) received_ns: U64,
    pub(super) length: U16,
    pub(super) tcp_flags: u8,
}

/// A flow's end.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExpiredBody {
    pub(super) key: KeyBody,
    pub(super) path: U32,
    pub(super) packets: U64,
    pub(super) bytes: U64,
}

/// A flow that an NF rewrote: before and after, the second key at the same vport.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RewrittenBody {
    pub(super) before: KeyBody,
    pub(super) after: KeyBody,
}

/// A flow on two paths.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct AffinityBody {
    pub(super) key: KeyBody,
    pub(super) expected: U32,
    pub(super) found: U32,
}

/// A refused batch.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RefusedBody {
    pub(super) epoch: U64,
    pub(super) reason: u8,
}

/// An installed exact rule.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExactEventBody {
    pub(super) rule: ExactBody,
    pub(super) packets: U64,
    pub(super) bytes: U64,
    pub(super) idle_ms: U32,
    pub(super) learned: u8,
}

pub(super) const fn refusal_byte(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Malformed => 1,
        Refusal::BatchTooLarge => 2,
        Refusal::ExactTableFull => 3,
        Refusal::TagTableFull => 4,
        Refusal::NoSuchVport => 5,
    }
}

impl TryFrom<RefusedBody> for Refusal {
    type Error = DecodeError;
    fn try_from(body: RefusedBody) -> Result<Self, DecodeError> {
        match body.reason {
            1 => Ok(Self::Malformed),
            2 => Ok(Self::BatchTooLarge),
            3 => Ok(Self::ExactTableFull),
            4 => Ok(Self::TagTableFull),
            5 => Ok(Self::NoSuchVport),
            unknown => Err(DecodeError::Refusal(unknown)),
        }
    }
}

pub(super) const fn truth(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Bool(other)),
    }
}

const fn direction_byte(direction: Direction) -> u8 {
    match direction {
        Direction::Forward => 0,
        Direction::Reverse => 1,
    }
}

const fn direction(byte: u8) -> Result<Direction, DecodeError> {
    match byte {
        0 => Ok(Direction::Forward),
        1 => Ok(Direction::Reverse),
        other => Err(DecodeError::Direction(other)),
    }
}

fn tag(byte: u8) -> Result<Tag, DecodeError> {
    Tag::new(byte).map_err(|_| DecodeError::Tag(byte))
}

fn vni(value: U32) -> Result<Vni, DecodeError> {
    Vni::new(value.get()).map_err(|_| DecodeError::Vni(value.get()))
}
