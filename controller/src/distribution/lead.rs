//! The leader's part: ask all, wait for all, decide.

use std::collections::BTreeSet;

use super::machine::{Peer, Work};
use super::{Action, ChangeId, Document, Machine, Message, Phase, Refusal, Stamp, Task};

/// A change that this host leads.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    change: ChangeId,
    document: Document,
    stamp: Stamp,
    composed: String,
    allow_restart: bool,
    phase: Phase,
    /// Who has not answered in this phase.
    waiting: BTreeSet<String>,
    deadline_ms: u64,
    /// This host's own work in this phase.
    pub(super) task: Task,
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
        let waiting = self.everybody();
        self.work =
            Work::Leading(Lead { change, document, stamp, composed, allow_restart, phase, waiting, deadline_ms, task });
        self.tell_progress();
    }

    fn may_lead(&self, document: &Document, settle: bool) -> Result<(), Refusal> {
        let no = |host: &str, line: String| {
            Err(Refusal { host: host.to_owned(), reasons: vec![line], needs_restart: false })
        };
        match &self.work {
            Work::Nothing if !self.is_activating() => {}
            Work::Following(follow) => return no(&self.me, follow.why_busy()),
            _ => return no(&self.me, "another change is under way; try again when it is done".into()),
        }
        if document.version <= self.stamp.version {
            return no(&self.me, format!("version {} is in force meanwhile; try again", self.stamp.version));
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
        let Work::Leading(lead) = &mut self.work else { return self.tell_over(host, change) };
        if lead.change != change {
            return self.tell_over(host, change);
        }
        if lead.phase != phase || !lead.waiting.remove(host) {
            return;
        }
        self.tell_progress();
        self.end_phase();
    }

    /// Somebody waits for the outcome of an attempt that is led no more.
    fn tell_over(&mut self, host: &str, change: ChangeId) {
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
                let (document, composed, stamp) = (lead.document.clone(), lead.composed.clone(), lead.stamp.clone());
                let waiting = self.everybody();
                if let Work::Leading(lead) = &mut self.work {
                    lead.waiting = waiting;
                }
                // Written down before anybody hears of it.
                self.go_by(document, composed, Some(change.clone()));
                self.send_all(&Message::Activate { change, stamp });
                self.tell_progress();
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

    /// Nobody has activated it, so nobody will; or it is made, and whoever is late will follow. The caller has taken the work
    /// away.
    pub(super) fn abort(&mut self, lead: Lead, refusal: Refusal) {
        if lead.phase == Phase::Activating {
            let late = lead.waiting.into_iter().collect();
            self.actions.push(Action::Done(Ok(late)));
            return;
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
            if lead.waiting.iter().all(away) {
                lead.deadline_ms = self.now_ms;
                self.lead_deadline();
            }
        } else {
            let line = "its controller can't be reached any more; the old version stays in force, look at its log";
            let refusal = Refusal { host: host.to_owned(), reasons: vec![line.into()], needs_restart: false };
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
                    self.actions.push(Action::Done(Ok(late)));
                    return;
                }
                let phase = if lead.phase == Phase::Preparing { "check" } else { "install" };
                let line = format!(
                    "{} did not {phase} version {} in time; the old version stays in force, look at their logs",
                    late.join(", "),
                    lead.stamp.version
                );
                let host = late.first().cloned().unwrap_or_default();
                self.abort(lead, Refusal { host, reasons: vec![line], needs_restart: false });
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
