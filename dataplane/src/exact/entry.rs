//! What ExactTable keeps of a flow: [`FlowEntry`], one cache line, and how it is seen from outside, [`FlowRef`] and [`FlowMut`].
//!
//! On the packet's path: an established packet reads the entry's rule and writes its counters and its time, which is the second
//! and last cache line that it costs.
//!
//! Invariants: a vacant entry, which all zeros are, has no parked packets and follows no action.

use std::ops::{Deref, DerefMut};

use packet::FlowKey;
use shm::rules::ExactAction;
use zerocopy::FromZeros;

use super::actions::Actions;
use super::key::{KeyImage, V6Addresses};
use crate::parking::ParkedFlow;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
/// Both sides have closed.
const CLOSED: u8 = Side::Own as u8 | Side::Opposite as u8;
/// A SYN was seen.
const SYN_SEEN: u8 = 4;

/// What stands in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// The controller was, or will be, asked.
    Pending,
    /// The rule is in force.
    Active(ExactAction),
    /// No chain selects the flow.
    Rejected,
}

/// Whose packet it is that concerns an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// One that met the entry's rule.
    Own = 1,
    /// One of the opposite direction.
    Opposite = 2,
}

/// One flow, all but the IPv6 addresses. The two counts stand apart, so that each is one addition in memory: side by side the
/// compiler makes a vector of them, which takes three times as many instructions.
#[derive(Debug, FromZeros)]
#[repr(C, align(64))]
pub struct FlowEntry {
    /// Packets that met the rule.
    pub packets: u64,
    /// When the last packet met it, in either direction; for a pending flow, when it missed.
    pub last_ns: u64,
    /// Bytes of IP that met the rule.
    pub bytes: u64,
    /// Its parked packets while it is pending.
    pub parked: ParkedFlow,
    /// The rule was learned from the forward direction.
    pub learned: bool,
    /// The flow-miss event was sent.
    pub announced: bool,
    /// Which sides have closed: [`Side`] bits; and [`SYN_SEEN`].
    flags_seen: u8,
    /// A packet has passed that was not one of those that open and close connections.
    is_used: bool,
    rest: u16,
    rule: Rule,
    addresses: u64,
    ports: u64,
    born: u64,
}

const _: () = assert!(size_of::<FlowEntry>() == 64);

/// A [`FlowState`] in 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromZeros)]
pub(super) struct Rule(u32);

impl Rule {
    const VACANT: Self = Self(0);
    const PENDING: Self = Self(1);
    const REJECTED: Self = Self(2);
    const ACTIVE: u32 = 3;

    /// The number of its action.
    #[inline(always)]
    const fn action(self) -> Option<u32> {
        self.0.checked_sub(Self::ACTIVE)
    }

    pub(super) const fn following(number: u32) -> Self {
        Self(Self::ACTIVE + number)
    }

    pub(super) fn of(state: &FlowState, actions: &mut Actions) -> Self {
        match state {
            FlowState::Pending => Self::PENDING,
            FlowState::Rejected => Self::REJECTED,
            FlowState::Active(action) => Self::following(actions.follow(action)),
        }
    }

    fn end(self, actions: &mut Actions) {
        if let Some(action) = self.action() {
            actions.leave(action);
        }
    }
}

impl FlowEntry {
    /// A new flow where there is none. `born` is the table's count of flows so far.
    #[inline]
    pub(super) fn begin(&mut self, image: KeyImage, rule: Rule, now_ns: u64, born: u64) {
        let KeyImage { addresses, ports, rest } = image;
        *self = Self {
            last_ns: now_ns,
            packets: 0,
            bytes: 0,
            parked: ParkedFlow::EMPTY,
            learned: false,
            announced: false,
            flags_seen: 0,
            is_used: false,
            rest,
            rule,
            addresses,
            ports,
            born,
        };
    }

    /// Makes the entry vacant and hands its parked packets over.
    pub(super) fn end(&mut self, actions: &mut Actions) -> ParkedFlow {
        std::mem::replace(&mut self.rule, Rule::VACANT).end(actions);
        std::mem::take(&mut self.parked)
    }

    /// True if a flow is here.
    pub(super) fn is_in_use(&self) -> bool {
        self.rule != Rule::VACANT
    }

    /// True if the flow that is here was here already when the table had seen `flows` flows.
    #[inline(always)]
    pub(super) fn was_there(&self, flows: u64) -> bool {
        self.rule != Rule::VACANT && self.born <= flows
    }

    /// The number of the action of the flow that is here, if it has one and was here already when the table had seen `flows` flows.
    #[inline(always)]
    pub(super) fn action_of_old(&self, flows: u64) -> Option<u32> {
        let action = self.rule.action()?;
        if self.born <= flows { Some(action) } else { None }
    }

    /// Its key in short.
    pub(super) fn image(&self) -> KeyImage {
        KeyImage { addresses: self.addresses, ports: self.ports, rest: self.rest }
    }

    /// The controller is being asked.
    pub fn is_pending(&self) -> bool {
        self.rule == Rule::PENDING
    }

    /// A rule is in force.
    pub fn is_active(&self) -> bool {
        self.rule.action().is_some()
    }

    /// Accounts for a packet of this flow.
    #[inline]
    pub fn meet(&mut self, bytes: u64, tcp_flags: u8, now_ns: u64) {
        self.packets += 1;
        self.bytes += bytes;
        self.refresh(Side::Own, tcp_flags, now_ns);
    }

    /// Keeps the flow alive, because a packet of either direction passed. The connection is over once both sides have sent a
    /// FIN, since either may go on after the other's (RFC 9293 section 3.6), or one a RST; a new SYN opens it again.
    #[inline]
    pub fn refresh(&mut self, side: Side, tcp_flags: u8, now_ns: u64) {
        self.last_ns = now_ns;
        if tcp_flags & (RST | FIN | SYN) != 0 {
            self.note_flags(side, tcp_flags);
        } else {
            self.is_used = true;
        }
    }

    fn note_flags(&mut self, side: Side, tcp_flags: u8) {
        if tcp_flags & RST != 0 {
            self.flags_seen |= CLOSED;
        } else if tcp_flags & FIN != 0 {
            self.flags_seen |= side as u8;
        } else if tcp_flags & SYN != 0 {
            self.flags_seen = SYN_SEEN;
        }
    }

    /// The connection is over.
    pub const fn is_closing(&self) -> bool {
        self.flags_seen & CLOSED == CLOSED
    }

    /// The connection was asked for and has not come about: all that passed, in either direction, were SYNs.
    pub const fn is_opening(&self) -> bool {
        self.flags_seen & SYN_SEEN != 0 && !self.is_used
    }
}

/// A flow, for reading.
#[derive(Debug, Clone, Copy)]
pub struct FlowRef<'a> {
    pub(super) entry: &'a FlowEntry,
    pub(super) actions: &'a Actions,
    pub(super) v6: &'a [V6Addresses],
    pub(super) position: usize,
}

impl FlowRef<'_> {
    /// Which flow.
    pub fn key(&self) -> FlowKey {
        self.entry.image().key(&self.v6[self.position])
    }

    /// Its rule, if it has one yet.
    pub fn state(&self) -> FlowState {
        state(self.entry, self.actions)
    }
}

impl Deref for FlowRef<'_> {
    type Target = FlowEntry;

    fn deref(&self) -> &FlowEntry {
        self.entry
    }
}

/// An action of a table by its number, and since when that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberedAction {
    /// Its number, which others may have had before.
    pub number: u32,
    /// How often numbers of the table were given away anew before.
    pub renumbered: u64,
}

/// A flow, for changing.
#[derive(Debug)]
pub struct FlowMut<'a> {
    pub(super) entry: &'a mut FlowEntry,
    pub(super) actions: &'a mut Actions,
    pub(super) v6: &'a [V6Addresses],
    pub(super) position: usize,
}

impl FlowMut<'_> {
    /// Which flow.
    pub fn key(&self) -> FlowKey {
        self.entry.image().key(&self.v6[self.position])
    }

    /// Its rule, if it has one yet.
    #[inline]
    pub fn state(&self) -> FlowState {
        state(self.entry, self.actions)
    }

    /// The action of its rule, if it has one yet.
    #[inline]
    pub fn action(&self) -> Option<&ExactAction> {
        self.entry.rule.action().map(|number| self.actions.of(number))
    }

    /// Gives it another state.
    pub fn set_state(&mut self, state: FlowState) {
        let rule = Rule::of(&state, self.actions); // before the old one ends, which may be the same
        std::mem::replace(&mut self.entry.rule, rule).end(self.actions);
    }
}

impl Deref for FlowMut<'_> {
    type Target = FlowEntry;

    #[inline(always)]
    fn deref(&self) -> &FlowEntry {
        self.entry
    }
}

impl DerefMut for FlowMut<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut FlowEntry {
        self.entry
    }
}

/// What stands in an entry that is not vacant.
#[inline]
fn state(entry: &FlowEntry, actions: &Actions) -> FlowState {
    match entry.rule.action() {
        Some(number) => FlowState::Active(*actions.of(number)),
        None if entry.rule == Rule::REJECTED => FlowState::Rejected,
        None => FlowState::Pending,
    }
}
