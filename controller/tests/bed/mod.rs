//! Controllers as processes, each with a fake dataplane, so that both can be killed.
//!
//! The two ignored tests of each test binary are those processes: it starts itself with one of them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "../fake/mod.rs"]
pub mod fake;

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use controller::api::{Applied, Client, ClientError, Failure, Flows, Request, Response, Status, VersionRow};
use controller::config::EXAMPLE;
use controller::options::Options;
use fake::{LIMIT, Order, SideDoor, Tables};
use packet::{FiveTuple, FlowKey, Vni, VportId, protocol};
use rustix::process::{Pid, Signal, kill_process};

/// What the ignored test `process_dataplane` does.
pub fn be_dataplane() {
    let argument = |name| PathBuf::from(std::env::var_os(name).unwrap());
    fake::run(&argument("FAKE_LAUNCH"), &argument("FAKE_SOCKET"));
}

/// What the ignored test `process_controller` does.
pub fn be_controller() {
    let words = std::env::var("CONTROLLER_WORDS").unwrap();
    if let Err(error) = controller::server::run(Options::parse_from(words.split('\n'))) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// A run directory with its configuration, dataplane script and processes.
pub struct Host {
    pub name: String,
    pub directory: tempfile::TempDir,
    pub controller: Option<Child>,
    pub door: SideDoor,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.controller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.door_is_open() {
            let tables = self.door.order(&Order::Tables);
            kill(tables.pid);
        }
    }
}

pub fn kill(pid: u32) {
    let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
}

impl Host {
    pub fn new() -> Self {
        Self::named("host1", EXAMPLE)
    }

    pub fn named(name: &str, text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let host = Self { name: name.to_owned(), door: SideDoor::new(&run_dir), directory, controller: None };
        host.write_config(text);
        let program = std::env::current_exe().unwrap();
        host.write_program(&format!(
            "FAKE_LAUNCH=$2 FAKE_SOCKET=$4 exec {} --exact --ignored process_dataplane --nocapture",
            program.display()
        ));
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write_config(&self, text: &str) {
        std::fs::write(self.path("towpath.yaml"), text).unwrap();
    }

    pub fn write_program(&self, script: &str) {
        let path = self.path("dataplane");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn door_is_open(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.path("run/fake.sock")).is_ok()
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let show = |name| self.path(name).display().to_string();
        let (config, run_dir, program) = (show("towpath.yaml"), show("run"), show("dataplane"));
        let mut words = vec!["towpath-controller", "--host", &self.name, "--config", &config];
        // The machine is not looked at: the files name CPUs that it need not have.
        words.extend(["--run-dir", &run_dir, "--dataplane", &program, "--sysfs", "/nonexistent"]);
        words.extend(more);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "process_controller", "--nocapture"]);
        command.env("CONTROLLER_WORDS", words.join("\n"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a controller and waits until it serves.
    pub fn start(&mut self, more: &[&str]) {
        self.spawn(more);
        self.wait_until_it_serves();
    }

    pub fn spawn(&mut self, more: &[&str]) {
        self.controller = Some(self.command(more).spawn().unwrap());
    }

    pub fn wait_until_it_serves(&mut self) {
        let before = Instant::now();
        while Client::connect(&self.path("run/api.sock")).is_err() {
            let ended = self.controller.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the controller ended: {}", self.last_words());
            assert!(before.elapsed() < LIMIT, "the controller does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.controller.as_mut().and_then(|child| child.stderr.take());
        stderr.map(|mut stderr| stderr.read_to_string(&mut text));
        text
    }

    /// Runs a controller that is expected to end by itself.
    pub fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    /// As `kill -9` does.
    pub fn kill_controller(&mut self) {
        let mut child = self.controller.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        Client::connect(&self.path("run/api.sock"))?.call(request)
    }

    pub fn status(&self) -> Status {
        match self.ask(&Request::Status).unwrap() {
            Response::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn flows(&self) -> Flows {
        match self.ask(&Request::Flows { limit: 100 }).unwrap() {
            Response::Flows(flows) => flows,
            other => panic!("{other:?}"),
        }
    }

    pub fn apply(&self, yaml: &str, allow_restart: bool, dry_run: bool) -> Result<Applied, Failure> {
        let file = "new.yaml".to_owned();
        self.change(&Request::Apply {
            file,
            yaml: yaml.into(),
            allow_restart,
            may_move: false,
            dry_run,
            progress: false,
        })
    }

    pub fn change(&self, request: &Request) -> Result<Applied, Failure> {
        match self.ask(request) {
            Ok(Response::Applied(applied)) => Ok(applied),
            Err(ClientError::Failed(failure)) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub fn versions(&self) -> Vec<VersionRow> {
        match self.ask(&Request::Versions).unwrap() {
            Response::Versions(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// The version in force here.
    pub fn version(&self) -> u64 {
        self.status().config_version
    }

    /// Waits until the status warns of this.
    pub fn wait_for_warning(&self, text: &str) {
        await_true(&format!("a warning of {text}"), || {
            let warnings = self.status().warnings;
            if warnings.iter().any(|line| line.contains(text)) { Ok(()) } else { Err(format!("{warnings:#?}")) }
        });
    }

    /// Makes flows from the clients, one per source port, and waits for their rules.
    pub fn make_flows(&self, ports: std::ops::Range<u16>) -> Tables {
        let known = self.door.order(&Order::Tables).exact.len();
        let keys: Vec<FlowKey> = ports.map(|port| flow(port, 80)).collect();
        let wanted = known + keys.len();
        self.door.order(&Order::Miss(0, keys));
        self.door.wait("exact rules", |tables| tables.exact.len() == wanted)
    }
}

/// vport 1 is `acme/clients`.
pub fn flow(source_port: u16, destination_port: u16) -> FlowKey {
    let five_tuple = FiveTuple {
        source: "10.1.0.5".parse().unwrap(),
        destination: "10.2.0.5".parse().unwrap(),
        source_port,
        destination_port,
        protocol: protocol::TCP,
    };
    FlowKey { vport: VportId(1), vni: Vni::new(100).unwrap(), five_tuple }
}

pub fn exit_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    errors.join("\n")
}

/// Waits for something; `look` says what it sees instead.
pub fn await_true(what: &str, look: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + LIMIT;
    while let Err(seen) = look() {
        assert!(Instant::now() < deadline, "waited in vain for {what}: {seen}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ports of this machine that were free a moment ago, all different.
fn free_addresses<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let listeners: [TcpListener; COUNT] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// The example for two hosts whose controllers listen on this machine.
pub fn example_for_two() -> String {
    let lines: Vec<&str> = EXAMPLE.lines().filter(|line| !line.trim_start().starts_with("controller:")).collect();
    let text = lines.join("\n") + "\n";
    let [one, two] = free_addresses();
    let text = text.replacen("  host1:\n", &format!("  host1:\n    controller: {one}\n"), 1);
    text.replacen("  host2:\n", &format!("  host2:\n    controller: {two}\n"), 1)
}

/// The same with a third host, on which nothing runs yet.
pub fn example_for_three() -> String {
    let [address] = free_addresses();
    let third = format!(
        "  host3:\n    controller: {address}\n    cpus: {{io: 0}}\n    underlay: {{device: \"net_af_packet0,iface=u3\", address: \
         192.0.2.3/24, mtu: 1600}}\n\ntenants:\n"
    );
    example_for_two().replacen("\ntenants:\n", &("\n".to_owned() + &third), 1)
}

/// Two hosts that run the same file and have found each other.
pub struct Pair {
    pub one: Host,
    pub two: Host,
    pub text: String,
}

impl Pair {
    pub fn start() -> Self {
        Self::start_with(&example_for_two())
    }

    pub fn start_with(text: &str) -> Self {
        let mut pair = Self { one: Host::named("host1", text), two: Host::named("host2", text), text: text.to_owned() };
        let mut children = [&mut pair.one, &mut pair.two];
        children.iter_mut().for_each(|host| host.spawn(&[]));
        children.iter_mut().for_each(|host| host.wait_until_it_serves());
        pair.wait_for(1);
        pair
    }

    /// Until both see each other at this version.
    pub fn wait_for(&self, version: u64) {
        for host in [&self.one, &self.two] {
            await_true(&format!("version {version} at {}", host.name), || {
                let rows = host.versions();
                let right = |row: &VersionRow| row.reachable && row.active == Some(version) && row.installed.is_none();
                if rows.iter().all(right) { Ok(()) } else { Err(format!("{rows:#?}")) }
            });
        }
    }
}
