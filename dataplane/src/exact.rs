//! ExactTable: one entry per flow, at the head of a subchain.
//!
//! On the packet's path: step 1 (ingress at an endpoint) and step 3 (out of a mangler). Its keys have the vport's own network;
//! the path's is in the rule. The entry of a new flow is *pending* while the controller is asked; its packets are parked in
//! order and leave when the rule comes.
//!
//! An established packet costs two cache lines. The index (`exact/lines.rs`) finds the flow by one, in which the whole key
//! (`key.rs`) is compared; the entry (`entry.rs`) is the other; its action is one of few (`actions.rs`). For a burst,
//! [`ExactTable::find_burst`] has all of its lines on their way at the same time.
//!
//! The capacity is fixed at launch, so there is never a pause to grow, and any set of keys fits up to it. Memory: 132 bytes
//! per flow for IPv4 (64 of entry, 64 of index, 4 in the list of free entries), 164 for IPv6 (32 more of addresses). Entries
//! are taken from the front and used again, so the memory in use follows the most flows that there ever were; the index is
//! used all over from the first flows on, and is there from the launch. Pages are huge where the kernel has them ([`dpdk::HugeArray`]).
//!
//! Invariants: an entry is in the index exactly while it is not vacant. A handle says when it was made, as a count of flows so
//! far; an entry whose flow came later is not the one that was meant.

mod actions;
mod entry;
mod key;
mod lines;

use std::num::NonZeroU32;

use arrayvec::ArrayVec;
use dpdk::memory::prefetch;
use dpdk::{BURST, HugeArray};
use packet::{FlowKey, protocol};
use shm::launch::Limits;
use shm::message::{DecodeError, PackedAction};
use shm::rules::ExactAction;

use self::actions::Actions;
use self::entry::Rule;
pub use self::entry::{FlowEntry, FlowMut, FlowRef, FlowState, NumberedAction, Side};
pub use self::key::KeyImage;
use self::key::{V6Addresses, v6_addresses};
pub use self::lines::Probe;
use self::lines::{AtHome, Lines, POSITIONS_MAX};
use crate::parking::ParkedFlow;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How long a flow that no chain selects is dropped without asking the controller again.
const REJECTED_NS: u64 = NANOS_PER_SECOND;
/// Actions that are held at the same time, at most.
pub const HELD: usize = 8_192 + BURST;
/// Entries looked at for one that can go where the table is full.
const LOOKED_AT: usize = 16;
/// What a sixteenth short of a flow's idle time is.
const NEARLY: u64 = 16;

/// A flow that was in the table when the handle was made. Two handles are equal if they name the same position; whether the
/// flow is still there, [`ExactTable::get_mut`] says.
#[derive(Debug, Clone, Copy)]
pub struct FlowHandle {
    place: NonZeroU32,
    flows: u64,
}

/// Keys that were looked up together, and when that was.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    flows: u64,
}

impl Found {
    /// No keys.
    pub const NOTHING: Self = Self { flows: 0 };

    /// The flow of one of the keys.
    #[inline(always)]
    pub fn flow(self, probe: &Probe) -> Option<FlowHandle> {
        probe
            .position()
            .map(|position| FlowHandle { place: NonZeroU32::MIN.saturating_add(position), flows: self.flows })
    }
}

/// The action of a rule that waits for its commit: it stays until a flow follows it, or it is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAction(u32);

/// The table.
#[derive(Debug)]
pub struct ExactTable {
    lines: Lines,
    entries: HugeArray<FlowEntry>,
    /// The addresses of the entries whose flow is IPv6.
    v6: HugeArray<V6Addresses>,
    actions: Actions,
    /// Rules that wait for their commit.
    held: usize,
    /// How many positions were ever used.
    used: usize,
    free: Vec<u32>,
    /// Flows that there were so far.
    flows: u64,
    sweep_at: usize,
    dispense_at: usize,
    idle: IdleTimes,
}

#[derive(Debug)]
struct IdleTimes {
    tcp_ns: u64,
    tcp_closing_ns: u64,
    udp_ns: u64,
    other_ns: u64,
    /// No flow's is less.
    least_ns: u64,
}

impl ExactTable {
    /// An empty table for `limits.flows` flows, 16,777,215 at most; nothing is allocated after this.
    pub fn new(limits: &Limits) -> Self {
        let capacity = (limits.flows as usize).min(POSITIONS_MAX);
        Self {
            lines: Lines::new(capacity),
            entries: HugeArray::new(capacity),
            v6: HugeArray::new(capacity),
            actions: Actions::new(capacity + HELD),
            held: 0,
            used: 0,
            free: Vec::with_capacity(capacity),
            flows: 0,
            sweep_at: 0,
            dispense_at: 0,
            idle: IdleTimes::new(limits),
        }
    }

    /// How many flows it holds.
    pub fn len(&self) -> usize {
        self.used - self.free.len()
    }

    /// True if it holds no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more flows fit.
    pub fn room(&self) -> usize {
        self.entries.len() - self.len()
    }

    /// The flow of this key.
    pub fn find(&self, key: &FlowKey) -> Option<FlowHandle> {
        let image = self.lines.seed().image(key);
        let position = self.lines.find(image, |position| !image.is_v6() || self.v6_is(position, key))?;
        Some(self.handle(position))
    }

    /// The flows of these keys, in order: what [`Self::find`] finds for each, but with up to 32 cache misses at the same time,
    /// and the entries on their way into the cache. `found` is as long as `keys`.
    pub fn find_burst(&self, keys: &[FlowKey], found: &mut [Option<FlowHandle>]) {
        for (keys, found) in keys.chunks(BURST).zip(found.chunks_mut(BURST)) {
            self.find_some::<true>(keys, found);
        }
    }

    /// The same for who only asks which flows there are, and does not read their entries.
    pub fn locate_burst(&self, keys: &[FlowKey], found: &mut [Option<FlowHandle>]) {
        for (keys, found) in keys.chunks(BURST).zip(found.chunks_mut(BURST)) {
            self.find_some::<false>(keys, found);
        }
    }

    /// A key that is to be found, or added, soon: its home is on its way into the cache.
    #[inline]
    pub fn probe_key(&self, key: &FlowKey) -> Probe {
        self.lines.probe(self.lines.seed().image(key))
    }

    /// Looks keys up that were probed, a burst at most; their flows' entries are on their way into the cache. `key` is the one of a
    /// place.
    pub fn find_keys<'a>(&self, probes: &mut [Probe], key: impl Fn(usize) -> Option<&'a FlowKey>) -> Found {
        let found = self.find_probed(probes, |probe| probe);
        if probes.iter().any(Probe::is_v6) {
            self.check_v6_probes(probes, key);
        }
        found
    }

    /// Compares the addresses of IPv6 flows whose images were found.
    #[cold]
    fn check_v6_probes<'a>(&self, probes: &mut [Probe], key: impl Fn(usize) -> Option<&'a FlowKey>) {
        for (at, probe) in probes.iter_mut().enumerate().filter(|(_, probe)| probe.is_v6()) {
            let (Some(position), Some(key)) = (probe.position(), key(at)) else { continue };
            if !self.v6_is(position, key) {
                let other = self.find(key); // with the same image, or none
                probe.position = other.map_or(Probe::NOWHERE, |flow| flow.position() as u32);
            }
        }
    }

    /// The entries that this many flows more will take are on their way into the cache.
    pub fn expect(&self, flows: usize) {
        let again = self.free.iter().rev().take(flows);
        let new = self.used..self.entries.len().min(self.used + flows.saturating_sub(again.len()));
        again.map(|&position| position as usize).chain(new).for_each(|position| prefetch(&self.entries[position]));
    }

    /// The key of a plain packet on its way through a burst: its home is on its way into the cache.
    #[inline(always)]
    pub fn probe(&self, image: KeyImage) -> Probe {
        self.lines.probe(image)
    }

    /// Looks IPv4 keys up that were probed; their flows' entries are on their way into the cache.
    #[inline(always)]
    pub fn find_probed<T>(&self, burst: &mut [T], probe: impl Fn(&mut T) -> &mut Probe) -> Found {
        let known = |position: u32| {
            self.entries.prefetch(position as usize);
            position
        };
        let mut elsewhere = ArrayVec::<u8, BURST>::new();
        for (at, key) in burst.iter_mut().enumerate() {
            let probe = probe(key);
            match self.lines.at_home(probe, |_| true) {
                AtHome::Found(position) => probe.position = known(position),
                AtHome::Absent => {}
                AtHome::Elsewhere => elsewhere.push(at as u8),
            }
        }
        for &at in &elsewhere {
            let probe = probe(&mut burst[usize::from(at)]);
            probe.position = self.lines.elsewhere(probe, |_| true).map_or(Probe::NOWHERE, known);
        }
        Found { flows: self.flows }
    }

    /// The flow of an IPv4 key that was probed and not found with its burst, if it has come since.
    pub fn find_since(&self, found: Found, probe: &Probe) -> Option<FlowHandle> {
        if found.flows == self.flows {
            return None;
        }
        let position = match self.lines.at_home(probe, |_| true) {
            AtHome::Found(position) => Some(position),
            AtHome::Absent => None,
            AtHome::Elsewhere => self.lines.elsewhere(probe, |_| true),
        };
        position.map(|position| self.handle(position))
    }

    /// Up to a burst. All is IPv4 here, as long as it is: there is a way for both, but it costs both of them.
    #[inline(always)]
    fn find_some<const ENTRIES: bool>(&self, keys: &[FlowKey], found: &mut [Option<FlowHandle>]) {
        let mut probes = ArrayVec::<Probe, BURST>::new();
        for key in keys {
            let Some(image) = KeyImage::of_v4(key) else { return self.find_some_v6::<ENTRIES>(keys, found) };
            probes.push(self.lines.probe(image));
        }
        self.look_up::<ENTRIES>(&probes, found);
    }

    #[inline(never)]
    fn find_some_v6<const ENTRIES: bool>(&self, keys: &[FlowKey], found: &mut [Option<FlowHandle>]) {
        let probes: ArrayVec<Probe, BURST> =
            keys.iter().map(|key| self.lines.probe(self.lines.seed().image(key))).collect();
        self.look_up::<ENTRIES>(&probes, found);
        self.check_v6(keys, &probes, found);
    }

    /// Finds keys whose homes are on their way into the cache; IPv6 keys of one image are not told apart.
    #[inline(always)]
    fn look_up<const ENTRIES: bool>(&self, probes: &[Probe], found: &mut [Option<FlowHandle>]) {
        let known = |position: u32| {
            if ENTRIES {
                self.entries.prefetch(position as usize);
            }
            self.handle(position)
        };
        let mut elsewhere = ArrayVec::<u8, BURST>::new();
        for ((at, probe), found) in probes.iter().enumerate().zip(&mut *found) {
            let position = match self.lines.at_home(probe, |_| true) {
                AtHome::Found(position) => Some(position),
                AtHome::Absent => None,
                AtHome::Elsewhere => {
                    elsewhere.push(at as u8);
                    None
                }
            };
            *found = position.map(known);
        }
        for &at in &elsewhere {
            let position = self.lines.elsewhere(&probes[usize::from(at)], |_| true);
            found[usize::from(at)] = position.map(known);
        }
    }

    /// Compares the addresses of IPv6 flows whose images were found.
    fn check_v6(&self, keys: &[FlowKey], probes: &[Probe], found: &mut [Option<FlowHandle>]) {
        let wide = |probe: &Probe, found: &Option<FlowHandle>| found.filter(|_| probe.is_v6());
        for flow in probes.iter().zip(&*found).filter_map(|(probe, found)| wide(probe, found)) {
            prefetch(&self.v6[flow.position()]);
        }
        for ((key, probe), found) in keys.iter().zip(probes).zip(found) {
            if wide(probe, found).is_some_and(|flow| !self.v6_is(flow.position() as u32, key)) {
                *found = self.find(key); // another flow with the same image, or none
            }
        }
    }

    fn v6_is(&self, position: u32, key: &FlowKey) -> bool {
        self.v6[position as usize] == v6_addresses(key)
    }

    #[inline(always)]
    fn handle(&self, position: u32) -> FlowHandle {
        FlowHandle { place: NonZeroU32::MIN.saturating_add(position), flows: self.flows }
    }

    /// The flow behind a handle, unless it was removed since.
    pub fn get(&self, handle: FlowHandle) -> Option<FlowRef<'_>> {
        let position = handle.position();
        let entry = self.entries.get(position).filter(|entry| entry.was_there(handle.flows))?;
        Some(FlowRef { entry, actions: &self.actions, v6: &self.v6, position })
    }

    /// The flow behind a handle, for changing it, and its action, if it has one and was not removed since.
    #[inline(always)]
    pub fn active_mut(&mut self, handle: FlowHandle) -> Option<(FlowMut<'_>, NumberedAction)> {
        self.active_at(handle.position(), handle.flows)
    }

    /// The same for the flow of a key that was looked up, if there is one.
    #[inline(always)]
    pub fn active_found(&mut self, found: Found, probe: &Probe) -> Option<(FlowMut<'_>, NumberedAction)> {
        self.active_at(probe.position as usize, found.flows) // nothing is where there is no flow
    }

    #[inline(always)]
    fn active_at(&mut self, position: usize, flows: u64) -> Option<(FlowMut<'_>, NumberedAction)> {
        let entry = self.entries.get_mut(position)?;
        let action = entry.action_of_old(flows)?;
        let renumbered = self.actions.renumbered();
        let flow = FlowMut { entry, actions: &mut self.actions, v6: &self.v6, position };
        Some((flow, NumberedAction { number: action, renumbered }))
    }

    /// The flow behind a handle, for changing it, unless it was removed since.
    #[inline(always)]
    pub fn get_mut(&mut self, handle: FlowHandle) -> Option<FlowMut<'_>> {
        let position = handle.position();
        let entry = self.entries.get_mut(position).filter(|entry| entry.was_there(handle.flows))?;
        Some(FlowMut { entry, actions: &mut self.actions, v6: &self.v6, position })
    }

    /// A new entry for a key that is not in the table; none when the table is full.
    pub fn add(&mut self, key: FlowKey, state: FlowState, now_ns: u64) -> Option<FlowHandle> {
        let probe = self.lines.probe_later(self.lines.seed().image(&key));
        self.add_probed(&key, &probe, state, now_ns)
    }

    /// The same for a key that was probed.
    pub fn add_probed(&mut self, key: &FlowKey, probe: &Probe, state: FlowState, now_ns: u64) -> Option<FlowHandle> {
        let position = self.vacant()?;
        let rule = Rule::of(&state, &mut self.actions);
        Some(self.begin(position, (key, probe), rule, now_ns))
    }

    /// The same for a rule whose action is held; it is let go if the table is full.
    pub fn add_held(&mut self, key: &FlowKey, probe: &Probe, action: HeldAction, now_ns: u64) -> Option<FlowHandle> {
        let Some(position) = self.vacant() else {
            self.let_go(action);
            return None;
        };
        self.held -= 1;
        Some(self.begin(position, (key, probe), Rule::following(action.0), now_ns))
    }

    #[inline]
    fn begin(&mut self, position: u32, (key, probe): (&FlowKey, &Probe), rule: Rule, now_ns: u64) -> FlowHandle {
        self.flows += 1;
        let image = self.lines.image(probe);
        self.entries[position as usize].begin(image, rule, now_ns, self.flows);
        if probe.is_v6() {
            self.v6[position as usize] = v6_addresses(key);
        }
        self.lines.insert_probed(probe, position);
        self.handle(position)
    }

    /// Keeps a rule's action until its commit. No more than [`HELD`] at a time.
    #[inline]
    pub fn hold(&mut self, packed: &PackedAction) -> Result<HeldAction, DecodeError> {
        let number = self.actions.follow_packed(packed)?;
        self.held += 1;
        Ok(HeldAction(number))
    }

    /// The same for one that was read already.
    pub fn hold_read(&mut self, action: &ExactAction) -> HeldAction {
        self.held += 1;
        HeldAction(self.actions.follow(action))
    }

    /// What is held.
    #[inline]
    pub fn held(&self, held: HeldAction) -> &ExactAction {
        self.actions.of(held.0)
    }

    /// The rule does not come into force, or another flow's entry has taken its action over.
    pub fn let_go(&mut self, held: HeldAction) {
        self.held -= 1;
        self.actions.leave(held.0);
    }

    /// How many rules wait for their commit.
    pub fn waiting(&self) -> usize {
        self.held
    }

    /// Takes a flow out and returns its list of parked packets, which the caller must end.
    pub fn remove(&mut self, handle: FlowHandle) -> Option<ParkedFlow> {
        let image = self.entries.get(handle.position())?.image();
        self.remove_probed(handle, &self.lines.probe_later(image))
    }

    /// The same for a flow whose key was probed.
    pub fn remove_probed(&mut self, handle: FlowHandle, probe: &Probe) -> Option<ParkedFlow> {
        let position = handle.position();
        let entry = self.entries.get_mut(position).filter(|entry| entry.was_there(handle.flows))?;
        self.lines.remove_probed(probe, position as u32);
        self.free.push(position as u32);
        Some(entry.end(&mut self.actions))
    }

    /// True if a flow's time is up, though no sweep has come by to take it out; never for a pending one.
    pub fn is_over(&self, handle: FlowHandle, now_ns: u64) -> bool {
        self.get(handle).is_some_and(|entry| {
            let idle_ns = idle_ns(&entry, now_ns);
            idle_ns > self.idle.least_ns && idle_ns > self.idle.of(&entry)
        })
    }

    /// True if a rule's flow goes on: its connection is not over, and it is not idle for nearly its time, which the lcore of its
    /// other end, that counts from another packet, may hold to be up.
    pub fn is_live(&self, handle: FlowHandle, now_ns: u64) -> bool {
        self.get(handle).is_some_and(|entry| {
            let limit_ns = self.idle.of(&entry);
            entry.is_active() && !entry.is_closing() && idle_ns(&entry, now_ns) <= limit_ns - limit_ns / NEARLY
        })
    }

    /// Looks at up to `budget` slab positions and returns the first flow found whose time is up; the next call goes on behind
    /// it. A pending flow has its own deadline and is not returned.
    pub fn sweep(&mut self, now_ns: u64, budget: &mut usize) -> Option<FlowHandle> {
        while *budget > 0 && self.used > 0 {
            *budget -= 1;
            self.sweep_at = if self.sweep_at + 1 < self.used { self.sweep_at + 1 } else { 0 };
            let entry = &self.entries[self.sweep_at];
            if entry.is_in_use() && idle_ns(entry, now_ns) > self.idle.of(entry) {
                return Some(self.handle(self.sweep_at as u32));
            }
        }
        None
    }

    /// In a full table, a flow that is the first to go for a new one: one that was rejected, or a connection that has not come about.
    /// It is one of the oldest of those, where they are many.
    pub fn dispensable(&mut self) -> Option<FlowHandle> {
        for _ in 0..LOOKED_AT.min(self.used) {
            self.dispense_at = if self.dispense_at + 1 < self.used { self.dispense_at + 1 } else { 0 };
            let entry = &self.entries[self.dispense_at];
            if entry.is_in_use() && !entry.is_pending() && (!entry.is_active() || entry.is_opening()) {
                return Some(self.handle(self.dispense_at as u32));
            }
        }
        None
    }

    /// What stands at a slab position, for reading the table back piece by piece: the outer none is the end, the inner one a
    /// free place.
    pub fn at(&self, position: usize) -> Option<Option<FlowRef<'_>>> {
        let entry = self.entries[..self.used].get(position)?;
        Some(entry.is_in_use().then(|| FlowRef { entry, actions: &self.actions, v6: &self.v6, position }))
    }

    fn vacant(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let position = self.used;
            self.used += usize::from(position < self.entries.len());
            (position < self.used).then_some(position as u32)
        })
    }
}

impl FlowHandle {
    /// Where the flow is, as in [`ExactTable::at`].
    #[inline(always)]
    pub const fn position(self) -> usize {
        self.place.get() as usize - 1
    }
}

impl PartialEq for FlowHandle {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for FlowHandle {}

const fn idle_ns(entry: &FlowEntry, now_ns: u64) -> u64 {
    now_ns.saturating_sub(entry.last_ns)
}

impl IdleTimes {
    fn new(limits: &Limits) -> Self {
        let Limits { tcp_idle_s, tcp_closing_s, udp_idle_s, other_idle_s, .. } = *limits;
        let [tcp_ns, tcp_closing_ns, udp_ns, other_ns] =
            [tcp_idle_s, tcp_closing_s, udp_idle_s, other_idle_s].map(|time| u64::from(time) * NANOS_PER_SECOND);
        let least_ns = tcp_ns.min(tcp_closing_ns).min(udp_ns).min(other_ns).min(REJECTED_NS);
        Self { tcp_ns, tcp_closing_ns, udp_ns, other_ns, least_ns }
    }

    fn of(&self, entry: &FlowEntry) -> u64 {
        if entry.is_pending() {
            return u64::MAX;
        }
        if !entry.is_active() {
            return REJECTED_NS;
        }
        match entry.image().protocol() {
            protocol::TCP if entry.is_closing() || entry.is_opening() => self.tcp_closing_ns,
            protocol::TCP => self.tcp_ns,
            protocol::UDP => self.udp_ns,
            _ => self.other_ns,
        }
    }
}

#[cfg(test)]
mod tests;
