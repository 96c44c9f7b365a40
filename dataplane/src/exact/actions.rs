//! Each distinct [`ExactAction`] once, however many flows follow it.
//!
//! On the packet's path: the head reads the action of the flow's entry here. There are about as many as heads of paths, so they
//! stay in the nearest cache, and an entry names its own in 4 bytes.
//!
//! Rules come with their actions packed, and as few of them: what a packed one says is read once and remembered.
//!
//! Invariants: an action is here exactly while a flow follows it, or a rule is about to; there is room for one per flow, one per rule
//! that waits for its commit, and one more, so taking one in never fails and allocates nothing.

use ahash::RandomState;
use hashbrown::HashTable;
use shm::message::{DecodeError, PackedAction};
use shm::rules::ExactAction;

/// Packed actions that are remembered.
const REMEMBERED: usize = u8::MAX as usize + 1;

/// The actions in force.
#[derive(Debug)]
pub struct Actions {
    followed: Vec<Followed>,
    /// Of each, the count of actions so far when it came: a number that was given to another one since has another.
    since: Vec<u64>,
    /// Actions that there were so far.
    actions: u64,
    free: Vec<u32>,
    /// The one that a flow followed last: those that come together often follow one.
    latest: u32,
    index: HashTable<u32>,
    hasher: RandomState,
    /// How often a number was given to another action than before.
    renumbered: u64,
    /// Each at the place that its words say.
    remembered: Box<[Remembered; REMEMBERED]>,
}

/// What a packed action was found to be.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    packed: PackedAction,
    number: u32,
    since: u64,
}

#[derive(Debug)]
struct Followed {
    action: ExactAction,
    flows: u32,
}

impl Actions {
    /// None yet, with room for those of this many flows and rules that wait.
    pub fn new(flows: usize) -> Self {
        let nothing = Remembered { packed: PackedAction::NONE, number: u32::MAX, since: 0 };
        let capacity = flows + 1; // a flow follows its new action before it leaves the old one
        Self {
            followed: Vec::with_capacity(capacity),
            since: Vec::with_capacity(capacity),
            actions: 0,
            free: Vec::with_capacity(capacity),
            latest: 0,
            index: HashTable::with_capacity(capacity * 2), // twice, so that removals never make it grow
            hasher: RandomState::new(),
            renumbered: 0,
            remembered: Box::new([nothing; REMEMBERED]),
        }
    }

    /// The number of a packed action that one flow more follows.
    #[inline]
    pub fn follow_packed(&mut self, packed: &PackedAction) -> Result<u32, DecodeError> {
        let known = &self.remembered[usize::from(packed.spread())];
        if known.packed == *packed
            && self.since.get(known.number as usize) == Some(&known.since)
            && let Some(followed) = self.followed.get_mut(known.number as usize)
            && followed.flows > 0
        {
            followed.flows += 1;
            return Ok(known.number);
        }
        self.remember(packed)
    }

    #[cold]
    fn remember(&mut self, packed: &PackedAction) -> Result<u32, DecodeError> {
        let number = self.follow(&packed.unpack()?);
        let since = self.since[number as usize];
        self.remembered[usize::from(packed.spread())] = Remembered { packed: *packed, number, since };
        Ok(number)
    }

    /// The number of an action that one flow more follows.
    pub fn follow(&mut self, action: &ExactAction) -> u32 {
        let Self { followed, since, actions, free, latest, index, hasher, renumbered, .. } = self;
        if let Some(known) = followed.get_mut(*latest as usize)
            && known.flows > 0
            && known.action == *action
        {
            known.flows += 1;
            return *latest;
        }
        let hash = hasher.hash_one(action);
        if let Some(&number) = index.find(hash, |&number| followed[number as usize].action == *action) {
            followed[number as usize].flows += 1;
            *latest = number;
            return number;
        }
        *actions += 1;
        let new = Followed { action: *action, flows: 1 };
        let number = if let Some(number) = free.pop() {
            *renumbered += 1;
            followed[number as usize] = new;
            since[number as usize] = *actions;
            number
        } else {
            followed.push(new);
            since.push(*actions);
            followed.len() as u32 - 1
        };
        index.insert_unique(hash, number, |&other| hasher.hash_one(followed[other as usize].action));
        *latest = number;
        number
    }

    /// One flow fewer follows it.
    pub fn leave(&mut self, number: u32) {
        let left = &mut self.followed[number as usize];
        left.flows -= 1;
        if left.flows == 0 {
            let hash = self.hasher.hash_one(left.action);
            if let Ok(found) = self.index.find_entry(hash, |&other| other == number) {
                found.remove();
            }
            self.free.push(number);
        }
    }

    /// The action of this number.
    #[inline(always)]
    pub fn of(&self, number: u32) -> &ExactAction {
        &self.followed[number as usize].action
    }

    /// As long as this stays the same, numbers stand for the same actions.
    #[inline(always)]
    pub fn renumbered(&self) -> u64 {
        self.renumbered
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.index.len()
    }
}
