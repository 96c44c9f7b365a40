//! The main thread: the API socket, signals, the dataplane's life; a mio event loop without waiting anywhere else.
//!
//! Off the packet's path; the flow thread ([`crate::steering`]) goes on whatever happens here.
//!
//! The dataplane is always in one state:
//! ```text
//!              ┌──────────── it ended ─────────────┐
//!              ▼                                   │
//!   BackOff ── time ──► Starting ── it listens ──► Attached ── apply needs it, or replace ──► Ending ──► Starting
//!      ▲                   │
//!      └── it ended again ─┘   (at the very first start: its last words are our error, and we end)
//! ```
//!
//! `versions` does what the [`Machine`](crate::distribution::Machine) wants, `install` takes a version into force on this
//! host, `change` is what operators ask for, `peers` asks other controllers.

mod answers;
mod change;
mod connection;
mod install;
mod life;
mod machines;
mod peers;
mod record_file;
mod versions;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use mio::net::UnixListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use shm::attach::ControlStream;
use shm::capture::CaptureRecord;
use shm::counters::CountersReader;
use shm::hello::Hello;
use signal_hook_mio::v1_0::Signals;

use crate::api::{self, Failure, FailureKind, Request, Response};
use crate::distribution::Task;
use crate::flows::Plan;
use crate::options::Options;
use crate::process::Dataplane;
use crate::steering::{Command, Handle, Report, Stats, Ticket};
use connection::Connection;

pub use life::RunError;

const SIGNALS: Token = Token(0);
const WAKER: Token = Token(1);
const DATAPLANE: Token = Token(2);
const LISTENER: Token = Token(3);
const FIRST_CONNECTION: usize = 16;
/// Tokens from here on are the links' to other controllers.
const FIRST_LINK: usize = 1 << 32;

/// API connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// Captured packets between the flow thread and the connections.
const CAPTURE_QUEUE: usize = 8_192;
/// Captured packets written before other things have their turn.
const CAPTURES_PER_TURN: usize = 1_024;
/// How often housekeeping looks around.
const TICK: Duration = Duration::from_secs(1);

/// A dataplane with which rings are shared.
struct Attachment {
    hello: Hello,
    counters: CountersReader,
    stream: ControlStream,
    /// Tables are in place.
    ready: bool,
}

/// How the dataplane is.
enum State {
    /// Rings are shared.
    Attached(Box<Attachment>),
    /// It was started and does not listen yet.
    Starting { since: Instant, next_look: Instant },
    /// It was told to end, or ends; then it is started anew.
    Ending { pid: u32, deadline: Instant, next_look: Instant },
    /// It ended; it is started again at this time.
    BackOff { until: Instant },
}

/// Who waits for what the flow thread says.
enum Waiting {
    /// A request that needs [`Stats`].
    Stats(Token, Request),
    /// `flows`, at most so many rows.
    Flows(Token, usize),
    /// The machine: tag rules of an installation.
    Install(Task),
    /// The machine: this plan.
    Activate(Task, Arc<Plan>),
    /// A change that is only asked about, or is none.
    DryRun(Token, Box<api::Applied>),
    /// Paths of earlier plans, which may have ended.
    Drain,
    /// Nobody: housekeeping.
    Nobody,
}

struct Server {
    options: Options,
    plan: Arc<Plan>,
    dataplane: Dataplane,
    state: State,
    /// Of a dataplane that was told to end.
    ending_stream: Option<ControlStream>,
    /// The dataplane, if this controller started it.
    child: Option<Child>,
    restarts: u32,
    failures: u32,
    was_ready: bool,
    handle: Handle,
    reports: Receiver<Report>,
    captured: Receiver<(u64, CaptureRecord)>,
    poll: Poll,
    listener: Option<UnixListener>,
    connections: HashMap<Token, Connection>,
    next_token: usize,
    waiting: HashMap<Ticket, Waiting>,
    next_ticket: Ticket,
    versions: versions::Versions,
    draining: change::Draining,
    machines: machines::Machines,
    events_lost: u64,
    next_tick: Instant,
    started: Instant,
    news: Vec<String>,
    stop: Option<Stop>,
    /// Held as long as this controller runs: one controller per run directory.
    _lock: std::fs::File,
}

/// Why and how to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stop {
    keep_dataplane: bool,
}

/// Runs the controller of a host until it is told to end.
pub fn run(options: Options) -> Result<(), RunError> {
    let (mut server, signals) = life::prepare(options)?;
    server.serve(signals)
}

impl Server {
    fn serve(&mut self, mut signals: Signals) -> Result<(), RunError> {
        let mut events = Events::with_capacity(128);
        while self.stop.is_none() {
            let timeout = self.deadline().saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(RunError::EventLoop(source)),
            }
            for event in &events {
                match event.token() {
                    SIGNALS => self.hear_signals(&mut signals),
                    WAKER => {}
                    DATAPLANE => self.hear_dataplane(),
                    LISTENER => self.accept(),
                    token if self.versions.links.owns(token) => {
                        let heard = self.versions.links.ready(token);
                        self.hear_links(heard);
                    }
                    token => self.serve_connection(token),
                }
            }
            self.hear_reports()?;
            self.pass_captures();
            self.look_at_versions(Instant::now());
            self.go_on(Instant::now())?;
            if self.handle.is_dead() {
                return Err(RunError::FlowThread);
            }
        }
        self.end()
    }

    fn deadline(&self) -> Instant {
        let next = match &self.state {
            State::Attached(_) => self.next_tick,
            State::Starting { next_look, .. } | State::Ending { next_look, .. } => *next_look,
            State::BackOff { until } => self.versions.hold_until.unwrap_or(*until),
        };
        next.min(self.next_tick).min(self.versions.deadline())
    }

    fn hear_signals(&mut self, signals: &mut Signals) {
        for signal in signals.pending() {
            tracing::info!("signal {signal}: ending");
            self.stop = Some(Stop { keep_dataplane: self.options.keep_dataplane });
        }
    }

    /// Something to remember and to show in the status.
    fn note(&mut self, line: String) {
        const KEPT: usize = 20;
        tracing::warn!("{line}");
        if self.news.last() != Some(&line) {
            self.news.push(line);
        }
        if self.news.len() > KEPT {
            self.news.remove(0);
        }
    }

    fn hear_reports(&mut self) -> Result<(), RunError> {
        while let Ok(report) = self.reports.try_recv() {
            match report {
                Report::Ready { found, added, removed } => self.be_ready(found, added, removed)?,
                Report::Stats(ticket, stats) => {
                    let waiting = self.waiting.remove(&ticket);
                    self.hear_stats(waiting, &stats);
                }
                Report::ReadBack(ticket, rows) => {
                    if let Some(Waiting::Flows(token, limit)) = self.waiting.remove(&ticket) {
                        let response = rows.map_or_else(away, |rows| self.flows(&rows, limit));
                        self.respond_late(token, &response);
                    }
                }
                Report::Installed(ticket, result) => {
                    if let Some(Waiting::Install(task)) = self.waiting.remove(&ticket)
                        && self.versions.installation == Some(task)
                    {
                        let refused =
                            |reason| self.refusal(vec![format!("its dataplane refused tag rules: {reason:?}")]);
                        let result = result.map_err(refused);
                        self.end_installing(result);
                    }
                }
                Report::Activated(ticket, flows) => {
                    if let Some(Waiting::Activate(task, plan)) = self.waiting.remove(&ticket) {
                        self.activated(task, plan, flows);
                    }
                }
                Report::NfFailed(vport) => {
                    let name = self.plan.part().vport_name(vport);
                    self.note(format!(
                        "{name} panicked and is out of use; drain it and scale its function, which adds another"
                    ));
                    self.versions.failed.insert(vport);
                    self.failures_changed();
                }
                Report::Rewritten(key, became) => self.hear_rewritten(key, became),
                Report::Violation(violation) => {
                    if self.versions.violations.insert(violation.lcore, violation).is_none() {
                        let at = self.plan.part().vport_name(violation.key.vport);
                        let (expected, found) = (violation.expected, violation.found);
                        let flow = violation.key.five_tuple;
                        self.note(format!("{at}: {flow} belongs to path {expected} and was met on path {found}"));
                    }
                }
                Report::LinkBroken(error) => {
                    self.note(format!("a ring to the dataplane is broken: {error}"));
                    self.reattach();
                }
                Report::Refused(reason) => self.note(format!("the dataplane refused tag rules: {reason:?}")),
            }
        }
        Ok(())
    }

    fn hear_stats(&mut self, waiting: Option<Waiting>, stats: &Stats) {
        match waiting {
            Some(Waiting::Stats(token, request)) => {
                let response = self.answer_with_stats(&request, stats);
                self.respond_late(token, &response);
            }
            Some(Waiting::DryRun(token, applied)) => {
                self.respond_late(token, &Response::Applied(api::Applied { flows_kept: stats.sessions, ..*applied }));
            }
            Some(Waiting::Drain) => self.drain(stats),
            _ => {}
        }
    }

    /// An instance that is no mangler behaves like one; the operator decides.
    fn hear_rewritten(&mut self, key: packet::FlowKey, became: packet::FiveTuple) {
        let example = format!("{} became {became}", key.five_tuple);
        if self.versions.rewrites.insert(key.vport, example.clone()).is_none() {
            let name = self.plan.part().vport_name(key.vport);
            let kind = name.rsplit_once('/').map_or(name.as_str(), |(kind, _)| kind).to_owned();
            self.note(format!(
                "{name} rewrites flows though it is not declared to: {example}; declare it (towpath accept {kind})"
            ));
        }
    }

    /// Tables are in place: the first time this is when the host serves.
    fn be_ready(&mut self, found: usize, added: usize, removed: usize) -> Result<(), RunError> {
        let State::Attached(attachment) = &mut self.state else { return Ok(()) };
        attachment.ready = true;
        let pid = attachment.hello.pid;
        self.failures = 0;
        tracing::info!("dataplane {pid}: {found} exact rules found, {added} tag rules added, {removed} removed");
        self.failures_changed();
        self.settle_launch();
        if !self.was_ready {
            self.was_ready = true;
            self.listen()?;
            let api = self.api_socket();
            println!("towpath-controller {}: ready, dataplane {pid}, API at {}", self.options.host, api.display());
        }
        Ok(())
    }

    fn api_socket(&self) -> PathBuf {
        self.dataplane.run_dir.join(api::SOCKET_NAME)
    }

    fn listen(&mut self) -> Result<(), RunError> {
        let path = self.api_socket();
        let opened = || -> io::Result<UnixListener> {
            // The lock says that no other controller listens there.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Ok(listener)
        };
        self.listener = Some(opened().map_err(|source| RunError::Api { path: path.clone(), source })?);
        Ok(())
    }

    fn accept(&mut self) {
        while let Some(Ok((mut stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let token = Token(self.next_token);
            self.next_token += 1;
            if self.connections.len() >= MAX_CONNECTIONS {
                tracing::warn!("{MAX_CONNECTIONS} API connections are open; one more was refused");
                continue;
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            match self.poll.registry().register(&mut stream, token, interest) {
                Ok(()) => drop(self.connections.insert(token, Connection::new(stream))),
                Err(error) => tracing::error!("an API connection can't be watched: {error}"),
            }
            self.serve_connection(token);
        }
    }

    /// Reads what came, answers one request after the other, writes what can be written.
    fn serve_connection(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let open = connection.read();
        while let Some(line) = self.connections.get_mut(&token).and_then(Connection::next_line) {
            match line {
                Ok(request) => self.take_request(token, request),
                Err(problem) => self.respond(token, &failed(FailureKind::BadRequest, vec![problem])),
            }
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if !connection.write() || (!open && connection.is_done()) {
            self.close(token);
        }
    }

    fn close(&mut self, token: Token) {
        let Some(mut connection) = self.connections.remove(&token) else { return };
        let _ = self.poll.registry().deregister(connection.stream());
        if connection.capture.is_some() {
            if connection.lost() > 0 {
                tracing::warn!("a capture's reader was too slow and lost {} packets", connection.lost());
            }
            self.handle.send(Command::StopCapture(token.0 as u64));
        }
    }

    /// Answers a request whose turn it still is.
    fn respond(&mut self, token: Token, response: &Response) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.answer(response);
        }
    }

    /// Answers a request of earlier; the client may have asked more meanwhile.
    fn respond_late(&mut self, token: Token, response: &Response) {
        self.respond(token, response);
        self.serve_connection(token);
    }

    fn take_request(&mut self, token: Token, request: Request) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.busy = true;
        }
        let response = match request {
            Request::Status | Request::Chains | Request::Paths | Request::Instances => {
                let with_chains = request == Request::Chains;
                return self.ask(Waiting::Stats(token, request), |ticket| Command::Stats(ticket, with_chains));
            }
            Request::Flows { limit } => return self.ask(Waiting::Flows(token, limit), Command::ReadBack),
            Request::Apply { file, yaml, allow_restart, may_move, dry_run, progress } => {
                let manner = change::Manner { allow_restart, may_move, dry_run, progress };
                match self.change(token, change::Wish::File { file, yaml }, manner) {
                    Some(response) => response,
                    None => return,
                }
            }
            Request::Operate { operations, dry_run, progress } => {
                let manner = change::Manner { dry_run, progress, ..change::Manner::default() };
                match self.change(token, change::Wish::Operations(operations), manner) {
                    Some(response) => response,
                    None => return,
                }
            }
            Request::Config => self.config_in_force(),
            Request::Versions => Response::Versions(self.version_rows()),
            Request::Audit { everywhere: false } => Response::Audit(self.audit()),
            Request::Audit { everywhere: true } => match self.audit_everywhere(token) {
                Some(response) => response,
                None => return,
            },
            Request::Capture { at, snap } => self.start_capture(token, &at, snap),
            Request::Hosts => Response::Hosts(self.hosts()),
            Request::Inventory => Response::Inventory(self.inventories()),
            Request::Lcores => self.lcores(),
            Request::Drops => self.drops(),
            Request::Counters => self.counters(),
            Request::Shutdown { keep_dataplane } => {
                self.stop = Some(Stop { keep_dataplane });
                Response::ShuttingDown
            }
        };
        self.respond(token, &response);
    }

    fn ask(&mut self, waiting: Waiting, command: impl FnOnce(Ticket) -> Command) {
        self.next_ticket += 1;
        self.waiting.insert(self.next_ticket, waiting);
        self.handle.send(command(self.next_ticket));
    }

    fn start_capture(&mut self, token: Token, at: &str, snap: u16) -> Response {
        if !matches!(self.state, State::Attached(_)) {
            return away();
        }
        let part = self.plan.part();
        let all = || (0..part.vports.len()).filter_map(|index| u16::try_from(index).ok().map(packet::VportId));
        let vports: Vec<packet::VportId> =
            if at == "all" { all().collect() } else { part.vport(at).into_iter().collect() };
        if vports.is_empty() || snap == 0 {
            let names: Vec<&str> = part.vports.iter().map(|vport| vport.name.as_str()).collect();
            let line = match snap {
                0 => "a snap length of 0 keeps nothing; use 1 to 65535".to_owned(),
                _ => format!("there is no vport `{at}` here; use `all` or one of {}", names.join(", ")),
            };
            return failed(FailureKind::NotFound, vec![line]);
        }
        let names: Vec<String> = vports.iter().map(|vport| part.vport_name(*vport)).collect();
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.start_capture(&vports, &names, snap);
        }
        self.handle.send(Command::StartCapture { id: token.0 as u64, vports, snap });
        Response::Capturing { at: names }
    }

    fn pass_captures(&mut self) {
        let mut touched = Vec::new();
        for _ in 0..CAPTURES_PER_TURN {
            let Ok((id, record)) = self.captured.try_recv() else { break };
            let token = Token(usize::try_from(id).unwrap_or(usize::MAX));
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.add_capture(&record);
                if !touched.contains(&token) {
                    touched.push(token);
                }
            }
        }
        for token in touched {
            if self.connections.get_mut(&token).is_some_and(|connection| !connection.write()) {
                self.close(token);
            }
        }
        if !self.captured.is_empty() {
            // There is more, but others have their turn first.
            self.next_tick = self.next_tick.min(Instant::now());
        }
    }
}

fn failed(kind: FailureKind, lines: Vec<String>) -> Response {
    Response::Failed(Failure { kind, lines })
}

fn away() -> Response {
    let line = "the dataplane is not attached at the moment; see `towpath get status` and the controller's log";
    failed(FailureKind::DataplaneAway, vec![line.to_owned()])
}

fn watch(poll: &Poll, stream: &ControlStream) -> io::Result<()> {
    let fd = stream.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), DATAPLANE, Interest::READABLE | Interest::WRITABLE)
}
