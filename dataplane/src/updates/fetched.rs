//! The flows of a burst of updates, looked up together, so that all of their cache misses are on their way at the same time.
//!
//! Off the packet's path, between two bursts. What was found stays true but for what the burst's own updates change, and they come
//! one after the other: a flow that was there may be gone, which its handle tells; one that was not may have come, for which its
//! home, which is in the nearest cache by then, is looked at again.

use arrayvec::ArrayVec;
use dpdk::BURST;
use packet::FlowKey;
use shm::rules::Update;

use super::staged::Staged;

use crate::exact::{ExactTable, FlowHandle, Found, Probe};

/// The flows of some updates, by their place.
pub struct Fetched {
    /// The first update's place.
    from: usize,
    /// Of each update; nothing's, where it names no flow.
    probes: ArrayVec<Probe, BURST>,
    found: Found,
}

impl Fetched {
    /// No flows.
    pub const fn nothing() -> Self {
        Self { from: 0, probes: ArrayVec::new_const(), found: Found::NOTHING }
    }

    /// Looks the flows of a burst of updates up, the first of which has this place.
    pub fn fetch(&mut self, table: &ExactTable, from: usize, burst: &[Staged]) {
        let burst = &burst[..burst.len().min(BURST)];
        self.from = from;
        self.probes.clear();
        let mut come = 0;
        for update in burst {
            come += usize::from(matches!(update, Staged::InsertExact(..)));
            self.probes.push(key(update).map_or(Probe::NOTHING, |key| table.probe_key(key)));
        }
        table.expect(come);
        self.found = table.find_keys(&mut self.probes, |at| key(&burst[at]));
    }

    /// True if the flow that the update at this place names was looked up.
    pub fn has(&self, place: usize) -> bool {
        (self.from..self.from + self.probes.len()).contains(&place)
    }

    /// The flow of this key, which the update at this place names.
    #[inline]
    pub fn flow(&self, table: &ExactTable, place: usize, key: &FlowKey) -> Option<FlowHandle> {
        let Some(probe) = self.probe(place) else { return table.find(key) };
        let flow = match self.found.flow(probe) {
            Some(flow) if table.get(flow).is_some() => Some(flow),
            None if !probe.is_v6() => table.find_since(self.found, probe),
            _ => table.find(key),
        };
        debug_assert_eq!(flow, table.find(key), "what was found is not true any more");
        flow
    }

    /// The key that the update at this place names, as it was probed.
    #[inline]
    pub fn probe(&self, place: usize) -> Option<&Probe> {
        self.probes.get(place.wrapping_sub(self.from))
    }
}

/// The key that an update names.
#[inline]
const fn key(update: &Staged) -> Option<&FlowKey> {
    match update {
        Staged::InsertExact(key, _) | Staged::RemoveExact(key) | Staged::Update(Update::RejectFlow(key)) => Some(key),
        _ => None,
    }
}
