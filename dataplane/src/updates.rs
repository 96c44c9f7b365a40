//! A lcore's side of the rings: updates in, events out; and of its mailbox, where the control thread leaves what is new.
//!
//! Updates are gathered between bursts, at most [`PER_POLL`] a poll, and come into force together at their commit; what a
//! dead controller left half sent is forgotten. Nothing that arrives is trusted: a message that can't be read, or a batch
//! that would not fit, refuses the whole batch and says so.
//!
//! A burst of updates costs one look at the ring and its flows' cache misses at the same time (`fetched`); of the commits of one
//! poll the last one is told, and what is said changes hands when it is some, or at the end of the poll.

mod fetched;
mod staged;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use dpdk::BURST;
use packet::{DropReason, FlowKey, VportId};
use shm::counters::{CountersWriter, MAX_VPORTS};
use shm::doorbell::Doorbell;
use shm::link::{LcoreLink, UPDATE_SLOTS};
use shm::ring::{Consumer, Producer, RingError};
use shm::rules::{Epoch, Event, ExactRule, Next, Refusal, TagRule, Update};

use self::fetched::Fetched;
use self::staged::Staged;
use crate::account::Account;
use crate::exact::{ExactTable, FlowMut, FlowRef, FlowState, HELD, HeldAction};
use crate::forwarder::Forwarder;
use crate::outlets::RingConsumer;
use crate::topology::Topology;

/// Messages taken from the update ring in one poll.
pub const PER_POLL: usize = 64;
/// Messages between two commits.
pub const BATCH: usize = 8_192;
const _: () = assert!(BATCH + BURST <= HELD, "each message may be a rule whose action is held");
/// Polls without a look at the update ring after one that has emptied it, under full load. A look costs the lines of memory that the
/// controller has just written, however few messages are in them; a rule waits for as many bursts longer, some 10 µs.
const REST: u8 = 7;
/// Places looked at for a read-back in one poll.
const READ_BACK_PER_POLL: usize = 128;
/// Events that must arrive and wait for room in the ring.
const OWED: usize = 64;
/// Events that the controller is shown at once, in the midst of a poll.
const AT_ONCE: usize = 8;

/// Where the control thread leaves what a lcore is to take between two bursts: one place for each kind, the latest wins.
pub struct Mailbox {
    link: ArrayQueue<LcoreLink>,
    topology: ArrayQueue<Arc<Topology>>,
    taken: AtomicU64,
}

impl Mailbox {
    /// With nothing inside.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self { link: ArrayQueue::new(1), topology: ArrayQueue::new(1), taken: AtomicU64::new(0) })
    }

    /// Leaves a new controller's rings; rings that the lcore has not taken yet belong to a controller that is gone.
    pub fn leave_link(&self, link: LcoreLink) {
        self.link.force_push(link);
    }

    /// Gives the rings back that a lcore had, unless there are newer ones.
    pub fn return_link(&self, link: LcoreLink) {
        let _ = self.link.push(link);
    }

    /// Leaves a topology. The caller keeps the one before it until [`Self::taken`] says that it is out of use, so that no
    /// lcore has to free it.
    pub fn leave_topology(&self, topology: Arc<Topology>) {
        self.topology.force_push(topology);
    }

    /// The version of the topology that the lcore took last. Whatever it sent by the one before is in the rings.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Throws away the updates that nobody took: they were meant for what ran on the lcore before.
    pub fn discard_updates(&self) {
        let Some(mut link) = self.link.pop() else { return };
        for _ in 0..UPDATE_SLOTS {
            match link.updates.pop() {
                Ok(Some(_)) | Err(RingError::Malformed(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.return_link(link);
    }

    fn take_topology(&self) -> Option<Arc<Topology>> {
        if self.topology.is_empty() { None } else { self.topology.pop() } // the look is cheaper than the pop
    }

    fn take_link(&self) -> Option<LcoreLink> {
        if self.link.is_empty() { None } else { self.link.pop() }
    }
}

/// What stays of a lcore when its instance ends: it serves the next one.
pub struct Slot {
    /// What the other lcores put in comes out here.
    pub ring: RingConsumer,
    /// The block of counters, which go on, but for those of the vport and its rules.
    pub counters: CountersWriter,
}

/// The rings from and to the controller, as one lcore has them.
pub struct ControllerPort {
    mailbox: Arc<Mailbox>,
    rings: Option<Rings>,
    /// What was taken since the last commit.
    staged: Vec<Staged>,
    refusal: Option<Refusal>,
    /// The last epoch that has come into force and was not told.
    committed: Option<Epoch>,
    said: bool,
    owed: VecDeque<Event>,
    owes_announcements: bool,
    read_back: Option<ReadBack>,
    tags_to_read_back: Vec<TagRule>,
    failed: Option<VportId>,
    /// Polls under full load until the next look for updates.
    rest: u8,
}

struct Rings {
    updates: Consumer<Update>,
    events: Producer<Event>,
    doorbell: Doorbell,
}

/// Batches that end in one poll.
#[derive(Debug, Clone, Copy)]
struct Ended {
    /// With their commits.
    updates: usize,
    batches: u64,
    /// The last one's.
    epoch: Epoch,
}

#[derive(Debug, Clone, Copy)]
struct ReadBack {
    number: u32,
    exact_from: usize,
    /// Where in `tags_to_read_back`, once they were noted.
    tags_from: Option<usize>,
}

impl ControllerPort {
    /// No controller yet; the first one's rings come through the mailbox. `tag_rules` is the tag table's capacity.
    pub fn new(mailbox: Arc<Mailbox>, tag_rules: u32) -> Self {
        Self {
            mailbox,
            rings: None,
            staged: Vec::with_capacity(BATCH + BURST),
            refusal: None,
            committed: None,
            said: false,
            owed: VecDeque::with_capacity(OWED),
            owes_announcements: false,
            read_back: None,
            tags_to_read_back: Vec::with_capacity(tag_rules as usize),
            failed: None,
            rest: 0,
        }
    }

    /// Tells the controller of a flow miss; false when that must be tried again later.
    pub fn announce(&mut self, miss: Event) -> bool {
        let sent = self.has_room() && self.send(&miss);
        self.owes_announcements |= !sent;
        sent
    }

    /// True while there are flows that the controller does not know of.
    pub fn owes_announcements(&mut self) -> bool {
        self.owes_announcements && self.has_room()
    }

    /// Lets [`Self::announce`] try again.
    pub fn owe_announcements(&mut self) {
        self.owes_announcements = true;
    }

    /// All flows were announced.
    pub fn announced_all(&mut self) {
        self.owes_announcements = false;
    }

    /// Tells the controller something that it can live without; lost events are counted.
    pub fn tell(&mut self, event: Event, account: &mut Account) {
        if !self.has_room() || !self.send(&event) {
            account.counters.events_lost.add(1);
        }
    }

    /// Tells the controller something that it waits for: kept until there is room.
    fn owe(&mut self, event: Event) {
        if self.owed.len() < OWED {
            self.owed.push_back(event);
        }
        self.pay();
    }

    /// True if there is room for the answers to a burst of commits, and for an NF's failure or a read-back's end after them.
    fn may_owe(&self) -> bool {
        self.owed.len() + BURST + 2 < OWED
    }

    fn pay(&mut self) {
        while let Some(event) = self.owed.front().copied() {
            if !self.send(&event) {
                return;
            }
            self.owed.pop_front();
        }
    }

    /// The NF on this lcore is out of service; every controller is told, also those that come later.
    pub fn report_failure(&mut self, vport: VportId) {
        self.failed = Some(vport);
        self.owe(Event::NfFailed(vport));
    }

    /// Puts an event into the ring. The controller sees it when there are some, or at the end of the poll.
    fn send(&mut self, event: &Event) -> bool {
        let Some(rings) = &mut self.rings else { return false };
        match rings.events.stage(event) {
            Ok(true) => {
                self.said = true;
                if rings.events.staged() >= AT_ONCE {
                    rings.events.publish();
                }
                true
            }
            Ok(false) => false,
            Err(_) => {
                self.rings = None; // the ring is not one any more: wait for a controller that keeps to the rules
                false
            }
        }
    }

    /// Shows the controller what was said since the last call, or captured, and wakes it if it sleeps; once per poll.
    pub fn ring_doorbell(&mut self, account: &mut Account) {
        if std::mem::take(&mut self.said) | account.take_copied()
            && let Some(rings) = &mut self.rings
        {
            rings.events.publish();
            rings.doorbell.ring_if_waiting();
        }
    }

    /// True if there is room for one more event and for what is owed.
    fn has_room(&mut self) -> bool {
        self.rings.as_mut().is_some_and(|rings| rings.events.has_room(OWED + 1))
    }

    /// True if it is time to look for updates: at every poll, but under full load at every few.
    fn is_due(&mut self, full_load: bool) -> bool {
        let rests = full_load && self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        !rests
    }

    /// Takes up to a burst of updates; how many.
    fn take_updates(&mut self, budget: usize, table: &mut ExactTable) -> usize {
        let Self { rings: Some(rings), staged, .. } = self else { return 0 };
        let taken = rings.updates.pop_slots(budget.min(BURST), |slot| Staged::take(slot, table, staged));
        if taken.is_err() {
            self.rings = None;
        }
        taken.unwrap_or(0)
    }
}

fn is_known(next: Next, topology: &Topology) -> bool {
    match next {
        Next::Vport(vport) => topology.place(vport).is_some(),
        Next::Tunnel { .. } => topology.place(VportId::TUNNEL).is_some(),
    }
}

impl Forwarder {
    /// Takes a new topology and a new controller's rings, applies what is complete, sends what is owed, and lets idle flows go;
    /// once per poll. Returns true if there was, or may be, anything to apply.
    pub fn serve_controller(&mut self) -> bool {
        if let Some(topology) = self.controller.mailbox.take_topology() {
            self.take(topology);
        }
        if let Some(link) = self.controller.mailbox.take_link() {
            self.attach(link);
        }
        self.controller.pay();
        let is_due = self.controller.is_due(self.is_under_full_load());
        let mut budget = if is_due { PER_POLL } else { 0 };
        while budget > 0 && self.controller.may_owe() {
            let taken = self.controller.take_updates(budget, &mut self.exact);
            if taken == 0 {
                break;
            }
            budget -= taken;
            self.take_in(taken);
        }
        if budget > 0 {
            self.controller.rest = REST; // else more may wait
        }
        self.tell_committed();
        self.continue_read_back();
        self.sweep();
        !is_due || budget < PER_POLL
    }

    /// Goes through the updates that were taken last, and puts each batch in force that ends among them.
    fn take_in(&mut self, taken: usize) {
        let mut staged = std::mem::take(&mut self.controller.staged);
        let new = staged.len() - taken;
        let done = match self.at_once(&staged, new) {
            Some(ended) => self.commit_at_once(&staged[..ended.updates], ended),
            None => self.one_by_one(&staged, new),
        };
        staged.drain(..done);
        if staged.len() > BATCH {
            self.controller.refusal = Some(Refusal::BatchTooLarge);
            self.drop_staged(&staged[BATCH..]);
            staged.truncate(BATCH);
        }
        let holds = |update: &&Staged| matches!(update, Staged::InsertExact(..));
        debug_assert_eq!(self.exact.waiting(), staged.iter().filter(holds).count(), "an action is held for no rule");
        self.controller.staged = staged;
    }

    /// What ends among the new updates, if all of it can be put in force at once: nothing of it is refused, whatever the order of the
    /// rest, and nothing but rules is in it. No packet is forwarded between two batches of one poll.
    fn at_once(&self, staged: &[Staged], new: usize) -> Option<Ended> {
        let room = self.exact.room().min(self.tags.room()).min(BATCH);
        if self.controller.refusal.is_some() || staged.len() > room {
            return None;
        }
        let mut ended = Ended { updates: 0, batches: 0, epoch: Epoch(0) };
        for (at, update) in staged.iter().enumerate().skip(new) {
            match update {
                Staged::InsertExact(_, action) if is_known(self.exact.held(*action).next, &self.topology) => {}
                Staged::RemoveExact(_) => {}
                Staged::Commit(epoch) => {
                    ended = Ended { updates: at + 1, batches: ended.batches + 1, epoch: *epoch };
                }
                _ => return None,
            }
        }
        Some(ended)
    }

    /// Puts the batches of these updates in force; how many updates they are.
    fn commit_at_once(&mut self, updates: &[Staged], Ended { batches, epoch, .. }: Ended) -> usize {
        if batches > 0 {
            let mut fetched = Fetched::nothing();
            self.apply_all((0, updates), &mut fetched);
            self.account.counters.update_batches.add(batches);
            self.controller.committed = Some(epoch);
        }
        updates.len()
    }

    /// Looks at each of the new updates and puts each batch in force, or refuses it, that ends among them; up to where that was.
    fn one_by_one(&mut self, staged: &[Staged], new: usize) -> usize {
        let mut begin = 0;
        let mut fetched = Fetched::nothing();
        if staged[new..].iter().any(|update| matches!(update, Staged::Commit(_))) {
            fetched.fetch(&self.exact, new, &staged[new..]);
        }
        for at in new..staged.len() {
            match &staged[at] {
                Staged::Commit(epoch) => {
                    self.commit(*epoch, (begin, &staged[begin..at]), &mut fetched);
                    begin = at + 1;
                }
                Staged::InsertExact(_, action) if is_known(self.exact.held(*action).next, &self.topology) => {}
                Staged::Update(Update::InsertTag(rule)) if is_known(rule.action.next, &self.topology) => {}
                Staged::InsertExact(..) | Staged::Update(Update::InsertTag(_)) => {
                    self.controller.refusal = Some(Refusal::NoSuchVport);
                }
                Staged::Update(update) if self.obey(update) => begin += usize::from(begin == at), // it is of no batch
                Staged::RemoveExact(_) | Staged::Update(_) => {}
                Staged::Malformed => {
                    self.account.counters.malformed_updates.add(1);
                    self.controller.refusal = Some(Refusal::Malformed);
                }
            }
        }
        begin
    }

    /// These are not put in force.
    fn drop_staged(&mut self, updates: &[Staged]) {
        for update in updates {
            if let Staged::InsertExact(_, action) = update {
                self.exact.let_go(*action);
            }
        }
    }

    /// Does what is not a rule; false for a rule, which waits for its commit.
    fn obey(&mut self, update: &Update) -> bool {
        match *update {
            Update::ReadBack(number) => {
                self.controller.read_back = Some(ReadBack { number, exact_from: 0, tags_from: None });
            }
            Update::StartCapture { vport, snap } => self.account.capture(vport, Some(snap)),
            Update::StopCapture(vport) => self.account.capture(vport, None),
            _ => return false,
        }
        true
    }

    /// From here on packets go by this topology. What went by the one before has been handed over: each poll ends with that.
    fn take(&mut self, topology: Arc<Topology>) {
        let version = topology.version();
        for vport in (0..MAX_VPORTS as u16).map(VportId) {
            if self.topology.place(vport).is_some() && topology.place(vport).is_none() {
                self.account.release(vport);
            }
        }
        self.topology = topology;
        self.ways.forget();
        self.tags.forget_ways();
        self.controller.mailbox.taken.store(version, Ordering::Release);
    }

    /// Takes the forwarder of an instance apart that has ended and let everything go. The controller's rings go back into the
    /// mailbox, for the next one.
    pub fn vacate(mut self, ring: RingConsumer, vport: VportId) -> Slot {
        self.account.release(vport);
        self.tags.iter().for_each(|rule| self.account.release_rule(rule.action.counter));
        let (counters, captures) = self.account.into_parts();
        for gauge in [&counters.flows, &counters.tag_rules, &counters.parked, &counters.held, &counters.epoch] {
            gauge.set(0);
        }
        if let (Some(Rings { updates, events, doorbell }), Some(captures)) = (self.controller.rings, captures) {
            self.controller.mailbox.return_link(LcoreLink { updates, events, captures, doorbell });
        }
        Slot { ring, counters }
    }

    fn attach(&mut self, link: LcoreLink) {
        let LcoreLink { updates, events, captures, doorbell } = link;
        self.account.attach(captures);
        self.controller.rings = Some(Rings { updates, events, doorbell });
        let mut staged = std::mem::take(&mut self.controller.staged);
        self.drop_staged(&staged);
        staged.clear();
        self.controller.staged = staged;
        self.controller.refusal = None;
        self.controller.committed = None;
        self.controller.owed.clear();
        self.controller.read_back = None;
        if let Some(vport) = self.controller.failed {
            self.controller.owe(Event::NfFailed(vport));
        }
        self.announce_again();
    }

    /// Puts a batch in force, the first update of which has this place.
    fn commit(&mut self, epoch: Epoch, (first, batch): (usize, &[Staged]), fetched: &mut Fetched) {
        let too_large = (batch.len() > BATCH).then_some(Refusal::BatchTooLarge);
        let refusal = self.controller.refusal.take().or(too_large).or_else(|| self.lacks_room(batch));
        if let Some(reason) = refusal {
            self.account.counters.refused_batches.add(1);
            self.tell_committed();
            self.drop_staged(batch);
            return self.controller.owe(Event::Refused { epoch, reason });
        }
        self.apply_all((first, batch), fetched);
        self.account.counters.update_batches.add(1);
        self.controller.committed = Some(epoch);
    }

    /// Does what these updates say, the first of which has this place.
    fn apply_all(&mut self, (first, updates): (usize, &[Staged]), fetched: &mut Fetched) {
        for (at, burst) in updates.chunks(BURST).enumerate() {
            let first = first + at * BURST;
            if !fetched.has(first) {
                fetched.fetch(&self.exact, first, burst);
            }
            for (at, update) in burst.iter().enumerate() {
                self.apply(update, first + at, fetched);
            }
        }
    }

    /// Tells which epochs have come into force, by the last one.
    fn tell_committed(&mut self) {
        if let Some(epoch) = self.controller.committed.take() {
            self.account.counters.tag_rules.set(self.tags.len() as u64);
            self.account.counters.epoch.set(epoch.0);
            self.controller.owe(Event::Committed(epoch));
        }
    }

    fn lacks_room(&self, batch: &[Staged]) -> Option<Refusal> {
        if batch.len() <= self.exact.room().min(self.tags.room()) {
            return None;
        }
        let (mut exact, mut tags) = (0, 0);
        for update in batch {
            exact += usize::from(matches!(update, Staged::InsertExact(..)));
            tags += usize::from(matches!(update, Staged::Update(Update::InsertTag(_))));
        }
        // Rules that replace others need no room; which those are is looked up only where it matters.
        if exact > self.exact.room() && self.new_flows(batch) > self.exact.room() {
            Some(Refusal::ExactTableFull)
        } else if tags > self.tags.room() && self.new_hops(batch) > self.tags.room() {
            Some(Refusal::TagTableFull)
        } else {
            None
        }
    }

    fn new_flows(&self, batch: &[Staged]) -> usize {
        let is_new = |update: &&Staged| matches!(update, Staged::InsertExact(key, _) if self.exact.find(key).is_none());
        batch.iter().filter(is_new).count()
    }

    fn new_hops(&self, batch: &[Staged]) -> usize {
        let is_new = |update: &&Staged| match update {
            Staged::Update(Update::InsertTag(rule)) => self.tags.find(&rule.key).is_none(),
            _ => false,
        };
        batch.iter().filter(is_new).count()
    }

    fn apply(&mut self, update: &Staged, place: usize, fetched: &Fetched) {
        let update = match update {
            Staged::InsertExact(key, action) => return self.insert(key, *action, place, fetched),
            Staged::RemoveExact(key) => return self.remove(key, place, fetched),
            Staged::Update(update) => update,
            Staged::Commit(_) | Staged::Malformed => return,
        };
        match update {
            Update::RejectFlow(key) => self.reject(key),
            Update::InsertTag(rule) => {
                let inserted = self.tags.insert(*rule);
                debug_assert!(inserted, "room was checked for the whole batch");
            }
            Update::RemoveTag(key) => {
                if let Some(action) = self.tags.remove(key) {
                    self.account.release_rule(action.counter);
                }
            }
            _ => {} // of no batch, or staged in another way
        }
    }

    /// Takes an exact rule out of force.
    #[inline]
    fn remove(&mut self, key: &FlowKey, place: usize, fetched: &Fetched) {
        let Some(flow) = fetched.flow(&self.exact, place, key) else { return };
        let parked = match fetched.probe(place) {
            Some(probe) => self.exact.remove_probed(flow, probe),
            None => self.exact.remove(flow),
        };
        if let Some(parked) = parked {
            self.end_parked(parked, DropReason::NoChain);
        }
    }

    /// Puts an exact rule in force.
    #[inline]
    fn insert(&mut self, key: &FlowKey, held: HeldAction, place: usize, fetched: &Fetched) {
        let Some(flow) = fetched.flow(&self.exact, place, key) else {
            let added = match fetched.probe(place) {
                Some(probe) => self.exact.add_held(key, probe, held, self.now_ns),
                None => self.exact.add_held(key, &self.exact.probe_key(key), held, self.now_ns),
            };
            debug_assert!(added.is_some(), "room was checked for the whole batch");
            return;
        };
        let learned = |entry: FlowMut<'_>| entry.learned && entry.is_active();
        // A rule that was learned while the controller was being asked stays: the flow has its way already.
        if !self.exact.get_mut(flow).is_some_and(learned) {
            let action = *self.exact.held(held);
            self.audit_head(flow, action.path);
            self.activate(flow, action, false);
        }
        self.exact.let_go(held);
    }

    /// Sends a piece of what is installed, and leaves room in the ring for what is owed.
    fn continue_read_back(&mut self) {
        let Some(mut at) = self.controller.read_back else { return };
        for _ in 0..READ_BACK_PER_POLL {
            if !self.controller.has_room() {
                break;
            }
            if let Some(place) = self.exact.at(at.exact_from) {
                at.exact_from += 1;
                if let Some(event) = place.and_then(|entry| installed(entry, self.now_ns)) {
                    self.controller.send(&event);
                }
                continue;
            }
            let from = *at.tags_from.get_or_insert_with(|| {
                self.controller.tags_to_read_back.clear();
                self.controller.tags_to_read_back.extend(self.tags.iter());
                0
            });
            let Some(&rule) = self.controller.tags_to_read_back.get(from) else {
                self.controller.owe(Event::ReadBackDone(at.number));
                self.controller.read_back = None;
                return;
            };
            at.tags_from = Some(from + 1);
            self.controller.send(&Event::TagInstalled(rule));
        }
        self.controller.read_back = Some(at);
    }
}

/// An entry as it is read back; none if it has no rule.
fn installed(entry: FlowRef<'_>, now_ns: u64) -> Option<Event> {
    let FlowState::Active(action) = entry.state() else { return None };
    let idle_ms = (now_ns.saturating_sub(entry.last_ns) / 1_000_000).min(u64::from(u32::MAX));
    Some(Event::Exact {
        rule: ExactRule { key: entry.key(), action },
        learned: entry.learned,
        packets: entry.packets,
        bytes: entry.bytes,
        idle_ms: idle_ms as u32,
    })
}
