//! A whole controller against a dataplane without packets: both are processes, so that both can be killed.
//!
//! The two ignored tests are those processes: this binary starts itself with one of them.

mod fake;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use controller::api::{
    Client, ClientError, DataplaneState, FailureKind, Flows, InstanceState, Request, Response, Status,
};
use controller::config::EXAMPLE;
use controller::options::Options;
use fake::{LIMIT, Order, SideDoor, Tables};
use packet::{FiveTuple, FlowKey, Vni, VportId, protocol};
use rustix::process::{Pid, Signal, kill_process};

#[test]
#[ignore = "a process of the other tests"]
fn process_dataplane() {
    let argument = |name| PathBuf::from(std::env::var_os(name).unwrap());
    fake::run(&argument("FAKE_LAUNCH"), &argument("FAKE_SOCKET"));
}

#[test]
#[ignore = "a process of the other tests"]
fn process_controller() {
    let words = std::env::var("CONTROLLER_WORDS").unwrap();
    if let Err(error) = controller::server::run(Options::parse_from(words.split('\n'))) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// A run directory with its configuration, dataplane script and processes.
struct Host {
    directory: tempfile::TempDir,
    controller: Option<Child>,
    door: SideDoor,
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

fn kill(pid: u32) {
    let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let host = Self { door: SideDoor::new(&run_dir), directory, controller: None };
        host.write_config(EXAMPLE);
        let program = std::env::current_exe().unwrap();
        host.write_program(&format!(
            "FAKE_LAUNCH=$2 FAKE_SOCKET=$4 exec {} --exact --ignored process_dataplane --nocapture",
            program.display()
        ));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_config(&self, text: &str) {
        std::fs::write(self.path("towpath.yaml"), text).unwrap();
    }

    fn write_program(&self, script: &str) {
        let path = self.path("dataplane");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn door_is_open(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.path("run/fake.sock")).is_ok()
    }

    fn command(&self, more: &[&str]) -> Command {
        let show = |name| self.path(name).display().to_string();
        let (config, run_dir, program) = (show("towpath.yaml"), show("run"), show("dataplane"));
        let mut words = vec!["towpath-controller", "--host", "host1", "--config", &config];
        words.extend(["--run-dir", &run_dir, "--dataplane", &program]);
        words.extend(more);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "process_controller", "--nocapture"]);
        command.env("CONTROLLER_WORDS", words.join("\n"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a controller and waits until it serves.
    fn start(&mut self, more: &[&str]) {
        self.controller = Some(self.command(more).spawn().unwrap());
        let before = Instant::now();
        while Client::connect(&self.path("run/api.sock")).is_err() {
            let ended = self.controller.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the controller ended: {}", self.last_words());
            assert!(before.elapsed() < LIMIT, "the controller does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.controller.as_mut().and_then(|child| child.stderr.take());
        stderr.map(|mut stderr| stderr.read_to_string(&mut text));
        text
    }

    /// Runs a controller that is expected to end by itself.
    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    /// As `kill -9` does.
    fn kill_controller(&mut self) {
        let mut child = self.controller.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        Client::connect(&self.path("run/api.sock"))?.call(request)
    }

    fn status(&self) -> Status {
        match self.ask(&Request::Status).unwrap() {
            Response::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn flows(&self) -> Flows {
        match self.ask(&Request::Flows { limit: 100 }).unwrap() {
            Response::Flows(flows) => flows,
            other => panic!("{other:?}"),
        }
    }

    fn apply(
        &self,
        yaml: &str,
        allow_restart: bool,
        dry_run: bool,
    ) -> Result<controller::api::Applied, controller::api::Failure> {
        let request = Request::Apply { file: "new.yaml".into(), yaml: yaml.into(), allow_restart, dry_run };
        match self.ask(&request) {
            Ok(Response::Applied(applied)) => Ok(applied),
            Err(ClientError::Failed(failure)) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// Makes flows from the clients, one per source port, and waits for their rules.
    fn make_flows(&self, ports: std::ops::Range<u16>) -> Tables {
        let known = self.door.order(&Order::Tables).exact.len();
        let keys: Vec<FlowKey> = ports.map(|port| flow(port, 80)).collect();
        let wanted = known + keys.len();
        self.door.order(&Order::Miss(0, keys));
        self.door.wait("exact rules", |tables| tables.exact.len() == wanted)
    }
}

/// vport 1 is `acme/clients`.
fn flow(source_port: u16, destination_port: u16) -> FlowKey {
    let five_tuple = FiveTuple {
        source: "10.1.0.5".parse().unwrap(),
        destination: "10.2.0.5".parse().unwrap(),
        source_port,
        destination_port,
        protocol: protocol::TCP,
    };
    FlowKey { vport: VportId(1), vni: Vni::new(100).unwrap(), five_tuple }
}

fn exit_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    errors.join("\n")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_miss_becomes_a_rule_and_the_answers_have_names() {
    let mut host = Host::new();
    host.start(&[]);
    let tables = host.door.order(&Order::Tables);
    assert_eq!(tables.tags.len(), 3, "edge both ways, and answers from the tunnel to nat");
    let tables = host.make_flows(1..4);
    assert_eq!(tables.batches.last(), Some(&3), "three misses of one turn share a commit");
    host.door.order(&Order::Miss(0, vec![flow(9, 9999)]));
    let tables = host.door.wait("a rejection", |tables| !tables.rejected.is_empty());
    assert_eq!(tables.rejected, [flow(9, 9999)]);
    let flows = host.flows();
    assert_eq!(flows.total, 3);
    let row = &flows.rows[0];
    assert_eq!((row.at.as_str(), row.tenant.as_str(), row.next.as_str()), ("acme/clients", "acme", "acme/edge/1"));
    assert_eq!((row.chain.as_deref(), row.learned, row.packets), (Some("acme/web"), false, 3));
    let status = host.status();
    assert_eq!((status.flows_set_up, status.flows_rejected, status.sessions), (3, 1, 3));
    assert_eq!(status.dataplane.state, DataplaneState::Attached);
    host.door.order(&Order::Expire(0, flow(1, 80)));
    host.door.wait("its end", |tables| tables.exact.len() == 2);
    let gone = Instant::now() + LIMIT;
    while host.status().sessions != 2 {
        assert!(Instant::now() < gone);
    }
    for request in [
        Request::Hosts,
        Request::Lcores,
        Request::Instances,
        Request::Chains,
        Request::Paths,
        Request::Drops,
        Request::Counters,
    ] {
        host.ask(&request).unwrap();
    }
    assert_eq!(mode(&host.path("run")), 0o700);
    assert_eq!(mode(&host.path("run/api.sock")), 0o600);
}

#[test]
fn an_orderly_end_ends_the_dataplane_too_unless_it_is_to_be_kept() {
    let mut host = Host::new();
    host.start(&[]);
    host.ask(&Request::Shutdown { keep_dataplane: true }).unwrap();
    assert!(host.controller.take().unwrap().wait().unwrap().success());
    assert!(host.door_is_open());
    host.start(&[]);
    let pid = host.controller.as_ref().unwrap().id();
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert!(host.controller.take().unwrap().wait().unwrap().success());
    assert!(!host.door_is_open());
    assert!(!host.path("run/api.sock").exists() && !host.path("run/dataplane.sock").exists());
}

#[test]
fn a_killed_controller_is_followed_by_one_that_takes_over() {
    let mut host = Host::new();
    host.start(&[]);
    let tables = host.make_flows(1..3);
    let pid = tables.pid;
    host.kill_controller();
    let kept = tables.tags[0].1;
    let mut stray = kept;
    stray.key.segment = VportId(3);
    stray.action.path = packet::PathId(77);
    host.door.order(&Order::AddTag(0, stray));
    host.door.order(&Order::DropTag(tables.tags[0].0, kept.key));
    let mut learned = tables.exact[0].1;
    learned.key.five_tuple = learned.key.five_tuple.reversed();
    host.door.order(&Order::Learn(0, learned));
    host.start(&[]);
    let after = host.door.order(&Order::Tables);
    assert_eq!(after.pid, pid, "the dataplane ran on");
    assert!(after.tags.iter().any(|(_, rule)| *rule == kept), "what was missing is there again");
    assert!(after.tags.iter().all(|(_, rule)| *rule != stray), "what was stray is gone");
    assert_eq!(after.exact.len(), 3, "flows stay, learned ones too");
    assert_eq!(host.status().sessions, 2, "learned rules are not the controller's");
    assert_eq!(host.flows().rows.iter().filter(|row| row.learned).count(), 1);
    host.make_flows(10..12);
}

#[test]
fn a_killed_dataplane_is_started_again_and_refilled() {
    let mut host = Host::new();
    host.start(&[]);
    let before = host.make_flows(1..6);
    kill(before.pid);
    let after = host.door.wait("a refilled dataplane", |tables| tables.pid != before.pid && tables.exact.len() == 5);
    assert_eq!(after.tags.len(), before.tags.len());
    let first_exact = after.story.iter().position(|what| what == "exact").unwrap();
    assert!(after.story[..first_exact].iter().all(|what| what == "tag"), "tag rules come first");
    assert_eq!(after.story.iter().filter(|what| *what == "tag").count(), before.tags.len());
    let status = host.status();
    assert_eq!((status.dataplane.restarts, status.sessions), (1, 5));
    assert!(status.warnings.iter().any(|line| line.contains("is gone")), "{:?}", status.warnings);
    host.make_flows(10..12);
}

#[test]
fn a_dataplane_that_does_not_start_gives_its_reason_as_ours() {
    let host = Host::new();
    host.write_program("echo EAL: starting; echo 'error: port left: there is no interface c1; create it' >&2; exit 1");
    let line = exit_line(&host.run(&[]));
    assert!(
        line.starts_with("error: the dataplane did not start: port left: there is no interface c1; create it"),
        "{line}"
    );
    assert!(line.contains("dataplane.log"));
}

#[test]
fn a_dataplane_that_listens_and_ends_before_it_greets_gives_its_reason_too() {
    let host = Host::new();
    let script = std::fs::read_to_string(host.path("dataplane")).unwrap();
    host.write_program(&script.replace("exec ", "FAKE_ENDS='no mempool' exec "));
    let line = exit_line(&host.run(&[]));
    assert!(line.starts_with("error: the dataplane did not start: no mempool"), "{line}");
}

#[test]
fn a_dataplane_that_can_not_come_back_is_tried_again_until_it_can() {
    let mut host = Host::new();
    host.start(&[]);
    let script = std::fs::read_to_string(host.path("dataplane")).unwrap();
    let pid = host.make_flows(1..2).pid;
    host.write_program("echo 'error: no memory today' >&2; exit 1");
    kill(pid);
    let deadline = Instant::now() + LIMIT;
    while !host.status().warnings.iter().any(|line| line.contains("no memory today")) {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(host.status().dataplane.state, DataplaneState::Restarting);
    let failure = host.ask(&Request::Lcores).unwrap_err().to_string();
    assert!(failure.contains("not attached"), "{failure}");
    std::fs::write(host.path("dataplane"), script).unwrap();
    host.door.wait("it to come back", |tables| tables.pid != pid && tables.exact.len() == 1);
}

#[test]
fn a_running_dataplane_that_differs_is_left_alone_unless_it_may_be_replaced() {
    let mut host = Host::new();
    host.start(&[]);
    let pid = host.make_flows(1..2).pid;
    host.kill_controller();
    host.write_config(&EXAMPLE.replace("        mtu: 1500\n", "        mtu: 1400\n"));
    let line = exit_line(&host.run(&[]));
    assert!(line.contains("use --replace") && line.contains("ports[1].mtu: 1500 runs, 1400 is wanted"), "{line}");
    assert_eq!(host.door.order(&Order::Tables).pid, pid);
    host.start(&["--replace"]);
    assert_ne!(host.door.order(&Order::Tables).pid, pid);
}

#[test]
fn one_controller_per_run_directory() {
    let mut host = Host::new();
    host.start(&[]);
    let line = exit_line(&host.run(&[]));
    assert!(line.starts_with("error: another controller runs with "), "{line}");
    host.status();
}

#[test]
fn mistakes_of_the_command_line_and_the_file_are_one_clear_line_each() {
    let host = Host::new();
    let mut command = host.command(&[]);
    let words = format!("towpath-controller\n--host\nhost9\n--config\n{}", host.path("towpath.yaml").display());
    let line = exit_line(&command.env("CONTROLLER_WORDS", words).output().unwrap());
    assert_eq!(line, "error: --host host9: the configuration has no such host; it has host1, host2");
    host.write_config("version: 1\n");
    let line = exit_line(&host.run(&[]));
    assert_eq!(line.lines().count(), 2, "{line}");
    std::fs::create_dir(host.path("run")).unwrap();
    std::fs::set_permissions(host.path("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    host.write_config(EXAMPLE);
    let line = exit_line(&host.run(&[]));
    assert!(line.contains("is open to other users (mode 755); chmod 700 it"), "{line}");
}

#[test]
fn a_live_change_adds_before_it_switches_and_leaves_flows_alone() {
    let mut host = Host::new();
    host.start(&[]);
    let before = host.make_flows(1..4);
    let chain = "      dns:\n        from: clients\n        to: servers\n        select: {protocol: udp}\n        through: [edge]\n";
    let text = format!("{EXAMPLE}{chain}");
    let planned = host.apply(&text, false, true).unwrap();
    assert!(planned.dry_run && planned.flows_kept == 3 && planned.restart.is_none(), "{planned:?}");
    assert_eq!(host.door.order(&Order::Tables).tags.len(), before.tags.len(), "a dry run changes nothing");
    let applied = host.apply(&text, false, false).unwrap();
    assert_eq!(applied.changes, planned.changes);
    assert_eq!(
        applied.changes,
        [
            "chain acme/dns added: udp 10.1.0.0/24,fd00:1::/64 > 10.2.0.0/24,fd00:2::/64",
            "path added, acme: clients > edge/1 > servers"
        ]
    );
    let after = host.door.order(&Order::Tables);
    assert!(before.tags.iter().all(|tag| after.tags.contains(tag)) && after.tags.len() > before.tags.len());
    assert_eq!(after.exact.len(), 3);
    let mut udp = flow(7, 53);
    udp.five_tuple.protocol = protocol::UDP;
    host.door.order(&Order::Miss(0, vec![udp]));
    host.door.wait("the new chain's flow", |tables| tables.exact.len() == 4);
    // Back again: the path is gone from the plan, its rules stay for its flow.
    host.apply(EXAMPLE, false, false).unwrap();
    assert_eq!(host.door.order(&Order::Tables).tags.len(), after.tags.len());
}

#[test]
fn a_change_that_needs_a_restart_is_refused_until_it_is_allowed() {
    let mut host = Host::new();
    host.start(&[]);
    let pid = host.make_flows(1..4).pid;
    let text = EXAMPLE.replace("        mtu: 1500\n", "        mtu: 1400\n");
    let failure = host.apply(&text, false, false).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NeedsRestart);
    assert!(failure.lines.iter().any(|line| line == "ports[1].mtu: 1500 runs, 1400 is wanted"), "{failure:?}");
    let applied = host.apply(&text, true, false).unwrap();
    assert!(applied.restart.is_some());
    let after = host.door.wait("flows", |tables| tables.exact.len() == 3);
    assert_ne!(after.pid, pid);
    assert!(after.exact.iter().all(|(_, rule, _)| rule.action.path_mtu == 1400), "rules are of the new plan");
    let failure = host.apply("version: 1\nhosts: {}\ntenants: {}\n", true, false).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadConfiguration);
    assert!(failure.lines.iter().all(|line| line.starts_with("new.yaml:")), "{failure:?}");
}

#[test]
fn a_failed_instance_is_shown_and_gets_no_new_flows() {
    let mut host = Host::new();
    host.start(&[]);
    host.door.order(&Order::Fail(1, VportId(2)));
    let deadline = Instant::now() + LIMIT;
    loop {
        let Response::Instances(rows) = host.ask(&Request::Instances).unwrap() else { panic!() };
        if rows[0].state == InstanceState::Failed {
            assert_eq!((rows[1].state, rows[2].state), (InstanceState::Running, InstanceState::Elsewhere));
            break;
        }
        assert!(Instant::now() < deadline);
    }
    host.door.order(&Order::Miss(0, vec![flow(1, 80)]));
    host.door.wait("a rejection", |tables| tables.rejected == [flow(1, 80)]);
    assert!(host.status().warnings.iter().any(|line| line.contains("acme/edge/1 panicked")));
}

#[test]
fn a_refused_batch_is_tried_again_flow_by_flow() {
    let mut host = Host::new();
    host.start(&[]);
    host.door.order(&Order::RefuseAbove(1));
    host.make_flows(1..20);
    assert_eq!(host.status().batches_refused, 1);
}

#[test]
fn a_capture_is_a_pcapng_file_that_ends_when_the_client_hangs_up() {
    let mut host = Host::new();
    host.start(&[]);
    let client = || Client::connect(&host.path("run/api.sock")).unwrap();
    let unknown = client().capture("acme/edge/9", 64).unwrap_err().to_string();
    assert!(unknown.contains("use `all` or one of tunnel, acme/clients, acme/edge/1, acme/nat/1"), "{unknown}");
    let (names, mut stream) = client().capture("acme/edge/1", 4).unwrap();
    assert_eq!(names, ["acme/edge/1"]);
    host.door.wait("the capture", |tables| tables.captured == [VportId(2); 6]);
    host.door.order(&Order::Frame(1, VportId(2), vec![1, 2, 3, 4, 5, 6]));
    let mut file = Vec::new();
    let mut byte = [0];
    while !file.windows(4).any(|bytes| bytes == [1, 2, 3, 4]) {
        stream.read_exact(&mut byte).unwrap();
        file.extend(byte);
    }
    assert_eq!(file[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(text.contains("acme/edge/1 in") && text.contains("acme/edge/1 out"));
    drop(stream);
    host.door.wait("its end", |tables| tables.captured.is_empty());
}

#[test]
fn many_requests_on_one_connection_are_answered_in_order_and_nonsense_is_told() {
    use std::io::{BufRead, BufReader, Write};
    let mut host = Host::new();
    host.start(&[]);
    let mut stream = BufReader::new(std::os::unix::net::UnixStream::connect(host.path("run/api.sock")).unwrap());
    let requests = "{\"request\":\"status\"}\n{\"request\":\"hosts\"}\nnonsense\n{\"request\":\"flows\",\"limit\":1}\n{\"request\":\"drops\"}\n";
    stream.get_mut().write_all(requests.repeat(50).as_bytes()).unwrap();
    stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    let expected = ["status", "hosts", "failed", "flows", "drops"];
    let mut count = 0;
    for line in stream.lines() {
        let line = line.unwrap();
        assert!(line.starts_with(&format!("{{\"response\":\"{}\"", expected[count % 5])), "{line}");
        count += 1;
    }
    assert_eq!(count, 250);
}
