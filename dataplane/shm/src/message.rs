//! How [`Update`] and [`Event`] look in a ring: 128 bytes each, the first of which says the kind.
//!
//! Off the packet's path, between controller and lcore.
//!
//! ```text
//!  byte 0     kind
//!  byte 1..   the body of that kind (`wire`), packed, integers little-endian; the rest is neither written nor looked at
//!
//!  kind  update        body                      kind  event         body
//!  0x01  InsertExact   rule 58, or 106 (IPv6)    0x81  FlowMiss      key 45, received_ns 8, length 2, tcp_flags 1
//!  0x02  RemoveExact   key 45                    0x82  FlowExpired   key 45, path 4, packets 8, bytes 8
//!  0x03  RejectFlow    key 45                    0x83  Committed     7 unused, epoch 8
//!  0x04  InsertTag     key 9, action 56          0x84  Refused       epoch 8, reason 1
//!  0x05  RemoveTag     key 9                     0x85  Exact         rule 106, packets 8, bytes 8,
//!  0x06  Commit        7 unused, epoch 8                             idle_ms 4, learned 1
//!  0x07  ReadBack      number 4                  0x86  TagInstalled  key 9, action 56
//!  0x08  StartCapture  vport 2, snap 2           0x87  ReadBackDone  number 4
//!  0x09  StopCapture   vport 2                   0x88  NfFailed      vport 2
//!                                               0x89  FlowRewritten      key 45, key 45
//!                                               0x8a  AffinityViolation  key 45, expected 4, found 4
//! ```
//!
//! Kind 0 is a slot that was never written. The two ranges are apart, so that an event in an update ring is refused.
//!
//! Invariant: `decode(encode(x)) == x` for every `x` whose flow key has one address family and whose counter is below
//! [`TAG_COUNTERS`]; other `x` encode to what `decode` refuses. `decode` takes any bytes and never panics.
//!
//! Errors: [`DecodeError`].

mod wire;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::rules::{Epoch, Event, ExactAction, ExactRule, Refusal, TagRule, Update};
use packet::{FlowKey, PathId, VportId};

use wire::{
    AffinityBody, EpochBody, ExactBody, ExactEventBody, ExpiredBody, KeyBody, MissBody, NumberBody, RefusedBody,
    RewrittenBody, SnapBody, TagBody, TagKeyBody, VportBody,
};

/// Words of a slot.
pub const SLOT_WORDS: usize = 16;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 128;
/// Counters that tag rules of a lcore can name.
pub const TAG_COUNTERS: usize = 1024;

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No such kind in this direction.
    #[error("message kind {0:#04x} is unknown in this direction")]
    UnknownKind(u8),
    /// An address family that is neither 4 nor 6.
    #[error("address family {0} is neither 4 nor 6")]
    Family(u8),
    /// Source and destination of different families.
    #[error("source and destination of a flow are of different address families")]
    MixedFamilies,
    /// A tag outside 1..=63.
    #[error("tag {0} is outside 1..=63")]
    Tag(u8),
    /// A VNI of more than 24 bits.
    #[error("VNI {0} is outside 0..=16777215")]
    Vni(u32),
    /// A direction that is neither 0 nor 1.
    #[error("direction {0} is neither 0 (forward) nor 1 (reverse)")]
    Direction(u8),
    /// A next hop that is neither 0 nor 1.
    #[error("next hop kind {0} is neither 0 (vport) nor 1 (tunnel)")]
    Next(u8),
    /// A delivery outside 0..=2.
    #[error("delivery {0} is outside 0..=2")]
    Delivery(u8),
    /// A truth value that is neither 0 nor 1.
    #[error("truth value {0} is neither 0 nor 1")]
    Bool(u8),
    /// A counter that is not there.
    #[error("tag counter {0} is outside 0..1024")]
    Counter(u16),
    /// An unknown reason of a refusal.
    #[error("refusal {0} is unknown")]
    Refusal(u8),
    /// A capture record that claims more bytes than it holds, or than the packet had.
    #[error("capture record claims {captured} bytes of a packet of {original}")]
    CaptureLength {
        /// Bytes said to be there.
        captured: u32,
        /// Bytes that the packet is said to have had.
        original: u32,
    },
    /// A capture side that is neither 0 nor 1.
    #[error("capture side {0} is neither 0 (in) nor 1 (out)")]
    CaptureSide(u8),
}

/// A private copy of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot([u64; SLOT_WORDS]);

impl Slot {
    /// All zeros: no message.
    pub const ZERO: Self = Self([0; SLOT_WORDS]);

    /// As words.
    pub fn words(&self) -> &[u64; SLOT_WORDS] {
        &self.0
    }

    /// As words to be written.
    pub fn words_mut(&mut self) -> &mut [u64; SLOT_WORDS] {
        &mut self.0
    }

    /// The first byte.
    fn kind(&self) -> u8 {
        let [kind, ..] = self.0[0].to_ne_bytes();
        kind
    }

    /// Words that a message of this slot's kind takes, which the first word tells. Most messages take one cache line.
    fn words_of_kind(&self) -> usize {
        const fn words<B>() -> usize {
            (1 + size_of::<B>()).div_ceil(8)
        }
        match self.kind() {
            kind::INSERT_EXACT if ExactBody::is_narrow(self.0[0]) => ExactBody::NARROW_WORDS,
            kind::INSERT_EXACT => words::<ExactBody>(),
            kind::REMOVE_EXACT | kind::REJECT_FLOW => words::<KeyBody>(),
            kind::COMMIT | kind::COMMITTED => words::<EpochBody>(),
            kind::FLOW_MISS => words::<MissBody>(),
            kind::FLOW_EXPIRED => words::<ExpiredBody>(),
            _ => SLOT_WORDS,
        }
    }

    /// What follows the first byte.
    #[inline]
    fn body<B: FromBytes + Immutable + KnownLayout + Unaligned>(&self) -> &B {
        const { assert!(size_of::<B>() < SLOT_BYTES, "the body does not fit behind the kind") };
        let Self(words) = self;
        match B::ref_from_prefix(&words.as_bytes()[1..]) {
            Ok((body, _)) => body,
            Err(_) => unreachable!("it fits, see the assertion"),
        }
    }

    fn put<B: IntoBytes + Immutable>(&mut self, kind: u8, body: B) {
        const { assert!(size_of::<B>() < SLOT_BYTES, "the body does not fit behind the kind") };
        if let Some((first, rest)) = self.as_mut_bytes().split_first_mut() {
            *first = kind;
            // It fits, see the assertion.
            let _ = body.write_to_prefix(rest);
        }
    }
}

/// The action of an exact rule as it came, unchecked: those of equal words are equal actions, so that each need be read only once.
#[derive(Debug, Clone, Copy)]
pub struct PackedAction([u64; wire::ACTION_WORDS]);

impl PackedAction {
    /// None: no tag is 0.
    pub const NONE: Self = Self([0; wire::ACTION_WORDS]);

    #[inline]
    fn of(slot: &Slot) -> Self {
        Self(wire::ACTION.map(|(word, bits)| slot.0[word] & bits))
    }

    /// Reads it.
    pub fn unpack(&self) -> Result<ExactAction, DecodeError> {
        let mut slot = Slot::ZERO;
        for (&(word, _), &value) in wire::ACTION.iter().zip(&self.0) {
            slot.0[word] = value;
        }
        slot.body::<ExactBody>().action()
    }

    /// Eight bits in which different actions differ as a rule.
    #[inline]
    pub fn spread(&self) -> u8 {
        let mixed = self.0.iter().fold(0, |mixed, word| mixed ^ word);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

impl PartialEq for PackedAction {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
    }
}

impl Eq for PackedAction {}

/// An update as a lcore takes it: [`Update`], but for the action of most exact rules, which is not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// [`Update::InsertExact`], where all addresses are of IPv4.
    InsertExact(FlowKey, PackedAction),
    /// [`Update::RemoveExact`].
    RemoveExact(FlowKey),
    /// [`Update::Commit`].
    Commit(Epoch),
    /// Any other.
    Update(Update),
}

impl Incoming {
    /// Reads a slot that anybody may have written, but for a packed action.
    #[inline(always)]
    pub fn read(slot: &Slot) -> Result<Self, DecodeError> {
        match slot.kind() {
            kind::INSERT_EXACT if ExactBody::is_narrow(slot.0[0]) => {
                Ok(Self::InsertExact(slot.body::<ExactBody>().key()?, PackedAction::of(slot)))
            }
            kind::REMOVE_EXACT => Ok(Self::RemoveExact(slot.body::<KeyBody>().try_into()?)),
            kind::COMMIT => Ok(Self::Commit(Epoch(slot.body::<EpochBody>().epoch.get()))),
            _ => Ok(Self::Update(Update::decode(slot)?)),
        }
    }
}

/// What a ring carries.
pub trait Message: Sized {
    /// Words of the slot that any message uses, from the first on; the ring copies the cache lines with them and no others.
    const WORDS: usize = SLOT_WORDS;

    /// The words of a slot that a message takes, by its first word; at most [`Self::WORDS`].
    fn words_used(_slot: &Slot) -> usize {
        Self::WORDS
    }

    /// Writes the message into a slot of zeros.
    fn encode(&self, slot: &mut Slot);

    /// Reads a slot that anybody may have written.
    fn decode(slot: &Slot) -> Result<Self, DecodeError>;
}

mod kind {
    pub const INSERT_EXACT: u8 = 0x01;
    pub const REMOVE_EXACT: u8 = 0x02;
    pub const REJECT_FLOW: u8 = 0x03;
    pub const INSERT_TAG: u8 = 0x04;
    pub const REMOVE_TAG: u8 = 0x05;
    pub const COMMIT: u8 = 0x06;
    pub const READ_BACK: u8 = 0x07;
    pub const START_CAPTURE: u8 = 0x08;
    pub const STOP_CAPTURE: u8 = 0x09;

    pub const FLOW_MISS: u8 = 0x81;
    pub const FLOW_EXPIRED: u8 = 0x82;
    pub const COMMITTED: u8 = 0x83;
    pub const REFUSED: u8 = 0x84;
    pub const EXACT: u8 = 0x85;
    pub const TAG_INSTALLED: u8 = 0x86;
    pub const READ_BACK_DONE: u8 = 0x87;
    pub const NF_FAILED: u8 = 0x88;
    pub const FLOW_REWRITTEN: u8 = 0x89;
    pub const AFFINITY_VIOLATION: u8 = 0x8a;
}

impl Message for Update {
    fn words_used(slot: &Slot) -> usize {
        slot.words_of_kind()
    }

    fn encode(&self, slot: &mut Slot) {
        match self {
            Self::InsertExact(rule) => slot.put(kind::INSERT_EXACT, ExactBody::from(rule)),
            Self::RemoveExact(key) => slot.put(kind::REMOVE_EXACT, KeyBody::from(key)),
            Self::RejectFlow(key) => slot.put(kind::REJECT_FLOW, KeyBody::from(key)),
            Self::InsertTag(rule) => slot.put(kind::INSERT_TAG, TagBody::from(rule)),
            Self::RemoveTag(key) => slot.put(kind::REMOVE_TAG, TagKeyBody::from(key)),
            Self::Commit(epoch) => slot.put(kind::COMMIT, EpochBody { unused: [0; 7], epoch: epoch.0.into() }),
            Self::ReadBack(number) => slot.put(kind::READ_BACK, NumberBody { number: (*number).into() }),
            Self::StartCapture { vport, snap } => {
                slot.put(kind::START_CAPTURE, SnapBody { vport: vport.0.into(), snap: (*snap).into() });
            }
            Self::StopCapture(vport) => slot.put(kind::STOP_CAPTURE, VportBody { vport: vport.0.into() }),
        }
    }

    fn decode(slot: &Slot) -> Result<Self, DecodeError> {
        Ok(match slot.kind() {
            kind::INSERT_EXACT => Self::InsertExact(ExactRule::try_from(slot.body::<ExactBody>())?),
            kind::REMOVE_EXACT => Self::RemoveExact(slot.body::<KeyBody>().try_into()?),
            kind::REJECT_FLOW => Self::RejectFlow(slot.body::<KeyBody>().try_into()?),
            kind::INSERT_TAG => Self::InsertTag(TagRule::try_from(slot.body::<TagBody>())?),
            kind::REMOVE_TAG => Self::RemoveTag(slot.body::<TagKeyBody>().try_into()?),
            kind::COMMIT => Self::Commit(Epoch(slot.body::<EpochBody>().epoch.get())),
            kind::READ_BACK => Self::ReadBack(slot.body::<NumberBody>().number.get()),
            kind::START_CAPTURE => {
                let body: &SnapBody = slot.body();
                Self::StartCapture { vport: VportId(body.vport.get()), snap: body.snap.get() }
            }
            kind::STOP_CAPTURE => Self::StopCapture(VportId(slot.body::<VportBody>().vport.get())),
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        })
    }
}

impl Message for Event {
    fn words_used(slot: &Slot) -> usize {
        slot.words_of_kind()
    }

    fn encode(&self, slot: &mut Slot) {
        match self {
            Self::FlowMiss { key, tcp_flags, length, received_ns } => {
                let (length, received_ns) = ((*length).into(), (*received_ns).into());
                let body = MissBody { key: key.into(), received_ns, length, tcp_flags: *tcp_flags };
                slot.put(kind::FLOW_MISS, body);
            }
            Self::FlowExpired { key, path, packets, bytes } => {
                let (packets, bytes) = ((*packets).into(), (*bytes).into());
                slot.put(kind::FLOW_EXPIRED, ExpiredBody { key: key.into(), path: path.0.into(), packets, bytes });
            }
            Self::Committed(epoch) => slot.put(kind::COMMITTED, EpochBody { unused: [0; 7], epoch: epoch.0.into() }),
            Self::Refused { epoch, reason } => {
                slot.put(kind::REFUSED, RefusedBody { epoch: epoch.0.into(), reason: wire::refusal_byte(*reason) });
            }
            Self::Exact { rule, learned, packets, bytes, idle_ms } => {
                let body = ExactEventBody {
                    rule: rule.into(),
                    packets: (*packets).into(),
                    bytes: (*bytes).into(),
                    idle_ms: (*idle_ms).into(),
                    learned: u8::from(*learned),
                };
                slot.put(kind::EXACT, body);
            }
            Self::TagInstalled(rule) => slot.put(kind::TAG_INSTALLED, TagBody::from(rule)),
            Self::ReadBackDone(number) => slot.put(kind::READ_BACK_DONE, NumberBody { number: (*number).into() }),
            Self::NfFailed(vport) => slot.put(kind::NF_FAILED, VportBody { vport: vport.0.into() }),
            Self::FlowRewritten { key, became } => {
                let after = FlowKey { five_tuple: *became, ..*key };
                slot.put(kind::FLOW_REWRITTEN, RewrittenBody { before: key.into(), after: (&after).into() });
            }
            Self::AffinityViolation { key, expected, found } => {
                let (expected, found) = (expected.0.into(), found.0.into());
                slot.put(kind::AFFINITY_VIOLATION, AffinityBody { key: key.into(), expected, found });
            }
        }
    }

    fn decode(slot: &Slot) -> Result<Self, DecodeError> {
        Ok(match slot.kind() {
            kind::FLOW_MISS => {
                let body: &MissBody = slot.body();
                let (length, received_ns) = (body.length.get(), body.received_ns.get());
                Self::FlowMiss { key: (&body.key).try_into()?, tcp_flags: body.tcp_flags, length, received_ns }
            }
            kind::FLOW_EXPIRED => {
                let body: &ExpiredBody = slot.body();
                let (packets, bytes) = (body.packets.get(), body.bytes.get());
                Self::FlowExpired { key: (&body.key).try_into()?, path: PathId(body.path.get()), packets, bytes }
            }
            kind::COMMITTED => Self::Committed(Epoch(slot.body::<EpochBody>().epoch.get())),
            kind::REFUSED => {
                let body: &RefusedBody = slot.body();
                Self::Refused { epoch: Epoch(body.epoch.get()), reason: Refusal::try_from(body)? }
            }
            kind::EXACT => {
                let body: &ExactEventBody = slot.body();
                Self::Exact {
                    rule: (&body.rule).try_into()?,
                    learned: wire::truth(body.learned)?,
                    packets: body.packets.get(),
                    bytes: body.bytes.get(),
                    idle_ms: body.idle_ms.get(),
                }
            }
            kind::TAG_INSTALLED => Self::TagInstalled(TagRule::try_from(slot.body::<TagBody>())?),
            kind::READ_BACK_DONE => Self::ReadBackDone(slot.body::<NumberBody>().number.get()),
            kind::NF_FAILED => Self::NfFailed(VportId(slot.body::<VportBody>().vport.get())),
            kind::FLOW_REWRITTEN => {
                let body: &RewrittenBody = slot.body();
                let after = FlowKey::try_from(&body.after)?;
                Self::FlowRewritten { key: (&body.before).try_into()?, became: after.five_tuple }
            }
            kind::AFFINITY_VIOLATION => {
                let body: &AffinityBody = slot.body();
                let (expected, found) = (PathId(body.expected.get()), PathId(body.found.get()));
                Self::AffinityViolation { key: (&body.key).try_into()?, expected, found }
            }
            unknown => return Err(DecodeError::UnknownKind(unknown)),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
