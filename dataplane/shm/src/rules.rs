//! The rules that fill a forwarder's tables, as the controller says them and the forwarder keeps them.
//!
//! These are the checked types; [`crate::message`] is how they look in a ring.

use std::mem;
use std::net::IpAddr;

use packet::{Direction, FiveTuple, FlowKey, PathId, Tag, Vni, VportId};
use serde::{Deserialize, Serialize};

/// Where a packet goes after a rule matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// An NF instance's input, or an endpoint's egress, on this host.
    Vport(VportId),
    /// Another host: encapsulate to this VTEP; `next` is the element's vport over there.
    Tunnel {
        /// The other host's VTEP address.
        vtep: IpAddr,
        /// The next element's vport on that host, carried as the inner destination address.
        next: VportId,
    },
}

/// What the element at a subchain's end keeps about the flow's other direction.
///
/// The packet that is delivered to `Next::Vport(v)` concerns the exact rule of `(v, vni, reversed five-tuple)`, with the vport's own
/// network and not the path's. It is the rule that the flow's answers will meet when they come back out of `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Not the end of a subchain.
    None,
    /// The forward end: make that rule if it is not there, keep it alive if it is.
    Learn(ReverseHead),
    /// The reverse end: keep that rule alive.
    Refresh,
}

/// The exact rule that a forward end makes for the flow's answers; no direction, learned rules always run in reverse, and
/// they always end with [`Delivery::Refresh`] if their first hop is already the reverse end (`ends_here`). The network of its
/// tags is the one that the packet came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReverseHead {
    /// The tag to set on the answers.
    pub tag: Tag,
    /// Where the answers go first.
    pub next: Next,
    /// True if `next` is already the reverse direction's end (a subchain without NFs on one host).
    pub ends_here: bool,
    /// The instance path.
    pub path: PathId,
    /// The largest IP packet, in bytes, that the reverse way takes without fragmentation.
    pub path_mtu: u16,
}

impl ReverseHead {
    /// What the rule does that a forward end makes of this, for a packet that came by network `vni`.
    #[inline]
    pub const fn action(&self, vni: Vni) -> ExactAction {
        ExactAction {
            vni,
            tag: self.tag,
            direction: Direction::Reverse,
            next: self.next,
            delivery: if self.ends_here { Delivery::Refresh } else { Delivery::None },
            path: self.path,
            path_mtu: self.path_mtu,
        }
    }

    /// True if [`Self::action`] is this one, told without making it.
    #[inline(always)]
    pub fn makes(&self, action: &ExactAction, vni: Vni) -> bool {
        let leads_there = match (&self.next, &action.next) {
            (Next::Vport(vport), Next::Vport(its)) => vport == its,
            (next, its) => next == its,
        };
        let ends = if self.ends_here { Delivery::Refresh } else { Delivery::None };
        leads_there
            && mem::discriminant(&action.delivery) == mem::discriminant(&ends) // neither holds anything
            && action.vni == vni
            && action.tag == self.tag
            && action.direction == Direction::Reverse
            && action.path == self.path
            && action.path_mtu == self.path_mtu
    }
}

/// What an exact rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExactAction {
    /// The network that the path's tags belong to; a tenant may have several.
    pub vni: Vni,
    /// The tag to set.
    pub tag: Tag,
    /// The direction that the tag names.
    pub direction: Direction,
    /// Where to.
    pub next: Next,
    /// What the end of the subchain keeps, when the first hop is already the end.
    pub delivery: Delivery,
    /// The instance path, for those who ask where a flow goes.
    pub path: PathId,
    /// The largest IP packet, in bytes, that this way takes; larger ones are answered with ICMP "too big".
    pub path_mtu: u16,
}

/// An exact rule: one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExactRule {
    /// Which flow, coming from which vport.
    pub key: FlowKey,
    /// What to do.
    pub action: ExactAction,
}

/// What a tag rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TagKey {
    /// The vport of the prior element: an NF instance on this host, or [`VportId::TUNNEL`].
    pub prior: VportId,
    /// At the tunnel, the vport that the inner destination address names; the prior vport again everywhere else.
    pub segment: VportId,
    /// The path's network.
    pub vni: Vni,
    /// The path and direction.
    pub tag: Tag,
}

/// What a tag rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TagAction {
    /// The direction that the tag names.
    pub direction: Direction,
    /// Where to.
    pub next: Next,
    /// What the end of the subchain keeps.
    pub delivery: Delivery,
    /// The instance path.
    pub path: PathId,
    /// The place of the rule's packet and byte counters in the lcore's block, in `0..TAG_COUNTERS`.
    pub counter: u16,
}

/// A tag rule: one hop of one path in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TagRule {
    /// What it matches.
    pub key: TagKey,
    /// What to do.
    pub action: TagAction,
}

/// A version of the tables; a batch of updates becomes visible as a whole at its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Controller → lcore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Add an exact rule, or replace the one of the same key; it releases the flow's parked packets at the commit.
    InsertExact(ExactRule),
    /// Remove an exact rule.
    RemoveExact(FlowKey),
    /// The chain says no: drop the flow's parked packets as `no-chain`, and the ones that come for a while.
    RejectFlow(FlowKey),
    /// Add or replace a tag rule.
    InsertTag(TagRule),
    /// Remove a tag rule.
    RemoveTag(TagKey),
    /// Everything since the last commit becomes visible.
    Commit(Epoch),
    /// Send every installed rule back ([`Event::Exact`], [`Event::TagInstalled`]), then [`Event::ReadBackDone`] with this number.
    ReadBack(u32),
    /// Copy packets that pass this vport to the capture ring (at most `snap` bytes each).
    StartCapture {
        /// Which vport.
        vport: VportId,
        /// Bytes of each packet to keep.
        snap: u16,
    },
    /// No more copies of this vport's packets.
    StopCapture(VportId),
}

/// Lcore → controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first packet of a flow, parked until an exact rule comes.
    FlowMiss {
        /// The flow.
        key: FlowKey,
        /// The TCP flag byte, 0 when not TCP.
        tcp_flags: u8,
        /// Length of the IP packet in bytes.
        length: u16,
        /// When the packet was received: the dataplane's monotonic clock, ns.
        received_ns: u64,
    },
    /// A flow's rule timed out or its connection closed.
    FlowExpired {
        /// The flow.
        key: FlowKey,
        /// Its path.
        path: PathId,
        /// Packets that met the rule.
        packets: u64,
        /// Bytes of IP that met the rule.
        bytes: u64,
    },
    /// The batch up to this epoch is in force.
    Committed(Epoch),
    /// A batch was refused as a whole; nothing of it is in force.
    Refused {
        /// The epoch of its commit.
        epoch: Epoch,
        /// Why.
        reason: Refusal,
    },
    /// An installed exact rule, in answer to [`Update::ReadBack`].
    Exact {
        /// The rule.
        rule: ExactRule,
        /// Learned from the forward direction, not said by the controller.
        learned: bool,
        /// Packets that met it.
        packets: u64,
        /// Bytes of IP that met it.
        bytes: u64,
        /// How long since the last one, ms.
        idle_ms: u32,
    },
    /// An installed tag rule, in answer to [`Update::ReadBack`].
    TagInstalled(TagRule),
    /// The read-back of this number is complete.
    ReadBackDone(u32),
    /// The NF instance on this lcore panicked; it forwards nothing any more.
    NfFailed(VportId),
    /// An NF instance that is not declared a mangler has rewritten a flow's identity; said once per lcore and second at most.
    FlowRewritten {
        /// The flow as it went in, at the instance's vport.
        key: FlowKey,
        /// As it came out.
        became: FiveTuple,
    },
    /// A live flow was found on another path than its own; said once per lcore and second at most, and counted always.
    AffinityViolation {
        /// The flow of the rule that was compared: the answers' at a subchain's end, the flow itself at its head.
        key: FlowKey,
        /// The path that the rule has.
        expected: PathId,
        /// The path that the packet came by, or that a new rule says.
        found: PathId,
    },
}

/// Why a lcore refused a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A message could not be decoded.
    Malformed,
    /// More messages between two commits than a batch may have.
    BatchTooLarge,
    /// The exact table can't hold the batch.
    ExactTableFull,
    /// The tag table can't hold the batch.
    TagTableFull,
    /// A rule names a vport that this host does not have.
    NoSuchVport,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a field of an action is not compared, which would let answers go by a rule that is another path's.
    #[test]
    fn a_head_makes_its_own_action_and_no_other() {
        let (vni, other_vni) = (Vni::new(1).unwrap(), Vni::new(2).unwrap());
        let [tag, other_tag] = [1, 2].map(|value| Tag::new(value).unwrap());
        let to = |address: [u8; 4], next| Next::Tunnel { vtep: address.into(), next: VportId(next) };
        let nexts = [Next::Vport(VportId(1)), Next::Vport(VportId(2)), to([10, 0, 0, 1], 1), to([10, 0, 0, 2], 1)];
        let one = ReverseHead { tag, next: nexts[0], ends_here: true, path: PathId(1), path_mtu: 1_500 };
        let mut heads = vec![one, ReverseHead { tag: other_tag, ..one }, ReverseHead { ends_here: false, ..one }];
        heads.extend(nexts[1..].iter().map(|&next| ReverseHead { next, ..one }));
        heads.extend([ReverseHead { path: PathId(2), ..one }, ReverseHead { path_mtu: 1_400, ..one }]);
        let mut actions: Vec<ExactAction> = heads.iter().map(|head| head.action(vni)).collect();
        actions.push(one.action(other_vni));
        actions.push(ExactAction { direction: Direction::Forward, ..actions[0] });
        actions.push(ExactAction { delivery: Delivery::Learn(one), ..actions[0] });
        for head in &heads {
            for action in &actions {
                assert_eq!(head.makes(action, vni), *action == head.action(vni), "{head:?} {action:?}");
            }
        }
    }
}
