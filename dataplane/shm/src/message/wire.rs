//! The bodies of messages: packed structures, little-endian, without padding, and their way to and from the checked types.
//!
//! Off the packet's path. Making a structure can't fail; reading one checks every field that has a range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{Direction, FiveTuple, FlowKey, PathId, Tag, Vni, VportId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{DecodeError, TAG_COUNTERS};
use crate::rules::{Delivery, ExactAction, ExactRule, Next, Refusal, ReverseHead, TagAction, TagKey, TagRule};

/// An address: IPv4 in the first four octets.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&Address> for IpAddr {
    type Error = DecodeError;
    #[inline]
    fn try_from(address: &Address) -> Result<Self, DecodeError> {
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

/// Both addresses of a flow.
#[inline]
fn pair(source: &Address, destination: &Address) -> Result<(IpAddr, IpAddr), DecodeError> {
    let v4 = |address: &Address| {
        let [a, b, c, d, ..] = address.octets;
        IpAddr::from([a, b, c, d])
    };
    if source.family == 4 && destination.family == 4 {
        Ok((v4(source), v4(destination)))
    } else {
        wide(source, destination)
    }
}

#[cold]
fn wide(source: &Address, destination: &Address) -> Result<(IpAddr, IpAddr), DecodeError> {
    let pair = (source.try_into()?, destination.try_into()?);
    if source.family == destination.family { Ok(pair) } else { Err(DecodeError::MixedFamilies) }
}

/// [`FlowKey`]: 45 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&KeyBody> for FlowKey {
    type Error = DecodeError;
    #[inline]
    fn try_from(body: &KeyBody) -> Result<Self, DecodeError> {
        let (source, destination) = pair(&body.source, &body.destination)?;
        let (source_port, destination_port) = (body.source_port.get(), body.destination_port.get());
        let five_tuple = FiveTuple { source, destination, source_port, destination_port, protocol: body.protocol };
        Ok(Self { vport: VportId(body.vport.get()), vni: vni(body.vni)?, five_tuple })
    }
}

/// [`Next`]: 20 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&NextBody> for Next {
    type Error = DecodeError;
    fn try_from(body: &NextBody) -> Result<Self, DecodeError> {
        next(body.kind, body.vport, || (&body.vtep).try_into())
    }
}

/// [`Delivery`]: 29 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&DeliveryBody> for Delivery {
    type Error = DecodeError;
    fn try_from(body: &DeliveryBody) -> Result<Self, DecodeError> {
        match body.kind {
            0 => Ok(Self::None),
            1 => Ok(Self::Learn(ReverseHead {
                tag: tag(body.tag)?,
                next: (&body.next).try_into()?,
                ends_here: truth(body.ends_here)?,
                path: PathId(body.path.get()),
                path_mtu: body.path_mtu.get(),
            })),
            2 => Ok(Self::Refresh),
            kind => Err(DecodeError::Delivery(kind)),
        }
    }
}

/// [`ExactRule`]: 58 bytes, so that with IPv4 addresses alone it takes one cache line, and 48 for the rest of IPv6 ones.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExactBody {
    protocol: u8,
    /// 4 or 6, where there is an address: the first word of a slot tells how much of it is in use.
    families: Families,
    tag: u8,
    direction: u8,
    source: [u8; 4],
    destination: [u8; 4],
    source_port: U16,
    destination_port: U16,
    key_vni: U32,
    vport: U16,
    path_mtu: U16,
    path: U32,
    vni: U32,
    /// 0 vport, 1 tunnel.
    next_kind: u8,
    /// 0 none, 1 learn, 2 refresh; the fields of `learn` only mean something when learning.
    delivery: u8,
    next_vport: U16,
    vtep: [u8; 4],
    learn_path: U32,
    learn_vtep: [u8; 4],
    learn_vport: U16,
    learn_mtu: U16,
    learn_kind: u8,
    learn_tag: u8,
    learn_ends_here: u8,
    rest: Rest,
}

/// The address families of a rule.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Families {
    source: u8,
    destination: u8,
    vtep: u8,
    learn_vtep: u8,
}

/// The last twelve octets of a rule's IPv6 addresses.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Rest {
    source: [u8; 12],
    destination: [u8; 12],
    vtep: [u8; 12],
    learn_vtep: [u8; 12],
}

impl ExactBody {
    /// Words of a slot with IPv4 addresses alone.
    pub(super) const NARROW_WORDS: usize = (1 + size_of::<Self>() - size_of::<Rest>()).div_ceil(8);

    /// True if a slot's first word says that no address is of IPv6.
    #[inline]
    pub(super) fn is_narrow(first_word: u64) -> bool {
        // Of the families that there are, 6 has this bit and 4 has not.
        const WIDE: [u8; 8] = [0, 0, 2, 2, 2, 2, 0, 0];
        first_word & u64::from_ne_bytes(WIDE) == 0
    }
}

/// Words of a slot that say the action of a rule with IPv4 addresses alone.
pub(super) const ACTION_WORDS: usize = 6;
/// Which ones these are, and their bits that do not say which flow.
pub(super) const ACTION: [(usize, u64); ACTION_WORDS] = [
    (0, u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])),
    (3, u64::from_ne_bytes([0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
    (4, u64::MAX),
    (5, u64::MAX),
    (6, u64::MAX),
    (7, u64::from_ne_bytes([0xff, 0xff, 0xff, 0, 0, 0, 0, 0])),
];

const _: () = assert!(ExactBody::NARROW_WORDS == 8 && size_of::<ExactBody>() == 106);
const _: () = assert!(1 + std::mem::offset_of!(ExactBody, families) == 2);

/// An address in two parts, and its family.
type Parts = ([u8; 4], [u8; 12], u8);

#[inline]
const fn parts(address: IpAddr) -> Parts {
    match address {
        IpAddr::V4(address) => (address.octets(), [0; 12], 4),
        IpAddr::V6(address) => {
            let [a, b, c, d, rest @ ..] = address.octets();
            ([a, b, c, d], rest, 6)
        }
    }
}

const NO_PARTS: Parts = ([0; 4], [0; 12], 0);

#[inline]
fn address((head, rest, family): (&[u8; 4], &[u8; 12], u8)) -> Result<IpAddr, DecodeError> {
    match family {
        4 => Ok(Ipv4Addr::from(*head).into()),
        6 => Ok(whole(head, rest)),
        family => Err(DecodeError::Family(family)),
    }
}

#[cold]
fn whole(head: &[u8; 4], rest: &[u8; 12]) -> IpAddr {
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(head);
    octets[4..].copy_from_slice(rest);
    Ipv6Addr::from(octets).into()
}

const fn next_parts(next: Next) -> (u8, VportId, Parts) {
    match next {
        Next::Vport(vport) => (0, vport, NO_PARTS),
        Next::Tunnel { vtep, next } => (1, next, parts(vtep)),
    }
}

impl From<&ExactRule> for ExactBody {
    #[inline]
    fn from(rule: &ExactRule) -> Self {
        let ExactRule { key: FlowKey { vport, vni, five_tuple }, action } = rule;
        let (source, destination) = (parts(five_tuple.source), parts(five_tuple.destination));
        let (next_kind, next_vport, vtep) = next_parts(action.next);
        let learn = if let Delivery::Learn(head) = &action.delivery { Some(head) } else { None };
        let (learn_kind, learn_vport, learn_vtep) =
            learn.map_or((0, VportId(0), NO_PARTS), |head| next_parts(head.next));
        Self {
            protocol: five_tuple.protocol,
            tag: action.tag.dscp(),
            direction: direction_byte(action.direction),
            families: Families { source: source.2, destination: destination.2, vtep: vtep.2, learn_vtep: learn_vtep.2 },
            source: source.0,
            destination: destination.0,
            source_port: five_tuple.source_port.into(),
            destination_port: five_tuple.destination_port.into(),
            key_vni: vni.value().into(),
            vport: vport.0.into(),
            path_mtu: action.path_mtu.into(),
            path: action.path.0.into(),
            vni: action.vni.value().into(),
            next_kind,
            delivery: delivery_byte(&action.delivery),
            next_vport: next_vport.0.into(),
            vtep: vtep.0,
            learn_path: learn.map_or(0, |head| head.path.0).into(),
            learn_vtep: learn_vtep.0,
            learn_vport: learn_vport.0.into(),
            learn_mtu: learn.map_or(0, |head| head.path_mtu).into(),
            learn_kind,
            learn_tag: learn.map_or(0, |head| head.tag.dscp()),
            learn_ends_here: learn.map_or(0, |head| u8::from(head.ends_here)),
            rest: Rest { source: source.1, destination: destination.1, vtep: vtep.1, learn_vtep: learn_vtep.1 },
        }
    }
}

impl TryFrom<&ExactBody> for ExactRule {
    type Error = DecodeError;
    fn try_from(body: &ExactBody) -> Result<Self, DecodeError> {
        Ok(Self { key: body.key()?, action: body.action()? })
    }
}

impl ExactBody {
    #[inline]
    pub(super) fn key(&self) -> Result<FlowKey, DecodeError> {
        let Self { families, source_port, destination_port, protocol, .. } = self;
        let (source, destination) = if families.source == 4 && families.destination == 4 {
            (Ipv4Addr::from(self.source).into(), Ipv4Addr::from(self.destination).into())
        } else {
            self.wide()?
        };
        let (source_port, destination_port) = (source_port.get(), destination_port.get());
        let five_tuple = FiveTuple { source, destination, source_port, destination_port, protocol: *protocol };
        Ok(FlowKey { vport: VportId(self.vport.get()), vni: vni(self.key_vni)?, five_tuple })
    }

    #[cold]
    fn wide(&self) -> Result<(IpAddr, IpAddr), DecodeError> {
        let Self { families, rest, .. } = self;
        let source = address((&self.source, &rest.source, families.source))?;
        let destination = address((&self.destination, &rest.destination, families.destination))?;
        if families.source == families.destination {
            Ok((source, destination))
        } else {
            Err(DecodeError::MixedFamilies)
        }
    }

    pub(super) fn action(&self) -> Result<ExactAction, DecodeError> {
        let vtep = || address((&self.vtep, &self.rest.vtep, self.families.vtep));
        Ok(ExactAction {
            vni: vni(self.vni)?,
            tag: tag(self.tag)?,
            direction: direction(self.direction)?,
            next: next(self.next_kind, self.next_vport, vtep)?,
            delivery: match self.delivery {
                0 => Delivery::None,
                1 => Delivery::Learn(self.reverse_head()?),
                2 => Delivery::Refresh,
                kind => return Err(DecodeError::Delivery(kind)),
            },
            path: PathId(self.path.get()),
            path_mtu: self.path_mtu.get(),
        })
    }

    fn reverse_head(&self) -> Result<ReverseHead, DecodeError> {
        let vtep = || address((&self.learn_vtep, &self.rest.learn_vtep, self.families.learn_vtep));
        Ok(ReverseHead {
            tag: tag(self.learn_tag)?,
            next: next(self.learn_kind, self.learn_vport, vtep)?,
            ends_here: truth(self.learn_ends_here)?,
            path: PathId(self.learn_path.get()),
            path_mtu: self.learn_mtu.get(),
        })
    }
}

const fn delivery_byte(delivery: &Delivery) -> u8 {
    match delivery {
        Delivery::None => 0,
        Delivery::Learn(_) => 1,
        Delivery::Refresh => 2,
    }
}

/// [`TagKey`]: 9 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&TagKeyBody> for TagKey {
    type Error = DecodeError;
    fn try_from(body: &TagKeyBody) -> Result<Self, DecodeError> {
        let (prior, segment) = (VportId(body.prior.get()), VportId(body.segment.get()));
        Ok(Self { prior, segment, vni: vni(body.vni)?, tag: tag(body.tag)? })
    }
}

/// [`TagRule`]: 65 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&TagBody> for TagRule {
    type Error = DecodeError;
    fn try_from(body: &TagBody) -> Result<Self, DecodeError> {
        let counter = body.counter.get();
        if usize::from(counter) >= TAG_COUNTERS {
            return Err(DecodeError::Counter(counter));
        }
        let action = TagAction {
            direction: direction(body.direction)?,
            next: (&body.next).try_into()?,
            delivery: (&body.delivery).try_into()?,
            path: PathId(body.path.get()),
            counter,
        };
        Ok(Self { key: (&body.key).try_into()?, action })
    }
}

/// An epoch, in a word of its own.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EpochBody {
    pub(super) unused: [u8; 7],
    pub(super) epoch: U64,
}

/// The number of a read-back.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NumberBody {
    pub(super) number: U32,
}

/// A vport.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct VportBody {
    pub(super) vport: U16,
}

/// A capture's start.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SnapBody {
    pub(super) vport: U16,
    pub(super) snap: U16,
}

/// A flow miss.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MissBody {
    pub(super) key: KeyBody,
    pub(super) received_ns: U64,
    pub(super) length: U16,
    pub(super) tcp_flags: u8,
}

/// A flow's end.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExpiredBody {
    pub(super) key: KeyBody,
    pub(super) path: U32,
    pub(super) packets: U64,
    pub(super) bytes: U64,
}

/// A flow that an NF rewrote: before and after, the second key at the same vport.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RewrittenBody {
    pub(super) before: KeyBody,
    pub(super) after: KeyBody,
}

/// A flow on two paths.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AffinityBody {
    pub(super) key: KeyBody,
    pub(super) expected: U32,
    pub(super) found: U32,
}

/// A refused batch.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RefusedBody {
    pub(super) epoch: U64,
    pub(super) reason: u8,
}

/// An installed exact rule.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

impl TryFrom<&RefusedBody> for Refusal {
    type Error = DecodeError;
    fn try_from(body: &RefusedBody) -> Result<Self, DecodeError> {
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

/// A next hop; `vtep` is asked for only where there is one.
#[inline]
fn next(kind: u8, vport: U16, vtep: impl FnOnce() -> Result<IpAddr, DecodeError>) -> Result<Next, DecodeError> {
    let vport = VportId(vport.get());
    match kind {
        0 => Ok(Next::Vport(vport)),
        1 => Ok(Next::Tunnel { vtep: vtep()?, next: vport }),
        kind => Err(DecodeError::Next(kind)),
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

#[inline]
fn tag(byte: u8) -> Result<Tag, DecodeError> {
    Tag::new(byte).map_err(|_| DecodeError::Tag(byte))
}

#[inline]
fn vni(value: U32) -> Result<Vni, DecodeError> {
    Vni::new(value.get()).map_err(|_| DecodeError::Vni(value.get()))
}
