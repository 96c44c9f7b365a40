//! What was sent and what came back of it: one record per flow, written by the driver, read when the measurement ends.
//!
//! It tells lost, duplicated, reordered and foreign packets apart, and keeps the latencies in HDR histograms. Latencies count
//! from the intended time: a first packet's and its followers' is the flow's scheduled beginning; the established packet number
//! k's (from 1) is the first one's arrival + k × settle. Flows of the warm-up are recorded too, but not counted.
//!
//! Units: ns of the path's clock. Invariant: memory is reserved when the measurement begins, 32 bytes a flow.

use hdrhistogram::Histogram;

use crate::cpu_time::CpuTime;
use crate::path::{Packet, PacketKind, Received};
use crate::report::{Latency, PacketResult, RateResult};

/// Latencies are kept to 3 significant digits, up to this; a longer one counts as this.
const MAX_LATENCY_NS: u64 = 100_000_000_000;

/// One flow's record.
#[derive(Debug, Clone, Copy)]
struct Flow {
    intended_ns: u64,
    /// When the first packet came out; 0 is not yet.
    settled_ns: u64,
    /// One bit per sequence number that came out.
    received: u64,
    /// The packets handed to the path.
    sent: u8,
    /// The highest sequence number that came out.
    highest: u8,
    counted: bool,
}

/// What the ledger made of a packet that came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The flow's first packet: its rule is there now.
    Settled {
        /// Which flow.
        flow: u64,
    },
    /// Any other packet.
    Other,
}

/// The record of one measurement.
#[derive(Debug)]
pub(crate) struct Ledger {
    first_flow: u64,
    followers: u8,
    settle_ns: u64,
    flows: Vec<Flow>,
    outstanding: u64,
    first: Tally,
    follower: Tally,
    established: Tally,
    added: Histogram<u64>,
    lateness: Histogram<u64>,
    duplicates: u64,
    reordered: u64,
    foreign: u64,
    warmup_lost: u64,
    first_sent_ns: Option<u64>,
    last_sent_ns: u64,
}

/// One kind of packet's counts.
#[derive(Debug)]
struct Tally {
    scheduled: u64,
    sent: u64,
    received: u64,
    latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        Self { scheduled: 0, sent: 0, received: 0, latency: histogram() }
    }

    fn result(&self) -> PacketResult {
        PacketResult {
            scheduled: self.scheduled,
            sent: self.sent,
            received: self.received,
            lost: self.scheduled - self.received,
            latency: Latency::of(&self.latency),
        }
    }
}

/// An empty one, for latencies.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(MAX_LATENCY_NS, 3).expect("3 significant digits up to 100 s is a valid histogram")
}

impl Ledger {
    /// A ledger for flows numbered from `first_flow`.
    pub(crate) fn new(first_flow: u64, expected_flows: usize, followers: u32, settle_ns: u64) -> Self {
        Self {
            first_flow,
            followers: followers as u8,
            settle_ns,
            flows: Vec::with_capacity(expected_flows + expected_flows / 8 + 64),
            outstanding: 0,
            first: Tally::new(),
            follower: Tally::new(),
            established: Tally::new(),
            added: histogram(),
            lateness: histogram(),
            duplicates: 0,
            reordered: 0,
            foreign: 0,
            warmup_lost: 0,
            first_sent_ns: None,
            last_sent_ns: 0,
        }
    }

    /// Opens the next flow and gives its number.
    pub(crate) fn open(&mut self, intended_ns: u64, counted: bool) -> u64 {
        let flow = self.next_flow();
        self.flows.push(Flow { intended_ns, settled_ns: 0, received: 0, sent: 0, highest: 0, counted });
        flow
    }

    /// The number that the next flow will have.
    pub(crate) fn next_flow(&self) -> u64 {
        self.first_flow + self.flows.len() as u64
    }

    /// Packets that were sent and have not come out.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// When a packet is meant to be sent; for established packets only once the flow has settled.
    pub(crate) fn intended_ns(&self, packet: Packet) -> u64 {
        self.flow(packet.flow).map_or(0, |flow| self.intended_of(flow, packet.sequence))
    }

    /// A packet became due; it is lost unless it comes out.
    pub(crate) fn schedule(&mut self, packet: Packet) {
        if self.flow(packet.flow).is_some_and(|flow| flow.counted) {
            self.tally(packet.kind).scheduled += 1;
        }
    }

    /// The path took a packet at this time.
    pub(crate) fn sent(&mut self, packet: Packet, now_ns: u64) {
        self.outstanding += 1;
        let Some(flow) = Self::index(self.first_flow, packet.flow).and_then(|index| self.flows.get_mut(index)) else {
            return;
        };
        flow.sent += 1;
        let (counted, intended_ns) = (flow.counted, flow.intended_ns);
        if !counted {
            return;
        }
        self.tally(packet.kind).sent += 1;
        if packet.kind == PacketKind::First {
            self.lateness.saturating_record(now_ns.saturating_sub(intended_ns));
            self.first_sent_ns.get_or_insert(now_ns);
            self.last_sent_ns = now_ns;
        }
    }

    /// A packet came out.
    pub(crate) fn receive(&mut self, packet: Received) -> Entry {
        let Received { flow: number, sequence, at_ns } = packet;
        let found = Self::index(self.first_flow, number).and_then(|index| self.flows.get_mut(index));
        let Some(flow) = found.filter(|flow| sequence < flow.sent) else {
            self.foreign += 1;
            return Entry::Other;
        };
        let bit = 1_u64 << sequence;
        if flow.received & bit != 0 {
            self.duplicates += 1;
            return Entry::Other;
        }
        if flow.received != 0 && sequence < flow.highest {
            self.reordered += 1;
        }
        flow.received |= bit;
        flow.highest = flow.highest.max(sequence);
        if sequence == 0 {
            flow.settled_ns = at_ns.max(1);
        }
        self.outstanding -= 1;
        let flow = *flow;
        if flow.counted {
            self.count(&flow, sequence, at_ns);
        }
        if sequence == 0 { Entry::Settled { flow: number } } else { Entry::Other }
    }

    fn count(&mut self, flow: &Flow, sequence: u8, at_ns: u64) {
        let latency_ns = at_ns.saturating_sub(self.intended_of(flow, sequence));
        let kind = self.kind(sequence);
        let tally = self.tally(kind);
        tally.received += 1;
        tally.latency.saturating_record(latency_ns);
        if sequence == self.followers + 1 {
            let first_ns = flow.settled_ns.saturating_sub(flow.intended_ns);
            self.added.saturating_record(first_ns.saturating_sub(latency_ns));
        }
    }

    /// Everything that was measured; `offered_per_s` is what was asked for.
    pub(crate) fn result(mut self, offered_per_s: f64) -> RateResult {
        self.warmup_lost = (self.flows.iter().filter(|flow| !flow.counted))
            .map(|flow| u64::from(flow.sent) - u64::from(flow.received.count_ones()))
            .sum();
        let span_s = self.last_sent_ns.saturating_sub(self.first_sent_ns.unwrap_or(0)) as f64 / 1e9;
        let gaps = self.first.sent.saturating_sub(1) as f64;
        RateResult {
            offered_per_s,
            achieved_per_s: if span_s > 0.0 { gaps / span_s } else { 0.0 },
            first: self.first.result(),
            followers: (self.followers > 0).then(|| self.follower.result()),
            established: self.established.result(),
            added: Latency::of(&self.added),
            sender_lateness: Latency::of(&self.lateness),
            duplicates: self.duplicates,
            reordered: self.reordered,
            foreign: self.foreign,
            warmup_lost: self.warmup_lost,
            allocations: 0,
            machine: None,
            cpu_time: CpuTime::default(),
        }
    }

    fn index(first_flow: u64, flow: u64) -> Option<usize> {
        usize::try_from(flow.checked_sub(first_flow)?).ok()
    }

    fn flow(&self, flow: u64) -> Option<&Flow> {
        self.flows.get(Self::index(self.first_flow, flow)?)
    }

    fn kind(&self, sequence: u8) -> PacketKind {
        match sequence {
            0 => PacketKind::First,
            _ if sequence <= self.followers => PacketKind::Follower,
            _ => PacketKind::Established,
        }
    }

    fn intended_of(&self, flow: &Flow, sequence: u8) -> u64 {
        match sequence.checked_sub(self.followers) {
            None | Some(0) => flow.intended_ns,
            Some(established) => flow.settled_ns + u64::from(established) * self.settle_ns,
        }
    }

    fn tally(&mut self, kind: PacketKind) -> &mut Tally {
        match kind {
            PacketKind::First => &mut self.first,
            PacketKind::Follower => &mut self.follower,
            PacketKind::Established => &mut self.established,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE_NS: u64 = 1_000;

    fn packet(flow: u64, sequence: u8, kind: PacketKind) -> Packet {
        Packet { flow, sequence, kind }
    }

    /// A ledger with flow 10 begun at 100 ns, its first, follower and established packet sent.
    fn one_flow() -> Ledger {
        let mut ledger = Ledger::new(10, 1, 1, SETTLE_NS);
        let flow = ledger.open(100, true);
        for (sequence, kind) in [(0, PacketKind::First), (1, PacketKind::Follower), (2, PacketKind::Established)] {
            ledger.schedule(packet(flow, sequence, kind));
            ledger.sent(packet(flow, sequence, kind), 150);
        }
        ledger
    }

    #[test]
    fn latency_counts_from_the_intended_time_not_from_the_sending() {
        let mut ledger = one_flow();
        assert_eq!(ledger.receive(Received { flow: 10, sequence: 0, at_ns: 600 }), Entry::Settled { flow: 10 });
        assert_eq!(ledger.receive(Received { flow: 10, sequence: 1, at_ns: 700 }), Entry::Other);
        assert_eq!(ledger.receive(Received { flow: 10, sequence: 2, at_ns: 600 + SETTLE_NS + 40 }), Entry::Other);
        assert_eq!(ledger.outstanding(), 0);
        let result = ledger.result(1.0);
        assert_eq!(result.first.latency.max_ns, 500);
        assert_eq!(result.followers.unwrap().latency.max_ns, 600);
        assert_eq!(result.established.latency.max_ns, 40);
        assert_eq!(result.added.max_ns, 460);
        assert_eq!(result.sender_lateness.max_ns, 50);
    }

    #[test]
    fn a_packet_that_never_comes_is_lost_and_one_that_was_never_sent_is_foreign() {
        let mut ledger = one_flow();
        ledger.receive(Received { flow: 10, sequence: 0, at_ns: 600 });
        ledger.receive(Received { flow: 9, sequence: 0, at_ns: 600 });
        ledger.receive(Received { flow: 11, sequence: 0, at_ns: 600 });
        ledger.receive(Received { flow: 10, sequence: 3, at_ns: 600 });
        let result = ledger.result(1.0);
        assert_eq!((result.first.lost, result.followers.unwrap().lost, result.established.lost), (0, 1, 1));
        assert_eq!(result.foreign, 3);
    }

    #[test]
    fn a_second_copy_is_a_duplicate_and_does_not_make_up_for_a_loss() {
        let mut ledger = one_flow();
        ledger.receive(Received { flow: 10, sequence: 0, at_ns: 600 });
        ledger.receive(Received { flow: 10, sequence: 0, at_ns: 601 });
        assert_eq!(ledger.outstanding(), 2);
        let result = ledger.result(1.0);
        assert_eq!((result.duplicates, result.first.received, result.established.lost), (1, 1, 1));
    }

    #[test]
    fn a_follower_that_overtakes_its_first_packet_is_counted_as_reordering() {
        let mut ledger = one_flow();
        ledger.receive(Received { flow: 10, sequence: 1, at_ns: 600 });
        ledger.receive(Received { flow: 10, sequence: 0, at_ns: 601 });
        assert_eq!(ledger.result(1.0).reordered, 1);
    }

    #[test]
    fn warm_up_flows_are_left_out_of_every_count_but_their_own() {
        let mut ledger = Ledger::new(0, 1, 0, SETTLE_NS);
        let flow = ledger.open(0, false);
        ledger.schedule(packet(flow, 0, PacketKind::First));
        ledger.sent(packet(flow, 0, PacketKind::First), 5);
        let result = ledger.result(1.0);
        assert_eq!((result.first.scheduled, result.first.lost, result.warmup_lost), (0, 0, 1));
    }
}
