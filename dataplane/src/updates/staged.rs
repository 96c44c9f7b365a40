//! An update between the ring and its commit.
//!
//! Off the packet's path, between two bursts. Rules are many and their actions few, so a rule is staged with the number of its action,
//! which the table reads out of a packed one but once.
//!
//! Invariant: the action of each staged rule is held; whoever takes a staged rule away hands it to the table or lets it go.

use packet::FlowKey;
use shm::message::{Incoming, Slot};
use shm::rules::{Epoch, Update};

use crate::exact::{ExactTable, HeldAction};

/// An update that waits for its commit.
#[derive(Debug, Clone, Copy)]
pub enum Staged {
    /// [`Update::InsertExact`]. Whoever takes it away lets its action go.
    InsertExact(FlowKey, HeldAction),
    /// [`Update::RemoveExact`].
    RemoveExact(FlowKey),
    /// [`Update::Commit`].
    Commit(Epoch),
    /// Any other.
    Update(Update),
    /// A message that made no sense.
    Malformed,
}

impl Staged {
    /// Reads a slot that anybody may have written, to the end of what is staged.
    #[inline(always)]
    pub fn take(slot: &Slot, table: &mut ExactTable, staged: &mut Vec<Self>) {
        match Incoming::read(slot) {
            Ok(Incoming::InsertExact(key, action)) => match table.hold(&action) {
                Ok(held) => staged.push(Self::InsertExact(key, held)),
                Err(_) => staged.push(Self::Malformed),
            },
            Ok(Incoming::RemoveExact(key)) => staged.push(Self::RemoveExact(key)),
            Ok(Incoming::Commit(epoch)) => staged.push(Self::Commit(epoch)),
            Ok(Incoming::Update(Update::InsertExact(rule))) => {
                let held = table.hold_read(&rule.action);
                staged.push(Self::InsertExact(rule.key, held));
            }
            Ok(Incoming::Update(update)) => staged.push(Self::Update(update)),
            Err(_) => staged.push(Self::Malformed),
        }
    }
}
