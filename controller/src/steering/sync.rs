//! Attaching, and reading back what is installed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use packet::FlowKey;
use shm::doorbell::DoorbellWaiter;
use shm::ring::RingError;
use shm::rules::{Epoch, TagKey, TagRule, Update};

use super::{Installed, Lane, Occupant, PlacedTag, Report, Serve, Steering, Ticket, at};

/// How long a read-back may take.
const READ_BACK_LIMIT: Duration = Duration::from_secs(10);

/// A read-back under way.
#[derive(Debug)]
pub(super) struct ReadBackJob {
    number: u32,
    /// Who asked; none if it is to reconcile after an attach.
    ticket: Option<Ticket>,
    /// Lcores that are not done.
    open: BTreeSet<usize>,
    exact: Vec<Installed>,
    tags: Vec<PlacedTag>,
    mark: u64,
    pub(super) deadline: Instant,
}

impl Steering {
    pub(super) fn attach(&mut self, lanes: Vec<Lane>, bell: DoorbellWaiter, epoch: Epoch, fresh: bool) {
        self.detach();
        self.epoch = self.epoch.max(epoch.0);
        if let Err(error) = self.register(&bell) {
            tracing::error!("the doorbell can't be watched: {error}");
        }
        self.doorbell = Some(bell);
        self.lanes = lanes;
        let captures = self.taps.all();
        self.say_to_all(&captures);
        if !fresh {
            self.read_back(None);
            return;
        }
        let tags = self.tags();
        self.serving = Some(Serve { replay: self.sessions.rules(), found: 0, added: tags.len(), removed: 0 });
        self.commit_tags(tags.into_values().map(|tag| (tag.lcore, Update::InsertTag(tag.rule))));
        self.go_on();
    }

    pub(super) fn detach(&mut self) {
        self.lanes.clear();
        // Its descriptor leaves the poll when it is closed.
        self.doorbell = None;
        self.awaited.clear();
        self.held.clear();
        self.serving = None;
        if let Some(ticket) = self.installing.take() {
            // The next attach installs all of it, before it answers anything.
            self.report(Report::Installed(ticket, Ok(())));
        }
        for job in std::mem::take(&mut self.read_backs) {
            self.answer_read_back(job.ticket, None);
        }
    }

    /// Instances have come and gone. Whoever is gone answers nothing more, and its flows are gone with it.
    pub(super) fn occupy(&mut self, occupants: &[Occupant]) {
        let captures = self.taps.all();
        for (lcore, occupant) in (0..self.lanes.len()).zip(occupants) {
            let before = self.lanes[lcore].occupant();
            if before == *occupant {
                continue;
            }
            if let Err(error) = self.take_events(lcore) {
                return self.break_link(error);
            }
            for epoch in self.lanes[lcore].change_occupant(*occupant) {
                self.awaited.remove(&epoch.0);
            }
            if let Occupant::Instance(vport) = before {
                self.sessions.forget_all_at(vport);
            }
            for job in &mut self.read_backs {
                job.open.remove(&lcore);
            }
            if self.lanes[lcore].is_heard() {
                captures.iter().for_each(|update| self.lanes[lcore].say(*update));
            }
        }
        let numbers: Vec<u32> = self.read_backs.iter().map(|job| job.number).collect();
        numbers.into_iter().for_each(|number| self.end_read_back(number));
        self.go_on();
    }

    pub(super) fn break_link(&mut self, error: RingError) {
        self.detach();
        self.report(Report::LinkBroken(error));
    }

    fn answer_read_back(&self, ticket: Option<Ticket>, rows: Option<Vec<Installed>>) {
        if let Some(ticket) = ticket {
            self.report(Report::ReadBack(ticket, rows));
        }
    }

    /// True while what is installed is not yet known after an attach.
    pub(super) fn is_reconciling(&self) -> bool {
        self.read_backs.iter().any(|job| job.ticket.is_none())
    }

    pub(super) fn read_back(&mut self, ticket: Option<Ticket>) {
        if self.lanes.is_empty() {
            self.answer_read_back(ticket, None);
            return;
        }
        self.next_read_back = self.next_read_back.wrapping_add(1);
        let number = self.next_read_back;
        self.read_backs.push(ReadBackJob {
            number,
            ticket,
            open: (0..self.lanes.len()).filter(|lcore| self.lanes[*lcore].is_heard()).collect(),
            exact: Vec::new(),
            tags: Vec::new(),
            mark: self.sessions.mark(),
            deadline: Instant::now() + READ_BACK_LIMIT,
        });
        self.say_to_all(&[Update::ReadBack(number)]);
    }

    /// A lcore answers read-backs in order, so a row belongs to the first one that this lcore is not done with.
    fn job_of(&mut self, lcore: usize) -> Option<&mut ReadBackJob> {
        self.read_backs.iter_mut().find(|job| job.open.contains(&lcore))
    }

    pub(super) fn hear_installed(&mut self, row: Installed) {
        if let Some(job) = self.job_of(row.lcore) {
            job.exact.push(row);
        }
    }

    pub(super) fn hear_tag(&mut self, tag: PlacedTag) {
        if let Some(job) = self.job_of(tag.lcore) {
            job.tags.push(tag);
        }
    }

    pub(super) fn hear_done(&mut self, lcore: usize, number: u32) {
        if let Some(job) = self.read_backs.iter_mut().find(|job| job.number == number) {
            job.open.remove(&lcore);
            self.end_read_back(number);
        }
    }

    /// Gives the answer once no lcore is open any more.
    fn end_read_back(&mut self, number: u32) {
        let done = |job: &ReadBackJob| job.number == number && job.open.is_empty();
        let Some(place) = self.read_backs.iter().position(done) else { return };
        let job = self.read_backs.remove(place);
        self.forget_unseen(&job);
        match job.ticket {
            Some(_) => self.answer_read_back(job.ticket, Some(job.exact)),
            None => self.reconcile(job),
        }
    }

    /// Flows that ended while nobody could say so.
    fn forget_unseen(&mut self, job: &ReadBackJob) {
        let seen: HashSet<FlowKey, ahash::RandomState> = job.exact.iter().map(|row| row.rule.key).collect();
        let gone = self.sessions.retain_seen(job.mark, &seen);
        if gone > 0 {
            tracing::info!("{gone} flows had ended unnoticed");
        }
    }

    /// Makes what is installed what the plan says. Exact rules stay as they are: their flows live.
    fn reconcile(&mut self, job: ReadBackJob) {
        for row in job.exact.iter().filter(|row| !row.learned) {
            self.sessions.adopt(row.rule);
        }
        let wanted: HashMap<(usize, TagKey), TagRule> =
            self.tags().into_iter().map(|(place, tag)| (place, tag.rule)).collect();
        let found: HashMap<(usize, TagKey), TagRule> = job.tags.iter().map(|tag| (at(tag), tag.rule)).collect();
        let in_use: HashSet<_> = job.exact.iter().map(|row| row.rule.action.path).collect();
        let missing = wanted.iter().filter(|(at, rule)| found.get(at) != Some(rule));
        let add: Vec<(usize, Update)> = missing.map(|((lcore, _), rule)| (*lcore, Update::InsertTag(*rule))).collect();
        // A rule that only living flows of an earlier plan use stays until they end.
        let stray = found.iter().filter(|(at, rule)| !wanted.contains_key(at) && !in_use.contains(&rule.action.path));
        let remove: Vec<(usize, Update)> = stray.map(|((lcore, key), _)| (*lcore, Update::RemoveTag(*key))).collect();
        self.serving =
            Some(Serve { replay: Vec::new(), found: job.exact.len(), added: add.len(), removed: remove.len() });
        self.commit_tags(add.into_iter().chain(remove));
        self.go_on();
    }

    pub(super) fn give_up_late_read_backs(&mut self, now: Instant) {
        while let Some(place) = self.read_backs.iter().position(|job| job.deadline <= now) {
            let job = self.read_backs.remove(place);
            tracing::error!("lcores {:?} did not answer a read-back in {} s", job.open, READ_BACK_LIMIT.as_secs());
            match job.ticket {
                Some(_) => self.answer_read_back(job.ticket, None),
                // What is known is better than nothing: tag rules are put in place, flows stay.
                None => self.reconcile(job),
            }
        }
    }
}
