//! [`Machine`]: what a host's controller knows of versions, and what it does about what it hears.

use std::collections::{BTreeMap, BTreeSet};

use packet::PathId;
use serde::{Deserialize, Serialize};

use super::follow::Follow;
use super::lead::Lead;
use super::{ChangeId, Document, Message, PeerStatus, Record, Stamp};

/// Names something that the machine asked to be done; the answer bears the same number.
pub type Task = u64;

/// How long things may take, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// To compose and check.
    pub prepare_ms: u64,
    /// To start instances and put tag rules in place, a restart of the dataplane included.
    pub install_ms: u64,
    /// To hear from all that they have activated; it goes on without them.
    pub activate_ms: u64,
    /// How long a leader may be away before the others decide without it.
    pub lost_ms: u64,
    /// Between two looks at what is not settled.
    pub repeat_ms: u64,
    /// Between two attempts to forget idle paths.
    pub forget_again_ms: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            prepare_ms: 10_000,
            install_ms: 90_000,
            activate_ms: 10_000,
            lost_ms: 5_000,
            repeat_ms: 1_000,
            forget_again_ms: 3_000,
        }
    }
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Who says so.
    pub host: String,
    /// What is wrong and what to do, one line each.
    pub reasons: Vec<String>,
    /// A restart of its dataplane would do, if it were allowed.
    pub needs_restart: bool,
    /// It is in the midst of another change; asking again soon would do.
    pub is_busy: bool,
}

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Every host composes and checks.
    Preparing,
    /// Instances start, tag rules come into force.
    Installing,
    /// Heads go by the new plan.
    Activating,
}

/// What the machine is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A peer can be spoken with.
    Connected(String),
    /// It can't any more.
    Disconnected(String),
    /// A peer says something.
    Heard(String, Message),
    /// Take this into force everywhere; it follows what is active.
    Propose {
        /// The change.
        document: Box<Document>,
        /// The digest of what was composed from it.
        composed: String,
        /// Dataplanes may be restarted.
        allow_restart: bool,
        /// Also on hosts that are active with something else of the same version.
        settle: bool,
    },
    /// What became of a task.
    Local(Task, Result<(), Refusal>),
    /// Retired paths that are idle on this host.
    Idle(Vec<PathId>),
    /// Instances of this host that have panicked.
    Failed(Vec<String>),
    /// Time passed.
    Tick,
}

/// What the machine wants done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Say this to a peer.
    Send(String, Message),
    /// Write this down before anything that follows.
    Persist(Box<Record>),
    /// Compose the document, compare the digest, ask whether the dataplane can take it; answer by [`Input::Local`].
    Check {
        /// For the answer.
        task: Task,
        /// What.
        document: Box<Document>,
        /// The digest of what the leader composed.
        composed: String,
        /// The dataplane may be restarted.
        allow_restart: bool,
    },
    /// Start its instances, put its tag rules in place, beside those in force; answer by [`Input::Local`].
    Install {
        /// For the answer.
        task: Task,
        /// What.
        document: Box<Document>,
        /// The digest of what it was composed to elsewhere.
        composed: String,
        /// The dataplane may be restarted.
        allow_restart: bool,
    },
    /// Go by what was installed last, and remove what only the plan before had; answer by [`Input::Local`].
    Activate {
        /// For the answer.
        task: Task,
    },
    /// Undo what was installed, or is being installed, and not activated.
    Withdraw,
    /// The change that was proposed here is in this phase, and waits for these hosts.
    Progress(Phase, Vec<String>),
    /// The change that was proposed here is in force, and these hosts will follow when they can; or it is not made.
    Done(Result<Vec<String>, Refusal>),
    /// These retired paths are idle everywhere; propose a document without them.
    Forget(Vec<PathId>),
    /// A peer's failed instances are these now.
    Avoid(String, Vec<String>),
    /// The operator should know.
    News(String),
}

/// What it is busy with.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Nothing,
    /// A change of this host's operator.
    Leading(Lead),
    /// A change that a peer leads.
    Following(Follow),
    /// A peer is ahead; its document is being installed.
    CatchingUp {
        task: Task,
        document: Box<Document>,
        composed: String,
    },
}

/// What is known of a peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    pub(super) connected: bool,
    pub(super) status: Option<PeerStatus>,
    /// The document of our version that we complained about.
    complained: Option<Stamp>,
}

/// The version of one host, and its part in changes.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) me: String,
    /// All hosts in the file's order.
    hosts: Vec<String>,
    pub(super) times: Times,
    pub(super) peers: BTreeMap<String, Peer>,
    pub(super) active: Document,
    pub(super) stamp: Stamp,
    /// The digest of what was composed from it.
    composed: String,
    pub(super) work: Work,
    /// Attempts that are not made at their leader's word.
    pub(super) refused: Vec<ChangeId>,
    run: u64,
    changes: u64,
    tasks: u64,
    /// The activation under way, and whom to tell when it is done.
    activating: Option<(Task, Option<ChangeId>)>,
    idle: Vec<PathId>,
    failed: Vec<String>,
    pub(super) now_ms: u64,
    next_look_ms: u64,
    fetch_again_ms: u64,
    forget_again_ms: u64,
    said: Option<PeerStatus>,
    pub(super) actions: Vec<Action>,
}

impl Machine {
    /// Of this host, among all that the file names. `composed` is the digest of what the active document makes; `run` differs
    /// from one start of the controller to the next. What was installed and not activated is to be installed again.
    pub fn new(me: &str, hosts: &[String], record: Record, composed: String, run: u64, times: Times) -> Self {
        let peers = hosts.iter().filter(|host| *host != me).map(|host| (host.clone(), Peer::default())).collect();
        let work = match record.installed {
            Some(installed) => Work::Following(Follow::installed(installed)),
            None => Work::Nothing,
        };
        Self {
            me: me.to_owned(),
            hosts: hosts.to_vec(),
            times,
            peers,
            stamp: record.active.stamp(),
            active: record.active,
            composed,
            work,
            refused: record.refused,
            run,
            changes: 0,
            tasks: 0,
            activating: None,
            idle: Vec::new(),
            failed: Vec::new(),
            now_ms: 0,
            next_look_ms: 0,
            fetch_again_ms: 0,
            forget_again_ms: 0,
            said: None,
            actions: Vec::new(),
        }
    }

    /// What this host goes by.
    pub fn active(&self) -> &Document {
        &self.active
    }

    /// What it has installed, at a leader's word or as the leader, and not activated.
    pub fn installed(&self) -> Option<&Document> {
        match &self.work {
            Work::Following(follow) if follow.is_installed() => Some(&follow.document),
            Work::Leading(lead) if lead.is_open() => Some(&lead.document),
            _ => None,
        }
    }

    /// What is to be written down now.
    pub(super) fn persist(&mut self) {
        let installed = match &self.work {
            Work::Following(follow) if follow.is_installed() => Some(follow.record()),
            Work::Leading(lead) if lead.is_open() => Some(lead.record()),
            _ => None,
        };
        let record = Record { active: self.active.clone(), installed, refused: self.refused.clone() };
        self.actions.push(Action::Persist(Box::new(record)));
    }

    /// How this host is.
    pub fn status(&self) -> PeerStatus {
        PeerStatus {
            active: self.stamp.clone(),
            installed: self.installed().map(Document::stamp),
            idle: self.idle.clone(),
            failed: self.failed.clone(),
        }
    }

    /// How the peers are, as far as is known, and whether each can be reached.
    pub fn peers(&self) -> impl Iterator<Item = (&str, bool, Option<&PeerStatus>)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer.connected, peer.status.as_ref()))
    }

    /// True if nothing is known that this host should wait for: every peer that answers has said how it is, and none is ahead.
    pub fn is_settled(&self) -> bool {
        let known = |peer: &Peer| match &peer.status {
            Some(status) => status.active.version <= self.stamp.version,
            None => false,
        };
        self.activating.is_none() && !matches!(self.work, Work::CatchingUp { .. }) && self.peers.values().all(known)
    }

    /// True while a change goes on in which this host takes part.
    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Work::Nothing) || self.activating.is_some()
    }

    /// Takes an input at this time; what is to be done.
    pub fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Action> {
        self.now_ms = self.now_ms.max(now_ms);
        match input {
            Input::Connected(host) => self.connected(&host),
            Input::Disconnected(host) => self.disconnected(&host),
            Input::Heard(host, message) => self.hear(&host, message),
            Input::Propose { document, composed, allow_restart, settle } => {
                self.propose(*document, composed, allow_restart, settle);
            }
            Input::Local(task, result) => self.hear_local(task, result),
            Input::Idle(paths) => self.idle = paths,
            Input::Failed(instances) => self.failed = instances,
            Input::Tick => self.tick(),
        }
        self.tell_status();
        std::mem::take(&mut self.actions)
    }

    fn connected(&mut self, host: &str) {
        let Some(peer) = self.peers.get_mut(host) else { return };
        peer.connected = true;
        let status = Message::Status(self.status());
        self.send(host, status);
        self.inquire();
    }

    fn disconnected(&mut self, host: &str) {
        let Some(peer) = self.peers.get_mut(host) else { return };
        peer.connected = false;
        // It may come back as something else; until then nothing is known of it.
        peer.status = None;
        self.lose(host);
    }

    /// Says how this host is to all who can hear it, if that changed.
    fn tell_status(&mut self) {
        let status = self.status();
        if self.said.as_ref() != Some(&status) {
            self.send_all(&Message::Status(status.clone()));
            self.said = Some(status);
        }
    }

    pub(super) fn send(&mut self, host: &str, message: Message) {
        self.actions.push(Action::Send(host.to_owned(), message));
    }

    pub(super) fn send_all(&mut self, message: &Message) {
        for (host, _) in self.peers.iter().filter(|(_, peer)| peer.connected) {
            self.actions.push(Action::Send(host.clone(), message.clone()));
        }
    }

    pub(super) fn next_task(&mut self) -> Task {
        self.tasks += 1;
        self.tasks
    }

    pub(super) fn next_change(&mut self) -> ChangeId {
        self.changes += 1;
        ChangeId { leader: self.me.clone(), run: self.run, number: self.changes }
    }

    pub(super) fn everybody(&self) -> BTreeSet<String> {
        self.hosts.iter().cloned().collect()
    }

    fn hear(&mut self, from: &str, message: Message) {
        if !self.peers.contains_key(from) {
            return;
        }
        match message {
            Message::Status(status) => self.hear_status(from, status),
            Message::Prepare { change, base, document, composed, allow_restart } => {
                if change.leader == from {
                    self.prepare(change, base, document, composed, allow_restart);
                }
            }
            Message::Install { change } => self.install(from, change),
            Message::Activate { change, stamp } => self.activate(from, change, &stamp),
            Message::Over { change, active } => self.over(from, &change, &active),
            Message::Prepared { change } => self.counted(from, change, Phase::Preparing),
            Message::Installed { change } => self.counted(from, change, Phase::Installing),
            Message::Activated { change } => self.counted(from, change, Phase::Activating),
            Message::Seal { change, stamp } => self.seal(from, change, &stamp),
            Message::Sealed { change } => self.sealed(from, &change),
            Message::Refused { change, refusal } => self.refused(&change, refusal),
            Message::Inquire { change } => self.answer_inquiry(from, change),
            Message::Fetch => {
                let (document, composed) = (Box::new(self.active.clone()), self.composed.clone());
                self.send(from, Message::Fetched { document, composed });
            }
            Message::Fetched { document, composed } => self.catch_up(from, document, composed),
        }
    }

    fn hear_status(&mut self, from: &str, status: PeerStatus) {
        let theirs = status.active.clone();
        let Some(peer) = self.peers.get_mut(from) else { return };
        if peer.status.as_ref().map(|known| &known.failed) != Some(&status.failed) {
            self.actions.push(Action::Avoid(from.to_owned(), status.failed.clone()));
        }
        peer.status = Some(status);
        if theirs.version == self.stamp.version && theirs != self.stamp && peer.complained.as_ref() != Some(&theirs) {
            let version = theirs.version;
            peer.complained = Some(theirs);
            self.actions.push(Action::News(format!(
                "{from} goes by another version {version} than {}: they were started with different files; apply one file \
                 here or there, it then holds for all hosts",
                self.me
            )));
            return;
        }
        match &self.work {
            Work::Following(follow) if follow.is_installed() && follow.stamp == theirs => self.commit_following(),
            Work::Leading(lead) if lead.is_open() && lead.stamp == theirs => self.commit_leading(),
            _ => self.look_ahead(from, &theirs),
        }
    }

    /// The version up to which nothing is to be fetched.
    pub(super) fn known_version(&self) -> u64 {
        match &self.work {
            // What is installed here may yet be made, and nothing older or as old can be.
            Work::Following(follow) if follow.is_installed() => follow.stamp.version,
            Work::Leading(lead) if lead.is_open() => lead.stamp.version,
            Work::CatchingUp { document, .. } => document.version,
            _ => self.stamp.version,
        }
    }

    /// A peer that is ahead has what all have agreed on; it is fetched.
    fn look_ahead(&mut self, from: &str, theirs: &Stamp) {
        if theirs.version > self.known_version() && self.now_ms >= self.fetch_again_ms {
            self.fetch_again_ms = self.now_ms + self.times.repeat_ms;
            self.send(from, Message::Fetch);
        }
    }

    fn catch_up(&mut self, from: &str, document: Box<Document>, composed: String) {
        if document.version <= self.known_version() || self.activating.is_some() {
            return;
        }
        let ours = document.version;
        match std::mem::replace(&mut self.work, Work::Nothing) {
            Work::Nothing => {}
            Work::Leading(lead) => {
                let line =
                    format!("{from} goes by version {ours} already; look at it (towpath get config) and try again");
                self.abort(
                    lead,
                    Refusal { host: from.to_owned(), reasons: vec![line], needs_restart: false, is_busy: false },
                );
            }
            Work::Following(_) | Work::CatchingUp { .. } => self.actions.push(Action::Withdraw),
        }
        let task = self.next_task();
        let action = Action::Install {
            task,
            document: document.clone(),
            composed: composed.clone(),
            // All others go by it already.
            allow_restart: true,
        };
        self.actions.push(action);
        self.work = Work::CatchingUp { task, document, composed };
    }

    fn hear_local(&mut self, task: Task, result: Result<(), Refusal>) {
        if let Some((_, change)) = self.activating.take_if(|(known, _)| *known == task) {
            self.activated_here(change, result);
            return;
        }
        match std::mem::replace(&mut self.work, Work::Nothing) {
            Work::Leading(lead) if lead.task == task => {
                self.work = Work::Leading(lead);
                self.lead_local(result);
            }
            Work::Following(follow) if follow.task == Some(task) => self.follow_local(follow, result),
            Work::CatchingUp { task: known, document, composed } if known == task => match result {
                Ok(()) => self.go_by(*document, composed, None),
                Err(refusal) => {
                    self.actions.push(Action::Withdraw);
                    let reasons = refusal.reasons.join("; ");
                    let line =
                        format!("version {} of the other hosts can't be taken here: {reasons}", document.version);
                    self.actions.push(Action::News(line));
                    self.fetch_again_ms = self.now_ms + 10 * self.times.repeat_ms;
                }
            },
            other => self.work = other,
        }
    }

    /// Writes the document down as active and goes by it: there is no way back.
    pub(super) fn go_by(&mut self, document: Document, composed: String, change: Option<ChangeId>) {
        self.stamp = document.stamp();
        self.active = document;
        self.composed = composed;
        self.persist();
        let task = self.next_task();
        self.activating = Some((task, change));
        self.actions.push(Action::Activate { task });
    }

    fn activated_here(&mut self, change: Option<ChangeId>, result: Result<(), Refusal>) {
        if let Err(refusal) = result {
            let line = format!("version {} is in force, but: {}", self.stamp.version, refusal.reasons.join("; "));
            self.actions.push(Action::News(line));
        }
        match change {
            Some(change) if change.leader == self.me => {
                let me = self.me.clone();
                self.counted(&me, change, Phase::Activating);
            }
            Some(change) => {
                let leader = change.leader.clone();
                self.send(&leader, Message::Activated { change });
            }
            None => {}
        }
    }

    /// True if this host is about to go by the document of this name.
    pub(super) fn is_activating(&self) -> bool {
        self.activating.is_some()
    }

    fn tick(&mut self) {
        self.lead_deadline();
        self.follow_deadline();
        if self.now_ms < self.next_look_ms {
            return;
        }
        self.next_look_ms = self.now_ms + self.times.repeat_ms;
        self.send_all(&Message::Status(self.status()));
        self.inquire();
        self.resolve();
        let ahead = self.peers.iter().filter_map(|(name, peer)| Some((name, &peer.status.as_ref()?.active)));
        if let Some((name, stamp)) = ahead.max_by_key(|(_, stamp)| stamp.version) {
            let (name, stamp) = (name.clone(), stamp.clone());
            self.look_ahead(&name, &stamp);
        }
        self.look_for_idle();
    }

    /// The first host of the file has paths forgotten that are idle on all.
    fn look_for_idle(&mut self) {
        let agree =
            |peer: &Peer| peer.connected && peer.status.as_ref().is_some_and(|known| known.active == self.stamp);
        let first = self.hosts.first() == Some(&self.me);
        if !first || self.is_busy() || self.now_ms < self.forget_again_ms || !self.peers.values().all(agree) {
            return;
        }
        let statuses = || self.peers.values().filter_map(|peer| peer.status.as_ref());
        let everywhere = |path: &&PathId| statuses().all(|status| status.idle.contains(path));
        let paths: Vec<PathId> = self.idle.iter().filter(everywhere).copied().collect();
        if !paths.is_empty() {
            self.forget_again_ms = self.now_ms + self.times.forget_again_ms;
            self.actions.push(Action::Forget(paths));
        }
    }
}
