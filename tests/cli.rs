//! The operator's tool against a running host: everything in the README's "Start", from `init` to `apply`.
#![cfg(feature = "dpdk")]

mod testbed;

use std::fs;
use std::process::{Command, Output};

use packet::DropReason;
use serde_json::Value;
use testbed::capture::{Capture, tshark};
use testbed::config::{tap_chain, tenant};
use testbed::host::{Host, TOWPATH};
use testbed::hosts::{CLIENT, OneHost, SERVER};
use testbed::process::finish;
use testbed::streams::{Stream, UdpEcho, at, udp};
use testbed::traffic::{WebServer, assert_ping, assert_web};
use testbed::until;

/// Messages that must come back before and after a change.
const ENOUGH: u64 = 50;

fn tenants() -> String {
    tenant("acme", 100, "host: host1, port: left", "host: host1, port: right", &tap_chain("host1"))
}

/// Runs the tool where no controller is needed; what it prints.
fn tool(arguments: &[&str]) -> String {
    let mut command = Command::new(TOWPATH);
    command.args(arguments);
    said(arguments, &finish(command, ""))
}

/// What it printed, if it succeeded.
fn said(arguments: &[&str], output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn get_json(host: &Host, what: &str) -> Value {
    let arguments = ["get", what, "-o", "json"];
    let text = said(&arguments, &host.towpath(&arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("get {what}: {error}: {text}"))
}

/// Breaks if the example does not pass its own check, or if a shell or man does not take what is made for it.
#[test]
fn the_example_checks_and_the_documentation_prints() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("towpath.yaml").display().to_string();
    tool(&["init", &file]);
    let checked = tool(&["check", &file]);
    assert!(checked.contains("ok") && checked.contains("2 hosts"), "{checked}");

    let mut bash = Command::new("bash");
    bash.args(["-n", "/dev/stdin"]);
    let parsed = finish(bash, &tool(&["completions", "bash"]));
    assert!(parsed.status.success(), "{parsed:?}");
    for shell in ["zsh", "fish"] {
        assert!(tool(&["completions", shell]).contains("towpath"), "{shell}");
    }
    let pages = directory.path().join("man1").display().to_string();
    tool(&["man", "--dir", &pages]);
    let page = fs::read_to_string(format!("{pages}/towpath-capture.1")).expect("a manual page");
    assert!(page.contains(".TH towpath-capture") && page.contains("\\-\\-at"), "{page}");
}

/// Breaks if an answer is not JSON, lacks what it is about, or if the table shows something else.
#[test]
fn every_table_is_there_for_people_and_for_programs() {
    let bed = OneHost::start(&tenants());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    assert_web(&bed.ends.client, &SERVER);
    let expected = [
        ("hosts", "host1"),
        ("lcores", "acme/tap/1"),
        ("instances", "acme/tap/1"),
        ("chains", "acme/all"),
        ("paths", "acme/tap/1"),
        ("flows", CLIENT[0]),
        ("drops", "neighbor-message"),
    ];
    for (what, word) in expected {
        let json = get_json(&bed.host, what).to_string();
        assert!(json.contains(word), "get {what} -o json: no {word} in {json}");
        let arguments = ["get", what];
        let table = said(&arguments, &bed.host.towpath(&arguments));
        assert!(table.contains(word), "get {what}: no {word} in\n{table}");
    }
    let arguments = ["top", "--once"];
    let top = said(&arguments, &bed.host.towpath(&arguments));
    assert!(top.contains("acme/tap/1") && top.contains("left"), "{top}");
    bed.stop();
}

/// Breaks if the flows that are shown are not those that were made, each with its path there and back.
#[test]
fn flows_tell_their_chain_and_both_directions() {
    let bed = OneHost::start(&tenants());
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let stream = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    stream.await_more(ENOUGH);
    let sent = stream.finish_whole();
    let flows = get_json(&bed.host, "flows");
    let rows = flows["rows"].as_array().unwrap_or_else(|| panic!("{flows}"));
    let towards = |address: &str| {
        let found = rows.iter().find(|row| row["flow"]["destination"] == address && row["flow"]["protocol"] == 17);
        found.unwrap_or_else(|| panic!("no flow to {address}: {flows}"))
    };
    let (there, back) = (towards(SERVER[0]), towards(CLIENT[0]));
    assert_eq!((&there["direction"], &back["direction"]), (&"forward".into(), &"reverse".into()));
    assert_eq!((&there["learned"], &back["learned"]), (&false.into(), &true.into()));
    assert_eq!(there["chain"], "acme/all");
    assert_eq!((there["packets"].as_u64(), back["packets"].as_u64()), (Some(sent), Some(sent)));
    bed.stop();
}

/// Breaks if Wireshark can't read a capture, if it lacks packets, or if its interfaces don't say which side they are.
#[test]
fn a_capture_shows_both_sides_of_an_element() {
    let bed = OneHost::start(&tenants());
    let capture = Capture::start(&bed.ends.scope, &bed.host, "acme/tap/1");
    assert_ping(&bed.ends.client, SERVER[0], 56);
    assert_ping(&bed.ends.client, SERVER[1], 56);
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-Y", "icmp || icmpv6"];
    let text = tshark(&capture.finish(&bed.host), &fields);
    let count = |side: &str| text.lines().filter(|line| *line == format!("acme/tap/1 {side}")).count();
    assert_eq!((count("in"), count("out")), (12, 12), "three requests and answers in both families: {text}");

    let arguments = ["capture", "--at", "acme/tip/1", "-w", "/dev/null"];
    let unknown = bed.host.towpath(&arguments);
    assert!(!unknown.status.success());
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("acme/tap/1"),
        "the error says what there is: {unknown:?}"
    );
    bed.stop();
}

/// Breaks if a changed file disturbs flows that have their way already, does not reach new ones, or if a change that would
/// interrupt traffic is made unasked.
#[test]
fn a_changed_chain_is_applied_while_traffic_runs() {
    let bed = OneHost::start(&tenants());
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let stream = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    stream.await_more(ENOUGH);
    let path = bed.ends.scope.directory().join("towpath.yaml").display().to_string();
    let first = fs::read_to_string(&path).expect("the file");
    let apply = |text: &str, more: &[&str]| {
        fs::write(&path, text).expect("the file");
        bed.host.towpath(&[&["apply", &path], more].concat())
    };

    let tcp_only = first.replace("all: {from", "all: {select: {protocol: tcp}, from");
    let planned = said(&["apply", "--dry-run"], &apply(&tcp_only, &["--dry-run"]));
    assert!(planned.contains("acme/all"), "{planned}");
    assert_ping(&bed.ends.client, SERVER[0], 56);
    said(&["apply"], &apply(&tcp_only, &[]));
    let socket = udp(&bed.ends.client, CLIENT[0], 0);
    socket.send_to(b"new", at(SERVER[0], 7)).expect("a datagram");
    until("a new flow has no chain any more", || (bed.host.dropped(DropReason::NoChain) > 0).then_some(()));
    stream.await_more(ENOUGH);

    said(&["apply"], &apply(&first, &[]));
    assert_ping(&bed.ends.client, SERVER[0], 56);
    stream.await_more(ENOUGH);
    let unchanged = said(&["apply"], &apply(&first, &[]));
    assert!(unchanged.contains("nothing to change"), "{unchanged}");

    let other_port = first.replace("iface=right\"", "iface=right\", mtu: 1400");
    let refused = apply(&other_port, &[]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("--restart-dataplane"),
        "it names the remedy: {refused:?}"
    );
    let broken = apply("version: 2", &[]);
    assert!(
        !broken.status.success() && String::from_utf8_lossy(&broken.stderr).contains("towpath.yaml:1"),
        "{broken:?}"
    );
    stream.await_more(ENOUGH);
    stream.finish_whole();

    let before = bed.host.dataplane_pid();
    said(&["apply"], &apply(&other_port, &["--restart-dataplane"]));
    assert_ne!(bed.host.dataplane_pid(), before, "it was asked to restart");
    assert_ping(&bed.ends.client, SERVER[0], 56);
    bed.stop();
}

/// Breaks if the tool without a controller says nothing, or what does not help.
#[test]
fn without_a_controller_the_remedy_is_named() {
    let arguments = ["--run-dir", "/nonexistent", "get", "hosts"];
    let mut command = Command::new(TOWPATH);
    command.args(arguments);
    let output = finish(command, "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("error: ") && text.contains("towpath-controller"), "{text}");
}
