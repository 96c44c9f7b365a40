//! From the command line to a served host, through the dataplane's ends and restarts, to an orderly end.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Poll, Waker};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use shm::attach::{AttachError, Attached, Received};
use shm::hello::{Control, LcoreReport};
use shm::rules::Epoch;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::install::occupants;
use super::machines::Machines;
use super::versions::{Versions, composed, hosts, plan_of};
use super::{Attachment, CAPTURE_QUEUE, FIRST_CONNECTION, FIRST_LINK, SIGNALS, Server, State, TICK, WAKER, Waiting};
use super::{change, record_file, watch};
use crate::compose::{self, compose_on};
use crate::config::{self, ConfigErrors, LoadError};
use crate::distribution::links::{LinkError, Links};
use crate::distribution::{Document, Key, KeyError, Machine, Record, Times};
use crate::flows::Plan;
use crate::options::Options;
use crate::process::{Dataplane, ProcessError, differences, launch_now};
use crate::steering::{self, Command, Outlets, Seat};

/// How long a dataplane may take from its start until it listens; EAL clears hugepages meanwhile.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a dataplane may take to end in order.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long the loop may be held up by a dataplane that listens but does not greet yet.
const SHORT_GREETING: Duration = Duration::from_millis(500);
/// How often a starting or ending dataplane is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long to wait before the first restart; doubled with each failure.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long a host that begins anew waits for its peers to say what is in force.
const PEERS_LIMIT: Duration = Duration::from_secs(2);
/// The longest wait before a restart.
const MAX_BACK_OFF: Duration = Duration::from_secs(10);

/// Why the controller ends, or never begins.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration can't be read, or has mistakes.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The configuration asks for more than can be composed.
    #[error(transparent)]
    Compose(#[from] ConfigErrors),
    /// The secret.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The way to other controllers.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The host is not in the configuration.
    #[error("--host {host}: the configuration has no such host; it has {}", .known.join(", "))]
    NoSuchHost {
        /// The host.
        host: String,
        /// The hosts that there are.
        known: Vec<String>,
    },
    /// The run directory is not safe or not there.
    #[error("the run directory {}: {problem}", path.display())]
    RunDirectory {
        /// Which.
        path: PathBuf,
        /// Why, and the remedy.
        problem: String,
    },
    /// Another controller has the run directory.
    #[error("another controller runs with {}; stop it, or choose another --run-dir", .0.display())]
    AnotherController(PathBuf),
    /// The dataplane can't be attached to.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The dataplane can't be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Another dataplane runs than the one that is wanted.
    #[error(
        "the dataplane that runs (process {pid}) is something else than the version in force wants; use \
         --replace to restart it, which interrupts traffic:\n  {}",
        .lines.join("\n  ")
    )]
    Differs {
        /// Its process.
        pid: u32,
        /// In what.
        lines: Vec<String>,
    },
    /// Signals can't be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// The event loop.
    #[error("cannot wait for events: {0}")]
    EventLoop(io::Error),
    /// The API's socket.
    #[error("cannot listen at {}: {source}; check the run directory", path.display())]
    Api {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The flow thread ended: a fault of ours.
    #[error("the flow thread ended unexpectedly; please report the lines above")]
    FlowThread,
    /// The dataplane does not end.
    #[error("the dataplane (process {0}) did not end within {seconds} s; end it by hand", seconds = END_LIMIT.as_secs())]
    DidNotEnd(u32),
    /// The dataplane ended with an error.
    #[error("the dataplane ended with {status}: {reason} (its log is {})", log.display())]
    EndedBadly {
        /// Its exit status.
        status: ExitStatus,
        /// What it said last.
        reason: String,
        /// Where it says things.
        log: PathBuf,
    },
}

/// The run directory, made if need be, closed to other users; and the lock that says who has it.
fn take_run_dir(path: &Path) -> Result<File, RunError> {
    let wrong = |problem: String| RunError::RunDirectory { path: path.to_owned(), problem };
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(path) {
        return Err(wrong(format!("cannot be made: {error}; choose another --run-dir")));
    }
    let found = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    let ours = rustix::process::geteuid().as_raw();
    if found.uid() != ours {
        return Err(wrong(format!("belongs to user {}, not to {ours}; choose another --run-dir", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong(format!("is open to other users (mode {:o}); chmod 700 it", found.mode() & 0o777)));
    }
    let lock_path = path.join("controller.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
    let lock = lock.map_err(|error| wrong(format!("cannot make {}: {error}", lock_path.display())))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunError::AnotherController(path.to_owned())),
        Err(error) => Err(wrong(format!("cannot lock {}: {error}", lock_path.display()))),
    }
}

/// What this host begins with: what an earlier controller wrote down, or the file.
struct Beginning {
    record: Record,
    plan: Arc<Plan>,
    staged: Option<Arc<Plan>>,
    /// The file is its first version.
    fresh: bool,
    /// What the operator should know of it.
    news: Vec<String>,
}

/// The file as the first version.
fn from_file(options: &Options, version: u64) -> Result<Beginning, RunError> {
    let config = config::load(&options.config)?;
    let Some(host) = config.host(&options.host) else {
        let known = config.hosts.iter().map(|host| host.name.clone()).collect();
        return Err(RunError::NoSuchHost { host: options.host.clone(), known });
    };
    let yaml = std::fs::read_to_string(&options.config)
        .map_err(|source| LoadError::Read { file: options.config.clone(), source })?;
    // Several hosts come to the same each by itself, so they may not go by what only one knows.
    let known = match config.hosts.as_slice() {
        [alone] => Machines::of(&options.sysfs, alone).known(&BTreeMap::new()),
        _ => compose::Known::default(),
    };
    let composition = compose_on(&config, &compose::State::default(), &known, None)?;
    let (file, state) = (config.file.clone(), composition.state.clone());
    let active = Document { version, file, yaml, operations: Vec::new(), state };
    let record = Record { active, installed: None, refused: Vec::new() };
    let plan = Arc::new(Plan { config, composition, host });
    Ok(Beginning { record, plan, staged: None, fresh: true, news: Vec::new() })
}

/// What was written down, unless the file is to begin anew: on a host without peers and without a running dataplane.
fn begin(options: &Options, known: Option<Record>, running: bool) -> Result<Beginning, RunError> {
    let version = known.as_ref().map_or(1, |record| record.active.version + 1);
    let file = from_file(options, 1);
    let Some(record) = known else { return file };
    let active = match plan_of(&record.active, &options.host, None) {
        Ok(plan) => Arc::new(plan),
        Err(lines) => {
            let mut beginning = file?;
            let line =
                format!("what was in force can't be read any more: {}; the file is taken instead", lines.join("; "));
            beginning.fresh = false;
            beginning.news.push(line);
            return Ok(beginning);
        }
    };
    let text = std::fs::read_to_string(&options.config).unwrap_or_default();
    let differs = text != record.active.yaml;
    let alone = hosts(&active.config).len() == 1;
    if differs && alone && !running {
        return from_file(options, version);
    }
    // A mistake in a file that is not taken into force is no reason not to run.
    let mut news = Vec::new();
    if differs {
        let (version, path) = (record.active.version, options.config.display());
        news.push(format!(
            "version {version} goes on, {path} says something else; towpath apply {path} takes it into force"
        ));
    }
    let installed = record.installed.as_ref();
    let staged = installed.and_then(|installed| plan_of(&installed.document, &options.host, Some(&active)).ok());
    Ok(Beginning { record, plan: active, staged: staged.map(Arc::new), fresh: false, news })
}

/// Whether hosts that begin with this file place its instances anew once they know each other's machines.
fn waits_for_machines(config: &config::Config) -> bool {
    let mut instances = config.tenants.iter().flat_map(|tenant| &tenant.instances);
    config.hosts.iter().all(|host| host.controller.is_some())
        && instances.any(|instance| instance.cpu.is_none() && !instance.drain)
}

/// The machine and the links to peers.
fn join(options: &Options, beginning: &Beginning, poll: &Poll, running: bool) -> Result<Versions, RunError> {
    let hosts = hosts(&beginning.plan.config);
    let names: Vec<String> = hosts.iter().map(|(name, _)| name.clone()).collect();
    let key = options.key_file.as_deref().map(Key::read).transpose()?;
    let registry = poll.registry().try_clone().map_err(RunError::EventLoop)?;
    let links = Links::open(registry, FIRST_LINK, &options.host, &hosts, key)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = u64::try_from(since.as_nanos()).unwrap_or(0);
    let digest = composed(&beginning.plan);
    let record = beginning.record.clone();
    let machine = Machine::new(&options.host, &names, record, digest, run, Times::default());
    let peers = hosts.iter().filter(|(name, address)| address.is_some() && *name != options.host).count();
    let hold_until = (peers > 0 && !running).then(|| Instant::now() + PEERS_LIMIT);
    let mut versions = Versions::new(machine, links, beginning.staged.clone(), hold_until);
    versions.opening = beginning.fresh && hold_until.is_some() && waits_for_machines(&beginning.plan.config);
    Ok(versions)
}

/// Everything up to the event loop.
pub(super) fn prepare(options: Options) -> Result<(Server, Signals), RunError> {
    let run_dir = options.run_dir();
    // A mistake in the file is told before anything is made.
    let mistaken = from_file(&options, 1).err();
    if let Some(error) = mistaken.filter(|_| !run_dir.exists()) {
        return Err(error);
    }
    let lock = take_run_dir(&run_dir)?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(RunError::Signals)?;
    let dataplane = Dataplane { program: options.program(), run_dir };
    let running = match dataplane.attach() {
        Ok(attached) => Some(attached),
        Err(AttachError::NotRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let beginning = begin(&options, record_file::read(&dataplane.run_dir), running.is_some())?;
    beginning.plan.composition.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    record_file::write(&dataplane.run_dir, &beginning.record)?;
    let poll = Poll::new().map_err(RunError::EventLoop)?;
    poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE).map_err(RunError::Signals)?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(RunError::EventLoop)?);
    let versions = join(&options, &beginning, &poll, running.is_some())?;
    let (report_sender, reports) = crossbeam::channel::unbounded();
    let (capture_sender, captured) = crossbeam::channel::bounded(CAPTURE_QUEUE);
    let outlets = Outlets { reports: report_sender, captured: capture_sender, waker };
    let plan = Arc::clone(&beginning.plan);
    let cpu = plan.config.hosts[plan.host].controller_cpu;
    let seat = Seat { cpu, spin: options.spin || cpu.is_some() };
    let handle = steering::start(Arc::clone(&plan), outlets, seat).map_err(RunError::EventLoop)?;
    let now = Instant::now();
    let machines = Machines::begin(&options.sysfs, &plan, versions.opening);
    let mut server = Server {
        options,
        plan,
        dataplane,
        state: State::BackOff { until: now },
        ending_stream: None,
        child: None,
        restarts: 0,
        failures: 0,
        was_ready: false,
        handle,
        reports,
        captured,
        poll,
        listener: None,
        connections: std::collections::HashMap::new(),
        next_token: FIRST_CONNECTION,
        waiting: std::collections::HashMap::new(),
        next_ticket: 0,
        versions,
        draining: change::Draining::default(),
        machines,
        events_lost: 0,
        next_tick: now + TICK,
        started: now,
        news: Vec::new(),
        stop: None,
        _lock: lock,
    };
    beginning.news.into_iter().for_each(|line| server.note(line));
    server.take_beginning(beginning.staged);
    if let Some(attached) = running {
        let (wanted, hugepages) = server.launch();
        let lines = differences(&attached.hello.launch, &wanted, hugepages);
        if !lines.is_empty() && !server.options.replace {
            return Err(RunError::Differs { pid: attached.hello.pid, lines });
        }
        server.attached(attached, false)?;
    }
    Ok((server, signals))
}

/// True while the process is there and not a zombie.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the program's name, which may itself contain brackets.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

impl Server {
    /// What was installed before this controller's start is to be in place beside the plan, from the first attach on.
    fn take_beginning(&mut self, staged: Option<Arc<Plan>>) {
        self.draining.turn_to(&self.plan);
        if let Some(staged) = staged {
            self.ask(Waiting::Nobody, |ticket| Command::Install(staged, ticket));
        }
    }

    /// Shares rings with a dataplane that greeted. `fresh` says that nothing is installed there yet.
    fn attached(&mut self, attached: Attached, fresh: bool) -> Result<(), RunError> {
        let Attached { hello, lcores, doorbell, counters, stream } = attached;
        let (wanted, hugepages) = self.launch();
        let lines = differences(&hello.launch, &wanted, hugepages);
        if let Err(source) = watch(&self.poll, &stream) {
            return Err(RunError::EventLoop(source));
        }
        let pid = hello.pid;
        tracing::info!("attached to dataplane {pid}");
        for warning in &hello.warnings {
            self.note(format!("dataplane: {warning}"));
        }
        let counts = counters.snapshots();
        let epoch = Epoch(counts.iter().map(|lcore| lcore.epoch).max().unwrap_or(0));
        let has_failed = |lcore: &&LcoreReport| counts.get(lcore.index).is_some_and(|counts| counts.nf_failed);
        let failed: Vec<_> = hello.lcores.iter().filter(has_failed).filter_map(|lcore| lcore.vport).collect();
        self.versions.failed = failed.iter().copied().collect();
        if fresh {
            self.versions.rewrites.clear();
            self.versions.violations.clear();
        }
        let occupants = occupants(&hello.lcores);
        // Nothing was asked on this stream, and what was refused before may be possible now.
        (self.versions.reconfiguring, self.versions.refused) = (None, None);
        self.events_lost = 0;
        self.state = State::Attached(Box::new(Attachment { hello, counters, stream, ready: false }));
        if lines.is_empty() {
            self.handle.send(Command::Attach { lcores, doorbell, epoch, fresh, failed, occupants });
        } else {
            tracing::warn!("dataplane {pid} differs from the configuration and is restarted: {}", lines.join("; "));
            self.restart();
        }
        Ok(())
    }

    /// Tells the dataplane to end; it is started anew once it has.
    pub(super) fn restart(&mut self) {
        let State::Attached(attachment) = &mut self.state else { return };
        let pid = attachment.hello.pid;
        if let Err(error) = attachment.stream.send(&Control::Shutdown) {
            tracing::warn!("dataplane {pid} can't be told to end: {error}");
        }
        self.handle.send(Command::Detach);
        self.failures = 0;
        let now = Instant::now();
        // The stream stays open until the end, so that the dataplane need not guess why it is closed.
        let old =
            std::mem::replace(&mut self.state, State::Ending { pid, deadline: now + END_LIMIT, next_look: now + LOOK });
        self.ending_stream = match old {
            State::Attached(attachment) => Some(attachment.stream),
            _ => None,
        };
    }

    /// Attaches again to the same dataplane: fresh rings.
    pub(super) fn reattach(&mut self) {
        let State::Attached(_) = &self.state else { return };
        self.handle.send(Command::Detach);
        // Dropping the stream tells the dataplane that the old controller is gone.
        self.state = State::BackOff { until: Instant::now() + BACK_OFF };
        match self.dataplane.attach() {
            Ok(attached) => {
                if let Err(error) = self.attached(attached, false) {
                    self.note(error.to_string());
                }
            }
            Err(error) => self.note(format!("the dataplane can't be attached to again: {error}")),
        }
    }

    /// Something came on the dataplane's stream: words, or its end.
    pub(super) fn hear_dataplane(&mut self) {
        loop {
            let State::Attached(attachment) = &mut self.state else { return };
            let pid = attachment.hello.pid;
            match attachment.stream.receive() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(Control::Stopping { reason })) => {
                    self.note(format!("dataplane {pid} ends: {reason}"))
                }
                Ok(Received::Message(Control::Reconfigured { lcores, warnings })) => {
                    self.reconfigured(lcores, warnings);
                }
                Ok(Received::Message(Control::NotReconfigured { reason })) => self.not_reconfigured(&reason),
                Ok(Received::Message(_)) => {}
                Ok(Received::Closed) => break,
                Err(error) => {
                    self.note(format!("dataplane {pid}: {error}"));
                    break;
                }
            }
        }
        let State::Attached(attachment) = &self.state else { return };
        let pid = attachment.hello.pid;
        self.note(format!("dataplane {pid} is gone; its last words: {}", self.dataplane.last_words()));
        self.handle.send(Command::Detach);
        self.failures += 1;
        let now = Instant::now();
        self.state = State::Ending { pid, deadline: now + END_LIMIT, next_look: now };
    }

    /// What time brings.
    pub(super) fn go_on(&mut self, now: Instant) -> Result<(), RunError> {
        match &mut self.state {
            State::BackOff { until } if now >= *until && self.versions.hold_until.is_none() => self.start()?,
            State::Starting { since, next_look } if now >= *next_look => {
                *next_look = now + LOOK;
                let since = *since;
                self.look_for_start(now, since)?;
            }
            State::Ending { pid, deadline, next_look } if now >= *next_look => {
                *next_look = now + LOOK;
                let (pid, late) = (*pid, now >= *deadline);
                self.look_for_end(now, pid, late);
            }
            _ => {}
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick();
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), RunError> {
        // After a broken ring the dataplane may well be there.
        if let Ok(attached) = self.dataplane.attach() {
            return self.attached(attached, false);
        }
        if self.was_ready {
            self.restarts += 1;
        }
        let (launch, hugepages) = self.launch();
        let child = self.dataplane.start(&launch_now(&launch, hugepages))?;
        tracing::info!("dataplane {} started", child.id());
        self.child = Some(child);
        let now = Instant::now();
        self.state = State::Starting { since: now, next_look: now + LOOK };
        Ok(())
    }

    fn look_for_start(&mut self, now: Instant, since: Instant) -> Result<(), RunError> {
        match self.dataplane.attach_within(SHORT_GREETING) {
            Ok(attached) => return self.attached(attached, true),
            // It listens before its ports and memory are ready, and greets afterwards.
            Err(AttachError::NotRunning { .. } | AttachError::Busy { .. } | AttachError::Stream(_)) => {}
            Err(error) => return self.failed_start(now, error.into()),
        }
        let pid = self.child.as_ref().map_or(0, std::process::Child::id);
        let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            let error = self.dataplane.ended();
            return self.failed_start(now, error.into());
        }
        if now >= since + START_LIMIT {
            let error = ProcessError::Silent { pid, seconds: START_LIMIT.as_secs(), log: self.dataplane.log() };
            if let Some(mut child) = self.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            return self.failed_start(now, error.into());
        }
        Ok(())
    }

    /// At the very first start there is nobody to wait for; later the operator is told and it is tried again.
    fn failed_start(&mut self, now: Instant, error: RunError) -> Result<(), RunError> {
        if !self.was_ready {
            return Err(error);
        }
        if self.versions.installation.is_some() {
            let refusal = self.refusal(vec![error.to_string()]);
            self.end_installing(Err(refusal));
        }
        self.note(error.to_string());
        self.failures += 1;
        self.state = State::BackOff { until: now + self.back_off() };
        Ok(())
    }

    fn back_off(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => MAX_BACK_OFF.min(BACK_OFF * 2_u32.saturating_pow((failures - 1).min(10))),
        }
    }

    fn look_for_end(&mut self, now: Instant, pid: u32, late: bool) {
        let reaped = self.child.as_mut().filter(|child| child.id() == pid).map(std::process::Child::try_wait);
        let gone = matches!(reaped, Some(Ok(Some(_)))) || !is_running(pid);
        if gone {
            self.child = None;
            self.ending_stream = None;
            self.state = State::BackOff { until: now + self.back_off() };
        } else if late {
            self.note(format!("dataplane {pid} did not end in {} s and is killed", END_LIMIT.as_secs()));
            kill(pid, Signal::KILL);
            self.state = State::Ending { pid, deadline: now + END_LIMIT, next_look: now + LOOK };
        }
    }

    /// Housekeeping, once a second.
    fn tick(&mut self) {
        self.look_at_machine();
        let State::Attached(attachment) = &self.state else { return };
        if !attachment.ready {
            return;
        }
        let lost: u64 = attachment.counters.snapshots().iter().map(|lcore| lcore.events_lost).sum();
        if lost != self.events_lost {
            // The ends of flows may be among what was lost: look at what is installed.
            self.events_lost = lost;
            self.ask(Waiting::Nobody, Command::ReadBack);
        }
        if !self.draining.is_empty() {
            self.ask(Waiting::Drain, |ticket| Command::Stats(ticket, false));
        }
    }

    /// An orderly end: the API closes, the dataplane ends unless it is to be kept.
    pub(super) fn end(&mut self) -> Result<(), RunError> {
        self.listener = None;
        // Nobody else listens there: we have the lock.
        let _ = std::fs::remove_file(self.api_socket());
        if self.stop.is_some_and(|stop| stop.keep_dataplane) {
            return Ok(());
        }
        let pid = match &mut self.state {
            State::Attached(attachment) => {
                if let Err(error) = attachment.stream.send(&Control::Shutdown) {
                    tracing::warn!("the dataplane can't be told to end: {error}");
                }
                Some(attachment.hello.pid)
            }
            State::Starting { .. } => self.child.as_ref().map(|child| {
                kill(child.id(), Signal::TERM);
                child.id()
            }),
            State::Ending { pid, .. } => Some(*pid),
            State::BackOff { .. } => None,
        };
        let ended = pid.map_or(Ok(()), |pid| self.wait_for_end(pid));
        if self.versions.machine.installed().is_none() {
            record_file::remove(&self.dataplane.run_dir);
        }
        ended
    }

    fn wait_for_end(&mut self, pid: u32) -> Result<(), RunError> {
        if !wait_for_exit(pid, END_LIMIT) {
            return Err(RunError::DidNotEnd(pid));
        }
        let status = self.child.as_mut().filter(|child| child.id() == pid).and_then(|child| child.wait().ok());
        match status {
            Some(status) if !status.success() => {
                let (reason, log) = (self.dataplane.last_words(), self.dataplane.log());
                Err(RunError::EndedBadly { status, reason, log })
            }
            _ => Ok(()),
        }
    }
}

fn raw_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn kill(pid: u32, signal: Signal) {
    if let Some(raw) = raw_pid(pid)
        && let Err(error) = rustix::process::kill_process(raw, signal)
    {
        tracing::warn!("process {pid} can't be signalled: {error}");
    }
}

/// Waits until a process has ended; false if it takes longer than the limit.
fn wait_for_exit(pid: u32, limit: Duration) -> bool {
    let Some(raw) = raw_pid(pid) else { return true };
    let handle = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(_) => return !is_running(pid),
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return !is_running(pid),
        }
    }
}
