//! The controller's side of one lcore: batches out, and what became of them.
//!
//! Off the packet's path but for its first packet: the misses of a turn are answered by one batch, which goes into the update
//! ring at once. What does not fit there waits here, in order. A batch is its updates and a commit; the lcore answers each with
//! `Committed` or `Refused`. Nothing is allocated for a batch once the queues here have grown to what is usual.

use std::collections::VecDeque;

use packet::VportId;
use shm::capture::CaptureRecord;
use shm::link::{ControllerLink, UPDATE_SLOTS};
use shm::message::DecodeError;
use shm::ring::RingError;
use shm::rules::{Epoch, Event, Update};

/// Updates of a batch, at most; larger sets are several batches.
pub(crate) const MAX_BATCH: usize = 256;

/// Events taken from a lcore before the next one has its turn.
const EVENTS_PER_TURN: usize = 256;

/// Captures taken from a lcore before the next one has its turn.
const CAPTURES_PER_TURN: usize = 64;

/// A batch that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InFlight {
    epoch: Epoch,
    /// How many of the unanswered updates are its.
    count: usize,
}

/// What runs on a lcore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing: nobody reads its ring.
    Nobody,
    /// The host's ports.
    Ports,
    /// The NF instance at this vport.
    Instance(VportId),
}

/// One lcore.
#[derive(Debug)]
pub(crate) struct Lane {
    link: ControllerLink,
    occupant: Occupant,
    /// Said, but not in the ring yet.
    outgoing: VecDeque<Update>,
    /// Committed by us, not yet answered.
    in_flight: VecDeque<InFlight>,
    /// The updates of these batches, in order.
    unanswered: VecDeque<Update>,
}

impl Lane {
    pub(crate) fn new(link: ControllerLink, occupant: Occupant) -> Self {
        let (outgoing, unanswered) = (VecDeque::new(), VecDeque::with_capacity(UPDATE_SLOTS));
        Self { link, occupant, outgoing, in_flight: VecDeque::with_capacity(MAX_BATCH), unanswered }
    }

    pub(crate) fn occupant(&self) -> Occupant {
        self.occupant
    }

    /// True if somebody reads what is said.
    pub(crate) fn is_heard(&self) -> bool {
        self.occupant != Occupant::Nobody
    }

    /// Another occupant is there, or none; what was said to the one before and not answered will not be: its epochs.
    pub(crate) fn change_occupant(&mut self, occupant: Occupant) -> Vec<Epoch> {
        self.occupant = occupant;
        self.outgoing.clear();
        self.unanswered.clear();
        self.in_flight.drain(..).map(|batch| batch.epoch).collect()
    }

    /// Queues a batch. At most [`MAX_BATCH`] updates, to somebody who hears it.
    pub(crate) fn commit(&mut self, epoch: Epoch, updates: &[Update]) {
        self.outgoing.extend(updates);
        self.note(epoch, updates);
    }

    /// The same, but what the ring has room for goes there at once. That a ring is dead, the next flush says.
    pub(crate) fn commit_now(&mut self, epoch: Epoch, updates: &[Update]) {
        let goes_now = self.outgoing.is_empty();
        let sent = if goes_now { self.link.updates.push_batch(updates).unwrap_or(0) } else { 0 };
        self.outgoing.extend(&updates[sent..]);
        self.note(epoch, updates);
        if goes_now {
            let _ = self.flush();
        }
    }

    fn note(&mut self, epoch: Epoch, updates: &[Update]) {
        self.outgoing.push_back(Update::Commit(epoch));
        self.unanswered.extend(updates);
        self.in_flight.push_back(InFlight { epoch, count: updates.len() });
    }

    /// Queues an update that belongs to no batch: a read-back, a capture.
    pub(crate) fn say(&mut self, update: Update) {
        self.outgoing.push_back(update);
    }

    /// Puts what fits into the ring.
    pub(crate) fn flush(&mut self) -> Result<(), RingError> {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            let sent = self.link.updates.push_batch(front)?;
            self.outgoing.drain(..sent);
            if sent == 0 {
                break;
            }
        }
        Ok(())
    }

    /// True if the ring was too full for all that was said.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Everything up to this epoch is in force: says each batch's epoch.
    pub(crate) fn settle(&mut self, epoch: Epoch, mut settled: impl FnMut(Epoch)) {
        while let Some(batch) = self.in_flight.pop_front_if(|batch| batch.epoch <= epoch) {
            self.unanswered.drain(..batch.count);
            settled(batch.epoch);
        }
    }

    /// The updates of the batch of this epoch, which was refused; the ones before it are in force.
    pub(crate) fn refuse(&mut self, epoch: Epoch) -> Option<Vec<Update>> {
        let place = self.in_flight.iter().position(|batch| batch.epoch == epoch)?;
        let from = self.in_flight.iter().take(place).map(|batch| batch.count).sum::<usize>();
        let batch = self.in_flight.remove(place)?;
        Some(self.unanswered.drain(from..from + batch.count).collect())
    }

    /// Takes a turn's events, in order.
    pub(crate) fn events(&mut self, mut take: impl FnMut(Result<Event, DecodeError>)) -> Result<usize, RingError> {
        self.link.events.pop_batch(EVENTS_PER_TURN, &mut take)
    }

    /// Takes a turn's captures; malformed ones are skipped.
    pub(crate) fn captures(&mut self, mut take: impl FnMut(CaptureRecord)) -> Result<usize, RingError> {
        for count in 0..CAPTURES_PER_TURN {
            match self.link.captures.pop() {
                Ok(Some(record)) => take(record),
                Ok(None) => return Ok(count),
                Err(RingError::Malformed(_)) => {}
                Err(dead) => return Err(dead),
            }
        }
        Ok(CAPTURES_PER_TURN)
    }

    pub(crate) fn has_work(&mut self) -> bool {
        self.link.has_work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::link;

    #[test]
    fn what_does_not_fit_waits_in_order_and_settles_by_epoch() {
        let (fds, mut theirs) = link::create(1).unwrap();
        let (mut ours, _bell) = link::open(fds).unwrap();
        let mut lane = Lane::new(ours.remove(0), Occupant::Ports);
        let batches = link::UPDATE_SLOTS as u64;
        for epoch in 1..=batches {
            lane.commit_now(Epoch(epoch), &[Update::ReadBack(epoch as u32)]);
        }
        assert!(lane.has_backlog());
        let mut seen = Vec::new();
        loop {
            while let Some(update) = theirs[0].updates.pop().unwrap() {
                seen.push(update);
            }
            if !lane.has_backlog() {
                break;
            }
            lane.flush().unwrap();
        }
        let expected: Vec<Update> =
            (1..=batches).flat_map(|epoch| [Update::ReadBack(epoch as u32), Update::Commit(Epoch(epoch))]).collect();
        assert_eq!(seen, expected);
        assert_eq!(lane.refuse(Epoch(2)), Some(vec![Update::ReadBack(2)]));
        let mut settled = Vec::new();
        lane.settle(Epoch(4), |epoch| settled.push(epoch.0));
        assert_eq!(settled, [1, 3, 4]);
        assert_eq!(lane.refuse(Epoch(6)), Some(vec![Update::ReadBack(6)]), "each batch keeps its own updates");
        assert_eq!(lane.refuse(Epoch(2)), None);
        let unanswered = lane.change_occupant(Occupant::Nobody);
        assert_eq!(unanswered.len() as u64, batches - 5, "whoever left answers nothing");
        assert!(!lane.has_backlog() && !lane.is_heard());
    }
}
