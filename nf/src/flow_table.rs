//! [`FlowTable`]: per-flow state of fixed capacity, with idle times and incremental expiry.
//!
//! On the packet's path: one lookup for every packet that a stateful function sees. A lookup touches a bucket, an entry
//! and a deadline: three cache lines when the table is larger than the cache.
//!
//! Shapes: `capacity` slots; a power of two of buckets, at least as many as slots; collisions are chained through the
//! slots by number. Times are nanoseconds of the packets' own monotonic clock.
//!
//! Invariants:
//! - Everything is allocated by [`FlowTable::new`]; inserting into a full table fails and never grows it.
//! - A slot is either free (deadline [`FREE`], in the free list, in no chain) or used (in exactly one chain of each
//!   index).
//! - The hash is seeded at random, because clients choose the keys: nobody can aim at one chain.
//! - A flow is over at its deadline, even before the sweep has come by: callers ask [`FlowTable::is_over`].
//!
//! There are no errors: a full table is a `None`, which the caller counts under its own drop reason.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::RandomState;
use packet::{FiveTuple, Vni, protocol};

/// The deadline of a free slot; no used slot has it.
const FREE: u64 = u64::MAX;
/// Ends a chain.
const NONE: u32 = u32::MAX;
/// The sweep comes round once in this time, if it is called often enough.
const SWEEP_ROUND_NS: u64 = 1_000_000_000;
/// Slots that one sweep looks at, at most: 8 KiB of deadlines.
const SWEEP_SLOTS: u64 = 1_024;
/// Slots that an insertion into a full table looks at, at most.
const RESCUE_SLOTS: u64 = 64;

/// A flow of a tenant, in the chain's forward direction, compact enough to compare at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Key {
    /// Addresses as numbers; IPv4 in the low 32 bits.
    pub source: u128,
    /// The same of the destination.
    pub destination: u128,
    /// Source port in the high half, destination port in the low half.
    ports: u32,
    vni: u32,
    /// The IP protocol number.
    pub protocol: u8,
    /// Tells the families apart, so that `::1.2.3.4` is not 1.2.3.4.
    pub is_v6: bool,
}

impl Key {
    /// The key of this flow in this tenant's network.
    pub fn new(vni: Vni, tuple: &FiveTuple) -> Self {
        Self {
            source: address_bits(tuple.source),
            destination: address_bits(tuple.destination),
            ports: u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port),
            vni: vni.value(),
            protocol: tuple.protocol,
            is_v6: tuple.source.is_ipv6(),
        }
    }

    /// The source as an address.
    pub fn source_address(&self) -> IpAddr {
        address(self.source, self.is_v6)
    }

    /// The same flow with another source address of the same family.
    pub fn with_source(&self, source: u128) -> Self {
        Self { source, ..*self }
    }

    /// What identifies the client and not the flow: its network and its address.
    pub fn client(&self) -> (u32, bool, u128) {
        (self.vni, self.is_v6, self.source)
    }
}

/// An address as a number.
pub(crate) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of this number; of IPv4 only the low 32 bits count.
pub(crate) fn address(bits: u128, is_v6: bool) -> IpAddr {
    match is_v6 {
        true => Ipv6Addr::from_bits(bits).into(),
        false => Ipv4Addr::from_bits(bits as u32).into(),
    }
}

/// How long a flow may be silent, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdleTimes {
    pub tcp_ns: u64,
    pub tcp_closing_ns: u64,
    pub udp_ns: u64,
    pub other_ns: u64,
}

impl IdleTimes {
    /// The idle time of a flow that is not closing.
    pub fn open_ns(&self, protocol: u8) -> u64 {
        match protocol {
            protocol::TCP => self.tcp_ns,
            protocol::UDP => self.udp_ns,
            _ => self.other_ns,
        }
    }
}

/// The number of an entry, valid until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    fn place(self) -> usize {
        self.0 as usize
    }
}

/// Chains of slots by hash. The keys are elsewhere: the caller compares.
#[derive(Debug)]
pub(crate) struct Index {
    heads: Box<[u32]>,
    next: Box<[u32]>,
}

impl Index {
    /// An empty index over this many slots.
    pub fn new(capacity: usize) -> Self {
        let buckets = capacity.next_power_of_two();
        Self { heads: vec![NONE; buckets].into(), next: vec![NONE; capacity].into() }
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    /// The first slot of this hash's chain that `is_it`.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Slot) -> bool) -> Option<Slot> {
        let mut at = self.heads[self.bucket(hash)];
        while at != NONE {
            if is_it(Slot(at)) {
                return Some(Slot(at));
            }
            at = self.next[at as usize];
        }
        None
    }

    /// Adds a slot that is not in the index.
    pub fn insert(&mut self, hash: u64, slot: Slot) {
        let bucket = self.bucket(hash);
        self.next[slot.place()] = self.heads[bucket];
        self.heads[bucket] = slot.0;
    }

    /// Takes a slot out of the chain of the hash it was inserted with.
    pub fn remove(&mut self, hash: u64, slot: Slot) {
        let bucket = self.bucket(hash);
        let after = self.next[slot.place()];
        let mut at = self.heads[bucket];
        if at == slot.0 {
            self.heads[bucket] = after;
            return;
        }
        while at != NONE {
            let next = self.next[at as usize];
            if next == slot.0 {
                self.next[at as usize] = after;
                return;
            }
            at = next;
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry<T> {
    key: Key,
    value: T,
}

/// Flows, what is known of each, and when each is over.
#[derive(Debug)]
pub(crate) struct FlowTable<T> {
    entries: Box<[Entry<T>]>,
    index: Index,
    deadlines_ns: Box<[u64]>,
    free: Vec<Slot>,
    seed: RandomState,
    sweep_at: usize,
    swept_ns: u64,
}

impl<T: Copy + Default> FlowTable<T> {
    /// An empty table of this capacity, at least 1 and below 2³².
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: vec![Entry::default(); capacity].into(),
            index: Index::new(capacity),
            deadlines_ns: vec![FREE; capacity].into(),
            free: (0..capacity as u32).rev().map(Slot).collect(),
            seed: RandomState::new(),
            sweep_at: 0,
            swept_ns: 0,
        }
    }

    /// The seeded hash, also for indexes that the caller keeps over the same slots.
    pub fn hash(&self, key: &impl Hash) -> u64 {
        self.seed.hash_one(key)
    }

    /// How many flows are held, those among them that are over but not yet swept.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The flow of this key, even when it is over.
    pub fn find(&self, key: &Key) -> Option<Slot> {
        self.index.find(self.hash(key), |slot| self.entries[slot.place()].key == *key)
    }

    /// Adds a flow that is not in the table; `None` if the table is full.
    pub fn insert(&mut self, key: Key, value: T, deadline_ns: u64) -> Option<Slot> {
        let slot = self.free.pop()?;
        self.index.insert(self.hash(&key), slot);
        self.entries[slot.place()] = Entry { key, value };
        self.keep_until(slot, deadline_ns);
        Some(slot)
    }

    /// Removes a flow.
    pub fn remove(&mut self, slot: Slot) {
        self.index.remove(self.hash(&self.entries[slot.place()].key), slot);
        self.deadlines_ns[slot.place()] = FREE;
        self.free.push(slot);
    }

    /// The flow's key.
    pub fn key(&self, slot: Slot) -> &Key {
        &self.entries[slot.place()].key
    }

    /// What is known of the flow.
    pub fn value(&self, slot: Slot) -> &T {
        &self.entries[slot.place()].value
    }

    /// What is known of the flow, to change it.
    pub fn value_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.entries[slot.place()].value
    }

    /// Sets the time at which the flow is over.
    pub fn keep_until(&mut self, slot: Slot, deadline_ns: u64) {
        self.deadlines_ns[slot.place()] = deadline_ns.min(FREE - 1);
    }

    /// True if the flow's deadline has come.
    pub fn is_over(&self, slot: Slot, now_ns: u64) -> bool {
        now_ns >= self.deadlines_ns[slot.place()]
    }

    /// True if no slot is free.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// How many slots the sweep should look at now so that it comes round about once a second, with bounded work.
    pub fn sweep_budget(&mut self, now_ns: u64) -> u64 {
        let elapsed_ns = now_ns.saturating_sub(self.swept_ns).min(SWEEP_ROUND_NS);
        let slots = elapsed_ns * self.entries.len() as u64 / SWEEP_ROUND_NS;
        if slots > 0 {
            self.swept_ns = now_ns;
        }
        slots.min(SWEEP_SLOTS)
    }

    /// How many slots to look at before an insertion is refused for want of space.
    pub fn rescue_budget(&self) -> u64 {
        RESCUE_SLOTS.min(self.entries.len() as u64)
    }

    /// Looks at the next slots, as many as the budget still allows, for a flow that is over. The caller removes it.
    pub fn next_over(&mut self, now_ns: u64, budget: &mut u64) -> Option<Slot> {
        while *budget > 0 {
            *budget -= 1;
            let at = self.sweep_at;
            self.sweep_at = if at + 1 < self.deadlines_ns.len() { at + 1 } else { 0 };
            if self.deadlines_ns[at] != FREE && now_ns >= self.deadlines_ns[at] {
                return Some(Slot(at as u32));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(number: u32) -> Key {
        Key { source: number.into(), ..Key::default() }
    }

    /// Removes everything that is over, as an instance's `expire` does.
    fn sweep(table: &mut FlowTable<u32>, now_ns: u64, mut budget: u64) -> usize {
        let mut removed = 0;
        while let Some(slot) = table.next_over(now_ns, &mut budget) {
            table.remove(slot);
            removed += 1;
        }
        removed
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_after_the_sweep() {
        let mut table = FlowTable::new(100);
        for number in 0..100 {
            assert!(table.insert(key(number), number, 1_000 + u64::from(number)).is_some());
        }
        assert!(table.is_full() && table.insert(key(100), 100, 1_000).is_none());
        assert_eq!(sweep(&mut table, 1_049, 1_000), 50);
        assert_eq!((table.len(), table.find(&key(49)), table.find(&key(50)).is_some()), (50, None, true));
        assert!(table.insert(key(100), 100, 1_000).is_some());
    }

    #[test]
    fn one_sweep_is_bounded_and_a_second_of_sweeps_sees_every_slot() {
        let mut table: FlowTable<u32> = FlowTable::new(65_536);
        let mut seen = 0;
        for step in 1..=1_000 {
            let budget = table.sweep_budget(step * 1_000_000);
            assert!(budget <= SWEEP_SLOTS);
            seen += budget;
        }
        assert!((65_000..=65_536).contains(&seen), "{seen}");
        assert_eq!(table.sweep_budget(60_000_000_000), SWEEP_SLOTS, "a long silence is not made up for at once");
    }

    #[test]
    fn the_clock_at_its_end_does_not_free_a_used_slot_by_itself() {
        let mut table = FlowTable::new(1);
        let slot = table.insert(key(1), 1, u64::MAX).unwrap();
        assert!(!table.is_over(slot, u64::MAX - 2));
        assert_eq!(sweep(&mut table, u64::MAX, 1), 1);
        assert_eq!(sweep(&mut table, u64::MAX, 1), 0, "a free slot is not removed twice");
    }

    #[test]
    fn families_and_networks_and_ports_are_different_keys() {
        let tuple = |source: &str, destination: &str, source_port| FiveTuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port,
            destination_port: 2,
            protocol: 17,
        };
        let vni = |value| Vni::new(value).unwrap();
        let keys = [
            Key::new(vni(1), &tuple("1.2.3.4", "5.6.7.8", 1)),
            Key::new(vni(2), &tuple("1.2.3.4", "5.6.7.8", 1)),
            Key::new(vni(1), &tuple("::102:304", "::506:708", 1)),
            Key::new(vni(1), &tuple("1.2.3.4", "5.6.7.8", 2)),
            Key::new(vni(1), &tuple("5.6.7.8", "1.2.3.4", 1)),
        ];
        for (at, one) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == one), Some(at));
            assert_eq!(one.source_address(), address(one.source, one.is_v6));
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((0..40u32, any::<bool>(), 0..50u64), 0..400)) {
            let mut table = FlowTable::new(16);
            let mut model: HashMap<u32, (u32, u64)> = HashMap::new();
            for (now, (number, insert, deadline)) in steps.into_iter().enumerate() {
                let now = now as u64 / 8;
                match (table.find(&key(number)), insert) {
                    (Some(slot), true) => {
                        table.keep_until(slot, deadline);
                        model.get_mut(&number).unwrap().1 = deadline;
                    }
                    (Some(slot), false) => {
                        table.remove(slot);
                        model.remove(&number);
                    }
                    (None, true) => {
                        let inserted = table.insert(key(number), number * 3, deadline).is_some();
                        prop_assert_eq!(inserted, model.len() < 16);
                        if inserted {
                            model.insert(number, (number * 3, deadline));
                        }
                    }
                    (None, false) => {
                        sweep(&mut table, now, 16);
                        model.retain(|_, (_, deadline)| now < *deadline);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for number in 0..40 {
                    let held = table.find(&key(number)).map(|slot| *table.value(slot));
                    prop_assert_eq!(held, model.get(&number).map(|(value, _)| *value));
                }
            }
        }
    }
}
