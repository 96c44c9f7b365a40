//! The flows of a burst of updates, looked up together, so that all of their cache misses are on their way at the same time.
//!
//! Off the packet's path, between two bursts. What was found stays true but for what the burst's own updates change, and they come
//! one after the other: a flow that was there may be gone, which its handle tells; one that was not may have come, which a small
//! filter of the flows that came since tells: it may name one too many, and never one too few.

use arrayvec::ArrayVec;
use dpdk::BURST;
use packet::FlowKey;
use shm::rules::{ExactRule, Update};

use crate::exact::{ExactTable, FlowHandle, Probe};

/// The flows of some updates, by their place.
pub struct Fetched {
    /// The first update's place.
    from: usize,
    /// Of each, its place among those that name a flow.
    places: [u8; BURST],
    probes: ArrayVec<Probe, BURST>,
    found: [Option<FlowHandle>; BURST],
    /// How many updates were looked at.
    count: usize,
    /// A bit for each hash of a flow that came since.
    came: [u64; 4],
}

impl Fetched {
    /// Looks the flows of a burst of updates up, the first of which has this place.
    pub fn new(table: &ExactTable, from: usize, burst: &[Option<Update>]) -> Self {
        let (mut keys, mut probes) = (ArrayVec::<FlowKey, BURST>::new(), ArrayVec::<Probe, BURST>::new());
        let (mut places, mut come) = ([0; BURST], 0);
        for (place, update) in places.iter_mut().zip(burst) {
            let Some(update) = update else { continue };
            let (Update::InsertExact(ExactRule { key, .. }) | Update::RemoveExact(key) | Update::RejectFlow(key)) =
                update
            else {
                continue;
            };
            *place = keys.len() as u8;
            come += usize::from(matches!(update, Update::InsertExact(_)));
            probes.push(table.probe_key(key));
            keys.push(*key);
        }
        table.expect(come);
        let mut found = [None; BURST];
        table.find_keys(&keys, &probes, &mut found[..keys.len()]);
        Self { from, places, probes, found, count: burst.len().min(BURST), came: [0; 4] }
    }

    /// No flows.
    pub const fn nothing() -> Self {
        Self {
            from: 0,
            places: [0; BURST],
            probes: ArrayVec::new_const(),
            found: [None; BURST],
            count: 0,
            came: [0; 4],
        }
    }

    /// True if the flow that the update at this place names was looked up.
    pub fn has(&self, place: usize) -> bool {
        (self.from..self.from + self.count).contains(&place)
    }

    /// The flow of this key, which the update at this place names.
    pub fn flow(&self, table: &ExactTable, place: usize, key: &FlowKey) -> Option<FlowHandle> {
        let flow = match self.has(place).then(|| self.found[usize::from(self.places[place - self.from])]) {
            Some(Some(flow)) if table.get(flow).is_some() => Some(flow),
            Some(None) if !self.may_have_come(key) => None,
            _ => return table.find(key),
        };
        debug_assert_eq!(flow, table.find(key), "what was found is not true any more");
        flow
    }

    /// The key that the update at this place names, as it was probed.
    pub fn probe(&self, place: usize) -> Option<&Probe> {
        let at = self.has(place).then(|| self.places[place - self.from])?;
        self.probes.get(usize::from(at))
    }

    /// A flow has come by an update.
    pub fn note(&mut self, key: &FlowKey) {
        let bit = bit(key);
        self.came[usize::from(bit >> 6)] |= 1 << (bit & 63);
    }

    fn may_have_come(&self, key: &FlowKey) -> bool {
        let bit = bit(key);
        self.came[usize::from(bit >> 6)] & 1 << (bit & 63) != 0
    }
}

/// A hash in 8 bits that takes next to nothing. Flows that are made to have the same are looked up once more, that is all.
fn bit(key: &FlowKey) -> u8 {
    let ports = key.five_tuple.source_port.wrapping_add(key.five_tuple.destination_port.rotate_left(5));
    let address = match key.five_tuple.source {
        std::net::IpAddr::V4(address) => address.to_bits(),
        std::net::IpAddr::V6(address) => address.to_bits() as u32,
    };
    ((u32::from(ports) ^ address).wrapping_mul(0x9e37_79b1) >> 24) as u8
}
