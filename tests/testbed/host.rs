//! A Towpath host: its controller, the dataplane that this one starts, and what both say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use controller::api::{Client, DataplaneState, DropRow, InstanceRow, PathRow, Request, Response, Status};
use packet::DropReason;
use rustix::process::Signal;
use shm::counters::CountersReader;
use shm::snapshot::{LcoreSnapshot, check_conservation};

use super::namespace::Namespace;
use super::process::{Process, finish, signal_by_id};
use super::scope::Scope;
use super::until;

/// The three programs under test.
pub const CONTROLLER: &str = env!("CARGO_BIN_EXE_towpath-controller");
/// See [`CONTROLLER`].
pub const DATAPLANE: &str = env!("CARGO_BIN_EXE_towpath-dataplane");
/// See [`CONTROLLER`].
pub const TOWPATH: &str = env!("CARGO_BIN_EXE_towpath");

/// Where the dataplane says things, in the run directory.
const DATAPLANE_LOG: &str = "dataplane.log";

/// What it says when no mbuf is missing at its end.
const MEMPOOLS_FULL: &str = "every mempool is full again";

/// A host.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// Where its interfaces are.
    pub namespace: Namespace,
    run_dir: PathBuf,
    file: PathBuf,
    log: PathBuf,
    controller: Option<Process>,
}

impl Host {
    /// A host that does not run yet.
    pub fn new(scope: &Scope, name: &str, namespace: Namespace, file: &Path) -> Self {
        let run_dir = scope.directory().join(name);
        let log = scope.log(&format!("{name}-controller"));
        for file in ["dataplane.log.old", DATAPLANE_LOG] {
            scope.show(&run_dir.join(file));
        }
        Self { name: name.to_owned(), namespace, run_dir, file: file.to_owned(), log, controller: None }
    }

    /// Starts its controller.
    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    /// Starts its controller with further arguments.
    pub fn launch_with(&mut self, more: &[&str]) {
        let (file, run_dir) = (self.file.display().to_string(), self.run_dir.display().to_string());
        let arguments = [&["--config", &file, "--host", &self.name, "--run-dir", &run_dir], more].concat();
        // Ahead of the traffic's own ends, with which the pollers share the CPUs.
        let command = self.namespace.command("nice", &[&["-n", "-15", CONTROLLER], &arguments[..]].concat());
        self.controller = Some(Process::start(&format!("{}'s controller", self.name), command, &self.log));
    }

    /// Waits until the controller has its dataplane and filled its tables.
    pub fn await_attached(&mut self) -> Status {
        let name = self.name.clone();
        until(&format!("{name} is ready"), || {
            if let Some(controller) = &mut self.controller {
                assert!(controller.is_running(), "{name}'s controller has ended:\n{}", controller.said());
            }
            let status = self.try_status()?;
            (status.dataplane.state == DataplaneState::Attached && status.epoch > 0).then_some(status)
        })
    }

    /// Its controller.
    pub fn controller(&mut self) -> &mut Process {
        self.controller.as_mut().expect("a controller")
    }

    /// Its run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// What the controller has logged, of all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks the controller.
    pub fn ask(&self, request: &Request) -> Response {
        self.client().call(request).unwrap_or_else(|error| panic!("{}: {request:?}: {error}", self.name))
    }

    /// A connection to the controller.
    pub fn client(&self) -> Client {
        Client::connect(&self.run_dir.join(controller::api::SOCKET_NAME)).expect("the controller's socket")
    }

    fn try_status(&self) -> Option<Status> {
        let mut client = Client::connect(&self.run_dir.join(controller::api::SOCKET_NAME)).ok()?;
        match client.call(&Request::Status).ok()? {
            Response::Status(status) => Some(status),
            other => panic!("not a status: {other:?}"),
        }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("{} does not answer", self.name))
    }

    /// Its instances.
    pub fn instances(&self) -> Vec<InstanceRow> {
        match self.ask(&Request::Instances) {
            Response::Instances(rows) => rows,
            other => panic!("not instances: {other:?}"),
        }
    }

    /// Its paths.
    pub fn paths(&self) -> Vec<PathRow> {
        match self.ask(&Request::Paths) {
            Response::Paths(rows) => rows,
            other => panic!("not paths: {other:?}"),
        }
    }

    /// Its drops, as its controller says them.
    pub fn drops(&self) -> Vec<DropRow> {
        match self.ask(&Request::Drops) {
            Response::Drops(rows) => rows,
            other => panic!("not drops: {other:?}"),
        }
    }

    /// Runs the command line tool against it.
    pub fn towpath(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(TOWPATH);
        command.arg("--run-dir").arg(&self.run_dir).args(arguments);
        finish(command, "")
    }

    /// The dataplane's process.
    pub fn dataplane_pid(&self) -> u32 {
        self.status().dataplane.pid.expect("an attached dataplane")
    }

    /// The process in this host's namespace that is the dataplane, whether a controller has it or not.
    pub fn find_dataplane(&self) -> Option<u32> {
        let output = self.namespace_pids();
        output.lines().filter_map(|pid| pid.trim().parse().ok()).find(|pid| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.file_name().is_some_and(|name| name == "towpath-dataplane")
        })
    }

    fn namespace_pids(&self) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "pids", self.namespace.name()]);
        String::from_utf8_lossy(&finish(command, "").stdout).into_owned()
    }

    /// Kills the controller as a crash would.
    pub fn kill_controller(&mut self) {
        self.controller().kill();
        self.controller = None;
    }

    /// Kills the dataplane as a crash would, and waits until it is gone.
    pub fn kill_dataplane(&self) {
        let pid = self.find_dataplane().expect("a dataplane");
        signal_by_id(&pid.to_string(), Signal::KILL);
        until("the dataplane's end", || (self.find_dataplane() != Some(pid)).then_some(()));
    }

    /// The present dataplane's counters, read past its controller.
    pub fn watch(&self) -> Watch {
        self.try_watch().unwrap_or_else(|| panic!("{} has no dataplane", self.name))
    }

    fn try_watch(&self) -> Option<Watch> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.find_dataplane()?)).ok()?;
        let is_counters = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:towpath-counters"))
        };
        let path = entries.flatten().map(|entry| entry.path()).find(is_counters)?;
        let reader = CountersReader::open(File::open(path).ok()?).expect("the counters");
        Some(Watch { reader })
    }

    /// The counters of every lcore.
    pub fn counters(&self) -> Vec<LcoreSnapshot> {
        self.watch().reader.snapshots()
    }

    /// Packets that ended here for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.watch().dropped(reason)
    }

    /// Waits until traffic has come to rest, and every packet is accounted for.
    pub fn assert_conserved(&self) {
        let watch = self.watch();
        let mut last = Ok(());
        let held = super::holds_soon(|| {
            last = check_conservation(&watch.reader.snapshots());
            last.is_ok()
        });
        assert!(held, "{}: {}", self.name, last.map_or_else(|imbalance| imbalance.to_string(), |()| String::new()));
    }

    /// Ends controller and dataplane in order: both say that all is well, and every mempool is full.
    pub fn stop(&mut self) {
        self.assert_conserved();
        let pid = self.find_dataplane();
        self.controller().signal(Signal::TERM);
        let status = self.controller().wait();
        assert!(status.success(), "{}'s controller: {status}\n{}", self.name, self.log());
        if let Some(pid) = pid {
            until("the dataplane's end", || (self.find_dataplane() != Some(pid)).then_some(()));
        }
        self.controller = None;
        let log = fs::read_to_string(self.run_dir.join(DATAPLANE_LOG)).unwrap_or_default();
        assert!(log.contains(MEMPOOLS_FULL) && !log.contains("ERROR"), "{}'s dataplane: {log}", self.name);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The namespaces' end kills both processes; a failed test wants to know first how packets ended.
        if std::thread::panicking()
            && let Some(watch) = self.try_watch()
        {
            eprintln!("==== {}: drops {:?} ====", self.name, watch.drops());
        }
    }
}

/// The counters of one life of a dataplane; cheap to look at.
#[derive(Debug)]
pub struct Watch {
    reader: CountersReader,
}

impl Watch {
    /// Packets that ended for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.reader.snapshots().iter().map(|lcore| lcore.dropped(reason)).sum()
    }

    /// All packets that ended, by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in self.reader.snapshots().into_iter().flat_map(|lcore| lcore.drops) {
            *sums.entry(reason).or_insert(0) += count;
        }
        sums
    }

    /// Frames that came in from ports.
    pub fn received(&self) -> u64 {
        self.reader.snapshots().iter().map(|lcore| lcore.received).sum()
    }
}
