//! No function allocates or frees while packets flow: not for new flows, not for conflicts, not when a table is full,
//! not in
//! `expire`. What would break it: a table that grows, a formatted string, a collected iterator on the hot path.

mod wire;

use allocation_counter::measure;
use packet::build::{self, flags};
use packet::{Arrival, Direction, NetworkFunction, Packet, Verdict, Vni, headers};
use serde_json::{Value, json};
use wire::{FORWARD, REVERSE, sock};

/// New flows of both families, in both directions, more of them than the tables hold.
fn traffic() -> Vec<(Direction, Vec<u8>)> {
    let mut traffic = Vec::new();
    for port in 1..=300 {
        for (client, server) in [("10.0.0.1", "10.9.9.9"), ("[2001:db8::1]", "[2001:db8::9]")] {
            let client = sock(&format!("{client}:{port}"));
            let server = sock(&format!("{server}:{}", port % 3 + 80));
            let query = build::udp(client, server, b"?");
            traffic.push((FORWARD, build::tcp(client, server, flags::SYN, b"")));
            traffic.push((REVERSE, build::tcp(server, client, flags::SYN | flags::ACK, b"")));
            traffic.push((FORWARD, build::tcp(client, server, flags::RST, b"")));
            traffic.push((FORWARD, build::icmp_error(client.ip(), (3, 3), &build::udp(server, client, b"!"), 28)));
            traffic.push((FORWARD, query));
        }
    }
    traffic
}

fn process(function: &mut dyn NetworkFunction, traffic: &mut [(Direction, Vec<u8>)], start_s: u64) -> [u64; 2] {
    let mut outcomes = [0; 2];
    for (at, (direction, frame)) in traffic.iter_mut().enumerate() {
        let now_ns = (start_s + at as u64 / 50) * 1_000_000_000;
        let Ok(headers) = headers::parse(frame) else { continue };
        let Ok(vni) = Vni::new(at as u32 % 2) else { continue };
        let arrival = Arrival { direction: *direction, vni, now_ns };
        let mut verdicts = [Verdict::Pass];
        function.process_burst(&mut [Packet::new(frame, headers, &mut None, arrival)], &mut verdicts);
        outcomes[usize::from(verdicts[0] != Verdict::Pass)] += 1;
        function.expire(now_ns);
    }
    outcomes
}

fn allocates_nothing(function: &str, config: Value) -> [u64; 2] {
    let mut made = nf::create(function, &config, "counted/1").unwrap();
    let mut values = [0; 256];
    let (mut first, mut second) = (traffic(), traffic());
    let mut outcomes = [0; 2];
    let counted = measure(|| {
        process(&mut *made, &mut first, 0);
        outcomes = process(&mut *made, &mut second, 10_000);
        made.read_counters(&mut values);
    });
    assert_eq!((counted.count_total, counted.bytes_total, counted.count_current), (0, 0, 0), "{function}");
    outcomes
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1_u8; 64]))).count_total, 1);
}

#[test]
fn passthrough_allocates_nothing() {
    allocates_nothing("passthrough", json!({}));
}

#[test]
fn mangler_allocates_nothing_even_when_exhausted() {
    let pool = json!(["198.51.100.0/30", "2001:db8:64::/126"]);
    let [passed, dropped] = allocates_nothing("mangler", json!({"pool": pool, "mappings": 64}));
    assert!(passed > 100 && dropped > 100, "{passed} passed, {dropped} dropped");
}

#[test]
fn firewall_allocates_nothing_even_when_full() {
    let rules = json!([{"action": "deny", "protocol": "tcp", "destination_ports": 81}, {"action": "allow"}]);
    let [passed, dropped] = allocates_nothing("firewall", json!({"rules": rules, "connections": 64}));
    assert!(passed > 100 && dropped > 100, "{passed} passed, {dropped} dropped");
}
