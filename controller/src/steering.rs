//! The flow thread: owns the rings, answers flow misses, keeps the tables what the plan says.
//!
//! On a packet's path: the first packet of a flow is parked in a lcore until this thread has answered its miss. The
//! thread sleeps on the doorbell's eventfd; the main thread talks to it by [`Command`]s and hears [`Report`]s, both over
//! channels with a waker, so that neither waits for the other.
//!
//! Invariants: no exact rule is sent before every tag rule that its path needs is in force, on all lcores of this host. A change
//! of the plan is two commands: `Install` puts its tag rules in place beside the old ones, `Activate` goes by the new plan, and
//! the main thread says so only once all hosts have installed it. What is old stays until the main thread has it removed.

mod capture;
mod seldom;
mod sync;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use packet::{FiveTuple, FlowKey, PathId, VportId};
use rustix::thread::{CpuSet, sched_setaffinity};
use shm::capture::CaptureRecord;
use shm::doorbell::DoorbellWaiter;
use shm::link::ControllerLink;
use shm::ring::RingError;
use shm::rules::{Epoch, Event, ExactRule, Refusal, TagKey, Update};

use crate::compose::{Place, PlacedTag};
use crate::flows::{Plan, Rejection, Sessions};
pub use crate::lane::Occupant;
use crate::lane::{Lane, MAX_BATCH};
use capture::Taps;
use seldom::Seldom;
use sync::ReadBackJob;

/// What the main thread calls a question, to know its answer.
pub type Ticket = u64;

/// Main thread → flow thread.
#[derive(Debug)]
pub enum Command {
    /// Rings to a dataplane.
    Attach {
        /// One per lcore.
        lcores: Vec<ControllerLink>,
        /// Rung by all of them.
        doorbell: DoorbellWaiter,
        /// The last epoch that the dataplane has seen.
        epoch: Epoch,
        /// Nothing is installed yet; otherwise what is installed is read back first.
        fresh: bool,
        /// NF instances that have panicked already.
        failed: Vec<VportId>,
        /// What runs on each lcore.
        occupants: Vec<Occupant>,
    },
    /// The dataplane has changed: what runs on each lcore now.
    Occupy(Vec<Occupant>),
    /// The dataplane is gone.
    Detach,
    /// Put this plan's tag rules in place, beside what the plan in force has.
    Install(Arc<Plan>, Ticket),
    /// Go by this plan from now on; its tag rules were installed.
    Activate {
        /// What to go by.
        plan: Arc<Plan>,
        /// The dataplane was started anew for it: rules of flows that go on are said again.
        anew: bool,
        /// For the answer.
        ticket: Ticket,
    },
    /// What was installed and not activated goes again.
    Withdraw,
    /// Remove tag rules that nothing uses any more.
    RemoveTags(Vec<PlacedTag>),
    /// These instances are out of use: vports of this host, and other hosts' by the names that their dataplanes have.
    Avoid {
        /// Of this host.
        here: Vec<VportId>,
        /// Of other hosts.
        elsewhere: Vec<String>,
    },
    /// How things are; on demand with the flows of each chain, which takes a look at every flow.
    Stats(Ticket, bool),
    /// What is installed.
    ReadBack(Ticket),
    /// Copy packets at these vports to the bounded channel, with this id.
    StartCapture {
        /// Names it.
        id: u64,
        /// Where.
        vports: Vec<VportId>,
        /// Bytes of each packet.
        snap: u16,
    },
    /// No more of it.
    StopCapture(u64),
    /// End the thread.
    Stop,
}

/// Flow thread → main thread.
#[derive(Debug)]
pub enum Report {
    /// After an attach: tag rules and known flows are in force, misses are answered.
    Ready {
        /// Exact rules that were found installed.
        found: usize,
        /// Tag rules that had to be added.
        added: usize,
        /// Tag rules that had to be removed.
        removed: usize,
    },
    /// To [`Command::Stats`].
    Stats(Ticket, Stats),
    /// To [`Command::ReadBack`]; none if the dataplane went away or was silent.
    ReadBack(Ticket, Option<Vec<Installed>>),
    /// To [`Command::Install`]: the tag rules are in force, or the dataplane refused them.
    Installed(Ticket, Result<(), Refusal>),
    /// To [`Command::Activate`]: the new plan is in force and so many flows go on.
    Activated(Ticket, u64),
    /// An NF instance panicked.
    NfFailed(VportId),
    /// An instance that is no mangler has rewritten a flow: as it came in, and as it went out.
    Rewritten(FlowKey, FiveTuple),
    /// A live flow was found on another path than its own.
    Violation(Violation),
    /// A ring can't be used any more.
    LinkBroken(RingError),
    /// The dataplane refused rules for a reason that an operator should know.
    Refused(Refusal),
}

/// A live flow on two paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The lcore that saw it.
    pub lcore: usize,
    /// The flow.
    pub key: FlowKey,
    /// Its path.
    pub expected: PathId,
    /// The other one.
    pub found: PathId,
}

/// How things are.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Flows with a rule from this controller now.
    pub sessions: u64,
    /// Misses answered with a rule.
    pub set_up: u64,
    /// Misses that no chain selects, or that have no path.
    pub rejected: u64,
    /// Batches that were refused.
    pub refused: u64,
    /// The last epoch given out.
    pub epoch: u64,
    /// Flows per path.
    pub per_path: HashMap<PathId, u64>,
    /// Instances that failed, here and on other hosts.
    pub failed: Vec<Place>,
    /// Flows from an endpoint per chain, by tenant and chain; empty unless asked for.
    pub per_chain: HashMap<(usize, usize), u64>,
}

/// An exact rule as the dataplane has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// Its lcore.
    pub lcore: usize,
    /// The rule.
    pub rule: ExactRule,
    /// Learned from the forward direction.
    pub learned: bool,
    /// Packets that met it.
    pub packets: u64,
    /// Bytes that met it.
    pub bytes: u64,
    /// Milliseconds since the last one.
    pub idle_ms: u32,
}

/// The main thread's ends.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    turns: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// Says something to the flow thread.
    pub fn send(&self, command: Command) {
        // The thread ends only after Stop, or if it panicked; both end the process soon.
        if self.commands.send(command).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!("the flow thread can't be woken: {error}");
        }
    }

    /// How often the thread has gone round: who looks now and then sees whether it stands still.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// True if the thread has ended without being told to.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_some_and(std::thread::JoinHandle::is_finished)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the flow thread says things.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// Answers and news.
    pub reports: Sender<Report>,
    /// Captured packets with their capture's id; bounded, what does not fit is lost.
    pub captured: Sender<(u64, CaptureRecord)>,
    /// Wakes the main thread.
    pub waker: Arc<Waker>,
}

/// The thread's name.
pub const THREAD: &str = "flows";
const WAKER: Token = Token(0);
const DOORBELL: Token = Token(1);

/// Where the thread runs and how it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seat {
    /// Its CPU; none lets it float.
    pub cpu: Option<u16>,
    /// It never sleeps: lowest latency, for a CPU of its own.
    pub spin: bool,
}

impl Seat {
    /// Puts the calling thread there. One that can't be had is warned of: the thread is slower elsewhere, not wrong.
    fn take(self) {
        let Some(cpu) = self.cpu else { return };
        let mut cpus = CpuSet::new();
        cpus.set(usize::from(cpu));
        if let Err(error) = sched_setaffinity(None, &cpus) {
            tracing::warn!("the flow thread can't run on CPU {cpu}, which `cpus.controller` gives it: {error}");
        }
    }
}

/// Starts the thread.
pub fn start(plan: Arc<Plan>, outlets: Outlets, seat: Seat) -> io::Result<Handle> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, commands) = crossbeam::channel::unbounded();
    let steering = Steering::new(plan, outlets, seat, poll, commands);
    let turns = Arc::clone(&steering.turns);
    let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || steering.run())?;
    Ok(Handle { commands: sender, waker, turns, thread: Some(thread) })
}

/// The same work without the thread: each turn is asked for. For who counts what a turn costs.
pub struct ByHand(Steering);

impl ByHand {
    /// Nothing attached yet.
    pub fn new(plan: Arc<Plan>, outlets: Outlets) -> io::Result<Self> {
        let (_, commands) = crossbeam::channel::unbounded();
        Ok(Self(Steering::new(plan, outlets, Seat::default(), Poll::new()?, commands)))
    }

    /// Does what is said.
    pub fn obey(&mut self, command: Command) {
        self.0.obey(command);
    }

    /// One look at every lcore: how many events and captures there were.
    pub fn turn(&mut self) -> Result<usize, RingError> {
        self.0.turn()
    }
}

/// What to do after an attach, once the awaited tag rules are in force: send these flows' rules, then answer misses.
#[derive(Debug)]
struct Serve {
    replay: Vec<(usize, ExactRule)>,
    found: usize,
    added: usize,
    removed: usize,
}

struct Steering {
    sessions: Sessions,
    lanes: Vec<Lane>,
    doorbell: Option<DoorbellWaiter>,
    poll: Poll,
    commands: Receiver<Command>,
    outlets: Outlets,
    seat: Seat,
    turns: Arc<AtomicU64>,
    epoch: u64,
    stats: Stats,
    read_backs: Vec<ReadBackJob>,
    next_read_back: u32,
    /// Epochs of tag batches that are not answered yet.
    awaited: BTreeSet<u64>,
    serving: Option<Serve>,
    /// Who waits for the awaited tag rules.
    installing: Option<Ticket>,
    /// Tag rules that are to be in place beside the plan's.
    standby: Vec<PlacedTag>,
    /// vports of this host's instances that have failed.
    failed: BTreeSet<VportId>,
    /// Other hosts' instances that have failed.
    avoided: Vec<String>,
    /// Misses that came before the tables were in place: lcore and flow.
    held: Vec<(usize, FlowKey)>,
    taps: Taps,
    /// Warnings of flows that got no rule.
    rejected: Seldom,
    /// Warnings of rules that a lcore did not take.
    refused: Seldom,
    /// A turn's misses of one lcore, its other events, and the answers; kept to keep their memory.
    misses: Vec<FlowKey>,
    news: Vec<Event>,
    answers: Vec<Update>,
}

/// Misses that are held while the tables are being put in place; the lcores park no more packets than that anyway.
const MAX_HELD: usize = 65_536;

/// How long to sleep while a ring is too full for what is to be said.
const BACKLOG_WAIT: Duration = Duration::from_millis(1);

impl Steering {
    fn new(plan: Arc<Plan>, outlets: Outlets, seat: Seat, poll: Poll, commands: Receiver<Command>) -> Self {
        Self {
            sessions: Sessions::new(plan),
            lanes: Vec::new(),
            doorbell: None,
            poll,
            commands,
            outlets,
            seat,
            turns: Arc::default(),
            epoch: 0,
            stats: Stats::default(),
            read_backs: Vec::new(),
            next_read_back: 0,
            awaited: BTreeSet::new(),
            serving: None,
            installing: None,
            standby: Vec::new(),
            failed: BTreeSet::new(),
            rejected: Seldom::default(),
            refused: Seldom::default(),
            avoided: Vec::new(),
            held: Vec::new(),
            taps: Taps::default(),
            misses: Vec::new(),
            news: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn run(mut self) {
        self.seat.take();
        if self.seat.spin {
            self.sessions.fetch_memory();
        }
        let mut events = Events::with_capacity(8);
        for turns in 1.. {
            self.turns.store(turns, Ordering::Relaxed);
            let mut worked = false;
            while let Ok(command) = self.commands.try_recv() {
                worked = true;
                if matches!(command, Command::Stop) {
                    return;
                }
                self.obey(command);
            }
            match self.turn() {
                Ok(count) => worked |= count > 0,
                Err(error) => self.break_link(error),
            }
            if !self.read_backs.is_empty() {
                self.give_up_late_read_backs(Instant::now());
            }
            if worked {
                continue;
            }
            if self.seat.spin {
                std::hint::spin_loop();
            } else {
                self.sleep(&mut events);
            }
        }
    }

    fn sleep(&mut self, events: &mut Events) {
        if let Some(bell) = &self.doorbell {
            bell.prepare_to_wait();
        }
        if !self.lanes.iter_mut().any(Lane::has_work) {
            let backlog = self.lanes.iter().any(Lane::has_backlog).then_some(BACKLOG_WAIT);
            let deadline = self.read_backs.iter().map(|job| job.deadline).min();
            let until = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = [backlog, until].into_iter().flatten().min();
            match self.poll.poll(events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => tracing::error!("the flow thread can't wait for events: {error}"),
            }
        }
        if let Some(bell) = &self.doorbell {
            bell.awake();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Occupy(occupants) => self.occupy(&occupants),
            Command::Attach { lcores, doorbell, epoch, fresh, failed, occupants } => {
                self.failed = failed.into_iter().collect();
                self.tell_failures();
                let lanes = lcores.into_iter().zip(occupants).map(|(link, occupant)| Lane::new(link, occupant));
                self.attach(lanes.collect(), doorbell, epoch, fresh);
            }
            Command::Detach => self.detach(),
            Command::Install(plan, ticket) => self.install(plan, ticket),
            Command::Activate { plan, anew, ticket } => self.activate(plan, anew, ticket),
            Command::Withdraw => self.withdraw(),
            Command::Avoid { here, elsewhere } => {
                (self.failed, self.avoided) = (here.into_iter().collect(), elsewhere);
                self.tell_failures();
            }
            Command::RemoveTags(tags) => {
                self.standby.retain(|tag| !tags.iter().any(|gone| at(gone) == at(tag)));
                self.commit_tags(tags.iter().map(|tag| (tag.lcore, Update::RemoveTag(tag.rule.key))));
            }
            Command::Stats(ticket, with_chains) => {
                let mut stats = self.stats();
                if with_chains {
                    stats.per_chain = self.sessions.per_chain();
                }
                self.report(Report::Stats(ticket, stats));
            }
            Command::ReadBack(ticket) => self.read_back(Some(ticket)),
            Command::StartCapture { id, vports, snap } => {
                let updates = self.taps.start(id, vports, snap);
                self.say_to_all(&updates);
            }
            Command::StopCapture(id) => {
                let updates = self.taps.stop(id);
                self.say_to_all(&updates);
            }
            // Handled by the loop.
            Command::Stop => {}
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            sessions: self.sessions.len() as u64,
            epoch: self.epoch,
            per_path: self.sessions.per_path(),
            failed: self.sessions.failed(),
            ..self.stats.clone()
        }
    }

    fn report(&self, report: Report) {
        // The main thread ends after this one.
        let _ = self.outlets.reports.send(report);
        if let Err(error) = self.outlets.waker.wake() {
            tracing::error!("the main thread can't be woken: {error}");
        }
    }

    fn say_to_all(&mut self, updates: &[Update]) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_heard()) {
            updates.iter().for_each(|update| lane.say(*update));
        }
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epoch += 1;
        Epoch(self.epoch)
    }

    /// Queues updates in batches, each to its lcore; the epochs.
    fn commit_all(&mut self, updates: impl IntoIterator<Item = (usize, Update)>) -> Vec<u64> {
        let mut by_lcore: Vec<Vec<Update>> = vec![Vec::new(); self.lanes.len()];
        for (lcore, update) in updates {
            if let Some(list) = by_lcore.get_mut(lcore) {
                list.push(update);
            }
        }
        let mut epochs = Vec::new();
        for (lcore, list) in by_lcore.into_iter().enumerate() {
            if !self.lanes[lcore].is_heard() {
                continue;
            }
            for chunk in list.chunks(MAX_BATCH) {
                let epoch = self.next_epoch();
                self.lanes[lcore].commit(epoch, chunk);
                epochs.push(epoch.0);
            }
        }
        epochs
    }

    fn commit_tags(&mut self, updates: impl IntoIterator<Item = (usize, Update)>) {
        let epochs = self.commit_all(updates);
        self.awaited.extend(epochs);
    }

    /// One look at every lcore: how many events and captures there were.
    fn turn(&mut self) -> Result<usize, RingError> {
        let mut count = 0;
        for lcore in 0..self.lanes.len() {
            count += self.take_events(lcore)?;
            count += self.take_captures(lcore)?;
        }
        for lane in &mut self.lanes {
            lane.flush()?;
        }
        Ok(count)
    }

    fn take_events(&mut self, lcore: usize) -> Result<usize, RingError> {
        let (mut misses, mut news) = (std::mem::take(&mut self.misses), std::mem::take(&mut self.news));
        let taken = self.lanes[lcore].events(|event| match event {
            Ok(Event::FlowMiss { key, .. }) => misses.push(key),
            Ok(event) => news.push(event),
            Err(error) => tracing::warn!("lcore {lcore} sent an event that is skipped: {error}"),
        });
        news.drain(..).for_each(|event| self.hear(lcore, event));
        self.answer(lcore, &misses);
        misses.clear();
        (self.misses, self.news) = (misses, news);
        taken
    }

    /// Answers misses, all of them with one commit that is in the ring when this returns, as far as there is room.
    fn answer(&mut self, lcore: usize, misses: &[FlowKey]) {
        if !self.lanes[lcore].is_heard() {
            return; // the instance that asked has ended
        }
        if self.serving.is_some() || self.is_reconciling() {
            let room = MAX_HELD.saturating_sub(self.held.len());
            self.held.extend(misses.iter().take(room).map(|&key| (lcore, key)));
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        for chunk in misses.chunks(MAX_BATCH) {
            answers.clear();
            answers.extend(chunk.iter().map(|&key| self.answer_to(key)));
            let epoch = self.next_epoch();
            self.lanes[lcore].commit_now(epoch, &answers);
        }
        self.answers = answers;
    }

    fn answer_to(&mut self, key: FlowKey) -> Update {
        match self.sessions.handle_miss(key) {
            Ok(rule) => {
                self.stats.set_up += 1;
                Update::InsertExact(rule)
            }
            Err(rejection) => {
                self.stats.rejected += 1;
                self.note_rejection(key, rejection);
                Update::RejectFlow(key)
            }
        }
    }

    fn note_rejection(&mut self, key: FlowKey, rejection: Rejection) {
        let Self { sessions, rejected, .. } = self;
        let at = || sessions.plan().part().vport_name(key.vport);
        let flow = key.five_tuple;
        match rejection {
            Rejection::NoChain => tracing::debug!("{}: no chain selects {flow}", at()),
            Rejection::NoPath => rejected.warn(Instant::now(), |others| {
                tracing::warn!("{}: no path is in use for {flow}; {others} more flows were rejected before", at());
            }),
            Rejection::NoHead => rejected.warn(Instant::now(), |others| {
                tracing::warn!("{}: no subchain begins here, but it reported {flow}; {others} more before", at());
            }),
        }
    }

    fn hear(&mut self, lcore: usize, event: Event) {
        match event {
            Event::Committed(epoch) => {
                let awaited = &mut self.awaited;
                self.lanes[lcore].settle(epoch, |settled| {
                    awaited.remove(&settled.0);
                });
                self.go_on();
            }
            Event::Refused { epoch, reason } => {
                if let Some(updates) = self.lanes[lcore].refuse(epoch) {
                    self.refused(lcore, epoch, &updates, reason);
                }
            }
            Event::FlowExpired { key, .. } => self.sessions.forget(&key),
            Event::Exact { rule, learned, packets, bytes, idle_ms } => {
                self.hear_installed(Installed { lcore, rule, learned, packets, bytes, idle_ms });
            }
            Event::TagInstalled(rule) => self.hear_tag(PlacedTag { lcore, rule }),
            Event::ReadBackDone(number) => self.hear_done(lcore, number),
            Event::NfFailed(vport) => {
                if self.failed.insert(vport) {
                    self.tell_failures();
                    self.report(Report::NfFailed(vport));
                }
            }
            Event::FlowRewritten { key, became } => self.report(Report::Rewritten(key, became)),
            Event::AffinityViolation { key, expected, found } => {
                self.report(Report::Violation(Violation { lcore, key, expected, found }));
            }
            // Taken out before.
            Event::FlowMiss { .. } => {}
        }
    }

    /// A batch is refused as a whole; exact rules are tried again one by one, so that one flow too many harms no other.
    fn refused(&mut self, lcore: usize, epoch: Epoch, updates: &[Update], reason: Refusal) {
        self.stats.refused += 1;
        let is_tag = |update: &Update| matches!(update, Update::InsertTag(_) | Update::RemoveTag(_));
        if updates.iter().any(is_tag) {
            tracing::error!("lcore {lcore} refused tag rules: {reason:?}");
            self.awaited.remove(&epoch.0);
            if let Some(ticket) = self.installing.take() {
                self.report(Report::Installed(ticket, Err(reason)));
            }
            self.report(Report::Refused(reason));
            self.go_on();
            return;
        }
        if updates.len() > 1 && self.lanes[lcore].is_heard() {
            for update in updates {
                let epoch = self.next_epoch();
                self.lanes[lcore].commit(epoch, std::slice::from_ref(update));
            }
            return;
        }
        for update in updates {
            if let Update::InsertExact(rule) = update {
                self.refused.warn(Instant::now(), |others| {
                    tracing::warn!("lcore {lcore} refused the rule of {}: {reason:?}; {others} more before", rule.key);
                });
                self.sessions.forget(&rule.key);
            }
        }
    }

    /// Does what waited for tag rules, once they are in force.
    fn go_on(&mut self) {
        if !self.awaited.is_empty() {
            return;
        }
        if let Some(Serve { replay, found, added, removed }) = self.serving.take() {
            self.commit_all(replay.into_iter().map(|(lcore, rule)| (lcore, Update::InsertExact(rule))));
            self.report(Report::Ready { found, added, removed });
            for (lcore, key) in std::mem::take(&mut self.held) {
                self.answer(lcore, &[key]);
            }
        }
        if let Some(ticket) = self.installing.take() {
            self.report(Report::Installed(ticket, Ok(())));
        }
    }

    /// Every tag rule that is to be in place: the plan's, and those of what is installed beside it.
    fn tags(&self) -> HashMap<(usize, TagKey), PlacedTag> {
        let plan = self.sessions.plan();
        plan.part().tags.iter().chain(&self.standby).map(|tag| (at(tag), *tag)).collect()
    }

    fn install(&mut self, plan: Arc<Plan>, ticket: Ticket) {
        let known = self.tags();
        let tags = plan.part().tags.clone();
        self.sessions.prepare(Some(plan));
        let new: Vec<PlacedTag> = tags.iter().filter(|tag| known.get(&at(tag)) != Some(tag)).copied().collect();
        self.standby = tags;
        self.installing = Some(ticket);
        // Without a dataplane the next attach installs all of it.
        self.commit_tags(new.into_iter().map(|tag| (tag.lcore, Update::InsertTag(tag.rule))));
        self.go_on();
    }

    fn withdraw(&mut self) {
        self.installing = None;
        self.sessions.prepare(None);
        let plan: HashMap<_, _> = self.sessions.plan().part().tags.iter().map(|tag| (at(tag), *tag)).collect();
        let undo = |tag: &PlacedTag| match plan.get(&at(tag)) {
            Some(known) => (known != tag).then_some((tag.lcore, Update::InsertTag(known.rule))),
            None => Some((tag.lcore, Update::RemoveTag(tag.rule.key))),
        };
        let updates: Vec<(usize, Update)> =
            self.standby.drain(..).collect::<Vec<_>>().iter().filter_map(undo).collect();
        self.commit_tags(updates);
    }

    fn activate(&mut self, plan: Arc<Plan>, anew: bool, ticket: Ticket) {
        if anew {
            let lost = self.sessions.move_to_plan(plan);
            tracing::info!("{lost} flows are not on the new plan");
            if self.serving.is_none() && !self.is_reconciling() {
                let rules = self.sessions.rules();
                self.commit_all(rules.into_iter().map(|(lcore, rule)| (lcore, Update::InsertExact(rule))));
            }
        } else {
            self.sessions.adopt_plan(plan);
        }
        self.standby.clear();
        self.tell_failures();
        self.report(Report::Activated(ticket, self.sessions.len() as u64));
    }

    /// Keeps new flows off failed instances; those of other hosts are known by name.
    fn tell_failures(&mut self) {
        let plan = self.sessions.plan();
        let elsewhere = plan.composition.instances.iter().filter(|found| self.avoided.contains(&found.running_name));
        let elsewhere = elsewhere.map(|found| (found.host, found.vport)).collect();
        self.sessions.avoid(self.failed.iter().copied().collect(), elsewhere);
    }

    fn take_captures(&mut self, lcore: usize) -> Result<usize, RingError> {
        let (taps, captured) = (&self.taps, &self.outlets.captured);
        let mut sent = false;
        let count = self.lanes[lcore].captures(|record| sent |= taps.pass_on(record, captured))?;
        if sent && let Err(error) = self.outlets.waker.wake() {
            tracing::error!("the main thread can't be woken: {error}");
        }
        Ok(count)
    }

    fn register(&self, bell: &DoorbellWaiter) -> io::Result<()> {
        use std::os::fd::{AsFd, AsRawFd};
        let fd = bell.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), DOORBELL, Interest::READABLE)
    }
}

/// Where a tag rule belongs.
fn at(tag: &PlacedTag) -> (usize, TagKey) {
    (tag.lcore, tag.rule.key)
}
