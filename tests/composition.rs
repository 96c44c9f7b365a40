//! Compositions that the paper's prototype could not make, on real packets: a mangler with two ways on, one that is found and
//! accepted, more paths than a network has tags, service headers between hosts, and changes that are cut short.
#![cfg(feature = "dpdk")]

mod testbed;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use controller::api::{CounterKind, Request, Response};
use testbed::capture::{EndCapture, tshark};
use testbed::config::{HostEntry, full_chain, tap_chain, tenant};
use testbed::host::{Host, TOWPATH};
use testbed::hosts::{CLIENT, SERVER, TwoHosts};
use testbed::process::finish;
use testbed::streams::{Stream, TcpEcho, UdpEcho, at};
use testbed::traffic::{Requests, WebServer, assert_all_fetched, assert_ping};
use testbed::until;

const SIDES: [&str; 2] = ["host: host1, port: left", "host: host2, port: right"];

fn acme(functions: &str) -> String {
    tenant("acme", 100, SIDES[0], SIDES[1], functions)
}

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Packets that went into an instance.
fn packets_into(host: &Host, instance: &str) -> u64 {
    let Response::Counters(snapshot) = host.ask(&Request::Counters) else { panic!("not counters") };
    let row = snapshot.rows.into_iter().find(|row| row.kind == CounterKind::Vport && row.name == instance);
    row.map_or(0, |row| row.values["in_packets"])
}

fn assert_no_violation(bed: &TwoHosts) {
    for host in [&bed.host1, &bed.host2] {
        assert_eq!(host.counters().iter().map(|lcore| lcore.affinity_violations).sum::<u64>(), 0);
        let output = host.towpath(&["get", "audit"]);
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Breaks if a packet out of a mangler that two chains share takes the other chain's way: its addresses say nothing about the
/// chain any more, so each way needs a copy of its own.
#[test]
fn a_mangler_with_two_ways_on_is_cloned() {
    let functions = r#"    nfs:
      nat: {function: mangler}
      tap: {function: passthrough}
    instances:
      - {nf: nat, host: host1, cpu: 0, serves: web, config: {pool: [10.9.0.1, "fd00:9::1"]}}
      - {nf: nat, host: host1, cpu: 1, serves: rest, config: {pool: [10.9.0.2, "fd00:9::2"]}}
      - {nf: tap, host: host2, cpu: 1}
    chains:
      web: {from: clients, to: servers, select: {protocol: tcp, destination_ports: 80}, through: [nat, tap]}
      rest: {from: clients, to: servers, through: [nat]}
"#;
    let bed = TwoHosts::start(&acme(functions));
    let web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    assert_all_fetched(&Requests::start(&bed.ends.client, &SERVER, 50).finish(), &CLIENT);
    let clients: BTreeSet<String> = web.clients(100).into_iter().collect();
    assert_eq!(clients, ["10.9.0.1", "fd00:9::1"].map(str::to_owned).into(), "web has its own copy");
    let before = packets_into(&bed.host2, "acme/tap/1");
    assert!(before > 0);
    for (from, to) in CLIENT.into_iter().zip(SERVER) {
        let _echo = UdpEcho::start(&bed.ends.server, to, 7);
        let stream = Stream::udp(&bed.ends.client, from, at(to, 7));
        stream.await_more(50);
        stream.finish_whole();
        assert_ping(&bed.ends.client, to, 56);
    }
    let since = packets_into(&bed.host2, "acme/tap/1") - before;
    assert!(since < 50, "the rest does not pass the tap, the web's last acknowledgements may: {since}");
    assert_no_violation(&bed);
    bed.stop();
}

/// Breaks if a function that rewrites addresses unasked is not found, or if accepting it as a mangler breaks the flows that
/// already go through it.
#[test]
fn a_mangler_that_is_found_is_accepted_while_flows_live() {
    let functions = r#"    nfs:
      first: {function: passthrough}
      nat: {function: mangler, mangles: detect, config: {pool: [10.9.0.1, "fd00:9::1"]}}
      tap: {function: passthrough}
    instances:
      - {nf: first, host: host1, cpu: 0}
      - {nf: nat, host: host1, cpu: 1}
      - {nf: tap, host: host2, cpu: 1}
    chains:
      all: {from: clients, to: servers, through: [first, nat, tap]}
"#;
    let bed = TwoHosts::start(&acme(functions));
    let _echoes = (UdpEcho::start(&bed.ends.server, SERVER[0], 7), TcpEcho::start(&bed.ends.server, SERVER[1], 7));
    let start = || {
        [Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7)), Stream::tcp(&bed.ends.client, at(SERVER[1], 7))]
    };
    let old = start();
    old.iter().for_each(|stream| stream.await_more(50));
    until("the mangler is found", || {
        let shown = said(&bed.host1.towpath(&["get", "instances"]));
        shown.lines().any(|line| line.contains("acme/nat/1") && line.contains("REWRITES")).then_some(())
    });
    let output = bed.host2.towpath(&["accept", "acme/nat"]);
    assert!(output.status.success() && said(&output).contains("0 live flows moved"), "{}", said(&output));
    old.iter().for_each(|stream| stream.await_more(100));
    let new = start();
    new.iter().for_each(|stream| stream.await_more(100));
    let ends =
        bed.host1.paths().into_iter().filter(|path| path.flows > 0).filter_map(|path| path.hops.into_iter().last());
    let ends: Vec<String> = ends.map(|hop| hop.element).collect();
    assert!(ends.iter().any(|element| element == "acme/nat/1"), "new flows end a subchain at it: {ends:?}");
    for stream in old.into_iter().chain(new) {
        stream.finish_whole();
    }
    assert_no_violation(&bed);
    bed.stop();
}

/// Breaks if paths beyond the 31 pairs of a network's tags take another path's tag, or if their answers go astray.
#[test]
fn paths_beyond_one_networks_tags_take_another_network() {
    let functions = r#"    nfs:
      first: {function: passthrough}
      middle: {function: passthrough}
      last: {function: passthrough}
    instances:
      - {nf: middle, host: host2, cpu: 1}
COPIES    chains:
      all: {from: clients, to: servers, through: [first, middle, last]}
"#;
    let copies = |nf, host, cpu| format!("      - {{nf: {nf}, host: {host}, cpu: {cpu}}}\n").repeat(6);
    let functions = functions.replace("COPIES", &(copies("first", "host1", 0) + &copies("last", "host2", 0)));
    let tenants = acme(&functions).replace("vni: 100", "vni: [100, 200-201]");
    let bed = TwoHosts::start(&tenants);
    let paths = bed.host1.paths();
    assert_eq!(paths.len(), 36, "{paths:?}");
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let flow = |_| Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    let streams: Vec<Stream> = (0..36).map(flow).inspect(|stream| stream.await_more(1)).collect();
    for path in bed.host1.paths() {
        assert_eq!(path.flows, 1, "weighted round-robin gives each path its turn: {path:?}");
    }
    streams.iter().for_each(|stream| stream.await_more(5));
    for stream in streams {
        stream.finish_whole();
    }
    assert_no_violation(&bed);
    bed.stop();
}

/// Breaks if the service header between the hosts is not one that others can read, or if a chain does not work over it.
#[test]
fn hosts_talk_by_network_service_headers() {
    let bed = TwoHosts::start(&format!("{}encapsulation: nsh\n", full_chain()));
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let underlay = EndCapture::start(&bed.ends.scope, &bed.ends.fabric, "host1");
    assert_all_fetched(&Requests::start(&bed.ends.client, &SERVER, 50).finish(), &CLIENT);
    for server in SERVER {
        assert_ping(&bed.ends.client, server, 1_400);
    }
    let file = underlay.finish();
    let all = tshark(&file, &["-Y", "vxlan"]).lines().count();
    let fields = ["-Y", "nsh", "-T", "fields", "-e", "nsh.spi", "-e", "nsh.si", "-e", "nsh.ttl", "-e", "nsh.mdtype"];
    let headers = tshark(&file, &fields);
    assert!(all > 100 && headers.lines().count() == all, "{} of {all} packets have a header", headers.lines().count());
    assert!(headers.lines().all(|line| line.split('\t').count() == 4), "{headers}");
    assert_eq!(tshark(&file, &["-Y", "_ws.malformed"]), "", "malformed for tshark");
    assert_no_violation(&bed);
    bed.stop();
}

/// Breaks if a controller that is killed in the midst of a change leaves hosts with different versions for good, loses a packet
/// of an established flow, or makes the next change impossible.
#[test]
fn a_change_survives_the_death_of_its_leader() {
    let mut bed = TwoHosts::start(&acme(&tap_chain("host2")));
    let _echoes = (UdpEcho::start(&bed.ends.server, SERVER[0], 7), TcpEcho::start(&bed.ends.server, SERVER[1], 7));
    let streams =
        [Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7)), Stream::tcp(&bed.ends.client, at(SERVER[1], 7))];
    let mut expected = 1;
    for delay_ms in [0, 3, 8, 15, 30, 60] {
        streams.iter().for_each(|stream| stream.await_more(20));
        let mut command = std::process::Command::new(TOWPATH);
        command.arg("--run-dir").arg(bed.host1.run_dir()).args(["scale", "acme/tap", "--on", "host2", "--cpu", "0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut change = command.spawn().expect("the tool");
        std::thread::sleep(Duration::from_millis(delay_ms));
        bed.host1.kill_controller();
        let finished = change.wait().expect("the tool's end").success();
        bed.host1.launch();
        bed.host1.await_attached();
        let there = agreed_instances(&bed);
        assert!(there == expected || there == expected + 1, "{there} after {expected}, at {delay_ms} ms");
        assert!(!finished || there == expected + 1, "what was reported done is done");
        expected = there;
    }
    let output = bed.host1.towpath(&["scale", "acme/tap", "--on", "host1", "--cpu", "0"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(agreed_instances(&bed), expected + 1);
    let more = Stream::udp(&bed.ends.client, CLIENT[1], at(SERVER[1], 9));
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[1], 9);
    more.await_more(20);
    for stream in streams.into_iter().chain([more]) {
        stream.finish();
    }
    assert_no_violation(&bed);
    bed.stop();
}

/// The number of taps, once both hosts' controllers know the same paths.
fn agreed_instances(bed: &TwoHosts) -> usize {
    until("both hosts have one version", || {
        let names = |host: &Host| -> BTreeSet<Vec<String>> {
            host.paths().into_iter().map(|path| path.hops.into_iter().map(|hop| hop.element).collect()).collect()
        };
        let (one, two) = (names(&bed.host1), names(&bed.host2));
        (one == two).then_some(one.len())
    })
}

/// Breaks if a change that can't be done everywhere is done somewhere, or if the refusal does not say where and why.
#[test]
fn a_change_that_one_host_can_not_take_is_taken_nowhere() {
    let mut bed = TwoHosts::start(&acme(&tap_chain("host2")));
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let refused = |bed: &TwoHosts, arguments: &[&str], words: &[&str]| {
        let output = bed.host1.towpath(arguments);
        let text = said(&output);
        assert!(!output.status.success(), "{arguments:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{arguments:?}: {text}");
    };
    refused(&bed, &["scale", "acme/tab"], &["tab", "tap"]);
    refused(&bed, &["scale", "acme/tap", "--on", "host3"], &["host3"]);
    refused(&bed, &["drain", "acme/tap/1"], &["acme/tap/1"]);
    refused(&bed, &["weights", "acme/all", "tap/7=1"], &["tap/7"]);
    bed.host2.kill_controller();
    refused(&bed, &["scale", "acme/tap", "--on", "host1", "--cpu", "0"], &["host2"]);
    assert_eq!(bed.host1.paths().len(), 1, "the running version stays");
    bed.host2.launch();
    bed.host2.await_attached();
    let output = until("host2's controller is heard again", || {
        let output = bed.host1.towpath(&["scale", "acme/tap", "--on", "host1", "--cpu", "0"]);
        output.status.success().then_some(output)
    });
    assert!(said(&output).contains("acme/tap/2"), "{}", said(&output));
    assert_all_fetched(&Requests::start(&bed.ends.client, &SERVER, 20).finish(), &CLIENT);
    bed.stop();
}

/// Breaks if the plan does not say what the transformation did and what the change costs, or if it changes anything.
#[test]
fn a_plan_says_what_a_change_would_do() {
    let bed = TwoHosts::start(&full_chain());
    let more = full_chain().replace(
        "    chains:\n",
        "      - {nf: nat, host: host2, cpu: 0, config: {pool: [10.9.0.2, \"fd00:9::2\"]}}\n    chains:\n      \
         short: {from: clients, to: servers, select: {protocol: udp}, through: [nat]}\n",
    );
    let entries = [
        HostEntry::new("host1").vtep("192.0.2.1/24").port("left").controller("198.51.100.1:7475"),
        HostEntry::new("host2").vtep("192.0.2.2/24").port("right").controller("198.51.100.2:7475"),
    ];
    let file = bed.ends.scope.directory().join("more.yaml");
    std::fs::write(&file, testbed::config::file(&entries, &more)).expect("the file");
    let name = file.display().to_string();
    let before = (bed.host1.status().epoch, bed.host1.paths().len());
    let output = bed.host1.towpath(&["plan", &name]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for word in ["nat", "clone", "acme/nat/2", "host2", "0 live flows moved"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!((bed.host1.status().epoch, bed.host1.paths().len()), before, "a plan changes nothing");
    let output = bed.host1.towpath(&["apply", &name]);
    assert!(output.status.success(), "{}", said(&output));
    let mut check = std::process::Command::new(TOWPATH);
    check.args(["check", &name]);
    assert!(finish(check, "").status.success());
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let stream = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    stream.await_more(20);
    stream.finish_whole();
    assert!(packets_into(&bed.host2, "acme/nat/2") > 0, "the new chain has the new copy");
    bed.stop();
}
