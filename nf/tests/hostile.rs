//! No bytes make a network function panic, and whatever it says, it leaves the frame's length and tag alone.

mod wire;

use packet::build::{self, Echo, flags};
use packet::headers::{self, Headers};
use packet::{Arrival, Direction, NetworkFunction, Packet, Verdict, Vni};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use wire::{addr, sock};

fn every_function() -> Vec<Box<dyn NetworkFunction>> {
    let made = [
        ("passthrough", json!({})),
        ("mangler", json!({"pool": ["198.51.100.0/30", "2001:db8:64::/126"], "mappings": 8})),
        (
            "firewall",
            json!({"default": "allow", "midstream": "allow", "connections": 8, "rules": [
                {"action": "deny", "protocol": "tcp", "source_ports": "1-9", "destination": ["10.0.0.0/8", "::/0"]},
            ]}),
        ),
        ("tripwire", json!({"panic_on_port": 6666})),
    ];
    assert_eq!(made.len(), nf::functions().len());
    made.into_iter().map(|(function, config)| nf::create(function, &config, "hostile/1").unwrap()).collect()
}

/// Right frames of every kind, to be damaged.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (client, server, error) in
        [("10.0.0.1:4000", "10.9.9.9:80", (3, 3)), ("[2001:db8::1]:4000", "[2001:db8::9]:80", (1, 4))]
    {
        let (client, server) = (sock(client), sock(server));
        let udp = build::udp(client, server, &[1; 300]);
        frames.push(build::tcp(client, server, flags::SYN, b""));
        frames.push(build::tcp(client, server, flags::FIN | flags::ACK, b"data"));
        frames.push(build::icmp_echo(client.ip(), server.ip(), Echo::Request, 7, 1, b"data"));
        frames.push(build::icmp_error(client.ip(), error, &build::udp(server, client, b"x"), usize::MAX));
        frames.push(build::icmp_error(client.ip(), error, &build::tcp(server, client, flags::ACK, b"x"), 28));
        frames.extend(build::fragment(&udp, 9, 64));
        frames.push(udp);
    }
    frames.push(build::with_ipv4_options(build::udp(sock("10.0.0.1:1"), sock("10.9.9.9:2"), b"x"), &[1, 1, 1]));
    frames.push(build::ip(addr("10.0.0.1"), addr("10.9.9.9"), 47, b"x"));
    frames
}

fn show_all(
    functions: &mut [Box<dyn NetworkFunction>],
    frame: &[u8],
    headers: Headers,
    direction: Direction,
    now_s: u64,
) {
    if headers.five_tuple.destination_port == 6666 {
        return; // The tripwire's own port.
    }
    for function in functions {
        let mut frame = frame.to_vec();
        let now_ns = now_s * 1_000_000_000;
        let arrival = Arrival { direction, vni: Vni::new(1).unwrap(), now_ns };
        let mut verdicts = [Verdict::Pass];
        function.process_burst(&mut [Packet::new(&mut frame, headers, &mut None, arrival)], &mut verdicts);
        function.expire(now_ns);
        if let Ok(after) = headers::parse_trusted(&frame) {
            assert_eq!((after.dscp, after.ttl, after.end), (headers.dscp, headers.ttl, headers.end));
        }
    }
}

fn direction(is_reverse: bool) -> Direction {
    if is_reverse { Direction::Reverse } else { Direction::Forward }
}

/// Which frame, which bytes are overwritten, where it is cut, which way it travels.
type Damage = (Index, Vec<(Index, u8)>, Option<usize>, bool);

fn damage() -> impl Strategy<Value = Damage> {
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (any::<Index>(), changes, prop::option::weighted(0.2, 0..400usize), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn damaged_frames_panic_nobody(steps in prop::collection::vec(damage(), 1..40)) {
        let frames = frames();
        let mut functions = every_function();
        for (now_s, (which, changes, cut, is_reverse)) in steps.into_iter().enumerate() {
            let mut frame = which.get(&frames).clone();
            for (at, byte) in changes {
                let at = 14 + at.index(frame.len() - 14);
                frame[at] = byte;
            }
            frame.truncate(cut.unwrap_or(usize::MAX));
            // Without the checksum's verification, so that damaged headers get this far.
            if let Ok(headers) = headers::parse_trusted(&frame) {
                show_all(&mut functions, &frame, headers, direction(is_reverse), 10 * now_s as u64);
            }
        }
    }

    #[test]
    fn random_bytes_panic_nobody(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        is_v6 in any::<bool>(),
        is_reverse in any::<bool>(),
    ) {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(if is_v6 { &[0x86, 0xdd, 0x60] } else { &[0x08, 0x00, 0x45] });
        frame.extend_from_slice(&bytes);
        if let Some(length) = frame.get_mut(16..20) {
            // A length that fits and no fragmentation most of the time, or nothing would be parsed.
            let total = (bytes.len() + 1) as u16;
            match is_v6 {
                true => length[2..].copy_from_slice(&total.saturating_sub(40).to_be_bytes()),
                false => length[..2].copy_from_slice(&total.to_be_bytes()),
            }
        }
        if let Ok(headers) = headers::parse_trusted(&frame) {
            show_all(&mut every_function(), &frame, headers, direction(is_reverse), 1);
        }
    }

    /// Headers that belong to another frame: a caller's mistake must not become a crash either.
    #[test]
    fn headers_of_another_frame_panic_nobody(
        one in any::<Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..90),
    ) {
        let frames = frames();
        let headers = headers::parse(&frames[one.index(frames.len())]).unwrap();
        for function in &mut every_function() {
            let mut frame = bytes.clone();
            let arrival = Arrival { direction: Direction::Forward, vni: Vni::new(1).unwrap(), now_ns: 1 };
            function.process(&mut Packet::new(&mut frame, headers, &mut None, arrival));
            prop_assert_eq!(frame.len(), bytes.len());
        }
    }
}
