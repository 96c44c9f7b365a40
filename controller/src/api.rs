//! What is said over the controller's API socket.
//!
//! The socket is `<run-dir>/api.sock`, a Unix stream socket that only its owner may open. Each request is one line of JSON, each
//! answer one line of JSON, in order; a connection may ask as often as it likes. Names, not numbers, stand in every answer: a
//! vport is `tunnel`, `acme/clients` or `acme/edge/1`, a chain `acme/web`.
//!
//! [`Request::Capture`] turns its connection into a stream: after the [`Response::Capturing`] line come the bytes of a pcapng
//! file (section header, one interface per vport and side named `acme/edge/1 in` and `acme/edge/1 out`, nanosecond time
//! stamps, then packets) until the client hangs up. A reader that is too slow loses packets, never the flows their setup.
//!
//! [`Request::Apply`] and [`Request::Operate`] with `progress` are answered by several lines: [`Response::Progress`] as often as
//! something changes, then the answer.
//!
//! Errors: a request that can't be served is answered by [`Response::Failed`]; the connection stays open.

mod places;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use packet::{Direction, DropClass, FiveTuple};
use serde::{Deserialize, Serialize};

use crate::config::operations::Operation;
pub use crate::distribution::Phase;
pub use places::{InstanceRow, InstanceState, InventoryRow, NamedCount, OccupiedLcore, PlacementChange, PlacementRow};

/// The API socket's name in the run directory.
pub const SOCKET_NAME: &str = "api.sock";

/// Where the run directories of the hosts' controllers are, one per host, unless the operator says otherwise.
pub const RUN_ROOT: &str = "/run/towpath";

/// The longest request line, bytes; an `apply` carries the whole configuration file.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// The run directory of a host's controller, unless the operator says otherwise: `/run/towpath/host1`.
pub fn default_run_dir(host: &str) -> PathBuf {
    Path::new(RUN_ROOT).join(host)
}

/// The API sockets below a root of run directories, sorted by path; a root that is not there has none.
pub fn sockets_below(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path().join(SOCKET_NAME)).filter(|path| path.exists()).collect();
    found.sort();
    found
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the controller and its dataplane are.
    Status,
    /// Every host of the configuration.
    Hosts,
    /// This host's lcores.
    Lcores,
    /// The machines of all hosts.
    Inventory,
    /// Every NF instance; counters of those on this host.
    Instances,
    /// Every chain.
    Chains,
    /// Every instance path, hop by hop.
    Paths,
    /// The exact rules installed on this host, read back from the dataplane now.
    Flows {
        /// The most rows to send.
        limit: usize,
    },
    /// How packets ended here, by reason; reasons that never occurred are left out.
    Drops,
    /// Every counter of this host, as of now; two of them make a rate.
    Counters,
    /// Take a new configuration into force.
    Apply {
        /// The file's name, for error lines.
        file: String,
        /// The file's text.
        yaml: String,
        /// Whether the dataplane may be restarted if the change needs it.
        allow_restart: bool,
        /// Whether instances that run and name no CPU may be replaced by others in better places.
        #[serde(default)]
        may_move: bool,
        /// Only say what would change.
        dry_run: bool,
        /// Say how far it is, in lines of [`Response::Progress`] before the answer.
        #[serde(default)]
        progress: bool,
    },
    /// Take operations on top of the configuration into force.
    Operate {
        /// In order.
        operations: Vec<Operation>,
        /// Only say what would change.
        dry_run: bool,
        /// As with [`Request::Apply`].
        #[serde(default)]
        progress: bool,
    },
    /// The document in force.
    Config,
    /// What the audit of flows' affinity found.
    Audit {
        /// On all hosts; otherwise on this one.
        everywhere: bool,
    },
    /// Each host's version.
    Versions,
    /// Stream a capture; see the module's text.
    Capture {
        /// A vport's name, or `all`.
        at: String,
        /// Bytes of each packet to keep, 1..=65535.
        snap: u16,
    },
    /// Stop this controller.
    Shutdown {
        /// Leave the dataplane running.
        keep_dataplane: bool,
    },
}

/// What the controller answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", content = "content", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Hosts`].
    Hosts(Vec<HostRow>),
    /// To [`Request::Lcores`].
    Lcores(Vec<LcoreRow>),
    /// To [`Request::Inventory`].
    Inventory(Vec<InventoryRow>),
    /// To [`Request::Instances`].
    Instances(Vec<InstanceRow>),
    /// To [`Request::Chains`].
    Chains(Vec<ChainRow>),
    /// To [`Request::Paths`].
    Paths(Vec<PathRow>),
    /// To [`Request::Flows`].
    Flows(Flows),
    /// To [`Request::Drops`].
    Drops(Vec<DropRow>),
    /// To [`Request::Counters`].
    Counters(CountersSnapshot),
    /// To [`Request::Apply`] and [`Request::Operate`].
    Applied(Applied),
    /// How far a change is; further lines follow.
    Progress(Progress),
    /// To [`Request::Config`].
    Config(ConfigInForce),
    /// To [`Request::Audit`].
    Audit(Audit),
    /// To [`Request::Versions`].
    Versions(Vec<VersionRow>),
    /// To [`Request::Capture`]: pcapng bytes follow.
    Capturing {
        /// The vports that are captured.
        at: Vec<String>,
    },
    /// To [`Request::Shutdown`].
    ShuttingDown,
    /// The request can't be served.
    Failed(Failure),
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// One line per problem: what, where, the remedy.
    pub lines: Vec<String>,
}

/// What kind of failure it is, so that a program can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request line is not a request.
    BadRequest,
    /// The configuration has errors.
    BadConfiguration,
    /// The change needs a restart of the dataplane and the request does not allow it.
    NeedsRestart,
    /// A host says no, or can't be reached; the old version stays in force everywhere.
    Refused,
    /// The name is not known here.
    NotFound,
    /// The dataplane is not attached at the moment, or did not answer in time.
    DataplaneAway,
    /// Something that can't be done now: a second capture of the same vport.
    Busy,
}

/// How the controller and its dataplane are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The host.
    pub host: String,
    /// The controller's version.
    pub version: String,
    /// The controller's process.
    pub pid: u32,
    /// Seconds since the controller started.
    pub uptime_s: u64,
    /// The configuration file in force.
    pub config_file: String,
    /// Counted up with each change.
    pub config_version: u64,
    /// The last epoch that was committed.
    pub epoch: u64,
    /// Flow misses answered with a rule since the controller started.
    pub flows_set_up: u64,
    /// Flow misses that no chain selects.
    pub flows_rejected: u64,
    /// Flows with an exact rule from this controller now.
    pub sessions: u64,
    /// Batches that the dataplane refused.
    pub batches_refused: u64,
    /// The dataplane.
    pub dataplane: DataplaneStatus,
    /// What the operator should know: shared cores, a reduced MTU, an NF that failed.
    pub warnings: Vec<String>,
}

/// How the dataplane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// Whether it is there.
    pub state: DataplaneState,
    /// Its process, when attached.
    pub pid: Option<u32>,
    /// Its version, when attached.
    pub version: Option<String>,
    /// How often this controller had to start it again.
    pub restarts: u32,
    /// Several lcores share a CPU: fit for tests, not for measurements.
    pub shares_cores: bool,
    /// Its memory is on hugepages.
    pub hugepages: bool,
}

/// Whether the dataplane is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataplaneState {
    /// Attached: rules can be installed.
    Attached,
    /// It ended; it is being started again.
    Restarting,
}

/// A host of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub host: String,
    /// True for the host of this controller.
    pub here: bool,
    /// Its VTEP address; none without an underlay.
    pub vtep: Option<IpAddr>,
    /// Its lcores' CPUs, I/O first.
    pub cpus: Vec<u16>,
    /// Its DPDK ports.
    pub ports: Vec<String>,
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// Its NF instances.
    pub instances: Vec<String>,
}

/// A lcore of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LcoreRow {
    /// Its number.
    pub lcore: usize,
    /// The CPU that it is pinned to.
    pub cpu: u16,
    /// The CPU's socket (NUMA node), if known.
    pub socket: Option<i32>,
    /// The socket of the memory that it uses, if known.
    pub memory_socket: Option<i32>,
    /// `io`, or the NF instance.
    pub runs: String,
    /// The ports that it polls.
    pub ports: Vec<String>,
    /// Another lcore has the same CPU.
    pub shares_cpu: bool,
    /// Cycles that moved packets, per cent of all cycles since the dataplane started; `towpath top` shows it live.
    pub useful_percent: f64,
    /// Exact rules in its table now.
    pub exact_rules: u64,
    /// Tag rules in its table now.
    pub tag_rules: u64,
    /// Packets parked now.
    pub parked: u64,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainRow {
    /// `acme/web`.
    pub chain: String,
    /// The tenant's VNI.
    pub vni: u32,
    /// Source endpoint.
    pub from: String,
    /// Destination endpoint.
    pub to: String,
    /// Which traffic, in words: `tcp any > 10.2.0.0/24:80`.
    pub selects: String,
    /// The NFs, in order.
    pub through: Vec<String>,
    /// How many subchains the manglers cut it into.
    pub subchains: usize,
    /// How many instance paths it has.
    pub paths: usize,
    /// Flows that this host's controller has set up on it and that still live.
    pub flows: u64,
}

/// An instance path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathRow {
    /// Its number, unique over the configuration.
    pub path: u32,
    /// The chains that use it.
    pub chains: Vec<String>,
    /// Which subchain of the chain, from 0.
    pub subchain: usize,
    /// The tag of packets along the chain.
    pub tag_forward: u8,
    /// The tag of answers.
    pub tag_reverse: u8,
    /// The elements, from head to end, both included.
    pub hops: Vec<Hop>,
    /// Its share of new flows, relative to the other paths of its head.
    pub weight: u32,
    /// The largest IP packet that it takes, bytes.
    pub path_mtu: u16,
    /// Flows that this host's controller has set up on it and that still live.
    pub flows: u64,
    /// False once an instance on it has failed: no new flows.
    pub usable: bool,
}

/// An element of a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// An endpoint or an NF instance: `acme/edge/1`.
    pub element: String,
    /// Its host.
    pub host: String,
    /// Packets that left it along the chain, counted by this host's tag rules; none where this host does not count.
    pub forward_packets: Option<u64>,
    /// The same for answers.
    pub reverse_packets: Option<u64>,
}

/// The exact rules of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// How many there are.
    pub total: u64,
    /// As many of them as were asked for.
    pub rows: Vec<FlowRow>,
}

/// An exact rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The vport that the flow's packets come from.
    pub at: String,
    /// The tenant.
    pub tenant: String,
    /// The flow.
    pub flow: FiveTuple,
    /// Which way.
    pub direction: Direction,
    /// The chain, if the path is one of the configuration in force.
    pub chain: Option<String>,
    /// The path.
    pub path: u32,
    /// The tag that the rule sets.
    pub tag: u8,
    /// Where the rule sends: `acme/edge/1`, with `@host2` if it is another host's.
    pub next: String,
    /// Learned from the forward direction, not said by the controller.
    pub learned: bool,
    /// Packets that met the rule.
    pub packets: u64,
    /// Bytes of IP that met it.
    pub bytes: u64,
    /// Milliseconds since the last one.
    pub idle_ms: u32,
}

/// Packets that ended for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DropRow {
    /// The reason's name: `flow-setup-timeout`.
    pub reason: String,
    /// `absorbed`, `bad-packet`, `policy`, `capacity` or `fault`.
    pub class: String,
    /// How many.
    pub packets: u64,
    /// One sentence.
    pub meaning: String,
    /// Where: lcore name (`io`, `acme/edge/1`) to packets.
    pub by_lcore: BTreeMap<String, u64>,
}

/// Every counter of a host at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CountersSnapshot {
    /// The host.
    pub host: String,
    /// When: the host's monotonic clock, ns.
    pub taken_ns: u64,
    /// Changes when the dataplane was started anew, and the counters with it: rates across a change mean nothing.
    pub dataplane_pid: u32,
    /// The counters.
    pub rows: Vec<CounterRow>,
}

/// The counters of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CounterRow {
    /// What kind of thing.
    pub kind: CounterKind,
    /// Its name.
    pub name: String,
    /// Counter to value.
    pub values: BTreeMap<String, u64>,
}

/// What kind of thing is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterKind {
    /// A lcore (`io`, `acme/edge/1`): its whole block but drops and hops.
    Lcore,
    /// A DPDK port.
    Port,
    /// A vport: packets and bytes in and out.
    Vport,
    /// An NF instance's own counters.
    Instance,
    /// A tag rule: `path 3 forward acme/edge/1 > acme/nat/1`.
    Rule,
    /// Drops of the whole host by reason.
    Drops,
}

/// What a change did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Nothing was done: the request was a dry run.
    pub dry_run: bool,
    /// The version that it makes; the one in force if nothing changes.
    pub version: u64,
    /// What manglers make of the chains, one line each.
    pub transformation: Vec<String>,
    /// The changes, one line each; empty if there are none.
    pub changes: Vec<String>,
    /// Every instance, where it is and what becomes of it.
    #[serde(default)]
    pub placements: Vec<PlacementRow>,
    /// Hosts on which tag rules change.
    pub hosts: Vec<HostChange>,
    /// Dataplanes were (would be) restarted, and why.
    pub restart: Option<String>,
    /// Flows of this host whose rule stays as it is.
    pub flows_kept: u64,
    /// Hosts that were lost after all had installed it; they follow once they are back.
    pub late: Vec<String>,
    /// The configuration's warnings.
    pub warnings: Vec<String>,
}

/// What a change does to a host's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostChange {
    /// The host.
    pub host: String,
    /// Tag rules that are new.
    pub rules_added: usize,
    /// Tag rules that go.
    pub rules_removed: usize,
}

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The version that it makes.
    pub version: u64,
    /// What is being done.
    pub phase: Phase,
    /// Hosts that are not done with it.
    pub waiting: Vec<String>,
}

/// What all hosts go by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigInForce {
    /// Counted up with each change.
    pub version: u64,
    /// Names the document.
    pub digest: String,
    /// The file's name where it was applied.
    pub file: String,
    /// The file's text.
    pub yaml: String,
    /// What operators did on top of it, in words.
    pub operations: Vec<String>,
}

/// What the audit found: flows that met another path than their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// By host and lcore.
    pub rows: Vec<AuditRow>,
    /// Hosts that did not answer.
    pub silent: Vec<String>,
}

/// A lcore's audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// The host.
    pub host: String,
    /// `io`, or the NF instance.
    pub lcore: String,
    /// Packets whose path was compared with their flow's.
    pub audited_packets: u64,
    /// Times that a live flow was found on another path than its own.
    pub violations: u64,
    /// The last of them: the flow and both paths.
    pub last: Option<String>,
}

/// A host's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// The host.
    pub host: String,
    /// True for the host of this controller.
    pub here: bool,
    /// Its controller can be spoken with.
    pub reachable: bool,
    /// The version in force there; none if it is not known.
    pub active: Option<u64>,
    /// Names its document.
    pub digest: Option<String>,
    /// The version that is installed there and neither in force nor given up.
    pub installed: Option<u64>,
    /// Of this controller's host: for whom that waits, and what to do.
    #[serde(default)]
    pub waits_for: Option<String>,
}

/// The word for a class of drops in answers.
pub const fn class_name(class: DropClass) -> &'static str {
    match class {
        DropClass::Absorbed => "absorbed",
        DropClass::BadPacket => "bad-packet",
        DropClass::Policy => "policy",
        DropClass::Capacity => "capacity",
        DropClass::Fault => "fault",
    }
}

/// Why a client got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no controller answers at {path}: {source}; start towpath-controller, or name its run directory")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the controller at {path} broke: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The controller hung up before it answered.
    #[error("the controller at {path} ended before it answered; see its log")]
    HungUp {
        /// The socket.
        path: PathBuf,
    },
    /// The answer is not one of ours.
    #[error(
        "the controller at {path} answered what this version does not understand ({source}); use the same version of both"
    )]
    Unreadable {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The controller says no.
    #[error("{}", .0.lines.join("\n"))]
    Failed(Failure),
}

/// A blocking connection to a controller.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// How long an answer may take; a read-back of a full table is within it, and a change that restarts dataplanes.
    pub const TIMEOUT: Duration = Duration::from_secs(150);

    /// Connects to the socket at this path.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(Self::TIMEOUT))?;
            stream.set_write_timeout(Some(Self::TIMEOUT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) }),
            Err(source) => Err(ClientError::Connect { path: path.to_owned(), source }),
        }
    }

    /// Asks and waits for the answer; [`Response::Failed`] becomes [`ClientError::Failed`].
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.call_with_progress(request, &mut |_| {})
    }

    /// The same; lines of progress before the answer are passed on.
    pub fn call_with_progress(
        &mut self,
        request: &Request,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Response, ClientError> {
        let mut line = serde_json::to_string(request).map_err(|source| self.unreadable(source))?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|source| self.broken(source))?;
        loop {
            match self.answer()? {
                Response::Progress(line) => progress(line),
                Response::Failed(failure) => return Err(ClientError::Failed(failure)),
                response => return Ok(response),
            }
        }
    }

    fn answer(&mut self) -> Result<Response, ClientError> {
        let mut answer = String::new();
        match self.stream.read_line(&mut answer) {
            Err(source) => return Err(self.broken(source)),
            Ok(_) if !answer.ends_with('\n') => return Err(ClientError::HungUp { path: self.path.clone() }),
            Ok(_) => {}
        }
        serde_json::from_str(&answer).map_err(|source| self.unreadable(source))
    }

    /// Starts a capture: the vports that are captured, and the pcapng bytes as they come. Dropping the reader ends it.
    pub fn capture(mut self, at: &str, snap: u16) -> Result<(Vec<String>, CaptureStream), ClientError> {
        let request = Request::Capture { at: at.to_owned(), snap };
        match self.call(&request)? {
            Response::Capturing { at } => {
                self.stream.get_ref().set_read_timeout(None).map_err(|source| self.broken(source))?;
                Ok((at, CaptureStream { stream: self.stream }))
            }
            other => {
                let problem = format!("expected `capturing`, not {other:?}");
                Err(self.unreadable(serde::de::Error::custom(problem)))
            }
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken { path: self.path.clone(), source }
    }

    fn unreadable(&self, source: serde_json::Error) -> ClientError {
        ClientError::Unreadable { path: self.path.clone(), source }
    }
}

/// The bytes of a pcapng file, as they come.
#[derive(Debug)]
pub struct CaptureStream {
    stream: BufReader<UnixStream>,
}

impl CaptureStream {
    /// A handle with which another thread (a signal's) can end the capture: `shutdown` it.
    pub fn try_clone_socket(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }
}

impl Read for CaptureStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_of_json_with_its_name_first() {
        let line = serde_json::to_string(&Request::Flows { limit: 10 }).unwrap();
        assert_eq!(line, r#"{"request":"flows","limit":10}"#);
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#"{"request":"status"}"#);
        assert!(serde_json::from_str::<Request>(r#"{"request":"flows","limit":10,"x":1}"#).is_err());
    }

    #[test]
    fn a_configuration_with_newlines_stays_on_one_line() {
        let request = Request::Apply {
            file: "a.yaml".into(),
            yaml: "a:\n  b\n".into(),
            allow_restart: false,
            may_move: false,
            dry_run: true,
            progress: false,
        };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn a_response_comes_back_as_it_was_said() {
        let response =
            Response::Failed(Failure { kind: FailureKind::NeedsRestart, lines: vec!["port left changed".into()] });
        let line = serde_json::to_string(&response).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), response);
        let line = serde_json::to_string(&Response::ShuttingDown).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), Response::ShuttingDown);
    }
}
