//! ExactTable: one entry per flow, at the head of a subchain.
//!
//! On the packet's path: step 1 (ingress at an endpoint) and step 3 (out of a mangler). Its keys have the vport's own network; the
//! path's is in the rule. The entry of a new flow is *pending*
//! while the controller is asked; its packets are parked in order and leave when the rule comes.
//!
//! Entries live in a slab that is allocated once; an index of slab positions finds them by key. The index has twice the
//! slab's capacity, so that removals never make it grow. The hash is seeded at start, because flow keys are chosen by
//! whoever sends packets.
//!
//! Invariants: an entry is in the index exactly while it is not free; a generation number tells a reused entry from the one
//! that a deadline was set for.

use ahash::RandomState;
use hashbrown::HashTable;
use packet::{FlowKey, protocol};
use shm::launch::Limits;
use shm::rules::ExactAction;

use crate::parking::ParkedFlow;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How long a flow that no chain selects is dropped without asking the controller again.
const REJECTED_NS: u64 = NANOS_PER_SECOND;
/// What a sixteenth short of a flow's idle time is.
const NEARLY: u64 = 16;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

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

/// One flow.
#[derive(Debug)]
pub struct FlowEntry {
    /// Which flow.
    pub key: FlowKey,
    /// Its rule, if it has one yet.
    pub state: FlowState,
    /// Its parked packets while it is pending.
    pub parked: ParkedFlow,
    /// When the last packet met it, in either direction; for a pending flow, when it missed.
    pub last_ns: u64,
    /// Packets that met the rule.
    pub packets: u64,
    /// Bytes of IP that met the rule.
    pub bytes: u64,
    /// The rule was learned from the forward direction.
    pub learned: bool,
    /// Which sides have closed: [`Side`] bits.
    closed: u8,
    /// The flow-miss event was sent.
    pub announced: bool,
    generation: u32,
    in_use: bool,
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

/// A slab position together with the generation it was seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowHandle {
    index: u32,
    generation: u32,
}

/// The table.
#[derive(Debug)]
pub struct ExactTable {
    index: HashTable<u32>,
    entries: Vec<FlowEntry>,
    free: Vec<u32>,
    hasher: RandomState,
    sweep_at: usize,
    idle: IdleTimes,
}

#[derive(Debug)]
struct IdleTimes {
    tcp_ns: u64,
    tcp_closing_ns: u64,
    udp_ns: u64,
    other_ns: u64,
}

impl ExactTable {
    /// An empty table for `limits.flows` flows; nothing is allocated after this.
    pub fn new(limits: &Limits) -> Self {
        let capacity = limits.flows as usize;
        Self {
            index: HashTable::with_capacity(capacity * 2),
            entries: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            hasher: RandomState::new(),
            sweep_at: 0,
            idle: IdleTimes {
                tcp_ns: u64::from(limits.tcp_idle_s) * NANOS_PER_SECOND,
                tcp_closing_ns: u64::from(limits.tcp_closing_s) * NANOS_PER_SECOND,
                udp_ns: u64::from(limits.udp_idle_s) * NANOS_PER_SECOND,
                other_ns: u64::from(limits.other_idle_s) * NANOS_PER_SECOND,
            },
        }
    }

    /// How many flows it holds.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True if it holds no flow.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many more flows fit.
    pub fn room(&self) -> usize {
        self.entries.capacity() - self.len()
    }

    /// The flow of this key.
    pub fn find(&self, key: &FlowKey) -> Option<FlowHandle> {
        let hash = self.hasher.hash_one(key);
        let index = *self.index.find(hash, |&index| self.entries[index as usize].key == *key)?;
        Some(FlowHandle { index, generation: self.entries[index as usize].generation })
    }

    /// The entry behind a handle, unless it was removed since.
    pub fn get_mut(&mut self, handle: FlowHandle) -> Option<&mut FlowEntry> {
        let entry = self.entries.get_mut(handle.index as usize)?;
        (entry.in_use && entry.generation == handle.generation).then_some(entry)
    }

    /// A new entry for a key that is not in the table; none when the table is full.
    pub fn add(&mut self, key: FlowKey, state: FlowState, now_ns: u64) -> Option<FlowHandle> {
        let index = self.vacant()?;
        let entry = &mut self.entries[index as usize];
        let generation = entry.generation;
        *entry = FlowEntry { state, last_ns: now_ns, generation, in_use: true, ..FlowEntry::vacant(key) };
        let Self { index: table, entries, hasher, .. } = self;
        let hash = hasher.hash_one(key);
        table.insert_unique(hash, index, |&other| hasher.hash_one(entries[other as usize].key));
        Some(FlowHandle { index, generation })
    }

    /// Takes a flow out and returns its list of parked packets, which the caller must end.
    pub fn remove(&mut self, handle: FlowHandle) -> Option<ParkedFlow> {
        let key = self.get_mut(handle)?.key;
        let hash = self.hasher.hash_one(key);
        self.index.find_entry(hash, |&index| index == handle.index).ok()?.remove();
        let entry = &mut self.entries[handle.index as usize];
        entry.in_use = false;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(std::mem::take(&mut entry.parked))
    }

    /// True if a flow's time is up, though no sweep has come by to take it out; never for a pending one.
    pub fn is_over(&self, handle: FlowHandle, now_ns: u64) -> bool {
        self.get(handle).is_some_and(|entry| idle_ns(entry, now_ns) > self.idle.of(entry))
    }

    /// True if a rule's flow goes on: its connection is not over, and it is not idle for nearly its time, which the lcore of its
    /// other end, that counts from another packet, may hold to be up.
    pub fn is_live(&self, handle: FlowHandle, now_ns: u64) -> bool {
        self.get(handle).is_some_and(|entry| {
            let limit_ns = self.idle.of(entry);
            matches!(entry.state, FlowState::Active(_))
                && !entry.is_closing()
                && idle_ns(entry, now_ns) <= limit_ns - limit_ns / NEARLY
        })
    }

    fn get(&self, handle: FlowHandle) -> Option<&FlowEntry> {
        let entry = self.entries.get(handle.index as usize)?;
        (entry.in_use && entry.generation == handle.generation).then_some(entry)
    }

    /// Looks at up to `budget` slab positions and returns the first flow found whose time is up; the next call goes on behind
    /// it. A pending flow has its own deadline and is not returned.
    pub fn sweep(&mut self, now_ns: u64, budget: &mut usize) -> Option<FlowHandle> {
        while *budget > 0 && !self.entries.is_empty() {
            *budget -= 1;
            self.sweep_at = if self.sweep_at + 1 < self.entries.len() { self.sweep_at + 1 } else { 0 };
            let entry = &self.entries[self.sweep_at];
            if entry.in_use && idle_ns(entry, now_ns) > self.idle.of(entry) {
                return Some(FlowHandle { index: self.sweep_at as u32, generation: entry.generation });
            }
        }
        None
    }

    /// What stands at a slab position, for reading the table back piece by piece: the outer none is the end, the inner one a
    /// free place.
    pub fn at(&self, position: usize) -> Option<Option<&FlowEntry>> {
        self.entries.get(position).map(|entry| entry.in_use.then_some(entry))
    }

    fn vacant(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if self.entries.len() == self.entries.capacity() {
            return None;
        }
        let index = self.entries.len() as u32;
        self.entries.push(FlowEntry::vacant(FlowEntry::NO_FLOW));
        Some(index)
    }
}

impl FlowEntry {
    const NO_FLOW: FlowKey = FlowKey {
        vport: packet::VportId::TUNNEL,
        vni: match packet::Vni::new(0) {
            Ok(vni) => vni,
            Err(_) => unreachable!(),
        },
        five_tuple: packet::FiveTuple {
            source: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            destination: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            source_port: 0,
            destination_port: 0,
            protocol: 0,
        },
    };

    const fn vacant(key: FlowKey) -> Self {
        Self {
            key,
            state: FlowState::Pending,
            parked: ParkedFlow::EMPTY,
            last_ns: 0,
            packets: 0,
            bytes: 0,
            learned: false,
            closed: 0,
            announced: false,
            generation: 0,
            in_use: false,
        }
    }

    /// Accounts for a packet of this flow.
    pub fn meet(&mut self, bytes: u64, tcp_flags: u8, now_ns: u64) {
        self.packets += 1;
        self.bytes += bytes;
        self.refresh(Side::Own, tcp_flags, now_ns);
    }

    /// Keeps the flow alive, because a packet of either direction passed. The connection is over once both sides have sent a
    /// FIN, since either may go on after the other's (RFC 9293 section 3.6), or one a RST; a new SYN opens it again.
    pub fn refresh(&mut self, side: Side, tcp_flags: u8, now_ns: u64) {
        self.last_ns = now_ns;
        if tcp_flags & RST != 0 {
            self.closed = Side::Own as u8 | Side::Opposite as u8;
        } else if tcp_flags & FIN != 0 {
            self.closed |= side as u8;
        } else if tcp_flags & SYN != 0 {
            self.closed = 0;
        }
    }

    const fn is_closing(&self) -> bool {
        self.closed == Side::Own as u8 | Side::Opposite as u8
    }
}

const fn idle_ns(entry: &FlowEntry, now_ns: u64) -> u64 {
    now_ns.saturating_sub(entry.last_ns)
}

impl IdleTimes {
    fn of(&self, entry: &FlowEntry) -> u64 {
        match (entry.state, entry.key.five_tuple.protocol) {
            (FlowState::Pending, _) => u64::MAX,
            (FlowState::Rejected, _) => REJECTED_NS,
            (FlowState::Active(_), protocol::TCP) if entry.is_closing() => self.tcp_closing_ns,
            (FlowState::Active(_), protocol::TCP) => self.tcp_ns,
            (FlowState::Active(_), protocol::UDP) => self.udp_ns,
            (FlowState::Active(_), _) => self.other_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use packet::{FiveTuple, Vni, VportId};
    use proptest::prelude::*;

    use super::*;

    fn key(flow: u16) -> FlowKey {
        FlowKey {
            vport: VportId(1),
            vni: Vni::new(100).unwrap(),
            five_tuple: FiveTuple {
                source: [10, 0, 0, 1].into(),
                destination: [10, 0, 0, 2].into(),
                source_port: flow,
                destination_port: 80,
                protocol: protocol::TCP,
            },
        }
    }

    fn table(flows: u32) -> ExactTable {
        ExactTable::new(&Limits { flows, ..Limits::default() })
    }

    #[test]
    fn a_full_table_takes_no_more_and_a_removal_makes_room() {
        let mut table = table(4);
        let handles: Vec<_> = (0..4).map(|flow| table.add(key(flow), FlowState::Pending, 0).unwrap()).collect();
        assert_eq!(table.add(key(9), FlowState::Pending, 0), None);
        assert!(table.remove(handles[2]).is_some());
        assert!(table.add(key(9), FlowState::Pending, 0).is_some());
        assert_eq!(table.room(), 0);
    }

    #[test]
    fn a_handle_dies_with_its_flow_though_the_place_is_used_again() {
        let mut table = table(1);
        let first = table.add(key(1), FlowState::Pending, 0).unwrap();
        table.remove(first);
        let second = table.add(key(2), FlowState::Pending, 0).unwrap();
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert_eq!(table.get_mut(second).unwrap().key, key(2));
    }

    #[test]
    fn a_half_closed_connection_lives_on_until_the_other_side_closes_too() {
        let limits = Limits { flows: 1, tcp_idle_s: 300, tcp_closing_s: 15, ..Limits::default() };
        let mut table = ExactTable::new(&limits);
        let action = action();
        let flow = table.add(key(1), FlowState::Active(action), 0).unwrap();
        table.get_mut(flow).unwrap().refresh(Side::Own, FIN, 0);
        assert_eq!(table.sweep(20 * NANOS_PER_SECOND, &mut 10), None, "the server may still answer");
        table.get_mut(flow).unwrap().refresh(Side::Opposite, FIN, 20 * NANOS_PER_SECOND);
        assert_eq!(table.sweep(36 * NANOS_PER_SECOND, &mut 10), Some(flow));
        table.get_mut(flow).unwrap().refresh(Side::Own, SYN, 36 * NANOS_PER_SECOND);
        assert_eq!(table.sweep(60 * NANOS_PER_SECOND, &mut 10), None, "a new connection between the same ports");
    }

    #[test]
    fn a_flow_is_live_until_nearly_its_time_and_over_behind_it() {
        let mut table = ExactTable::new(&Limits { flows: 3, udp_idle_s: 16, tcp_idle_s: 16, ..Limits::default() });
        let at = |seconds: u64| seconds * NANOS_PER_SECOND;
        let flow = table.add(key(1), FlowState::Active(action()), 0).unwrap();
        assert!(table.is_live(flow, at(15)) && !table.is_over(flow, at(15)));
        assert!(
            !table.is_live(flow, at(16)) && !table.is_over(flow, at(16)),
            "too late for the one, too early for the other"
        );
        assert!(!table.is_live(flow, at(17)) && table.is_over(flow, at(17)));
        table.get_mut(flow).unwrap().refresh(Side::Own, RST, at(17));
        assert!(!table.is_live(flow, at(17)), "the connection is over");
        let pending = table.add(key(2), FlowState::Pending, 0).unwrap();
        assert!(!table.is_live(pending, 0) && !table.is_over(pending, u64::MAX));
        table.remove(flow);
        assert!(!table.is_live(flow, at(17)) && !table.is_over(flow, u64::MAX), "a handle dies with its flow");
    }

    fn action() -> ExactAction {
        ExactAction {
            vni: packet::Vni::new(1).unwrap(),
            tag: packet::Tag::new(1).unwrap(),
            direction: packet::Direction::Forward,
            next: shm::rules::Next::Vport(VportId(2)),
            delivery: shm::rules::Delivery::None,
            path: packet::PathId(1),
            path_mtu: 1_500,
        }
    }

    #[test]
    fn a_rejected_flow_expires_after_a_second_and_a_pending_one_by_its_own_deadline_only() {
        let mut table = table(4);
        let rejected = table.add(key(1), FlowState::Rejected, 0).unwrap();
        table.add(key(2), FlowState::Pending, 0).unwrap();
        assert_eq!(table.sweep(REJECTED_NS, &mut 100), None);
        assert_eq!(table.sweep(u64::MAX / 2, &mut 100), Some(rejected));
    }

    proptest! {
        /// Breaks if removal loses a neighbour, reuse resurrects a flow, or the index grows apart from the slab.
        #[test]
        fn it_behaves_like_a_map(steps in prop::collection::vec((0u16..24, any::<bool>()), 1..400)) {
            let mut table = table(16);
            let mut model: HashMap<FlowKey, FlowHandle> = HashMap::new();
            let buckets = table.index.capacity();
            for (flow, add) in steps {
                let key = key(flow);
                prop_assert_eq!(table.find(&key), model.get(&key).copied());
                match (add, model.get(&key).copied()) {
                    (true, None) => match table.add(key, FlowState::Pending, 0) {
                        Some(handle) => { model.insert(key, handle); }
                        None => prop_assert_eq!(model.len(), 16),
                    },
                    (false, Some(handle)) => {
                        prop_assert!(table.remove(handle).is_some());
                        model.remove(&key);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.index.capacity().max(buckets), buckets, "the index grew");
            }
        }
    }
}
