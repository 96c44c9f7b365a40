//! Each distinct [`ExactAction`] once, however many flows have it: there are about as many as paths, so they stay in the cache, and
//! a flow names its own in 4 bytes.
//!
//! Invariant: an action is here exactly while a flow has it.

use std::collections::HashMap;

use packet::PathId;
use shm::rules::ExactAction;

/// The actions of all flows.
#[derive(Debug, Default)]
pub(super) struct Actions {
    kept: Vec<Kept>,
    free: Vec<u32>,
    index: HashMap<ExactAction, u32, ahash::RandomState>,
    /// The one that a flow took last: flows that come together often take the same.
    latest: u32,
}

#[derive(Debug)]
struct Kept {
    action: ExactAction,
    flows: u64,
}

impl Actions {
    /// The number of an action that one flow more has.
    pub fn take(&mut self, action: &ExactAction) -> u32 {
        let is_latest =
            self.kept.get(self.latest as usize).is_some_and(|kept| kept.flows > 0 && kept.action == *action);
        if !is_latest {
            self.latest = match self.index.get(action) {
                Some(&number) => number,
                None => self.keep(*action),
            };
        }
        self.kept[self.latest as usize].flows += 1;
        self.latest
    }

    fn keep(&mut self, action: ExactAction) -> u32 {
        let new = Kept { action, flows: 0 };
        let number = match self.free.pop() {
            Some(number) => {
                self.kept[number as usize] = new;
                number
            }
            None => {
                self.kept.push(new);
                self.kept.len() as u32 - 1
            }
        };
        self.index.insert(action, number);
        number
    }

    /// One flow fewer has it.
    pub fn leave(&mut self, number: u32) {
        let kept = &mut self.kept[number as usize];
        kept.flows -= 1;
        if kept.flows == 0 {
            self.index.remove(&kept.action);
            self.free.push(number);
        }
    }

    /// The action of this number.
    pub fn of(&self, number: u32) -> &ExactAction {
        &self.kept[number as usize].action
    }

    /// Flows per path; paths without are not there.
    pub fn per_path(&self) -> HashMap<PathId, u64> {
        let mut flows = HashMap::new();
        for kept in self.kept.iter().filter(|kept| kept.flows > 0) {
            *flows.entry(kept.action.path).or_default() += kept.flows;
        }
        flows
    }
}
