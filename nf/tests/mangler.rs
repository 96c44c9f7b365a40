//! The mangler from outside: frames in, frames out.

mod wire;

use std::collections::HashMap;
use std::net::IpAddr;

use packet::build::{self, Echo, flags};
use packet::{DropReason, FiveTuple, protocol};
use proptest::prelude::*;
use serde_json::json;
use wire::{FORWARD, REVERSE, Wire, addr, assert_checksums, frame_of, sock, tuple};

const EXHAUSTED: DropReason = DropReason::ManglerPoolExhausted;
const NO_MAPPING: DropReason = DropReason::ManglerNoMapping;

fn both_families() -> Wire {
    Wire::new("mangler", json!({"pool": ["198.51.100.0/24", "2001:db8:64::/64"]}))
}

fn one_address() -> Wire {
    Wire::new("mangler", json!({"pool": ["198.51.100.1", "2001:db8:64::1"], "mappings": 512}))
}

fn any_flow() -> impl Strategy<Value = FiveTuple> {
    let kinds = prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::ICMP, 47, 132]);
    (any::<bool>(), any::<u128>(), any::<u128>(), any::<(u16, u16)>(), kinds).prop_map(|(is_v6, a, b, ports, kind)| {
        let (source, destination): (IpAddr, IpAddr) = match is_v6 {
            true => {
                let site = |host: u128| std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | host >> 32);
                (site(a).into(), site(b).into())
            }
            false => {
                let site = |host: u128| std::net::Ipv4Addr::from_bits(10 << 24 | host as u32 >> 8);
                (site(a).into(), site(b).into())
            }
        };
        let (source_port, destination_port) = match kind {
            protocol::TCP | protocol::UDP => ports,
            protocol::ICMP => (ports.0, ports.0),
            _ => (0, 0),
        };
        let protocol = if kind == protocol::ICMP && is_v6 { protocol::ICMPV6 } else { kind };
        FiveTuple { source, destination, source_port, destination_port, protocol }
    })
}

proptest! {
    #[test]
    fn the_way_back_undoes_the_way_forth(flow in any_flow(), payload in 0..200usize) {
        let mut wire = both_families();
        let sent = frame_of(flow, payload);
        let seen = wire.send(FORWARD, &sent).unwrap();
        assert_checksums(&seen);
        let mangled = tuple(&seen);
        prop_assert_eq!(FiveTuple { source: flow.source, ..mangled }, flow, "only the source changes");
        prop_assert_ne!(mangled.source, flow.source);

        let answer = frame_of(mangled.reversed(), payload);
        let received = wire.send(REVERSE, &answer).unwrap();
        assert_checksums(&received);
        prop_assert_eq!(tuple(&received), flow.reversed());
        prop_assert_eq!(received, frame_of(flow.reversed(), payload), "as if it had never been mangled");
    }

    #[test]
    fn errors_quote_what_the_client_sent(flow in any_flow(), payload in 0..120usize, short in any::<bool>()) {
        let mut wire = both_families();
        let sent = frame_of(flow, payload);
        let seen = wire.send(FORWARD, &sent).unwrap();
        let (kind, router, whole) = match flow.source {
            IpAddr::V4(_) => ((11, 0), addr("192.0.2.9"), 28),
            IpAddr::V6(_) => ((3, 0), addr("2001:db8:ffff::9"), 48),
        };
        // Protocols without ports may be shorter than the eight bytes that make a quote.
        let length = if short { whole } else { usize::MAX };
        let received = wire.send(REVERSE, &build::icmp_error(router, kind, &seen, length)).unwrap();
        assert_checksums(&received);
        prop_assert_eq!(received, build::icmp_error(router, kind, &sent, length));
    }

    /// Few addresses, clients and ports, so that conflicts are frequent; time passes and mappings go.
    #[test]
    fn live_flows_never_share_a_mangled_tuple(
        steps in prop::collection::vec((0..6u8, 0..3u8, any::<bool>(), 0..30u64), 1..200),
    ) {
        let mut wire = Wire::new("mangler", json!({"pool": "198.51.100.0/30", "mappings": 512, "udp_idle_s": 60}));
        let mut live: HashMap<FiveTuple, (FiveTuple, u64)> = HashMap::new();
        for (client, port, sweeps, later_s) in steps {
            wire.now_s += later_s;
            if sweeps {
                wire.sweep();
            }
            live.retain(|_, (_, until)| wire.now_s < *until);
            let flow = FiveTuple {
                source: addr(&format!("10.0.0.{}", client + 1)),
                destination: addr("10.9.9.9"),
                source_port: 4000 + u16::from(port),
                destination_port: 53,
                protocol: protocol::UDP,
            };
            let rivals = live.iter().filter(|(other, _)| **other != flow && other.source_port == flow.source_port);
            let taken: Vec<_> = rivals.map(|(_, (mangled, _))| *mangled).collect();
            match wire.send(FORWARD, &frame_of(flow, 1)) {
                Ok(seen) => {
                    let mangled = tuple(&seen);
                    prop_assert!(!taken.contains(&mangled), "{} was taken", mangled);
                    if let Some((before, _)) = live.get(&flow) {
                        prop_assert_eq!(*before, mangled, "a live flow keeps its address");
                    }
                    live.insert(flow, (mangled, wire.now_s + 60));
                    let received = wire.send(REVERSE, &frame_of(mangled.reversed(), 1)).unwrap();
                    prop_assert_eq!(tuple(&received), flow.reversed());
                }
                Err(reason) => {
                    prop_assert_eq!(reason, EXHAUSTED);
                    prop_assert_eq!(taken.len(), 2, "refused only when both addresses are taken");
                    prop_assert!(!live.contains_key(&flow));
                }
            }
        }
        wire.now_s += 1;
        wire.sweep();
        live.retain(|_, (_, until)| wire.now_s < *until);
        prop_assert_eq!(wire.counter("mappings now"), live.len() as u64);
    }
}

#[test]
fn a_client_keeps_one_address_for_all_its_flows() {
    let mut wire = both_families();
    let mut used = std::collections::HashSet::new();
    for port in 1..200 {
        let flow = FiveTuple {
            source: addr("10.0.0.7"),
            destination: addr(&format!("10.9.0.{port}")),
            source_port: port * 7,
            destination_port: port,
            protocol: if port % 2 == 0 { protocol::TCP } else { protocol::UDP },
        };
        used.insert(tuple(&wire.send(FORWARD, &frame_of(flow, 3)).unwrap()).source);
    }
    assert_eq!(used.len(), 1);
}

#[test]
fn a_flow_gets_the_same_address_again_after_a_restart() {
    let syn = build::tcp(sock("10.0.0.7:4000"), sock("10.9.9.9:80"), flags::ACK, b"x");
    assert_eq!(both_families().send(FORWARD, &syn), both_families().send(FORWARD, &syn));
}

#[test]
fn clients_are_spread_over_the_pool() {
    let mut wire = both_families();
    let mut used = std::collections::HashSet::new();
    for client in 1..=200 {
        let query = build::udp(sock(&format!("10.0.0.{client}:4000")), sock(&format!("10.9.{client}.9:53")), b"");
        used.insert(tuple(&wire.send(FORWARD, &query).unwrap()).source);
    }
    assert!((100..200).contains(&used.len()), "{} of 254 addresses for 200 clients", used.len());
}

#[test]
fn exhaustion_is_counted_and_over_when_the_flow_is() {
    for (client, rival, server) in [
        ("10.0.0.1:4000", "10.0.0.2:4000", "10.9.9.9:53"),
        ("[2001:db8::1]:4000", "[2001:db8::2]:4000", "[2001:db8::9]:53"),
    ] {
        let mut wire = one_address();
        let query = |client| build::udp(sock(client), sock(server), b"?");
        wire.send(FORWARD, &query(client)).unwrap();
        assert_eq!(wire.send(FORWARD, &query(rival)), Err(EXHAUSTED));
        assert_eq!(wire.counter("dropped: every tried pool address is taken"), 1);
        assert!(wire.send(FORWARD, &build::udp(sock(rival), sock(&server.replace(":53", ":54")), b"?")).is_ok());

        wire.now_s += 60;
        assert!(wire.send(FORWARD, &query(rival)).is_ok(), "the address is free at the deadline, before any sweep");
        assert_eq!(wire.send(FORWARD, &query(client)), Err(EXHAUSTED));
        wire.now_s += 60;
        wire.sweep();
        assert_eq!((wire.counter("mappings now"), wire.counter("mappings made")), (0, 3));
        assert!(wire.send(FORWARD, &query(client)).is_ok());
    }
}

#[test]
fn a_full_table_is_counted_and_has_room_again_when_flows_end() {
    let mut wire = Wire::new("mangler", json!({"pool": "198.51.100.0/24", "mappings": 3}));
    let query = |port: u16| build::udp(sock(&format!("10.0.0.1:{port}")), sock("10.9.9.9:53"), b"?");
    for port in 1..=3 {
        wire.send(FORWARD, &query(port)).unwrap();
    }
    assert_eq!(wire.send(FORWARD, &query(4)), Err(EXHAUSTED));
    assert_eq!(wire.counter("dropped: mapping table full"), 1);
    wire.now_s += 60;
    assert!(wire.send(FORWARD, &query(4)).is_ok());
}

#[test]
fn a_family_without_a_pool_is_dropped_under_its_own_counter() {
    let mut wire = Wire::new("mangler", json!({"pool": "198.51.100.1"}));
    assert_eq!(wire.send(FORWARD, &build::udp(sock("[2001:db8::1]:1"), sock("[2001:db8::2]:2"), b"")), Err(EXHAUSTED));
    assert_eq!((wire.counter("dropped: no IPv6 pool"), wire.counter("dropped: no IPv4 pool")), (1, 0));
}

#[test]
fn nothing_comes_in_without_a_mapping() {
    let mut wire = one_address();
    assert_eq!(wire.send(REVERSE, &build::udp(sock("10.9.9.9:53"), sock("198.51.100.1:4000"), b"")), Err(NO_MAPPING));
    wire.send(FORWARD, &build::udp(sock("10.0.0.1:4000"), sock("10.9.9.9:53"), b"")).unwrap();
    for (server, pool) in [
        ("10.9.9.9:54", "198.51.100.1:4000"),
        ("10.9.9.8:53", "198.51.100.1:4000"),
        ("10.9.9.9:53", "198.51.100.1:4001"),
        ("10.9.9.9:53", "10.0.0.1:4000"),
    ] {
        assert_eq!(
            wire.send(REVERSE, &build::udp(sock(server), sock(pool), b"")),
            Err(NO_MAPPING),
            "{server} > {pool}"
        );
    }
    wire.vni = 2;
    assert_eq!(wire.send(REVERSE, &build::udp(sock("10.9.9.9:53"), sock("198.51.100.1:4000"), b"")), Err(NO_MAPPING));
    assert_eq!(wire.counter("dropped: no mapping"), 6);
}

#[test]
fn tenants_with_the_same_addresses_do_not_meet() {
    let mut wire = one_address();
    let query = |client| build::udp(sock(client), sock("10.9.9.9:53"), b"?");
    wire.send(FORWARD, &query("10.0.0.1:4000")).unwrap();
    wire.vni = 2;
    wire.send(FORWARD, &query("10.0.0.2:4000")).unwrap();
    let answer = build::udp(sock("10.9.9.9:53"), sock("198.51.100.1:4000"), b"!");
    assert_eq!(tuple(&wire.send(REVERSE, &answer).unwrap()).destination, addr("10.0.0.2"));
    wire.vni = 1;
    assert_eq!(tuple(&wire.send(REVERSE, &answer).unwrap()).destination, addr("10.0.0.1"));
}

#[test]
fn an_error_makes_no_mapping_and_keeps_none_alive() {
    for (client, server, pool, kind) in [
        ("10.0.0.1:4000", "10.9.9.9:53", "198.51.100.1:4000", (3, 3)),
        ("[2001:db8::1]:4000", "[2001:db8::9]:53", "[2001:db8:64::1]:4000", (1, 4)),
    ] {
        let mut wire = one_address();
        let (client, server, pool) = (sock(client), sock(server), sock(pool));
        let from_client = build::icmp_error(client.ip(), kind, &build::udp(server, client, b"!"), usize::MAX);
        let from_server = build::icmp_error(server.ip(), kind, &build::udp(pool, server, b"?"), usize::MAX);
        let unquoted = build::icmp(client.ip(), server.ip(), [kind.0, kind.1, 0, 0, 0, 0, 0, 0], &[0; 4]);
        assert_eq!(wire.send(FORWARD, &from_client), Err(NO_MAPPING));
        assert_eq!(wire.send(REVERSE, &from_server), Err(NO_MAPPING));
        assert_eq!(wire.send(FORWARD, &unquoted), Err(NO_MAPPING));
        assert_eq!(wire.counter("mappings made"), 0);

        wire.send(FORWARD, &build::udp(client, server, b"?")).unwrap();
        wire.now_s += 59;
        assert!(wire.send(FORWARD, &from_client).is_ok() && wire.send(REVERSE, &from_server).is_ok());
        wire.now_s += 1;
        assert_eq!(wire.send(REVERSE, &from_server), Err(NO_MAPPING));
    }
}

#[test]
fn an_error_from_a_router_on_the_client_side_leaves_with_the_pool_address() {
    let mut wire = one_address();
    let (client, server) = (sock("10.0.0.1:4000"), sock("10.9.9.9:80"));
    wire.send(FORWARD, &build::tcp(client, server, flags::SYN, b"")).unwrap();
    let answer = build::tcp(server, client, flags::ACK, &[7; 100]);
    let seen = wire.send(FORWARD, &build::icmp_error(addr("10.0.0.254"), (3, 4), &answer, 28)).unwrap();
    let answer_outside = build::tcp(server, sock("198.51.100.1:4000"), flags::ACK, &[7; 100]);
    assert_eq!(seen, build::icmp_error(addr("198.51.100.1"), (3, 4), &answer_outside, 28));
}

#[test]
fn a_ping_is_a_flow_by_its_identifier() {
    let mut wire = one_address();
    let ping = |client, id| build::icmp_echo(addr(client), addr("10.9.9.9"), Echo::Request, id, 1, b"..");
    let pong = |id| build::icmp_echo(addr("10.9.9.9"), addr("198.51.100.1"), Echo::Reply, id, 1, b"..");
    wire.send(FORWARD, &ping("10.0.0.1", 1)).unwrap();
    wire.send(FORWARD, &ping("10.0.0.2", 2)).unwrap();
    assert_eq!(wire.send(FORWARD, &ping("10.0.0.2", 1)), Err(EXHAUSTED));
    assert_eq!(tuple(&wire.send(REVERSE, &pong(1)).unwrap()).destination, addr("10.0.0.1"));
    assert_eq!(tuple(&wire.send(REVERSE, &pong(2)).unwrap()).destination, addr("10.0.0.2"));
    assert_eq!(wire.send(REVERSE, &pong(3)), Err(NO_MAPPING));
}

#[test]
fn fin_of_both_sides_or_a_reset_shortens_the_idle_time() {
    let (client, server, pool) = (sock("10.0.0.1:4000"), sock("10.9.9.9:80"), sock("198.51.100.1:4000"));
    let out = |flags| (FORWARD, build::tcp(client, server, flags, b""));
    let back = |flags| (REVERSE, build::tcp(server, pool, flags, b""));
    let fin = flags::FIN | flags::ACK;
    let cases = [
        ("open", vec![out(flags::SYN), back(flags::SYN | flags::ACK), out(flags::ACK)], 300),
        ("half closed", vec![out(flags::SYN), out(fin), out(fin), back(flags::ACK)], 300),
        ("half closed from behind", vec![out(flags::SYN), back(fin), out(flags::ACK)], 300),
        ("closed", vec![out(flags::SYN), out(fin), back(fin), out(flags::ACK)], 15),
        ("reset forward", vec![out(flags::SYN), out(flags::RST)], 15),
        ("reset in reverse", vec![out(flags::SYN), back(flags::RST | flags::ACK)], 15),
        ("opened anew", vec![out(flags::SYN), back(flags::RST | flags::ACK), out(flags::SYN)], 300),
    ];
    for (name, segments, idle_s) in cases {
        let mut wire = one_address();
        for (direction, frame) in segments {
            wire.send(direction, &frame).unwrap();
        }
        wire.now_s += idle_s - 1;
        wire.sweep();
        assert_eq!(wire.counter("mappings now"), 1, "{name}, before {idle_s} s");
        wire.now_s += 1;
        wire.sweep();
        assert_eq!(wire.counter("mappings now"), 0, "{name}, at {idle_s} s");
    }
}

#[test]
fn packets_of_both_directions_keep_a_mapping_alive() {
    let mut wire = one_address();
    let query = build::udp(sock("10.0.0.1:4000"), sock("10.9.9.9:53"), b"?");
    let answer = build::udp(sock("10.9.9.9:53"), sock("198.51.100.1:4000"), b"!");
    wire.send(FORWARD, &query).unwrap();
    for frame in [(REVERSE, &answer), (FORWARD, &query), (REVERSE, &answer), (REVERSE, &answer)] {
        wire.now_s += 59;
        wire.sweep();
        assert!(wire.send(frame.0, frame.1).is_ok());
    }
    assert_eq!((wire.counter("forward packets"), wire.counter("reverse packets")), (2, 3));
}
