//! Each distinct [`ExactAction`] once, however many flows follow it.
//!
//! On the packet's path: the head reads the action of the flow's entry here. There are about as many as heads of paths, so they
//! stay in the nearest cache, and an entry names its own in 4 bytes.
//!
//! Invariants: an action is here exactly while a flow follows it; there is room for one per flow and one more, so taking one in
//! never fails and allocates nothing.

use ahash::RandomState;
use hashbrown::HashTable;
use shm::rules::ExactAction;

/// The actions in force.
#[derive(Debug)]
pub struct Actions {
    followed: Vec<Followed>,
    free: Vec<u32>,
    /// The one that a flow followed last: those that come together often follow one.
    latest: u32,
    index: HashTable<u32>,
    hasher: RandomState,
    /// How often a number was given to another action than before.
    renumbered: u64,
}

#[derive(Debug)]
struct Followed {
    action: ExactAction,
    flows: u32,
}

impl Actions {
    /// None yet, with room for those of this many flows.
    pub fn new(flows: usize) -> Self {
        let capacity = flows + 1; // a flow follows its new action before it leaves the old one
        Self {
            followed: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            latest: 0,
            index: HashTable::with_capacity(capacity * 2), // twice, so that removals never make it grow
            hasher: RandomState::new(),
            renumbered: 0,
        }
    }

    /// The number of an action that one flow more follows.
    pub fn follow(&mut self, action: &ExactAction) -> u32 {
        let Self { followed, free, latest, index, hasher, renumbered } = self;
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
        let new = Followed { action: *action, flows: 1 };
        let number = if let Some(number) = free.pop() {
            *renumbered += 1;
            followed[number as usize] = new;
            number
        } else {
            followed.push(new);
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
