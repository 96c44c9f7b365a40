//! A whole controller against a dataplane without packets: both are processes, so that both can be killed.

mod bed;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use bed::fake::{LIMIT, Order};
use bed::{Host, exit_line, flow, kill};
use controller::api::{Client, DataplaneState, InstanceState, Request, Response};
use controller::config::EXAMPLE;
use packet::VportId;
use rustix::process::{Pid, Signal, kill_process};

#[test]
#[ignore = "a process of the other tests"]
fn process_dataplane() {
    bed::be_dataplane();
}

#[test]
#[ignore = "a process of the other tests"]
fn process_controller() {
    bed::be_controller();
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

/// Breaks if a dataplane that runs is replaced unasked when nobody knows any more what it was started with.
#[test]
fn a_running_dataplane_that_differs_is_left_alone_unless_it_may_be_replaced() {
    let mut host = Host::new();
    host.start(&[]);
    let pid = host.make_flows(1..2).pid;
    host.kill_controller();
    host.write_config(&EXAMPLE.replace("        mtu: 1500\n", "        mtu: 1400\n"));
    std::fs::remove_file(host.path("run/document.json")).unwrap();
    let line = exit_line(&host.run(&[]));
    assert!(line.contains("use --replace") && line.contains("ports[1].mtu: 1500 runs, 1400 is wanted"), "{line}");
    assert_eq!(host.door.order(&Order::Tables).pid, pid);
    std::fs::remove_file(host.path("run/document.json")).unwrap();
    host.start(&["--replace"]);
    assert_ne!(host.door.order(&Order::Tables).pid, pid);
}

/// Breaks if a restarted controller takes another file into force than what its dataplane runs, or does so silently.
#[test]
fn what_is_in_force_goes_on_whatever_the_file_says_meanwhile() {
    let mut host = Host::new();
    host.start(&[]);
    let pid = host.make_flows(1..2).pid;
    host.kill_controller();
    host.write_config(&EXAMPLE.replace("        mtu: 1500\n", "        mtu: 1400\n"));
    host.start(&[]);
    assert_eq!(host.door.order(&Order::Tables).pid, pid);
    host.wait_for_warning("says something else; towpath apply");
    assert_eq!(host.status().sessions, 1);
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
    host.door.wait("the capture", |tables| {
        !tables.captured.is_empty() && tables.captured.iter().all(|at| *at == VportId(2))
    });
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
