//! A lcore's counters at one moment, as a plain value: for the API, for `top`, and for the conservation check.
//!
//! Off the packet's path. Only what is not zero is kept of drops, vports, tag rules and NF values, so that a snapshot is
//! small.
//!
//! Units and meanings are those of [`LcoreCounters`]. While the lcore runs, a snapshot's values are not of one instant, so
//! [`check_conservation`] holds exactly only when the traffic has stopped.
//!
//! Errors: [`Imbalance`].

use std::collections::BTreeMap;

use packet::DropReason;
use serde::{Deserialize, Serialize};

use crate::counters::{Counter, LcoreCounters, PortCounters, RuleCounters, VportCounters};

/// See [`LcoreCounters`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LcoreSnapshot {
    /// Monotonic time of the last poll, ns.
    pub heartbeat_ns: u64,
    /// The epoch in force.
    pub epoch: u64,
    /// Polls.
    pub polls: u64,
    /// TSC cycles of polls that found something.
    pub busy_cycles: u64,
    /// TSC cycles since the start.
    pub total_cycles: u64,
    /// Times the lcore slept.
    pub sleeps: u64,
    /// Mbufs that came in from ports.
    pub received: u64,
    /// Mbufs that the host made itself.
    pub originated: u64,
    /// Mbufs that ports took.
    pub transmitted: u64,
    /// Mbufs held now.
    pub held: u64,
    /// Packets parked now.
    pub parked: u64,
    /// Exact rules installed now.
    pub flows: u64,
    /// Tag rules installed now.
    pub tag_rules: u64,
    /// Flow misses told to the controller.
    pub flow_misses: u64,
    /// Exact rules learned.
    pub flows_learned: u64,
    /// Exact rules that timed out or closed.
    pub flows_expired: u64,
    /// Packets that an NF which is not declared a mangler rewrote.
    pub rewritten: u64,
    /// Packets whose path was compared with their flow's.
    pub audited_packets: u64,
    /// Times that a live flow was found on another path than its own.
    pub affinity_violations: u64,
    /// Batches of updates in force.
    pub update_batches: u64,
    /// Batches refused.
    pub refused_batches: u64,
    /// Messages that could not be decoded.
    pub malformed_updates: u64,
    /// Events lost.
    pub events_lost: u64,
    /// Captures lost.
    pub capture_missed: u64,
    /// True once this lcore's NF has panicked.
    pub nf_failed: bool,
    /// Packets ended, by the reason's name.
    pub drops: BTreeMap<String, u64>,
    /// By the port's place in the launch document.
    pub ports: BTreeMap<u16, PortSnapshot>,
    /// By vport number.
    pub vports: BTreeMap<u16, VportSnapshot>,
    /// By the counter that the tag rule names.
    pub tags: BTreeMap<u16, RuleSnapshot>,
    /// The NF instance's own values, by their place.
    pub nf: BTreeMap<u16, u64>,
}

/// See [`PortCounters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortSnapshot {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that the device took.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the device itself dropped.
    pub rx_missed: u64,
    /// Frames that arrived damaged.
    pub rx_errors: u64,
    /// Frames that the device failed to send.
    pub tx_errors: u64,
    /// 1 while the link is up.
    pub link_up: u64,
}

/// See [`VportCounters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VportSnapshot {
    /// Frames that went into it.
    pub in_packets: u64,
    /// Their bytes.
    pub in_bytes: u64,
    /// Frames that came out of it.
    pub out_packets: u64,
    /// Their bytes.
    pub out_bytes: u64,
}

/// See [`RuleCounters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleSnapshot {
    /// Frames that met the rule.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<&PortCounters> for PortSnapshot {
    fn from(from: &PortCounters) -> Self {
        Self {
            rx_packets: from.rx_packets.get(),
            rx_bytes: from.rx_bytes.get(),
            tx_packets: from.tx_packets.get(),
            tx_bytes: from.tx_bytes.get(),
            rx_missed: from.rx_missed.get(),
            rx_errors: from.rx_errors.get(),
            tx_errors: from.tx_errors.get(),
            link_up: from.link_up.get(),
        }
    }
}

impl From<&VportCounters> for VportSnapshot {
    fn from(from: &VportCounters) -> Self {
        Self {
            in_packets: from.in_packets.get(),
            in_bytes: from.in_bytes.get(),
            out_packets: from.out_packets.get(),
            out_bytes: from.out_bytes.get(),
        }
    }
}

impl From<&RuleCounters> for RuleSnapshot {
    fn from(from: &RuleCounters) -> Self {
        Self { packets: from.packets.get(), bytes: from.bytes.get() }
    }
}

impl LcoreSnapshot {
    /// The present values.
    pub fn of(counters: &LcoreCounters) -> Self {
        let drops = DropReason::ALL.iter().zip(&counters.drops);
        Self {
            heartbeat_ns: counters.heartbeat_ns.get(),
            epoch: counters.epoch.get(),
            polls: counters.polls.get(),
            busy_cycles: counters.busy_cycles.get(),
            total_cycles: counters.total_cycles.get(),
            sleeps: counters.sleeps.get(),
            received: counters.received.get(),
            originated: counters.originated.get(),
            transmitted: counters.transmitted.get(),
            held: counters.held.get(),
            parked: counters.parked.get(),
            flows: counters.flows.get(),
            tag_rules: counters.tag_rules.get(),
            flow_misses: counters.flow_misses.get(),
            flows_learned: counters.flows_learned.get(),
            flows_expired: counters.flows_expired.get(),
            rewritten: counters.rewritten.get(),
            audited_packets: counters.audited_packets.get(),
            affinity_violations: counters.affinity_violations.get(),
            update_batches: counters.update_batches.get(),
            refused_batches: counters.refused_batches.get(),
            malformed_updates: counters.malformed_updates.get(),
            events_lost: counters.events_lost.get(),
            capture_missed: counters.capture_missed.get(),
            nf_failed: counters.nf_failed.get() != 0,
            drops: drops
                .map(|(reason, count)| (reason.name().to_owned(), count.get()))
                .filter(|drop| drop.1 > 0)
                .collect(),
            ports: present(&counters.ports, |port| port.into()),
            vports: present(&counters.vports, |vport| vport.into()),
            tags: present(&counters.tags, |tag| tag.into()),
            nf: present(&counters.nf, Counter::get),
        }
    }

    /// Packets ended for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.name()).copied().unwrap_or(0)
    }
}

/// The elements that are not all zero, by their place.
fn present<C, S: Default + PartialEq>(counters: &[C], read: impl Fn(&C) -> S) -> BTreeMap<u16, S> {
    (0..).zip(counters.iter().map(read)).filter(|(_, value)| *value != S::default()).collect()
}

/// Packets that came from nowhere or went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "packets are not conserved: received {received} + originated {originated} is not transmitted {transmitted} + dropped \
     {dropped} + held {held}; if traffic has stopped, a packet was lost or counted twice"
)]
pub struct Imbalance {
    /// From ports.
    pub received: u64,
    /// Made by the host.
    pub originated: u64,
    /// Taken by ports.
    pub transmitted: u64,
    /// Ended, all reasons.
    pub dropped: u64,
    /// Held.
    pub held: u64,
}

/// Conservation over the lcores of a host: received + originated = transmitted + Σ drops + held. Sums wrap as counts do.
pub fn check_conservation(lcores: &[LcoreSnapshot]) -> Result<(), Imbalance> {
    let sum = |part: fn(&LcoreSnapshot) -> u64| lcores.iter().map(part).fold(0, u64::wrapping_add);
    let sums = Imbalance {
        received: sum(|lcore| lcore.received),
        originated: sum(|lcore| lcore.originated),
        transmitted: sum(|lcore| lcore.transmitted),
        dropped: sum(|lcore| lcore.drops.values().copied().fold(0, u64::wrapping_add)),
        held: sum(|lcore| lcore.held),
    };
    let came = sums.received.wrapping_add(sums.originated);
    let went = sums.transmitted.wrapping_add(sums.dropped).wrapping_add(sums.held);
    if came == went { Ok(()) } else { Err(sums) }
}
