//! Paths with a difficulty: hosts that are entered again, an underlay that carries less, flows that come in bursts, flows that
//! end.
#![cfg(feature = "dpdk")]

mod testbed;

use controller::api::{FlowRow, Request, Response};
use packet::DropReason;
use rustix::process::Signal;
use testbed::config::{HostEntry, full_chain, tenant};
use testbed::host::Host;
use testbed::hosts::{CLIENT, SERVER, TwoHosts};
use testbed::process::finish;
use testbed::streams::{PATIENCE, Stream, UdpEcho, at, udp};
use testbed::traffic::{Requests, WebServer, assert_all_fetched, assert_ping, assert_web};
use testbed::until;

/// What an inner packet may have on an underlay of 1,500 bytes: VXLAN over IPv4 takes 50.
const SMALL_PATH_MTU: u32 = 1_450;

/// Breaks if the tunnel's lookup can't tell which of a path's elements is next when the path has several on the host, or if
/// answers do not find the way back over all of them.
#[test]
fn a_path_may_enter_the_same_hosts_again() {
    let functions = r#"    nfs:
      first: {function: passthrough}
      second: {function: firewall, config: {default: allow}}
      third: {function: passthrough}
      fourth: {function: passthrough}
    instances:
      - {nf: first, host: host2, cpu: 0}
      - {nf: second, host: host1, cpu: 1}
      - {nf: third, host: host2, cpu: 1}
      - {nf: fourth, host: host1, cpu: 0}
    chains:
      all: {from: clients, to: servers, through: [first, second, third, fourth]}
"#;
    let bed = TwoHosts::start(&tenant("acme", 100, "host: host1, port: left", "host: host2, port: right", functions));
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    for (from, to) in CLIENT.into_iter().zip(SERVER) {
        assert_ping(&bed.ends.client, to, 1_400);
        let _echo = UdpEcho::start(&bed.ends.server, to, 7);
        let stream = Stream::udp(&bed.ends.client, from, at(to, 7));
        stream.await_more(50);
        stream.finish_whole();
    }
    assert_all_fetched(&Requests::start(&bed.ends.client, &SERVER, 20).finish(), &CLIENT);
    for (host, name) in [(&bed.host2, "first"), (&bed.host1, "second"), (&bed.host2, "third"), (&bed.host1, "fourth")] {
        // A function's own counters are published twice a second.
        until(&format!("{name} has seen the traffic"), || {
            let row =
                host.instances().into_iter().find(|row| row.instance == format!("acme/{name}/1")).expect("the row");
            row.counters.iter().any(|counter| counter.value > 50).then_some(())
        });
    }
    bed.stop();
}

/// Breaks if packets that do not fit into the underlay vanish, instead of being answered with the size that fits, or if TCP
/// is not told of it at the start.
#[test]
fn a_small_underlay_is_no_black_hole() {
    let entries = ["host1", "host2"].map(|name| HostEntry::new(name).underlay_mtu(1_500));
    let bed = TwoHosts::start_on(entries, &full_chain());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    assert_all_fetched(&Requests::start(&bed.ends.client, &SERVER, 20).finish(), &CLIENT);
    for host in [&bed.host1, &bed.host2] {
        assert_eq!(host.dropped(DropReason::TooBig), 0, "TCP knew the size from the start");
    }
    for (server, headers) in SERVER.into_iter().zip([28, 48]) {
        let fits = (SMALL_PATH_MTU - headers).to_string();
        let full = (1_500 - headers).to_string();
        let ping = |bytes: &str| {
            let arguments = ["-n", "-c", "1", "-W", "5", "-M", "do", "-s", bytes, server];
            let output = finish(bed.ends.client.command("ping", &arguments), "");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (answered, text) = ping(&full);
        assert!(!answered && text.contains(&SMALL_PATH_MTU.to_string()), "the size that fits is told: {text}");
        let (answered, text) = ping(&fits);
        assert!(answered, "{text}");
        // The client's kernel has learned the path's MTU: it fragments now, or sends smaller.
        let (answered, _) = ping(&full);
        assert!(!answered, "the client's kernel knows better by now");
    }
    assert_eq!(bed.host1.dropped(DropReason::TooBig), 2, "one packet of each family");
    bed.stop();
}

/// Breaks if packets that come while their flow is being set up are lost or overtake one another.
#[test]
fn a_burst_at_a_flows_beginning_arrives_whole_and_in_order() {
    let entries = ["host1", "host2"].map(|name| HostEntry::new(name).limit("parked_per_flow", 64));
    let mut bed = TwoHosts::start_on(entries.map(|entry| entry.limit("udp_idle_s", 30)), &full_chain());
    for (from, to) in CLIENT.into_iter().zip(SERVER) {
        let sink = udp(&bed.ends.server, to, 7);
        sink.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let warm = udp(&bed.ends.client, from, 0);
        warm.send_to(&u64::MAX.to_be_bytes(), at(to, 7)).expect("a datagram");
        sink.recv_from(&mut [0; 8]).expect("a datagram of another flow, and with it the gateway's address");
        let watch = bed.host1.watch();
        let before = watch.received();
        // The controller does not answer until the whole burst is parked.
        bed.host1.controller().signal(Signal::STOP);
        let socket = udp(&bed.ends.client, from, 0);
        // What is to be tested is the order behind the client's kernel, which has two ways to change it: a sender that moves to
        // another CPU, and packets that waited for the gateway's address and are sent on the CPU that learned it.
        stay_on_this_cpu();
        for number in 0..30_u64 {
            socket.send_to(&number.to_be_bytes(), at(to, 7)).expect("a datagram");
        }
        until("the burst has come in", || (watch.received() >= before + 30).then_some(()));
        bed.host1.controller().signal(Signal::CONT);
        let mut buffer = [0; 8];
        let arrived: Vec<u64> =
            (0..30).map_while(|_| sink.recv_from(&mut buffer).is_ok().then(|| u64::from_be_bytes(buffer))).collect();
        assert_eq!(arrived, (0..30).collect::<Vec<_>>());
    }
    bed.stop();
}

fn stay_on_this_cpu() {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &cpus).expect("a thread may stay where it is");
}

fn flows(host: &Host) -> Vec<FlowRow> {
    match host.ask(&Request::Flows { limit: 1_000 }) {
        Response::Flows(flows) => flows.rows,
        other => panic!("not flows: {other:?}"),
    }
}

/// Breaks if rules of flows that ended stay, at any of the places that a flow has rules at, or if they go while the flow has
/// traffic in one direction only.
#[test]
fn flows_are_forgotten_when_they_are_over_and_not_before() {
    let short = |name| {
        let times = ["udp_idle_s", "tcp_idle_s", "tcp_closing_s", "other_idle_s"];
        times.into_iter().fold(HostEntry::new(name), |entry, time| entry.limit(time, 1))
    };
    let bed = TwoHosts::start_on(["host1", "host2"].map(short), &full_chain());
    let hosts = [&bed.host1, &bed.host2];
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let (asker, server) = (udp(&bed.ends.client, CLIENT[0], 0), udp(&bed.ends.server, SERVER[0], 7));
    for socket in [&asker, &server] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    }
    asker.send_to(b"tell me all", at(SERVER[0], 7)).expect("a datagram");
    let (_, client) = server.recv_from(&mut [0; 16]).expect("the question");
    // The server talks on and on, the client never again, while other flows are made and forgotten, twice.
    for _ in 0..2 {
        assert_web(&bed.ends.client, &SERVER);
        assert_ping(&bed.ends.client, SERVER[1], 56);
        until("the others are forgotten", || {
            server.send_to(b"more", client).expect("an answer");
            asker.recv_from(&mut [0; 16]).expect("the answer");
            let is_ours = |row: &FlowRow| [row.flow.source_port, row.flow.destination_port].contains(&client.port());
            hosts.iter().all(|host| flows(host).iter().all(is_ours)).then_some(())
        });
    }
    for host in hosts {
        assert!(!flows(host).is_empty(), "the flow that has traffic is there");
    }
    for host in hosts {
        until("all flows are forgotten", || flows(host).is_empty().then_some(()));
        until("the controller has forgotten them too", || (host.status().sessions == 0).then_some(()));
    }
    assert_web(&bed.ends.client, &SERVER);
    bed.stop();
}
