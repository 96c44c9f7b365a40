//! The audit of affinity, case by case: what is a violation, and what only looks like one.
//!
//! ```text
//! path 1:  clients (1) → passthrough (3) → servers (2)
//! path 2:  clients (1) → passthrough (4) → servers (2)
//! path 3:  clients (1) → servers (2)
//! ```

mod rig;

use packet::build::{self, Echo, flags};
use packet::{Direction, FlowKey, PathId, VportId, headers};
use rig::{CLIENTS, IO, PASS, PASS_LCORE, Rig, SERVERS, client, head, hop, learn, server, vni};
use shm::launch::{Launch, Limits};
use shm::rules::{Delivery, Event, Update};

const OTHER_PASS: VportId = VportId(4);
const OTHER_LCORE: usize = 2;
const SECOND_NS: u64 = 1_000_000_000;

fn launch() -> Launch {
    let mut launch = rig::launch(Limits { udp_idle_s: 2, other_idle_s: 2, tcp_closing_s: 2, ..Limits::default() });
    launch.lcores[OTHER_LCORE] = rig::instance(OTHER_PASS, "passthrough", serde_json::json!({}), false);
    launch
}

fn install(rig: &mut Rig) {
    for (vport, lcore, path) in [(PASS, PASS_LCORE, 1), (OTHER_PASS, OTHER_LCORE, 2)] {
        let forward = (Direction::Forward, learn(2, vport, false, path));
        let reverse = (Direction::Reverse, Delivery::Refresh);
        let rules = [
            hop((vni(), 1), (vport, vport), SERVERS, forward, path),
            hop((vni(), 2), (vport, vport), CLIENTS, reverse, path),
        ];
        rig.update(lcore, &rules);
    }
    rig.poll();
}

fn udp(port: u16) -> Vec<u8> {
    build::udp(client(port), server(), b"forward")
}

fn udp_reply(port: u16) -> Vec<u8> {
    build::udp(server(), client(port), b"reverse")
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    build::tcp(client(port), server(), flags, b"")
}

fn key_of(frame: &[u8]) -> FlowKey {
    FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(frame).unwrap().five_tuple }
}

fn rule(frame: &[u8], path: u32) -> Update {
    let (next, delivery) = match path {
        1 => (PASS, Delivery::None),
        2 => (OTHER_PASS, Delivery::None),
        _ => (SERVERS, learn(4, CLIENTS, true, 3)),
    };
    head(key_of(frame), (vni(), if path == 3 { 3 } else { 1 }), next, delivery, path)
}

/// Sends a frame of the client's whose flow has, or gets, a rule with this path; an old rule is gone before, as if it had timed out.
fn send_anew(rig: &mut Rig, frame: &[u8], path: u32) {
    rig.update(IO, &[Update::RemoveExact(key_of(frame)), rule(frame, path)]);
    send(rig, frame);
}

fn send(rig: &mut Rig, frame: &[u8]) {
    rig.from_client(frame);
    rig.poll();
    rig.to_server();
}

fn answer(rig: &mut Rig, frame: &[u8]) {
    rig.from_server(frame);
    rig.poll();
    rig.to_client();
}

/// What was audited and what was a violation since the last call.
#[derive(Default)]
struct Audit {
    audited: u64,
    violations: u64,
}

impl Audit {
    fn since(&mut self, rig: &Rig) -> (u64, u64) {
        let now = (rig.total(|lcore| lcore.audited_packets), rig.total(|lcore| lcore.affinity_violations));
        let since = (now.0 - self.audited, now.1 - self.violations);
        (self.audited, self.violations) = now;
        since
    }
}

fn violations(rig: &mut Rig) -> Vec<(FlowKey, PathId, PathId)> {
    let told = |event| match event {
        Event::AffinityViolation { key, expected, found } => Some((key, expected, found)),
        _ => None,
    };
    rig.events(IO).into_iter().filter_map(told).collect()
}

#[test]
fn a_live_flow_on_two_paths_is_counted_and_nothing_else_is() {
    let mut rig = Rig::with(launch());
    install(&mut rig);
    for (to_server, frame) in [(true, udp(9)), (false, udp_reply(9))] {
        send_anew(&mut rig, &udp(9), 3); // the neighbours become known
        if !to_server {
            answer(&mut rig, &frame);
        }
        rig.answer_arp(to_server);
    }
    let mut audit = Audit::default();
    audit.since(&rig);
    both_directions_of_one_path_agree(&mut rig, &mut audit);
    a_path_of_one_hop_agrees(&mut rig, &mut audit);
    a_rule_that_replaces_a_live_one_is_a_violation(&mut rig, &mut audit);
    a_packet_that_comes_by_another_path_is_one(&mut rig, &mut audit);
    a_controllers_rule_stays_and_every_packet_counts(&mut rig, &mut audit);
    a_new_connection_on_old_ports_is_none(&mut rig, &mut audit);
    a_connection_that_is_over_is_none(&mut rig, &mut audit);
    a_flow_after_its_idle_time_is_none(&mut rig, &mut audit);
    an_icmp_error_is_none(&mut rig, &mut audit);
    rig.finish();
}

/// The first packet finds nothing to compare with; every further one, in either direction, agrees.
fn both_directions_of_one_path_agree(rig: &mut Rig, audit: &mut Audit) {
    send_anew(rig, &udp(1), 1);
    assert_eq!(audit.since(rig), (0, 0));
    for _ in 0..3 {
        send(rig, &udp(1));
        answer(rig, &udp_reply(1));
    }
    assert_eq!(audit.since(rig), (6, 0));
}

fn a_path_of_one_hop_agrees(rig: &mut Rig, audit: &mut Audit) {
    send_anew(rig, &udp(2), 3);
    send(rig, &udp(2));
    answer(rig, &udp_reply(2));
    assert_eq!(audit.since(rig), (2, 0));
}

/// At the head, when the controller says so, and once more at the end, whose learned rule then follows.
fn a_rule_that_replaces_a_live_one_is_a_violation(rig: &mut Rig, audit: &mut Audit) {
    violations(rig);
    rig.update(IO, &[rule(&udp(1), 1)]);
    rig.poll();
    assert_eq!(audit.since(rig), (0, 0), "the same path again");
    rig.update(IO, &[rule(&udp(1), 2)]);
    assert_eq!(allocation_counter::measure(|| rig.poll()).count_total, 0, "allocations while polling");
    assert_eq!(audit.since(rig), (0, 1));
    assert_eq!(violations(rig), [(key_of(&udp(1)), PathId(1), PathId(2))]);
    send(rig, &udp(1));
    assert_eq!(audit.since(rig), (1, 1));
    assert_eq!(violations(rig), [], "told once a second");
    send(rig, &udp(1));
    answer(rig, &udp_reply(1));
    assert_eq!(audit.since(rig), (2, 0), "both ends go by the new path now");
}

fn a_packet_that_comes_by_another_path_is_one(rig: &mut Rig, audit: &mut Audit) {
    rig.wait_ms(1_000);
    send_anew(rig, &udp(1), 1);
    let answers = FlowKey { vport: SERVERS, vni: vni(), five_tuple: key_of(&udp(1)).five_tuple.reversed() };
    assert_eq!(audit.since(rig), (1, 1), "new to the head, but not to the end");
    assert_eq!(violations(rig), [(answers, PathId(2), PathId(1))]);
    send_anew(rig, &tcp(3, flags::SYN), 1);
    send_anew(rig, &tcp(3, flags::ACK), 2);
    assert_eq!(audit.since(rig), (1, 1), "a segment in the middle of a connection");
}

/// A rule that the controller gave is not replaced by what is learned, so that the flow goes on by two paths.
fn a_controllers_rule_stays_and_every_packet_counts(rig: &mut Rig, audit: &mut Audit) {
    let answers = FlowKey { vport: SERVERS, vni: vni(), five_tuple: key_of(&udp(4)).five_tuple.reversed() };
    rig.update(IO, &[head(answers, (vni(), 2), PASS, Delivery::None, 1)]);
    for _ in 0..3 {
        send_anew(rig, &udp(4), 2);
    }
    assert_eq!(audit.since(rig), (3, 3));
}

fn a_new_connection_on_old_ports_is_none(rig: &mut Rig, audit: &mut Audit) {
    send_anew(rig, &tcp(5, flags::SYN), 1);
    send(rig, &tcp(5, flags::ACK));
    audit.since(rig);
    send_anew(rig, &tcp(5, flags::SYN), 2);
    assert_eq!(audit.since(rig), (1, 0));
    send(rig, &tcp(5, flags::ACK));
    answer(rig, &build::tcp(server(), client(5), flags::SYN | flags::ACK, b""));
    assert_eq!(audit.since(rig), (2, 0), "its answers go by its own path");
    send_anew(rig, &tcp(5, flags::SYN | flags::ACK), 1);
    assert_eq!(audit.since(rig), (1, 1), "who answers a SYN opens nothing");
}

fn a_connection_that_is_over_is_none(rig: &mut Rig, audit: &mut Audit) {
    send_anew(rig, &tcp(6, flags::SYN), 1);
    send(rig, &tcp(6, flags::RST));
    audit.since(rig);
    rig.update(IO, &[rule(&tcp(6, 0), 2)]);
    send(rig, &tcp(6, flags::ACK));
    assert_eq!(audit.since(rig), (1, 0));
}

/// Breaks if a rule counts as live because no sweep has come by, or if the two ends must agree to the microsecond.
fn a_flow_after_its_idle_time_is_none(rig: &mut Rig, audit: &mut Audit) {
    send_anew(rig, &udp(7), 1);
    rig.wait_ms(1_950);
    send_anew(rig, &udp(7), 2);
    assert_eq!(audit.since(rig), (1, 0), "the end may be late by a little");
    send_anew(rig, &udp(8), 1);
    rig.wait_ms(1_000);
    send_anew(rig, &udp(8), 2);
    assert_eq!(audit.since(rig), (1, 1), "the flow is live");
    let expired = rig.total(|lcore| lcore.flows_expired);
    rig.now_ns += 3 * SECOND_NS;
    rig.update(IO, &[rule(&udp(8), 3)]);
    rig.from_client(&udp(8));
    rig.poll_only(IO); // head and end in one poll, before anything is swept
    assert_eq!(audit.since(rig), (0, 0), "there is no rule to compare with");
    assert!(rig.total(|lcore| lcore.flows_expired) > expired);
    send(rig, &udp(8));
    answer(rig, &udp_reply(8));
    assert_eq!(audit.since(rig), (2, 0));
}

/// The client complains about an answer: its error is of the flow's forward direction, and comes by the head's new path.
fn an_icmp_error_is_none(rig: &mut Rig, audit: &mut Audit) {
    send_anew(rig, &udp(10), 1);
    let complaint = build::icmp_error(client(10).ip(), (3, 3), &udp_reply(10), 28);
    assert_eq!(key_of(&complaint), key_of(&udp(10)));
    send_anew(rig, &complaint, 2);
    assert_eq!(audit.since(rig), (0, 0));
    send(rig, &udp(10));
    assert_eq!(audit.since(rig), (1, 1), "but the flow itself has changed its path");
    let ping = |echo| build::icmp_echo(client(0).ip(), server().ip(), echo, 7, 1, b"ping");
    send_anew(rig, &ping(Echo::Request), 1);
    send_anew(rig, &ping(Echo::Request), 2);
    assert_eq!(audit.since(rig), (1, 1), "a ping is a flow as any other");
}
