//! The firewall from outside: a reference model over random rules and packets, and the cases that the model leaves out.

mod wire;

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::build::{self, Echo, flags};
use packet::headers::{self, Fragment};
use packet::{Direction, DropReason, FiveTuple, protocol};
use proptest::prelude::*;
use serde_json::{Value, json};
use wire::{FORWARD, REVERSE, Wire, addr, frame_of, sock};

const DENIED: DropReason = DropReason::FirewallDenied;
const NO_STATE: DropReason = DropReason::FirewallNoState;
const FULL: DropReason = DropReason::FirewallTableFull;
const SYN_ACK: u8 = flags::SYN | flags::ACK;
const FIN_ACK: u8 = flags::FIN | flags::ACK;

const CLIENT: &str = "10.0.0.1:4000";
const SERVER: &str = "10.9.9.9:80";

fn allow_all() -> Wire {
    Wire::new("firewall", json!({"default": "allow", "connections": 512}))
}

fn out(flags: u8, payload: &[u8]) -> (Direction, Vec<u8>) {
    (FORWARD, build::tcp(sock(CLIENT), sock(SERVER), flags, payload))
}

fn back(flags: u8, payload: &[u8]) -> (Direction, Vec<u8>) {
    (REVERSE, build::tcp(sock(SERVER), sock(CLIENT), flags, payload))
}

/// Sends the segments and says of each whether it passed.
fn passed(wire: &mut Wire, segments: &[(Direction, Vec<u8>)]) -> Vec<bool> {
    segments.iter().map(|(direction, frame)| wire.send(*direction, frame).is_ok()).collect()
}

/// A rule of the model: what the configuration says, read as a person would.
#[derive(Debug, Clone)]
struct ModelRule {
    allow: bool,
    protocol: &'static str,
    source: Vec<&'static str>,
    destination: Vec<&'static str>,
    source_ports: Option<(u16, u16)>,
    destination_ports: Option<(u16, u16)>,
}

impl ModelRule {
    fn config(&self) -> Value {
        let mut rule = json!({"action": if self.allow { "allow" } else { "deny" }, "protocol": self.protocol});
        for (key, prefixes) in [("source", &self.source), ("destination", &self.destination)] {
            if !prefixes.is_empty() {
                rule[key] = json!(prefixes);
            }
        }
        for (key, ports) in [("source_ports", self.source_ports), ("destination_ports", self.destination_ports)] {
            if let Some((first, last)) = ports {
                rule[key] = json!([format!("{first}-{last}")]);
            }
        }
        rule
    }

    fn matches(&self, flow: &FiveTuple) -> bool {
        let within = |prefixes: &[&str], address: IpAddr| {
            prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.parse::<IpNet>().unwrap().contains(&address))
        };
        let port =
            |range: Option<(u16, u16)>, port: u16| range.is_none_or(|(first, last)| (first..=last).contains(&port));
        let protocol = match self.protocol {
            "any" => true,
            "tcp" => flow.protocol == protocol::TCP,
            "udp" => flow.protocol == protocol::UDP,
            _ => flow.protocol == if flow.source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 },
        };
        protocol
            && within(&self.source, flow.source)
            && within(&self.destination, flow.destination)
            && port(self.source_ports, flow.source_port)
            && port(self.destination_ports, flow.destination_port)
    }
}

fn any_rule() -> impl Strategy<Value = ModelRule> {
    const PREFIXES: [&str; 5] = ["10.0.0.0/30", "10.0.0.2/31", "10.0.0.0/8", "2001:db8::/126", "::/0"];
    let prefixes = || prop::sample::subsequence(PREFIXES.to_vec(), 0..=3);
    let ports = || prop::option::of((0..6u16, 0..6u16).prop_map(|(a, b)| (a.min(b), a.max(b))));
    let protocols = prop::sample::select(vec!["any", "tcp", "udp", "icmp"]);
    (any::<bool>(), protocols, prefixes(), prefixes(), ports(), ports())
        .prop_map(|(allow, protocol, source, destination, source_ports, destination_ports)| {
            let has_ports = matches!(protocol, "tcp" | "udp");
            ModelRule {
                allow,
                protocol,
                source,
                destination,
                source_ports: source_ports.filter(|_| has_ports),
                destination_ports: destination_ports.filter(|_| has_ports),
            }
        })
        .prop_filter("families must meet", |rule| {
            let families = |prefixes: &[&str]| match prefixes.is_empty() {
                true => [true, true],
                false => [false, true].map(|v6| prefixes.iter().any(|prefix| prefix.contains(':') == v6)),
            };
            let (source, destination) = (families(&rule.source), families(&rule.destination));
            (source[0] && destination[0]) || (source[1] && destination[1])
        })
}

fn any_flow() -> impl Strategy<Value = FiveTuple> {
    let kinds = prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::ICMP, 47]);
    (any::<bool>(), 1..6u8, 1..6u8, 0..7u16, 0..7u16, kinds).prop_map(|(is_v6, a, b, source, destination, kind)| {
        let host = |host: u8| addr(&if is_v6 { format!("2001:db8::{host}") } else { format!("10.0.0.{host}") });
        let (source_port, destination_port) = match kind {
            protocol::TCP | protocol::UDP => (source, destination),
            protocol::ICMP => (source, source),
            _ => (0, 0),
        };
        let protocol = if kind == protocol::ICMP && is_v6 { protocol::ICMPV6 } else { kind };
        FiveTuple { source: host(a), destination: host(b), source_port, destination_port, protocol }
    })
}

/// The packet that opens the flow, or that answers it: for TCP SYN and SYN-ACK, for ping request and reply.
fn opening_or_answer(flow: FiveTuple, is_answer: bool) -> Vec<u8> {
    let (source, destination) =
        ((flow.source, flow.source_port).into(), (flow.destination, flow.destination_port).into());
    match flow.protocol {
        protocol::TCP => build::tcp(source, destination, if is_answer { SYN_ACK } else { flags::SYN }, b""),
        protocol::ICMP | protocol::ICMPV6 => {
            let echo = if is_answer { Echo::Reply } else { Echo::Request };
            build::icmp_echo(flow.source, flow.destination, echo, flow.source_port, 1, b"")
        }
        _ => frame_of(flow, 5),
    }
}

proptest! {
    #[test]
    fn it_decides_as_the_model_does(
        rules in prop::collection::vec(any_rule(), 0..8),
        default_allow in any::<bool>(),
        packets in prop::collection::vec((any_flow(), any::<bool>()), 1..80),
    ) {
        let mut wire = Wire::new("firewall", json!({
            "rules": rules.iter().map(ModelRule::config).collect::<Vec<_>>(),
            "default": if default_allow { "allow" } else { "deny" },
            "connections": 512,
        }));
        let mut open: HashSet<FiveTuple> = HashSet::new();
        let mut hits = vec![0_u64; rules.len() + 1];
        for (flow, is_answer) in packets {
            let direction = if is_answer { REVERSE } else { FORWARD };
            let tuple = if is_answer { flow.reversed() } else { flow };
            let frame = opening_or_answer(tuple, is_answer);
            let expected = if open.contains(&flow) {
                Ok(frame.clone())
            } else if is_answer {
                Err(NO_STATE)
            } else {
                let decided = rules.iter().position(|rule| rule.matches(&flow));
                hits[decided.unwrap_or(rules.len())] += 1;
                if decided.map_or(default_allow, |at| rules[at].allow) {
                    open.insert(flow);
                    Ok(frame.clone())
                } else {
                    Err(DENIED)
                }
            };
            prop_assert_eq!(wire.send(direction, &frame), expected, "{:?} {}", direction, tuple);
        }
        let mut values = vec![0; wire.function.counters().len()];
        wire.function.read_counters(&mut values);
        prop_assert_eq!(&values[values.len() - rules.len()..], &hits[..rules.len()]);
        let default = if default_allow { "default: allow" } else { "default: deny" };
        prop_assert_eq!(wire.counter(default), hits[rules.len()]);
        prop_assert_eq!(wire.counter("connections now"), open.len() as u64);
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_is_counted() {
    let mut wire = Wire::new(
        "firewall",
        json!({"rules": [
            {"action": "deny", "source": "10.0.0.66"},
            {"action": "allow", "protocol": "tcp", "destination_ports": 80, "name": "web"},
            {"action": "deny", "protocol": "tcp"},
        ], "default": "allow"}),
    );
    let syn = |client, port: u16| build::tcp(sock(client), sock(&format!("10.9.9.9:{port}")), flags::SYN, b"");
    assert_eq!(wire.send(FORWARD, &syn("10.0.0.66:1", 80)), Err(DENIED));
    assert!(wire.send(FORWARD, &syn("10.0.0.1:1", 80)).is_ok());
    assert!(wire.send(FORWARD, &syn("10.0.0.1:1", 80)).is_ok(), "a repeated SYN passes by its state");
    assert_eq!(wire.send(FORWARD, &syn("10.0.0.1:1", 81)), Err(DENIED));
    assert!(wire.send(FORWARD, &build::udp(sock(CLIENT), sock(SERVER), b"")).is_ok());
    assert_eq!(wire.counter("rules[0]: deny any 10.0.0.66/32 > any"), 1);
    assert_eq!(wire.counter("rules[1] (web): allow tcp any > any:80"), 1);
    assert_eq!(wire.counter("rules[2]: deny tcp any > any"), 1);
    assert_eq!(wire.counter("default: allow"), 1);
    assert_eq!(wire.counter("passed: known connection"), 1);
}

#[test]
fn an_ordinary_connection_passes_from_syn_to_the_last_ack() {
    let mut wire = allow_all();
    let segments = [
        out(flags::SYN, b""),
        back(SYN_ACK, b""),
        out(flags::ACK, b""),
        out(flags::ACK | flags::PSH, b"GET /"),
        back(flags::ACK, b"200 OK"),
        back(FIN_ACK, b""),
        out(flags::ACK, b"the rest"),
        out(FIN_ACK, b""),
        back(flags::ACK, b""),
    ];
    assert_eq!(passed(&mut wire, &segments), [true; 9]);
    assert_eq!(wire.counter("connections opened"), 1);
}

#[test]
fn segments_that_the_state_does_not_allow_are_dropped_and_counted() {
    let mut wire = allow_all();
    let segments = [
        (out(flags::ACK, b"data"), false, "data without a connection"),
        (back(flags::SYN, b""), false, "the server opens"),
        (out(SYN_ACK, b""), false, "an answer to nothing"),
        (out(flags::SYN, b""), true, "the opening"),
        (out(flags::ACK, b"data"), false, "data before the SYN-ACK"),
        (back(flags::ACK, b"data"), false, "an answer with data before the SYN-ACK"),
        (out(flags::SYN | flags::FIN, b""), false, "a combination that no TCP sends"),
        (back(SYN_ACK, b""), true, "the answer"),
        (out(flags::ACK, b"data"), true, "data after it"),
        (back(0, b""), false, "no flags at all"),
    ];
    for ((direction, frame), passes, name) in segments {
        let expected = if passes { Ok(frame.clone()) } else { Err(NO_STATE) };
        assert_eq!(wire.send(direction, &frame), expected, "{name}");
    }
    assert_eq!((wire.counter("dropped: no state"), wire.counter("dropped: out of state")), (3, 4));
}

#[test]
fn a_challenge_ack_reaches_the_client_and_its_new_connection_opens() {
    let mut wire = allow_all();
    let open = [out(flags::SYN, b""), back(SYN_ACK, b""), out(flags::ACK, b"")];
    assert_eq!(passed(&mut wire, &open), [true; 3]);
    // The client restarts and forgets; the server still holds the connection.
    let restart =
        [out(flags::SYN, b""), back(flags::ACK, b""), out(flags::RST, b""), out(flags::SYN, b""), back(SYN_ACK, b"")];
    assert_eq!(passed(&mut wire, &restart), [true; 5]);

    // The same when the firewall's own state is gone before the server's.
    let mut wire = allow_all();
    let restart =
        [out(flags::SYN, b""), back(flags::ACK, b""), out(flags::RST, b""), out(flags::SYN, b""), back(SYN_ACK, b"")];
    assert_eq!(passed(&mut wire, &restart), [true; 5]);
}

#[test]
fn an_old_port_pair_is_decided_anew_by_the_rules() {
    let mut wire = allow_all();
    let first = [out(flags::SYN, b""), back(flags::RST | flags::ACK, b""), out(flags::SYN, b""), back(SYN_ACK, b"")];
    assert_eq!(passed(&mut wire, &first), [true; 4]);
    assert_eq!(wire.counter("default: allow"), 2);
    assert_eq!((wire.counter("connections now"), wire.counter("connections opened")), (1, 2));
}

#[test]
fn midstream_traffic_passes_only_where_it_is_allowed_and_only_forward() {
    let rules = json!([{"action": "deny", "protocol": "tcp", "destination_ports": 22}, {"action": "allow"}]);
    let mut strict = Wire::new("firewall", json!({"rules": rules}));
    let mut lenient = Wire::new("firewall", json!({"rules": rules, "midstream": "allow"}));
    let data = build::tcp(sock(CLIENT), sock(SERVER), flags::ACK, b"data");
    let answer = build::tcp(sock(SERVER), sock(CLIENT), flags::ACK, b"data");
    let shell = build::tcp(sock(CLIENT), sock("10.9.9.9:22"), flags::ACK, b"data");
    assert_eq!(strict.send(FORWARD, &data), Err(NO_STATE));
    assert_eq!(lenient.send(REVERSE, &answer), Err(NO_STATE));
    assert!(lenient.send(FORWARD, &data).is_ok() && lenient.send(REVERSE, &answer).is_ok());
    assert_eq!(lenient.send(FORWARD, &shell), Err(DENIED));
    assert_eq!(lenient.send(FORWARD, &build::tcp(sock(CLIENT), sock("10.9.9.9:81"), SYN_ACK, b"")), Err(NO_STATE));
}

#[test]
fn errors_pass_with_their_connection_and_never_make_or_keep_one() {
    for (client, server, router, kind) in [
        ("10.0.0.1:4000", "10.9.9.9:53", "192.0.2.1", (3, 3)),
        ("[2001:db8::1]:4000", "[2001:db8::9]:53", "2001:db8:ff::1", (1, 4)),
    ] {
        let mut wire = allow_all();
        let (client, server, router) = (sock(client), sock(server), addr(router));
        let query = build::udp(client, server, b"?");
        let to_client = build::icmp_error(router, kind, &query, usize::MAX);
        let to_server = build::icmp_error(client.ip(), kind, &build::udp(server, client, b"!"), usize::MAX);
        let unquoted = build::icmp(client.ip(), server.ip(), [kind.0, kind.1, 0, 0, 0, 0, 0, 0], &[0; 4]);
        for (direction, error) in [(REVERSE, &to_client), (FORWARD, &to_server), (FORWARD, &unquoted)] {
            assert_eq!(wire.send(direction, error), Err(NO_STATE));
        }
        wire.send(FORWARD, &query).unwrap();
        wire.now_s += 59;
        assert!(wire.send(REVERSE, &to_client).is_ok() && wire.send(FORWARD, &to_server).is_ok());
        assert_eq!(wire.counter("passed: ICMP error of a known connection"), 2);
        wire.now_s += 1;
        assert_eq!(wire.send(REVERSE, &to_client), Err(NO_STATE));
        assert_eq!(wire.counter("connections opened"), 1);
    }
}

#[test]
fn an_error_about_a_denied_flow_does_not_pass() {
    let mut wire = Wire::new("firewall", json!({}));
    let query = build::udp(sock(CLIENT), sock("10.9.9.9:53"), b"?");
    assert_eq!(wire.send(FORWARD, &query), Err(DENIED));
    assert_eq!(wire.send(REVERSE, &build::icmp_error(addr("10.9.9.9"), (3, 3), &query, 28)), Err(NO_STATE));
}

#[test]
fn a_ping_opens_and_an_unasked_reply_does_not() {
    let mut wire = allow_all();
    let echo = |kind, from, to, id| build::icmp_echo(addr(from), addr(to), kind, id, 1, b"..");
    assert_eq!(wire.send(FORWARD, &echo(Echo::Reply, "10.0.0.1", "10.9.9.9", 1)), Err(NO_STATE));
    assert_eq!(wire.send(REVERSE, &echo(Echo::Request, "10.9.9.9", "10.0.0.1", 1)), Err(NO_STATE));
    assert!(wire.send(FORWARD, &echo(Echo::Request, "10.0.0.1", "10.9.9.9", 1)).is_ok());
    assert!(wire.send(REVERSE, &echo(Echo::Reply, "10.9.9.9", "10.0.0.1", 1)).is_ok());
    assert_eq!(wire.send(REVERSE, &echo(Echo::Reply, "10.9.9.9", "10.0.0.1", 2)), Err(NO_STATE));
}

#[test]
fn a_full_table_is_counted_and_has_room_again_when_connections_end() {
    let mut wire = Wire::new("firewall", json!({"default": "allow", "connections": 2}));
    let query = |port: u16| build::udp(sock(&format!("10.0.0.1:{port}")), sock("10.9.9.9:53"), b"?");
    wire.send(FORWARD, &query(1)).unwrap();
    wire.send(FORWARD, &query(2)).unwrap();
    assert_eq!(wire.send(FORWARD, &query(3)), Err(FULL));
    assert_eq!(wire.counter("dropped: connection table full"), 1);
    wire.now_s += 60;
    assert!(wire.send(FORWARD, &query(3)).is_ok());
}

#[test]
fn every_phase_of_a_connection_has_its_idle_time() {
    let open = [out(flags::SYN, b""), back(SYN_ACK, b""), out(flags::ACK, b"")];
    let closing = [out(FIN_ACK, b""), back(FIN_ACK, b""), out(flags::ACK, b"")];
    let echo = build::icmp_echo(addr("10.0.0.1"), addr("10.9.9.9"), Echo::Request, 1, 1, b"");
    let cases = [
        ("SYN sent", open[..1].to_vec(), 30),
        ("SYN received", open[..2].to_vec(), 30),
        ("established", open.to_vec(), 300),
        ("half closed", [&open[..], &closing[..1]].concat(), 300),
        ("closed", [&open[..], &closing[..]].concat(), 15),
        ("reset", [&open[..], &[back(flags::RST, b"")]].concat(), 15),
        ("udp", vec![(FORWARD, build::udp(sock(CLIENT), sock(SERVER), b""))], 60),
        ("ping", vec![(FORWARD, echo)], 15),
    ];
    for (name, packets, idle_s) in cases {
        let mut wire = allow_all();
        assert!(passed(&mut wire, &packets).iter().all(|passed| *passed), "{name}");
        wire.now_s += idle_s - 1;
        wire.sweep();
        assert_eq!(wire.counter("connections now"), 1, "{name}, before {idle_s} s");
        wire.now_s += 1;
        wire.sweep();
        assert_eq!(wire.counter("connections now"), 0, "{name}, at {idle_s} s");
    }
}

#[test]
fn state_is_over_at_its_deadline_before_any_sweep() {
    let mut wire = allow_all();
    wire.send(FORWARD, &build::udp(sock(CLIENT), sock(SERVER), b"")).unwrap();
    wire.now_s += 60;
    assert_eq!(wire.send(REVERSE, &build::udp(sock(SERVER), sock(CLIENT), b"")), Err(NO_STATE));
    assert_eq!((wire.counter("connections now"), wire.counter("connections timed out")), (0, 1));
}

#[test]
fn tenants_with_the_same_addresses_have_connections_of_their_own() {
    let mut wire = allow_all();
    wire.send(FORWARD, &build::udp(sock(CLIENT), sock(SERVER), b"")).unwrap();
    let answer = build::udp(sock(SERVER), sock(CLIENT), b"");
    wire.vni = 2;
    assert_eq!(wire.send(REVERSE, &answer), Err(NO_STATE));
    wire.vni = 1;
    assert!(wire.send(REVERSE, &answer).is_ok());
}

#[test]
fn later_fragments_go_the_way_of_the_first() {
    let mut wire = Wire::new(
        "firewall",
        json!({"rules": [
            {"action": "allow", "protocol": "udp", "destination_ports": 53},
            {"action": "allow", "protocol": "tcp"},
        ]}),
    );
    let send_all = |wire: &mut Wire, direction, frame: &[u8]| -> Vec<bool> {
        let pieces = build::fragment(frame, 7, 400);
        let first = headers::parse(&pieces[0]).unwrap().five_tuple;
        let completed = |piece: &Vec<u8>| {
            let mut headers = headers::parse(piece).unwrap();
            assert!(headers.fragment != Fragment::Whole);
            headers.five_tuple = first;
            wire.send_parsed(direction, piece, headers).is_ok()
        };
        pieces.iter().map(completed).collect()
    };
    let (client, server) = (sock(CLIENT), sock("10.9.9.9:53"));
    assert_eq!(send_all(&mut wire, FORWARD, &build::udp(client, server, &[1; 1_000])), [true; 3]);
    assert_eq!(send_all(&mut wire, REVERSE, &build::udp(server, client, &[2; 1_000])), [true; 3]);
    assert_eq!(send_all(&mut wire, FORWARD, &build::udp(client, sock("10.9.9.9:54"), &[1; 1_000])), [false; 3]);
    let data = build::tcp(client, server, flags::ACK, &[1; 1_000]);
    assert_eq!(send_all(&mut wire, FORWARD, &data), [false; 3], "no state for the first, none for the others");
    wire.send(FORWARD, &build::tcp(client, server, flags::SYN, b"")).unwrap();
    wire.send(REVERSE, &build::tcp(server, client, SYN_ACK, b"")).unwrap();
    assert_eq!(send_all(&mut wire, FORWARD, &data), [true; 3]);
}
