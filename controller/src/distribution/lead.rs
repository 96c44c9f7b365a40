//! The leader's part: ask all, wait for all, decide.

use std::collections::BTreeSet;

use super::follow::Follow;
use super::machine::{Peer, Work};
use super::{Action, ChangeId, Document, Installed, Machine, Message, Phase, Refusal, Stamp, Task};

/// A change that this host leads.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    pub(super) change: ChangeId,
    pub(super) document: Document,
    pub(super) stamp: Stamp,
    composed: String,
    allow_restart: bool,
    phase: Phase,
    /// Who has not answered in this phase.
    waiting: BTreeSet<String>,
    deadline_ms: u64,
    /// A host goes by it, so all will.
    made: bool,
    /// Hosts that have promised not to go by it.
    pub(super) sealed: BTreeSet<String>,
    /// This host's own work in this phase.
    pub(super) task: Task,
}

impl Lead {
    /// It is installed everywhere, and nobody is known that goes by it.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Activating && !self.made
    }

    /// As it is written down while it is open.
    pub(super) fn record(&self) -> Installed {
        let (change, document, composed) = (self.change.clone(), self.document.clone(), self.composed.clone());
        Installed { change, document, composed }
    }
}

impl Machine {
    pub(super) fn propose(&mut self, document: Document, composed: String, allow_restart: bool, settle: bool) {
        if let Err(refusal) = self.may_lead(&document, settle) {
            self.actions.push(Action::Done(Err(refusal)));
            return;
        }
        let (change, task) = (self.next_change(), self.next_task());
        let prepare = Message::Prepare {
            change: change.clone(),
            base: (!settle).then(|| self.stamp.clone()),
            document: Box::new(document.clone()),
            composed: composed.clone(),
            allow_restart,
        };
        self.send_all(&prepare);
        let boxed = Box::new(document.clone());
        self.actions.push(Action::Check { task, document: boxed, composed: composed.clone(), allow_restart });
        let stamp = document.stamp();
        let phase = Phase::Preparing;
        let deadline_ms = self.now_ms + self.times.prepare_ms;
        let (waiting, made, sealed) = (self.everybody(), false, BTreeSet::new());
        self.work = Work::Leading(Lead {
            change,
            document,
            stamp,
            composed,
            allow_restart,
            phase,
            waiting,
            deadline_ms,
            made,
            sealed,
            task,
        });
        self.tell_progress();
    }

    fn may_lead(&self, document: &Document, settle: bool) -> Result<(), Refusal> {
        let no = |host: &str, line: String| {
            Err(Refusal { host: host.to_owned(), reasons: vec![line], needs_restart: false, is_busy: false })
        };
        let busy = |line: String| {
            Err(Refusal { host: self.me.clone(), reasons: vec![line], needs_restart: false, is_busy: true })
        };
        match &self.work {
            Work::Nothing if !self.is_activating() => {}
            Work::Following(follow) => return busy(follow.why_busy()),
            _ => return busy("another change is under way; try again when it is done".into()),
        }
        if document.version <= self.stamp.version {
            return busy(format!("version {} is in force meanwhile; try again", self.stamp.version));
        }
        let away: Vec<&str> =
            self.peers.iter().filter(|(_, peer)| !peer.connected).map(|(name, _)| name.as_str()).collect();
        if let Some(first) = away.first() {
            let whose =
                if away.len() == 1 { "its controller".into() } else { format!("controllers of {}", away.join(", ")) };
            let line = format!("{whose} can't be reached; a change needs all hosts: start it, or look at its log");
            return no(first, line);
        }
        let behind = |peer: &Peer| peer.status.as_ref().is_none_or(|status| status.active != self.stamp);
        match self.peers.iter().find(|(_, peer)| behind(peer)) {
            Some((name, peer)) if !settle => {
                let line = match peer.status.as_ref().map(|status| status.active.version) {
                    Some(version) if version == self.stamp.version => format!(
                        "it goes by another version {version} than {}; apply a whole file, it then holds for all hosts",
                        self.me
                    ),
                    Some(version) => format!(
                        "it goes by version {version}, {} by {}; try again when they agree",
                        self.me, self.stamp.version
                    ),
                    None => "it has not said yet how it is; try again".into(),
                };
                no(name, line)
            }
            _ => Ok(()),
        }
    }

    fn tell_progress(&mut self) {
        if let Work::Leading(lead) = &self.work {
            let waiting = lead.waiting.iter().cloned().collect();
            self.actions.push(Action::Progress(lead.phase, waiting));
        }
    }

    /// This host's own answer in the present phase.
    pub(super) fn lead_local(&mut self, result: Result<(), Refusal>) {
        let Work::Leading(lead) = &self.work else { return };
        let (change, phase, me) = (lead.change.clone(), lead.phase, self.me.clone());
        match result {
            Ok(()) => self.counted(&me, change, phase),
            Err(refusal) => self.refused(&change, refusal),
        }
    }

    /// A host has done what this phase asks of it.
    pub(super) fn counted(&mut self, host: &str, change: ChangeId, phase: Phase) {
        let Work::Leading(lead) = &self.work else { return self.counted_late(host, change, phase) };
        if lead.change != change {
            return self.tell_over(host, change);
        }
        if lead.phase != phase || !lead.waiting.contains(host) {
            return;
        }
        if phase == Phase::Activating {
            self.commit_leading();
        }
        let Work::Leading(lead) = &mut self.work else { return };
        lead.waiting.remove(host);
        self.tell_progress();
        self.end_phase();
    }

    /// The same once nobody is asked any more.
    fn counted_late(&mut self, host: &str, change: ChangeId, phase: Phase) {
        match &self.work {
            Work::Following(follow) if phase == Phase::Activating && follow.change == change => self.commit_following(),
            _ => self.tell_over(host, change),
        }
    }

    /// A host goes by what this one leads: it is made.
    pub(super) fn commit_leading(&mut self) {
        let Work::Leading(lead) = &mut self.work else { return };
        if lead.is_open() {
            lead.made = true;
            let (document, composed, change) = (lead.document.clone(), lead.composed.clone(), lead.change.clone());
            self.go_by(document, composed, Some(change));
        }
    }

    /// Somebody waits for the outcome of an attempt that is led no more.
    fn tell_over(&mut self, host: &str, change: ChangeId) {
        if let Work::Following(follow) = &self.work
            && follow.change == change
        {
            // Whoever can may still make it.
            let stamp = follow.stamp.clone();
            return self.send(host, Message::Activate { change, stamp });
        }
        if host != self.me && change.leader == self.me {
            let active = self.stamp.clone();
            self.send(host, Message::Over { change, active });
        }
    }

    fn end_phase(&mut self) {
        let Work::Leading(lead) = &mut self.work else { return };
        if !lead.waiting.is_empty() {
            return;
        }
        let change = lead.change.clone();
        match lead.phase {
            Phase::Preparing => {
                lead.phase = Phase::Installing;
                lead.deadline_ms = self.now_ms + self.times.install_ms;
                let (document, composed) = (Box::new(lead.document.clone()), lead.composed.clone());
                let allow_restart = lead.allow_restart;
                let (task, waiting) = (self.next_task(), self.everybody());
                if let Work::Leading(lead) = &mut self.work {
                    (lead.task, lead.waiting) = (task, waiting);
                }
                self.send_all(&Message::Install { change });
                self.actions.push(Action::Install { task, document, composed, allow_restart });
                self.tell_progress();
            }
            Phase::Installing => {
                lead.phase = Phase::Activating;
                lead.deadline_ms = self.now_ms + self.times.activate_ms;
                let stamp = lead.stamp.clone();
                let waiting = self.everybody();
                if let Work::Leading(lead) = &mut self.work {
                    lead.waiting = waiting;
                }
                // Written down before anybody hears of it.
                self.persist();
                self.send_all(&Message::Activate { change, stamp });
                self.tell_progress();
                if self.peers.is_empty() {
                    self.commit_leading();
                }
            }
            Phase::Activating => {
                self.work = Work::Nothing;
                self.actions.push(Action::Done(Ok(Vec::new())));
            }
        }
    }

    pub(super) fn refused(&mut self, change: &ChangeId, refusal: Refusal) {
        match std::mem::replace(&mut self.work, Work::Nothing) {
            Work::Leading(lead) if lead.change == *change && lead.phase < Phase::Activating => {
                self.abort(lead, refusal)
            }
            other => self.work = other,
        }
    }

    /// Time is up for those who are to go by it. If any does, the late will follow; else this host waits like any other. The
    /// caller has taken the work away.
    fn end_late(&mut self, lead: Lead) {
        if lead.made {
            let late = lead.waiting.into_iter().collect();
            self.actions.push(Action::Done(Ok(late)));
            return;
        }
        let late: Vec<&str> = self.peers.keys().map(String::as_str).collect();
        let version = lead.stamp.version;
        let line = format!(
            "no answer, so whether version {version} comes into force is open: it is installed everywhere, and decided as soon \
             as {} can be reached; see `towpath get versions`",
            late.join(", ")
        );
        let refusal = Refusal { host: late.join(", "), reasons: vec![line], needs_restart: false, is_busy: false };
        self.actions.push(Action::Done(Err(refusal)));
        self.work = Work::Following(Follow::installed(lead.record()));
    }

    /// Nobody goes by it, and nobody will. The caller has taken the work away.
    pub(super) fn abort(&mut self, lead: Lead, refusal: Refusal) {
        if lead.made {
            return self.end_late(lead);
        }
        if lead.is_open() {
            self.persist();
        }
        let active = self.stamp.clone();
        self.send_all(&Message::Over { change: lead.change, active });
        if lead.phase > Phase::Preparing {
            self.actions.push(Action::Withdraw);
        }
        self.actions.push(Action::Done(Err(refusal)));
    }

    /// A peer can't be reached any more.
    pub(super) fn lose(&mut self, host: &str) {
        self.lose_leader(host);
        let Work::Leading(lead) = &mut self.work else { return };
        let away = |name: &String| self.peers.get(name).is_some_and(|peer| !peer.connected);
        if lead.phase == Phase::Activating {
            let open = lead.is_open();
            if lead.waiting.iter().all(|name| away(name) || (open && *name == self.me)) {
                lead.deadline_ms = self.now_ms;
                self.lead_deadline();
            }
        } else {
            let line = "its controller can't be reached any more; the old version stays in force, look at its log";
            let refusal =
                Refusal { host: host.to_owned(), reasons: vec![line.into()], needs_restart: false, is_busy: false };
            let change = lead.change.clone();
            self.refused(&change, refusal);
        }
    }

    pub(super) fn lead_deadline(&mut self) {
        let now = self.now_ms;
        match std::mem::replace(&mut self.work, Work::Nothing) {
            Work::Leading(lead) if lead.deadline_ms <= now => {
                let late: Vec<String> = lead.waiting.iter().cloned().collect();
                if lead.phase == Phase::Activating {
                    return self.end_late(lead);
                }
                let phase = if lead.phase == Phase::Preparing { "check" } else { "install" };
                let line = format!(
                    "{} did not {phase} version {} in time; the old version stays in force, look at their logs",
                    late.join(", "),
                    lead.stamp.version
                );
                let host = late.first().cloned().unwrap_or_default();
                self.abort(lead, Refusal { host, reasons: vec![line], needs_restart: false, is_busy: false });
            }
            other => self.work = other,
        }
    }

    pub(super) fn answer_inquiry(&mut self, from: &str, change: ChangeId) {
        match &self.work {
            Work::Leading(lead) if lead.change == change => {
                if lead.phase == Phase::Activating {
                    let stamp = lead.stamp.clone();
                    self.send(from, Message::Activate { change, stamp });
                }
            }
            _ => self.tell_over(from, change),
        }
    }
}
