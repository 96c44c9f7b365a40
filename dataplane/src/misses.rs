//! How many new flows a lcore takes in: all of them while it keeps up with what comes, and no more than [`MissBudget`] gives while
//! it does not.
//!
//! On the packet's path: step 1, before a packet without a rule becomes a flow miss. A miss costs the lcore many times what an
//! established packet does (the entry, the event, the answer, the entry's end), and strangers choose how many there are. So
//! a queue that gives whole bursts, which is one that more waits in, brings in new flows only as fast as takes the lcore some
//! percent of its time. The others end before anything is made of them, for less than an established packet costs.
//!
//! Where new flows come in a rush, as after a time in which the lcore did not run, the budget has gathered many times as many as can
//! be parked: they come in as fast as they are answered. The price is that a flood takes a few hundredths of a second when it begins.

use dpdk::BURST;
use packet::headers::Headers;
use packet::{DropReason, FlowKey, VportId};
use shm::rules::Event;

use crate::exact::{FlowState, Found, Probe};
use crate::forwarder::Forwarder;
use crate::meta::Mbuf;

/// The time for which a lcore that does not keep up takes one new flow in is 2 to the power of this, ns: 30,500 in a second.
const EACH_NS_LOG2: u32 = 15;

/// Of a rush, so many times as many come in as can be parked. A lcore that can set up 660,000 flows a second, and stood still for 10
/// ms while 500,000 came, catches up for 30 ms, with whole bursts all the while, and none of those flows is to be lost.
const RUSH: u32 = 32;

/// What a lcore may still take in.
#[derive(Debug)]
pub struct MissBudget {
    left: u32,
    most: u32,
    /// Up to when it was filled up.
    filled_ns: u64,
    /// The burst at hand is a whole one.
    crowded: bool,
}

impl MissBudget {
    /// A full one, where this many packets can be parked.
    pub const fn new(parked: u32) -> Self {
        let most = parked.saturating_mul(RUSH);
        Self { left: most, most, filled_ns: 0, crowded: false }
    }

    /// So many packets came at once.
    #[inline(always)]
    pub fn note(&mut self, packets: usize) {
        self.crowded = packets >= BURST;
    }

    /// True if one more new flow may come in now.
    pub fn allows(&mut self, now_ns: u64) -> bool {
        let gathered = now_ns.saturating_sub(self.filled_ns) >> EACH_NS_LOG2;
        if gathered > 0 {
            self.left = u64::from(self.left).saturating_add(gathered).min(u64::from(self.most)) as u32;
            self.filled_ns += gathered << EACH_NS_LOG2;
        }
        !self.crowded || self.left > 0
    }

    /// One new flow came in.
    pub fn take(&mut self) {
        self.left = self.left.saturating_sub(u32::from(self.crowded));
    }
}

impl Forwarder {
    /// The first packet of a flow: it is parked, and the controller is asked.
    pub(crate) fn miss(&mut self, mbuf: Mbuf, found: Headers, key: FlowKey) {
        if let Some(reason) = self.takes_no_more(key.vport) {
            return self.end(mbuf, reason);
        }
        self.make_room();
        let Some(flow) = self.exact.add(key, FlowState::Pending, self.now_ns) else {
            return self.end(mbuf, DropReason::FlowTableFull);
        };
        let Some(mut entry) = self.exact.get_mut(flow) else { return };
        if let Err(mbuf) = self.parking.park(&mut entry.parked, key.vport.0, mbuf) {
            self.exact.remove(flow);
            return self.end(mbuf, DropReason::ParkingFull);
        }
        self.misses.take();
        self.account.counters.flow_misses.add(1);
        entry.announced = self.controller.announce(Event::FlowMiss {
            key,
            tcp_flags: found.tcp_flags,
            length: found.ip_len(),
            received_ns: self.now_ns,
        });
        self.await_rule(flow);
    }

    /// Why a new flow from this vport can't come in now; none if it can.
    fn takes_no_more(&mut self, vport: VportId) -> Option<DropReason> {
        if self.parking.is_full_for(vport.0) {
            return Some(DropReason::ParkingFull);
        }
        (!self.misses.allows(self.now_ns)).then_some(DropReason::TooManyNewFlows)
    }

    /// How a packet from this vport ends at the head, if that is all that becomes of it: a stranger that is one too many, one more
    /// of a flow that waits with as many as may, or of one that was rejected. None for any other.
    pub(crate) fn turned_away(&mut self, vport: VportId, probe: &Probe, found: Found) -> Option<DropReason> {
        let Some(flow) = found.flow(probe).or_else(|| self.exact.find_since(found, probe)) else {
            return self.takes_no_more(vport);
        };
        let entry = self.exact.get(flow)?;
        match entry.state() {
            FlowState::Active(_) => None,
            FlowState::Pending => (!self.parking.has_room(&entry.parked)).then_some(DropReason::ParkingFull),
            FlowState::Rejected => Some(DropReason::NoChain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH_NS: u64 = 1 << EACH_NS_LOG2;

    /// How many of `wanted` come in.
    fn take(budget: &mut MissBudget, now_ns: u64, wanted: usize) -> usize {
        (0..wanted).take_while(|_| budget.allows(now_ns).then(|| budget.take()).is_some()).count()
    }

    /// Breaks if a flood takes a lcore's time, if a rush after a pause is refused, or if nobody comes in any more.
    #[test]
    fn whole_bursts_spend_what_time_has_gathered() {
        let mut budget = MissBudget::new(10);
        budget.note(BURST);
        assert_eq!(take(&mut budget, 0, 1_000), 320);
        assert_eq!(take(&mut budget, EACH_NS - 1, 1_000), 0);
        assert_eq!(take(&mut budget, EACH_NS, 1_000), 1);
        assert_eq!(take(&mut budget, 4 * EACH_NS + 1, 1_000), 3);
        assert_eq!(take(&mut budget, 1_000_000 * EACH_NS, 1_000), 320, "no more than at the start");
        assert_eq!(take(&mut budget, u64::MAX, 1_000), 320);
    }

    /// Breaks if a lcore that keeps up refuses anybody, or if what it takes in then is missing in a rush.
    #[test]
    fn who_keeps_up_takes_all_in_and_spends_nothing() {
        let mut budget = MissBudget::new(1);
        budget.note(BURST - 1);
        assert_eq!(take(&mut budget, 0, 1_000), 1_000);
        budget.note(BURST);
        assert_eq!(take(&mut budget, 0, 1_000), 32);
        budget.note(BURST - 1);
        assert_eq!(take(&mut budget, 0, 1_000), 1_000);
    }
}
