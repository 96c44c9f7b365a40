//! The main job: firewall → mangler → passthrough over two hosts, real traffic from a real client to a real server.
#![cfg(feature = "dpdk")]

mod testbed;

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;

use testbed::capture::{Capture, Connection, Conversations, conversations};
use testbed::config::{HostEntry, full_chain};
use testbed::host::Host;
use testbed::hosts::{CLIENT, MANGLED, SERVER, TwoHosts};
use testbed::namespace::PYTHON;
use testbed::process::{Process, run};
use testbed::streams::{PATIENCE, UdpEcho, at, udp};
use testbed::traffic::{Requests, WebServer, assert_all_fetched, assert_no_stall, assert_ping, iperf};
use testbed::until;

/// Requests per curl; one for each family, at the same time.
const REQUESTS: usize = 500;

/// The NF instances of each host, by function.
const INSTANCES: [(&str, &[&str]); 3] =
    [("edge", &["acme/edge/1", "acme/edge/2"]), ("nat", &["acme/nat/1"]), ("tap", &["acme/tap/1", "acme/tap/2"])];

/// Breaks if any request fails, if an address shows on the wrong side, if a packet is lost, added or changed in length
/// between the two sides of an NF, if a flow is split over instances, or if its answers come back by others.
#[test]
fn a_thousand_requests_cross_one_instance_of_each_kind_both_ways() {
    let bed = TwoHosts::start(&full_chain());
    let web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let host_of = |kind| if kind == "tap" { &bed.host2 } else { &bed.host1 };
    let captures: Vec<(&str, &str, Capture)> = INSTANCES
        .iter()
        .flat_map(|(kind, instances)| instances.iter().map(move |instance| (*kind, *instance)))
        .map(|(kind, instance)| (kind, instance, Capture::start(&bed.ends.scope, host_of(kind), instance)))
        .collect();

    let fetched = Requests::start(&bed.ends.client, &SERVER, REQUESTS).finish();
    assert_eq!(fetched.len(), 1_000);
    assert_all_fetched(&fetched, &CLIENT);
    let seen: HashSet<String> = web.clients(1_000).into_iter().collect();
    assert_eq!(seen, MANGLED.map(str::to_owned).into(), "the addresses that the server sees");

    bed.host1.assert_conserved();
    bed.host2.assert_conserved();
    assert_eq!(missed_captures(&bed.host1) + missed_captures(&bed.host2), 0, "packets that no capture has");
    let mut instances_of: BTreeMap<&str, BTreeMap<Connection, Vec<&str>>> = BTreeMap::new();
    for (kind, instance, capture) in captures {
        let sides = conversations(&capture.finish(host_of(kind)), 80);
        let side = |side| sides.get(&format!("{instance} {side}")).cloned().unwrap_or_default();
        let (inward, outward) = (side("in"), side("out"));
        assert!(!inward.volumes.is_empty(), "{instance} saw no flow, so that the test says nothing about it");
        assert_eq!(inward.volumes, outward.volumes, "tshark's conversations on both sides of {instance}");
        assert_sides(kind, &inward, &outward);
        for connection in inward.volumes.into_keys() {
            instances_of.entry(kind).or_default().entry(connection).or_default().push(instance);
        }
    }
    for (kind, crossed) in &instances_of {
        assert_eq!(crossed.len(), 1_000, "connections that crossed {kind}");
        assert!(crossed.keys().eq(instances_of["nat"].keys()), "{kind} saw other connections than nat");
        let split: Vec<_> = crossed.iter().filter(|(_, instances)| instances.len() != 1).collect();
        assert!(split.is_empty(), "connections at more than one instance of {kind}: {split:?}");
    }
    bed.stop();
}

/// Which addresses the client has on each side of a function of this kind.
fn assert_sides(kind: &str, inward: &Conversations, outward: &Conversations) {
    let [own, mangled] = [CLIENT, MANGLED].map(HashSet::from);
    let (before, after) = match kind {
        "edge" => (own.clone(), own),
        "tap" => (mangled.clone(), mangled),
        // Both directions pass both sides of a mangler: forward in as the client, reverse in to the mangled address.
        _ => (own.union(&mangled).copied().collect(), own.union(&mangled).copied().collect()),
    };
    let of = |side: &Conversations| side.clients.iter().cloned().collect::<HashSet<String>>();
    assert_eq!(of(inward), before.into_iter().map(str::to_owned).collect(), "clients before {kind}");
    assert_eq!(of(outward), after.into_iter().map(str::to_owned).collect(), "clients behind {kind}");
}

fn missed_captures(host: &Host) -> u64 {
    host.counters().iter().map(|lcore| lcore.capture_missed).sum()
}

/// Breaks if a stream stands still for half a second in either direction and family, or if its packets are lost
/// track of.
#[test]
fn tcp_streams_never_stall_in_either_direction() {
    let bed = TwoHosts::start(&full_chain());
    let ends = (&bed.ends.client, &bed.ends.server);
    for server in SERVER {
        for reverse in [false, true] {
            let intervals = iperf(&bed.ends.scope, ends, server, 3, reverse);
            assert_no_stall(&format!("{server}, reverse {reverse}"), &intervals);
        }
    }
    bed.stop();
}

/// Breaks if the sender's DSCP does not come out at the other end, in either direction, or if ECN bits change on the way
/// (tags travel in the DSCP bits between).
#[test]
fn dscp_and_ecn_come_out_as_they_went_in() {
    let bed = TwoHosts::start(&full_chain());
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/traffic_class.py");
    let server = bed.ends.server.command(PYTHON, &[program, "serve", "7007"]);
    let mut server = Process::start("traffic_class.py", server, &bed.ends.scope.log("traffic-class"));
    until("the echo serves", || {
        assert!(server.is_running(), "{}", server.said());
        server.said().contains("ready").then_some(())
    });
    for (address, mangled) in SERVER.into_iter().zip(MANGLED) {
        // Expedited forwarding with each of the ECN code points; none, the highest DSCP, and the value of a likely tag.
        for class in [46 << 2, 46 << 2 | 1, 46 << 2 | 2, 46 << 2 | 3, 0, 63 << 2 | 2, 1 << 2] {
            let back = class ^ 0x28; // another DSCP for the answer, the same ECN
            let (there_text, back_text) = (class.to_string(), back.to_string());
            let command = bed.ends.client.command(PYTHON, &[program, "ask", "7007", address, &there_text, &back_text]);
            let answer = run(command, "");
            assert_eq!(answer.trim(), format!("{class} {mangled} {back}"), "to {address}");
        }
    }
    bed.stop();
}

/// Breaks if ICMP takes another way than its flow, or if an error's quote is not un-mangled, so that the client's kernel does
/// not know the flow.
#[test]
fn pings_and_unreachable_ports_work_through_the_chain() {
    let bed = TwoHosts::start(&full_chain());
    for (server, client) in SERVER.into_iter().zip(CLIENT) {
        assert_ping(&bed.ends.client, server, 56);
        assert_ping(&bed.ends.client, server, 1_400);
        let socket = udp(&bed.ends.client, client, 0);
        socket.connect(at(server, 9)).expect("a destination");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        socket.send(b"is anybody there?").expect("a datagram");
        let refused = socket.recv(&mut [0; 64]).expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    }
    bed.stop();
}

/// Breaks if later fragments, which have no ports, do not follow their first fragment through every table and function, in
/// both directions.
#[test]
fn fragments_stay_together_through_the_chain() {
    let entries = ["host1", "host2"].map(|name| HostEntry::new(name).seeing_fragments());
    let bed = TwoHosts::start_on(entries, &full_chain());
    for (server, client) in SERVER.into_iter().zip(CLIENT) {
        assert_ping(&bed.ends.client, server, 4_000);
        let _echo = UdpEcho::start(&bed.ends.server, server, 7);
        let socket = udp(&bed.ends.client, client, 0);
        socket.connect(at(server, 7)).expect("a destination");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let message: Vec<u8> = (0..9_000_u32).map(|number| number as u8).collect();
        let mut answer = [0; 10_000];
        for _ in 0..20 {
            socket.send(&message).expect("a datagram of seven fragments");
            let length = socket.recv(&mut answer).expect("its echo");
            assert!(answer[..length] == message[..], "the echo is whole");
        }
    }
    bed.stop();
}

/// Breaks if a firewall's deny is not counted where operators look for it, or if it cuts off others.
#[test]
fn a_denied_port_is_counted_and_nothing_else_suffers() {
    let bed = TwoHosts::start(&full_chain());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let denied = bed
        .ends
        .client
        .enter(|| std::net::TcpStream::connect_timeout(&at(SERVER[0], 81), std::time::Duration::from_millis(300)));
    assert!(denied.is_err(), "port 81 is denied by the firewall");
    testbed::traffic::assert_web(&bed.ends.client, &SERVER);
    until("the denial is counted", || {
        let row = bed.host1.drops().into_iter().find(|row| row.reason == "firewall-denied")?;
        let edges = row.by_lcore.iter().filter(|(lcore, _)| lcore.starts_with("acme/edge/"));
        (edges.map(|(_, packets)| packets).sum::<u64>() == row.packets && row.packets > 0).then_some(())
    });
    bed.stop();
}
