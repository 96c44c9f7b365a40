//! The other hosts' part: check, install, wait for the leader's word.

use std::collections::BTreeSet;

use super::machine::Work;
use super::{Action, ChangeId, Document, Installed, Machine, Message, Refusal, Stamp, Task};

/// A change that a peer leads.
#[derive(Debug, Clone)]
pub(super) struct Follow {
    pub(super) change: ChangeId,
    pub(super) document: Document,
    pub(super) stamp: Stamp,
    composed: String,
    allow_restart: bool,
    step: Step,
    deadline_ms: u64,
    /// What is being done for it.
    pub(super) task: Option<Task>,
    /// Since when the leader can't be reached.
    pub(super) lost_since_ms: Option<u64>,
    /// Hosts that have promised not to go by it.
    pub(super) sealed: BTreeSet<String>,
    /// The operator knows for whom it waits.
    pub(super) told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Checking,
    Prepared,
    Installing,
    /// Said and written down: only the leader's word, a peer that is active with it, or the promises of all but the leader not to
    /// be end this.
    Installed,
}

impl Follow {
    /// As it was written down, by this controller or before its start.
    pub(super) fn installed(installed: Installed) -> Self {
        let Installed { change, document, composed } = installed;
        let stamp = document.stamp();
        Self { allow_restart: true, step: Step::Installed, ..Self::new(change, document, stamp, composed) }
    }

    fn new(change: ChangeId, document: Document, stamp: Stamp, composed: String) -> Self {
        Self {
            change,
            document,
            stamp,
            composed,
            allow_restart: false,
            step: Step::Checking,
            deadline_ms: 0,
            task: None,
            lost_since_ms: None,
            sealed: BTreeSet::new(),
            told: false,
        }
    }

    /// As it is to be written down.
    pub(super) fn record(&self) -> Installed {
        let (change, document, composed) = (self.change.clone(), self.document.clone(), self.composed.clone());
        Installed { change, document, composed }
    }

    pub(super) fn is_installed(&self) -> bool {
        self.step == Step::Installed
    }

    pub(super) fn why_busy(&self) -> String {
        let (version, leader) = (self.stamp.version, &self.change.leader);
        match self.step {
            Step::Installed => format!(
                "version {version}, led by {leader}, is installed here and not decided; see for whom it waits (towpath get \
                 versions), then try again"
            ),
            _ => format!("{leader} leads a change to version {version}; try again when it is done"),
        }
    }
}

impl Machine {
    fn refuse(&mut self, change: ChangeId, line: String, is_busy: bool) {
        let refusal = Refusal { host: self.me.clone(), reasons: vec![line], needs_restart: false, is_busy };
        let leader = change.leader.clone();
        self.send(&leader, Message::Refused { change, refusal });
    }

    pub(super) fn prepare(
        &mut self,
        change: ChangeId,
        base: Option<Stamp>,
        document: Box<Document>,
        composed: String,
        allow_restart: bool,
    ) {
        let busy = match &self.work {
            // Said twice.
            Work::Following(follow) if follow.change == change => return,
            Work::Following(follow) => Some(follow.why_busy()),
            Work::Leading(_) => Some("it leads a change of its own; try again when that is done".into()),
            Work::CatchingUp { document, .. } => {
                Some(format!("it is catching up to version {}; try again", document.version))
            }
            Work::Nothing if self.is_activating() => Some("its last change is not done yet; try again".into()),
            Work::Nothing => None,
        };
        let stamp = document.stamp();
        let (ours, wanted) = (self.stamp.version, stamp.version);
        let problem = busy.or_else(|| {
            if self.has_refused(&change) {
                return Some("it has promised the other hosts not to make this change; try again".into());
            }
            if wanted <= ours {
                return Some(format!("it goes by version {ours} already; try again"));
            }
            let differs = base.as_ref().is_some_and(|base| *base != self.stamp);
            differs.then(|| format!("it goes by another version {ours} than {}; apply a whole file", change.leader))
        });
        if let Some(line) = problem {
            let is_busy = !matches!(self.work, Work::Nothing) || self.is_activating() || wanted <= ours;
            self.inquire();
            return self.refuse(change, line, is_busy);
        }
        let task = self.next_task();
        self.actions.push(Action::Check {
            task,
            document: document.clone(),
            composed: composed.clone(),
            allow_restart,
        });
        self.work = Work::Following(Follow {
            allow_restart,
            deadline_ms: self.now_ms + self.times.prepare_ms + self.times.install_ms,
            task: Some(task),
            ..Follow::new(change, *document, stamp, composed)
        });
    }

    pub(super) fn install(&mut self, from: &str, change: ChangeId) {
        let task = self.next_task();
        match &mut self.work {
            Work::Following(follow) if follow.change == change && from == change.leader => match follow.step {
                Step::Prepared => {
                    (follow.step, follow.task) = (Step::Installing, Some(task));
                    let (document, composed) = (Box::new(follow.document.clone()), follow.composed.clone());
                    let allow_restart = follow.allow_restart;
                    self.actions.push(Action::Install { task, document, composed, allow_restart });
                }
                Step::Installed => self.send(from, Message::Installed { change }),
                Step::Checking | Step::Installing => {}
            },
            _ if from == change.leader => self.refuse(change, "it has given up waiting; try again".into(), false),
            _ => {}
        }
    }

    /// What became of a check or an installation. The work was taken away.
    pub(super) fn follow_local(&mut self, mut follow: Follow, result: Result<(), Refusal>) {
        let (change, leader) = (follow.change.clone(), follow.change.leader.clone());
        follow.task = None;
        match (result, follow.step) {
            (Ok(()), Step::Checking) => {
                follow.step = Step::Prepared;
                self.work = Work::Following(follow);
                self.send(&leader, Message::Prepared { change });
            }
            (Ok(()), Step::Installing) => {
                follow.step = Step::Installed;
                self.work = Work::Following(follow);
                self.persist();
                self.send(&leader, Message::Installed { change });
            }
            (Err(refusal), step) => {
                if step == Step::Installing {
                    self.actions.push(Action::Withdraw);
                }
                self.send(&leader, Message::Refused { change, refusal });
            }
            (Ok(()), Step::Prepared | Step::Installed) => self.work = Work::Following(follow),
        }
    }

    pub(super) fn activate(&mut self, from: &str, change: ChangeId, stamp: &Stamp) {
        if from != change.leader {
            return;
        }
        match &self.work {
            Work::Following(follow)
                if follow.change == change && follow.is_installed() && !self.has_refused(&change) =>
            {
                self.commit_following();
            }
            _ if self.stamp == *stamp && self.is_activating() => {}
            _ if self.stamp == *stamp => self.send(from, Message::Activated { change }),
            // It was given up here, or is not known any more.
            _ => self.seal(from, change, stamp),
        }
    }

    /// What is installed here is active somewhere.
    pub(super) fn commit_following(&mut self) {
        match std::mem::replace(&mut self.work, Work::Nothing) {
            Work::Following(follow) if follow.is_installed() => {
                let Follow { change, document, composed, .. } = follow;
                self.go_by(document, composed, Some(change));
            }
            other => self.work = other,
        }
    }

    pub(super) fn over(&mut self, from: &str, change: &ChangeId, active: &Stamp) {
        let Work::Following(follow) = &self.work else { return };
        if from != change.leader || follow.change != *change {
            return;
        }
        if follow.is_installed() && follow.stamp == *active {
            return self.commit_following();
        }
        self.give_up();
    }

    /// Undoes what was done for the change, which can't be made any more.
    pub(super) fn give_up(&mut self) {
        let Work::Following(follow) = std::mem::replace(&mut self.work, Work::Nothing) else { return };
        if follow.step == Step::Installed {
            self.persist();
        }
        if matches!(follow.step, Step::Installing | Step::Installed) {
            self.actions.push(Action::Withdraw);
        }
    }

    /// The leader, if it is this host, can't be reached any more: it gives up too, unless all have said that it is installed.
    pub(super) fn lose_leader(&mut self, host: &str) {
        let Work::Following(follow) = &self.work else { return };
        if follow.change.leader == host && follow.step != Step::Installed {
            self.give_up();
        }
    }

    /// Asks the leader what became of what is installed here, or prepared for long.
    pub(super) fn inquire(&mut self) {
        let Work::Following(follow) = &self.work else { return };
        let change = follow.change.clone();
        let leader = change.leader.clone();
        if self.peers.get(&leader).is_some_and(|peer| peer.connected) {
            self.send(&leader, Message::Inquire { change });
        }
    }

    /// Without the leader's word for too long. What is only prepared, or being installed, can't be active anywhere.
    pub(super) fn follow_deadline(&mut self) {
        let Work::Following(follow) = &self.work else { return };
        if follow.step != Step::Installed && follow.deadline_ms <= self.now_ms {
            let (change, version) = (follow.change.clone(), follow.stamp.version);
            self.give_up();
            let line = format!("{} said nothing more of version {version}; it is given up", change.leader);
            self.actions.push(Action::News(line.clone()));
            self.refuse(change, line, false);
        }
    }
}
